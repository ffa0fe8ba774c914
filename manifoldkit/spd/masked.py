r"""Means of SPD matrices in which channels are missing.

An observation is the block :math:`P_i^\top X_i P_i` of the channels that are there. The
masked mean minimizes the weighted squared distances of the blocks,

.. math:: \min_G \sum_i w_i\, d(P_i^\top G P_i,\ P_i^\top X_i P_i)^2 ,

and is the plain mean where nothing is missing. What an absent row or column holds does
not matter, and each problem of a batch is solved by itself.
"""

import warnings

import torch
from torch import Tensor

from manifoldkit._checks import check_choice, check_count, check_positive
from manifoldkit.exceptions import ConvergenceWarning
from manifoldkit.linalg import check_spd, expm, invsqrtm, logm, symmetrize
from manifoldkit.linalg.checks import (
    check_square,
    check_tensor,
    check_weights,
    first_index,
    subscript,
)
from manifoldkit.linalg.elementary import eye_like
from manifoldkit.linalg.factorizations import cholesky
from manifoldkit.spd.gbw.barycenter import gbw_mean

METRICS = ("riemann", "gbw")
EQUATIONS = ("minimum", "balance")


def maskedmean(
    x: Tensor,
    mask: Tensor,
    weights: Tensor | None = None,
    *,
    metric: str = "riemann",
    M: Tensor | None = None,
    equation: str = "minimum",
    tol: float = 1e-8,
    max_iter: int = 200,
) -> Tensor:
    r"""Mean of SPD matrices of which only some channels were observed.

    Affine-invariant by L-BFGS in the chart
    :math:`G = L \exp(S) L^\top`. For the (generalized) Bures-Wasserstein metric the
    problem is a plain mean of singular matrices, after Delon, Gozlan and Saint-Dizier:
    with :math:`R_i = P_i M_i^{-1} P_i^\top`, :math:`M_i = P_i^\top M P_i`, and
    :math:`A = \sum_i w_i R_i`, it is

    .. math:: G = A^{-1/2} \operatorname{mean}_i \bigl(
              A^{-1/2} R_i X_i R_i A^{-1/2} \bigr) A^{-1/2} .

    It iterates over values, so it does not run under ``torch.func.vmap``.

    Parameters
    ----------
    x : Tensor, shape (..., n_matrices, n, n)
        SPD or complex Hermitian matrices; NaN may stand in what is masked.
    mask : Tensor of bool, shape (..., n_matrices, n)
        Which channels of which matrices were observed.
    weights : Tensor, shape (..., n_matrices), optional
        Non-negative weights; equal by default.
    metric : {"riemann", "gbw"}, default="riemann"
        Affine-invariant, or generalized Bures-Wasserstein.
    M : Tensor, shape (n, n), optional
        Metric matrix of "gbw", default the identity.
    equation : {"minimum", "balance"}, default="minimum"
        "minimum": the minimizer above. "balance", for "riemann": the point where
        :math:`\sum_i w_i P_i \log_{G_i}(X_i) P_i^\top` vanishes, which is what
        pyriemann's ``maskedmean_riemann`` looks for. The two agree where nothing is
        missing; elsewhere the second is no minimum.
    tol : float, default=1e-8
        Bound of the norm of the gradient, which has no unit.
    max_iter : int, default=200
        Largest number of iterations.

    Returns
    -------
    Tensor, shape (..., n, n)
        Computed in float64; a constant for automatic differentiation.

    Raises
    ------
    TypeError, ValueError
        Shapes and settings that do not fit; the first matrix whose observed block is
        not positive definite; a channel that is missing in all matrices
        of a mean; two channels that are never observed together, of whose covariance
        nothing is known.

    Warns
    -----
    ConvergenceWarning
        A mean is not converged after ``max_iter`` iterations.

    References
    ----------
    F. Yger, S. Chevallier, Q. Barthelemy, S. Sra, "Geodesically-convex optimization for
    averaging partially observed covariance matrices", ACML 2020.
    J. Delon, N. Gozlan, A. Saint-Dizier, "Generalized Wasserstein barycenters between
    probability measures living on different subspaces", Ann. Appl. Probab. 33, 2023.

    Examples
    --------
    >>> x = torch.diag_embed(torch.tensor([[1., 4.], [4., 9.], [7., 9.]]).double())
    >>> mask = torch.tensor([[True, True], [True, True], [False, True]])
    >>> maskedmean(x, mask).diagonal().round(decimals=3)
    tensor([2.0000, 6.8680], dtype=torch.float64)
    """
    check_square(x, hermitian=True)
    check_choice(metric, METRICS, "metric")
    check_choice(equation, EQUATIONS, "equation")
    check_positive(tol, "tol")
    check_count(max_iter, "max_iter")
    if x.ndim < 3 or x.shape[-3] == 0:
        raise ValueError(
            "x: expected matrices of shape (..., n_matrices, n, n) with at least one "
            f"matrix, found shape {tuple(x.shape)}"
        )
    if metric == "gbw" and equation != "minimum":
        raise ValueError(f"equation: metric='gbw' has its minimum, found {equation!r}")
    if metric == "riemann" and M is not None:
        raise ValueError("M: metric='riemann' takes no metric matrix")
    if M is not None:
        check_spd(
            check_square(M, "M", x.shape[-1], hermitian=True), "M", hermitian=True
        )
        if M.ndim > 2:
            raise ValueError(f"M: expected shape (n, n), found {tuple(M.shape)}")
    with torch.no_grad():
        mask, w = _masks_and_weights(x, mask, weights)
        y = _blocks(x.detach(), mask)
        full = torch.where(_pairs(mask), y, eye_like(y))
        check_spd(full, "x", semidefinite=metric == "gbw", hermitian=True)
        wide = torch.complex128 if x.is_complex() else torch.float64
        y = symmetrize(y.to(wide))
        if metric == "gbw":
            return _bures_wasserstein(y, mask, w, M, tol, max_iter).to(x.dtype)
        n, batch = x.shape[-1], x.shape[:-3]
        # each channel in its own unit, which moves the answer along
        scale = _channel_scales(y, mask, w)
        y = y / _outer(scale)[..., None, :, :]
        parts = zip(
            y.reshape(-1, *y.shape[-3:]),
            mask.reshape(-1, *mask.shape[-2:]),
            w.reshape(-1, w.shape[-1]),
            strict=True,
        )
        solve = _minimum if equation == "minimum" else _balance
        found = [solve(*part, tol, max_iter) for part in parts]
        _warn([norm for _, norm in found], tol, max_iter)
        means = [mean for mean, _ in found]
        mean = torch.stack(means) if means else y.new_empty(0, n, n)
        return (mean.reshape(*batch, n, n) * _outer(scale)).to(x.dtype)


def nanmean(
    x: Tensor,
    weights: Tensor | None = None,
    *,
    metric: str = "riemann",
    M: Tensor | None = None,
    equation: str = "minimum",
    tol: float = 1e-8,
    max_iter: int = 200,
) -> Tensor:
    """Mean of SPD matrices in which rows and columns of NaN stand for lost channels.

    It iterates over values, so it does not run under ``torch.func.vmap``.

    Parameters
    ----------
    x : Tensor, shape (..., n_matrices, n, n)
        SPD or complex Hermitian matrices; a missing channel has NaN in its whole row
        and column.
    weights, metric, M, equation, tol, max_iter
        See :func:`maskedmean`.

    Returns
    -------
    Tensor, shape (..., n, n)

    Raises
    ------
    TypeError, ValueError
        As :func:`maskedmean`; NaN that does not fill its row and column.

    Examples
    --------
    >>> x = torch.eye(2).repeat(3, 1, 1)
    >>> x[0, 1, :] = x[0, :, 1] = torch.nan
    >>> nanmean(x).round(decimals=4)
    tensor([[1., 0.],
            [0., 1.]])
    """
    check_square(x, hermitian=True)
    lost = x.detach().isnan()
    mask = ~(lost.all(-1) & lost.all(-2))
    bad = (lost & _pairs(mask)).any(-1).any(-1)
    if bool(bad.any()):
        raise ValueError(
            f"x{subscript(first_index(bad) if bad.ndim else ())}: expected NaN to fill "
            "the whole row and column of a missing channel, found single ones"
        )
    return maskedmean(
        x,
        mask,
        weights,
        metric=metric,
        M=M,
        equation=equation,
        tol=tol,
        max_iter=max_iter,
    )


def _pairs(mask: Tensor) -> Tensor:
    """Which entries of the matrices are there."""
    return mask[..., :, None] & mask[..., None, :]


def _blocks(x: Tensor, mask: Tensor) -> Tensor:
    """Observed blocks, with zero elsewhere."""
    return torch.where(_pairs(mask), x, 0.0)


def _masks_and_weights(
    x: Tensor, mask: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return mask and weights of all problems; raise where a mean is undetermined."""
    if check_tensor(mask, "mask").dtype != torch.bool:
        raise TypeError(f"mask: expected a tensor of bool, found {mask.dtype}")
    try:
        mask = mask.expand(x.shape[:-1])
    except RuntimeError:
        raise ValueError(
            f"mask: expected shape (..., n_matrices, n) = {tuple(x.shape[:-1])}, "
            f"found {tuple(mask.shape)}"
        ) from None
    count = x.shape[-3]
    if weights is None:
        w = torch.full((count,), 1 / count, dtype=torch.float64, device=x.device)
    else:
        w = check_weights(weights, count).detach().to(x.device, torch.float64)
        w = w / w.sum(-1, keepdim=True)
    try:
        w = w.expand(x.shape[:-2])
    except RuntimeError:
        raise ValueError(
            f"weights: expected a shape that broadcasts to {tuple(x.shape[:-2])}, "
            f"found {tuple(w.shape)}"
        ) from None
    together = (_pairs(mask) & (w > 0)[..., None, None]).any(-3)
    if not bool(together.all()):
        lone = ~together.diagonal(dim1=-2, dim2=-1)
        if bool(lone.any()):
            *where, channel = first_index(lone)
            raise ValueError(
                f"x{subscript(tuple(where))}: channel {channel} is missing in all "
                "matrices of the mean, nothing is known of it; leave the channel out"
            )
        *where, a, b = first_index(~together)
        raise ValueError(
            f"x{subscript(tuple(where))}: channels {a} and {b} are never observed "
            "together, nothing is known of their covariance; leave one of them out"
        )
    return mask, w


def _channel_scales(x: Tensor, mask: Tensor, w: Tensor) -> Tensor:
    """Root mean variance of every channel where it was observed, (..., n)."""
    w = w[..., None]
    variance = (w * x.diagonal(dim1=-2, dim2=-1).real).sum(-2) / (w * mask).sum(-2)
    return variance.sqrt()


def _outer(scale: Tensor) -> Tensor:
    return scale[..., :, None] * scale[..., None, :]


def _start(x: Tensor, mask: Tensor, w: Tensor) -> Tensor:
    """Mean of what is there, entry by entry, moved into the cone."""
    share = (w[:, None, None] * _pairs(mask)).sum(0)
    mean = (w[:, None, None] * x).sum(0) / share
    s, u = torch.linalg.eigh(mean)
    low = 1e-3 * s.clamp_min(0).mean()
    return symmetrize((u * s.clamp_min(low)) @ u.mH)


def _logs(g: Tensor, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """``chol(G_i)``, and the logarithm of ``X_i`` as seen from it; one where absent."""
    eye = eye_like(g)
    there = _pairs(mask)
    factor = cholesky(torch.where(there, g, eye))
    half = torch.linalg.solve_triangular(
        factor, torch.where(there, x, eye), upper=False
    )
    white = torch.linalg.solve_triangular(factor, half.mH, upper=False)
    return factor, logm(white)


def _minimum(x, mask, w, tol: float, max_iter: int) -> tuple[Tensor, float]:
    """L-BFGS in the logarithmic chart about the start."""
    half = cholesky(_start(x, mask, w))
    part = torch.zeros_like(half.real)  # of the chart: real, and imaginary if complex
    parts = [part, part.clone()] if x.is_complex() else [part]
    parts = [p.requires_grad_() for p in parts]
    w = w[:, None, None]

    def point() -> Tensor:
        s = torch.complex(*parts) if x.is_complex() else parts[0]
        return half @ expm(s) @ half.mH

    def closure() -> Tensor:
        with torch.enable_grad():
            g = point()
        factor, log = _logs(g.detach(), x, mask)
        left = torch.linalg.solve_triangular(factor.mH, log, upper=True)
        slope = torch.linalg.solve_triangular(factor.mH, left.mH, upper=True)
        grads = torch.autograd.grad(g, parts, -(w * _blocks(slope, mask)).sum(0))
        for p, grad in zip(parts, grads, strict=True):
            p.grad = grad.contiguous()  # the optimizer views it as a vector
        return (w * log.abs().square()).sum() / 2

    def slope_norm() -> float:
        closure()
        grads = [p.grad for p in parts if p.grad is not None]
        return float(torch.stack([g.norm() for g in grads]).norm())

    optimizer = torch.optim.LBFGS(
        parts,
        max_iter=max_iter,
        max_eval=2 * max_iter,
        tolerance_grad=tol / x.shape[-1],
        tolerance_change=0.0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )
    optimizer.step(closure)
    return symmetrize(point().detach()), slope_norm()


def _balance(x, mask, w, tol: float, max_iter: int) -> tuple[Tensor, float]:
    """Fixed point of ``G <- exp_G(t sum_i w_i P_i log_{G_i}(X_i) P_i')``."""
    g, step, last = _start(x, mask, w), 1.0, float("inf")
    for _ in range(max_iter):
        factor, log = _logs(g, x, mask)
        blocks = _blocks(factor @ log @ factor.mH, mask)
        change = (w[:, None, None] * blocks).sum(0)
        half = cholesky(g)
        left = torch.linalg.solve_triangular(half, change, upper=False)
        v = symmetrize(torch.linalg.solve_triangular(half, left.mH, upper=False))
        norm = float(torch.linalg.matrix_norm(v))
        if not norm > tol:
            break
        step = min(1.0, 1.5 * step) if norm < last else step / 2
        last = norm
        g = symmetrize(half @ expm(step * v) @ half.mH)
    return g, norm


def _bures_wasserstein(x, mask, w, M: Tensor | None, tol: float, max_iter: int):
    """Mean of singular matrices; see :func:`maskedmean`."""
    there = _pairs(mask)
    if M is None:
        inner = mask.to(x.dtype).diag_embed()
    else:
        x = x.to(torch.promote_types(x.dtype, M.dtype))
        inner = torch.where(there, M.detach().to(x.dtype), eye_like(x))
        inner = _blocks(torch.cholesky_inverse(cholesky(inner)), mask)
    scale = invsqrtm(symmetrize((w[..., None, None] * inner).sum(-3)))
    root = scale[..., None, :, :]
    singular = symmetrize(root @ inner @ x @ inner @ root)
    mean = gbw_mean(singular, w, tol=tol, max_iter=max_iter)
    return symmetrize(scale @ mean @ scale)


def _warn(norms: list[float], tol: float, max_iter: int) -> None:
    bad = [norm for norm in norms if norm > 10 * tol]
    if bad:
        warnings.warn(
            f"maskedmean: {len(bad)} of {len(norms)} means not converged after "
            f"{max_iter} iterations: gradient {max(bad):.1e}, tol {tol:.1e}",
            ConvergenceWarning,
            stacklevel=3,
        )
