"""Layers of networks on SPD matrices: BiMap, ReEig, LogEig and the residual block.

Every layer takes any batch shape and keeps dtype and device; half precision is computed
in float32, and with weights of another precision in the wider of both. Thresholds are
relative to the mean eigenvalue of each matrix unless told otherwise, so that the unit
of the data does not matter. Derivatives are exact at repeated eigenvalues.
"""

from typing import Any

import torch
from torch import Tensor, nn

from manifoldkit._checks import check_choice, check_count, check_positive
from manifoldkit.linalg import symmetrize, vech
from manifoldkit.linalg.checks import check_spd, check_square, compute_dtype
from manifoldkit.linalg.elementary import eye_like
from manifoldkit.linalg.factorizations import eigvalsh
from manifoldkit.linalg.symmetric import apply_spectral, full_precision
from manifoldkit.manifolds import SPD, Stiefel, attach
from manifoldkit.spd.conditioning import (
    check_batch,
    definite,
    log_spd,
    unit_of,
)

# models that were pickled whole look for it here
from manifoldkit.spd.layers.bimap import BiMap as BiMap
from manifoldkit.spd.layers.orthonormal import check_weight, redraw
from manifoldkit.spd.layers.rectified import Clip, ClippedLog


class ReEig(nn.Module):
    r"""Rectify eigenvalues, :math:`U \max(s, \epsilon \bar s)\, U'`.

    The nonlinearity of SPDNet. :math:`\bar s` is the mean eigenvalue of the matrix, so
    that matrices in another unit are rectified alike.

    Parameters
    ----------
    threshold : float, default=1e-4
        Smallest eigenvalue of the output, as a part of the mean eigenvalue.
    relative : bool, default=True
        Take threshold and maximum times the mean eigenvalue of each matrix (times 1 for
        a matrix whose trace is not positive); otherwise in the unit of the input.
    maximum : float, optional
        Largest eigenvalue of the output, likewise.
    validate : bool, default=False
        Check in ``forward`` that the input is positive semidefinite.

    Raises
    ------
    ValueError
        A threshold that is not positive, or not below the maximum.

    Notes
    -----
    The derivative is zero at eigenvalues at or below the threshold and exact where
    eigenvalues meet; one eigendecomposition a matrix serves both directions.

    References
    ----------
    .. [1] Z. Huang, L. Van Gool, "A Riemannian network for SPD matrix learning",
       AAAI 2017, equation 6.

    Examples
    --------
    >>> ReEig(0.5)(torch.diag(torch.tensor([3., 1., 0.5, 0.5])))[2:]
    tensor([[0.0000, 0.0000, 0.6250, 0.0000],
            [0.0000, 0.0000, 0.0000, 0.6250]])
    """

    def __init__(
        self,
        threshold: float = 1e-4,
        relative: bool = True,
        maximum: float | None = None,
        validate: bool = False,
    ):
        super().__init__()
        self.threshold = check_positive(threshold, "threshold")
        if maximum is not None and not maximum > threshold:
            raise ValueError(
                f"maximum: expected more than the threshold {threshold}, "
                f"found {maximum!r}"
            )
        self.relative, self.maximum, self.validate = relative, maximum, validate

    def forward(self, x: Tensor) -> Tensor:
        """Rectify matrices of shape (..., n, n)."""
        check_square(x, "x")
        if self.validate:
            check_spd(x, "x", semidefinite=True)
        high = torch.inf if self.maximum is None else self.maximum
        function = Clip(self.threshold, high)
        if not self.relative:
            return apply_spectral(x, function, None)
        y = x.to(compute_dtype(x.dtype))
        scale = unit_of(y)
        return (apply_spectral(y / scale, function, None) * scale).to(x.dtype)

    def extra_repr(self) -> str:
        """Settings."""
        text = f"threshold={self.threshold:g}"
        text += "" if self.relative else ", relative=False"
        return text + (f", maximum={self.maximum:g}" if self.maximum else "")


class LogEig(nn.Module):
    r"""Matrix logarithm, as a vector for the flat layers behind it.

    The unit of the input is an offset of the diagonal, :math:`\log(cX) = \log(X) +
    \log(c) I`. Without a threshold, an eigenvalue that is lost to rounding (zero, or
    negative where the matrix is definite) counts as the rounding level, ``4 n eps``
    times the largest one; a matrix that is clearly not definite gives NaN for itself.

    Parameters
    ----------
    vectorize : bool or "flat", default=True
        True: the upper triangle with off-diagonal entries times :math:`\sqrt 2`, an
        isometry, n (n + 1) / 2 numbers. "flat": all n^2 entries. False: the matrix.
    threshold : float, optional
        Rectify the eigenvalues first, as ``ReEig(threshold)`` in front would, by the
        same eigendecomposition.
    relative : bool, default=True
        Take the threshold times the mean eigenvalue of each matrix, as in
        :class:`ReEig`.
    validate : bool, default=False
        Check in ``forward`` that the input is positive definite.

    Raises
    ------
    ValueError
        An unknown form, or a threshold that is not positive; with ``validate``, the
        first bad matrix.

    References
    ----------
    .. [1] Z. Huang, L. Van Gool, "A Riemannian network for SPD matrix learning",
       AAAI 2017, equation 7.

    Examples
    --------
    >>> LogEig()(torch.eye(3) * torch.e)
    tensor([1., 0., 0., 1., 0., 1.])
    """

    def __init__(
        self,
        vectorize: bool | str = True,
        threshold: float | None = None,
        relative: bool = True,
        validate: bool = False,
    ):
        super().__init__()
        check_choice(vectorize, (True, False, "flat"), "vectorize")
        if threshold is not None:
            check_positive(threshold, "threshold")
        self.vectorize, self.threshold = vectorize, threshold
        self.relative, self.validate = relative, validate

    def n_features(self, n: int) -> int:
        """Length of the vector of an n x n matrix."""
        return n * (n + 1) // 2 if self.vectorize is True else n * n

    def takes_power(self, power: float) -> bool:
        """Whether ``forward`` can be told that its input is a power."""
        free = power > 0 and not self.relative
        return power == 1 or self.threshold is None or free

    def _log(self, x: Tensor, power: float) -> Tensor:
        if not self.takes_power(power):
            raise ValueError(
                "power: expected a positive one with an absolute threshold, "
                f"found {power!r}"
            )
        if self.validate:
            check_spd(x, "x", semidefinite=self.threshold is not None)
        y = x.to(compute_dtype(x.dtype))
        if self.threshold is None:
            return log_spd(y)
        if not self.relative:
            return apply_spectral(y, ClippedLog(self.threshold**power), None)
        scale = unit_of(y)
        log = apply_spectral(y / scale, ClippedLog(self.threshold), None)
        return log + scale.log() * eye_like(y)

    def forward(self, x: Tensor, power: float = 1.0) -> Tensor:
        r"""Logarithms of matrices (..., n, n): (..., n (n + 1) / 2), or as asked.

        With ``power`` the input is the power of what the logarithm is taken of, whose
        eigenvalues the threshold refers to: :math:`\log X^{1/p} = \log(X) / p`.
        """
        check_square(x, "x")
        y = self._log(x, power).to(x.dtype)
        y = y if power == 1 else y / power
        if self.vectorize == "flat":
            return y.flatten(-2)
        return vech(y) if self.vectorize else y

    def extra_repr(self) -> str:
        """Settings."""
        text = f"vectorize={self.vectorize!r}"
        if self.threshold is not None:
            text += f", threshold={self.threshold:g}"
            text += "" if self.relative else ", relative=False"
        return text


class SPDResidual(nn.Module):
    r"""Riemannian residual block, :math:`Y = \exp_X(v(X))`.

    A small convolution over the ascending eigenvalues s of X gives numbers f, and
    :math:`v = Q \operatorname{diag}(f)\, Q'` with a learned orthogonal Q, scaled to
    length one in the metric at X. All is done in units of the mean eigenvalue of X:
    the block maps cX to cY.

    Parameters
    ----------
    n : int
        Size of the matrices.
    width : int, default=3
        Hidden channels of the convolution 1 -> width -> width -> 1.
    kernel_size : int, default=5
        Odd length of its kernels.
    metric : str, default="airm"
        Metric of the exponential and the length, see
        :class:`~manifoldkit.manifolds.SPD`.
    unit_step : bool, default=True
        Scale v to length one; otherwise it is taken as it is.
    bounds : (float, float) or None, default=(1e-8, 1e8)
        Eigenvalues of the output are clipped to this range.
    relative : bool, default=True
        Take every matrix in units of its mean eigenvalue; otherwise, as in version
        0.1.0, the eigenvalues and the bounds are in the unit of the input.
    generator : torch.Generator, optional
        Generator of the convolutions and of the initial Q, uniform on the orthogonal
        group.
    device, dtype
        Device and dtype of the parameters.

    Raises
    ------
    ValueError
        Sizes that are not positive integers, an even kernel, or an unknown metric; in
        training, a matrix that is not finite (the first is named), or no matrix.

    References
    ----------
    .. [1] I. Katsman et al., "Riemannian residual neural networks", NeurIPS 2023.

    Examples
    --------
    >>> x = torch.eye(4) + 0.1 * torch.ones(6, 4, 4)
    >>> SPDResidual(4)(x).shape
    torch.Size([6, 4, 4])
    """

    _version = 2
    #: Of layers that were pickled whole before there was the setting.
    relative: bool = False

    def __init__(
        self,
        n: int,
        *,
        width: int = 3,
        kernel_size: int = 5,
        metric: str = "airm",
        unit_step: bool = True,
        bounds: tuple[float, float] | None = (1e-8, 1e8),
        relative: bool = True,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.n = check_count(n, "n")
        if check_count(kernel_size, "kernel_size") % 2 == 0:
            raise ValueError(
                f"kernel_size: expected an odd number, found {kernel_size}"
            )
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        check_count(width, "width")
        shapes = ((1, width), (width, width), (width, 1))
        layers: list[nn.Module] = []
        for a, b in shapes:
            convolution = nn.Conv1d(a, b, kernel_size, padding="same", **options)
            layers += [convolution, nn.LeakyReLU(), nn.BatchNorm1d(b, **options)]
        self.field = nn.Sequential(*layers[:-2])
        self.basis = nn.Parameter(torch.eye(self.n, **options))
        attach(self, "basis", Stiefel(), layout="as_is")
        self.metric, self.unit_step = SPD(metric), unit_step
        self.relative, self.clip = relative, None
        if bounds is not None:
            self.clip = ReEig(bounds[0], relative=False, maximum=bounds[1])
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw a new basis and reset the convolutions."""
        q = self.basis
        options: dict[str, Any] = {"dtype": q.dtype, "device": q.device}
        q.copy_(Stiefel().random(*q.shape, generator=generator, **options))
        for module in self.field:
            if isinstance(module, nn.Conv1d):
                redraw(module, generator)
            elif isinstance(module, nn.BatchNorm1d):
                module.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Move matrices of shape (..., n, n)."""
        check_square(x, "x", self.n)
        dtype = torch.promote_types(x.dtype, check_weight(self.basis))
        if self.training and x.numel() == 0:
            raise ValueError("x: expected matrices to train with, found none")
        with full_precision(x):
            y = symmetrize(x.to(dtype))
            if self.training:
                check_batch(x, y)
            scale = unit_of(y) if self.relative else None
            y = self._move(definite(y if scale is None else y / scale))
            y = y if scale is None else y * scale
        return y.to(x.dtype)

    def _move(self, y: Tensor) -> Tensor:
        if y.numel() == 0:
            return y
        s, basis = eigvalsh(y), self.basis.to(y.dtype)
        f = self.field(s.reshape(-1, 1, self.n).to(self.basis.dtype))
        f = f.reshape(s.shape).to(y.dtype)
        v = (basis * f[..., None, :]) @ basis.mT
        if self.unit_step:
            square = self.metric.inner(y, v)[..., None, None]
            tiny = torch.finfo(y.dtype).tiny
            v = torch.where(square > tiny, v * square.clamp_min(tiny).rsqrt(), v)
        y = self.metric.expmap(y, v)
        return y if self.clip is None else self.clip(y)

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, local_metadata: dict, *rest: Any
    ) -> None:
        if local_metadata.get("version") == 1:  # 0.1.0 knew no other form
            self.relative = False
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)
