r"""Orthonormal bases: sign-fixed QR, Cholesky-QR, and polar factors by products only.

``qr_factor`` and ``cholesky_qr`` give the same matrix, the Gram-Schmidt basis of the
columns; ``newton_schulz_polar`` the nearest orthonormal matrix, ``msign`` a cheap
approximation of it. All act on ``(..., n, p)`` with ``n >= p``, keep float32 and
float64, and treat every matrix of a batch on its own: a non-finite one gives NaN for
itself and leaves the others as they are, to the bit.
"""

import torch
from torch import Tensor

from manifoldkit.linalg.checks import (
    check_floating,
    compute_dtype,
    maybe_any,
    must_not_look,
    tolerance,
)
from manifoldkit.linalg.elementary import bring_to_unit, eye_like
from manifoldkit.linalg.factorizations import cholesky
from manifoldkit.linalg.orthogonal import polar

# quintic step of msign: expands small singular values fast, then hovers about 1
_MSIGN = (3.4445, -4.7750, 2.0315)


def _check_tall(x: Tensor) -> Tensor:
    check_floating(x, "x")
    if x.ndim < 2 or x.shape[-1] > x.shape[-2] or x.shape[-1] == 0:
        raise ValueError(
            f"x: expected matrices (..., n, p) with n >= p, found {tuple(x.shape)}"
        )
    return x.to(compute_dtype(x.dtype))


def qr_factor(x: Tensor) -> Tensor:
    """Orthonormal factor Q of ``x = Q R`` with a positive diagonal of R (Householder).

    The sign makes Q a continuous function of x, equal to x if x is orthonormal.

    Parameters
    ----------
    x : Tensor, shape (..., n, p)
        Matrices of full column rank, n >= p.

    Returns
    -------
    Tensor, shape (..., n, p)

    Raises
    ------
    TypeError, ValueError
        Not a floating-point tensor, or n < p.

    Examples
    --------
    >>> qr_factor(torch.tensor([[-2., 0.], [0., 3.]]))
    tensor([[-1., 0.],
            [ 0., 1.]])
    """
    q, r = torch.linalg.qr(_check_tall(x))
    diagonal = r.diagonal(dim1=-2, dim2=-1)
    sign = torch.where(diagonal < 0, -1.0, 1.0).to(q.dtype)
    return (q * sign[..., None, :]).to(x.dtype)


def _cholesky_pass(x: Tensor, shift: float) -> tuple[Tensor, Tensor]:
    """Return x L^-T and L of the Gram matrix ``L L' = x'x + shift * trace``."""
    gram = x.mT @ x
    if shift:
        trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        gram = gram + shift * trace * eye_like(x)
    factor = cholesky(gram)
    return torch.linalg.solve_triangular(factor.mT, x, upper=True, left=False), factor


def _shifted_passes(x: Tensor) -> Tensor:
    """Three passes, the first shifted: orthonormal up to condition 1 / eps about."""
    shift = 2 * tolerance(x.dtype, x.shape[-1])
    x = bring_to_unit(x)
    for s in (shift, 0.0, 0.0):
        x, _ = _cholesky_pass(x, s)
    return x


def cholesky_qr(x: Tensor) -> Tensor:
    r"""The factor of :func:`qr_factor` by Cholesky, :math:`Q = X L^{-T}, LL' = X'X`.

    About half the time of Householder QR, and batched on accelerators. One pass loses
    the square of the condition number; matrices with condition above 2 get three
    passes, the first with a shifted Gram matrix. On accelerators and under
    ``torch.compile`` all get three, as reading the condition would synchronize.

    Parameters
    ----------
    x : Tensor, shape (..., n, p)
        Matrices of full column rank, condition up to about 1e5 (float32) or 1e13
        (float64); beyond that a matrix may give NaN.

    Returns
    -------
    Tensor, shape (..., n, p)

    Raises
    ------
    TypeError, ValueError
        Not a floating-point tensor, or n < p.

    References
    ----------
    .. [1] T. Fukaya, R. Kannan, Y. Nakatsukasa, Y. Yamamoto, Y. Yanagisawa, "Shifted
       Cholesky QR for computing the QR factorization of ill-conditioned matrices",
       SIAM J. Sci. Comput. 42, 2020.

    Examples
    --------
    >>> q = cholesky_qr(torch.tensor([[1., 1.], [0., 1.], [0., 1.]]))
    >>> torch.allclose(q.mT @ q, torch.eye(2), atol=1e-6)
    True
    """
    y = _check_tall(x)
    if y.numel() == 0:
        return x
    if must_not_look(y):
        return _shifted_passes(y).to(x.dtype)
    q, factor = _cholesky_pass(y, 0.0)
    diagonal = factor.detach().diagonal(dim1=-2, dim2=-1)
    # the diagonal ratio bounds the condition from below, closely for one this small
    info = torch.finfo(y.dtype)
    smallest = diagonal.amin(-1)
    hard = ~(diagonal.amax(-1) <= 2 * smallest)
    # products of entries this small have lost digits
    hard = hard | (smallest < (info.tiny / info.eps) ** 0.5)
    if maybe_any(hard):
        hard = hard[..., None, None]
        # each branch gets harmless input where it is not taken: no NaN derivatives
        start = torch.eye(*y.shape[-2:], dtype=y.dtype, device=y.device)
        q, _ = _cholesky_pass(torch.where(hard, start, y), 0.0)
        q = torch.where(hard, _shifted_passes(torch.where(hard, y, start)), q)
    return q.to(x.dtype)


def _spectral_bound(x: Tensor) -> Tensor:
    """Upper bound of the largest singular value: root of the row sums of |x'x|."""
    bound = (x.mT @ x).abs().sum(-1).amax(-1)[..., None, None].sqrt()
    return torch.where(bound == 0, torch.ones_like(bound), bound)


def _newton_schulz(y: Tensor, steps: int) -> Tensor:
    """Iterate on the p x p Gram matrix: ``Y_k = Y P_k``, ``H_k = P_k Y'Y P_k``."""
    three = 3 * eye_like(y)
    h = y.mT @ y
    factor = t = (three - h) / 2
    for _ in range(steps - 1):
        h = t @ h @ t
        t = (three - h) / 2
        factor = factor @ t
    return y @ factor


def newton_schulz_polar(x: Tensor) -> Tensor:
    r"""Orthonormal polar factor by the iteration :math:`Y \leftarrow Y(3I - Y'Y)/2`.

    Products only, for matrices near an orthonormal one, as the steps of an optimizer
    are: a defect :math:`|X'X - I|_F \le 1/2` is squared in every one of the 5
    (float32) or 6 (float64) steps. Other matrices of the batch take the SVD. On
    accelerators and under ``torch.compile`` all take 16 steps from a start scaled below
    1, enough for condition numbers up to 100 about.

    Parameters
    ----------
    x : Tensor, shape (..., n, p)
        Matrices of full column rank, n >= p.

    Returns
    -------
    Tensor, shape (..., n, p)

    Raises
    ------
    TypeError, ValueError
        Not a floating-point tensor, or n < p.

    Examples
    --------
    >>> newton_schulz_polar(torch.tensor([[2., 0.], [0., 1.], [0., 0.]]))
    tensor([[1., 0.],
            [0., 1.],
            [0., 0.]])
    """
    y = _check_tall(x)
    if y.numel() == 0:
        return x
    if must_not_look(y):
        y = bring_to_unit(y)
        y = y / _spectral_bound(y.detach())
        return _newton_schulz(_newton_schulz(y, 12), 4).to(x.dtype)
    start = torch.eye(*y.shape[-2:], dtype=y.dtype, device=y.device)
    z = y.detach()
    defect = torch.linalg.matrix_norm(z.mT @ z - start[: y.shape[-1]])
    hard = ~(defect <= 0.5)
    steps = 6 if y.dtype == torch.float64 else 5
    if not maybe_any(hard):
        return _newton_schulz(y, steps).to(x.dtype)
    hard = hard[..., None, None]
    easy = _newton_schulz(torch.where(hard, start, y), steps)
    exact = polar(torch.where(hard, y, start), side="right").r
    return torch.where(hard, exact, easy).to(x.dtype)


def msign(x: Tensor, steps: int = 5) -> Tensor:
    r"""Approximate matrix sign :math:`U V'` of :math:`x = U S V'`, any shape.

    Quintic Newton-Schulz steps :math:`Y \leftarrow aY + (bA + cA^2)Y, A = YY'` whose
    coefficients trade exactness for speed: after 5 steps singular values above 1e-3 of
    the largest lie between 0.65 and 1.25, enough for a direction of descent.

    Parameters
    ----------
    x : Tensor, shape (..., m, n)
        Any matrices; the zero matrix stays zero.
    steps : int, default=5
        Number of iterations.

    Returns
    -------
    Tensor, shape (..., m, n)

    Raises
    ------
    TypeError, ValueError
        Not a floating-point tensor of matrices.

    References
    ----------
    .. [1] K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks",
       2024.

    Examples
    --------
    >>> s = torch.linalg.svdvals(msign(torch.diag(torch.tensor([5., 1.]))))
    >>> bool(((s > 0.65) & (s < 1.25)).all())
    True
    """
    check_floating(x, "x")
    if x.ndim < 2:
        raise ValueError(f"x: expected matrices (..., m, n), found {tuple(x.shape)}")
    y = x.to(compute_dtype(x.dtype))
    wide = y.shape[-1] > y.shape[-2]
    y = y if wide else y.mT
    if y.numel() == 0:
        return x
    y = bring_to_unit(y)
    norm = torch.linalg.matrix_norm(y, keepdim=True)
    y = y / torch.where(norm == 0, torch.ones_like(norm), norm)
    a, b, c = _MSIGN
    for _ in range(steps):
        gram = y @ y.mT
        y = a * y + (b * gram + c * (gram @ gram)) @ y
    return (y if wide else y.mT).to(x.dtype)
