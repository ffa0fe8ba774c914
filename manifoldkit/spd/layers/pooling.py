"""Pooling layers: signals to covariances, and SPD matrices over channels."""

from torch import Tensor, nn

from manifoldkit._checks import check_choice, check_interval, count, optional
from manifoldkit.linalg import expm, symmetrize
from manifoldkit.linalg.checks import check_floating, check_square, compute_dtype
from manifoldkit.linalg.elementary import eye_like
from manifoldkit.linalg.factorizations import eigvalsh
from manifoldkit.linalg.symmetric import full_precision
from manifoldkit.spd.conditioning import log_spd, unit_of


class CovariancePool(nn.Module):
    r"""Covariance of signals over time: from (..., C, T) to SPD (..., C, C).

    .. math:: C + \epsilon \bar s I, \quad
        C = \frac{1}{T - 1} \sum_t (x_t - \bar x)(x_t - \bar x)',

    with the mean variance :math:`\bar s` of the channels: signals in another unit give
    the same matrix in that unit squared.

    Parameters
    ----------
    eps : float, default=1e-5
        Part of the mean variance that is added to the diagonal, which keeps the matrix
        positive definite when T <= C.
    relative : bool, default=True
        Otherwise ``eps`` itself is added, in the unit of the signals squared; so it is
        for signals that are constant.
    center : bool, default=True
        Subtract the mean; otherwise the second moment, divided by T.

    Raises
    ------
    ValueError
        A negative ``eps``; in ``forward``, no signals or fewer than two times.

    Examples
    --------
    >>> import torch
    >>> CovariancePool(eps=0.5)(torch.tensor([[1., -1., 1., -1.], [1., 1., -1., -1.]]))
    tensor([[2., 0.],
            [0., 2.]])
    """

    def __init__(self, eps: float = 1e-5, relative: bool = True, center: bool = True):
        super().__init__()
        self.eps = check_interval(eps, "eps", 0)
        self.relative, self.center = relative, center

    def forward(self, x: Tensor) -> Tensor:
        """Covariances of signals of shape (..., C, T)."""
        check_floating(x, "x")
        if x.ndim < 2 or x.shape[-1] < 2:
            raise ValueError(
                "x: expected signals (..., n_channels, n_times) with at least 2 times, "
                f"found shape {tuple(x.shape)}"
            )
        with full_precision(x):
            y = x.to(compute_dtype(x.dtype))
            if self.center:
                y = y - y.mean(-1, keepdim=True)
            c = y @ y.mT / (y.shape[-1] - int(self.center))
            floor = self.eps * unit_of(c) if self.relative else self.eps
            c = c + floor * eye_like(c)
        return c.to(x.dtype)

    def extra_repr(self) -> str:
        """Settings."""
        return f"eps={self.eps:g}" + ("" if self.relative else ", relative=False")


class SPDPool(nn.Module):
    """Pool SPD matrices over channels.

    Parameters
    ----------
    mode : {"mean", "max"}, default="mean"
        The mean under ``metric``, or the matrix whose largest eigenvalue is largest.
    metric : {"log_euclidean", "euclidean", "bw"}, default="log_euclidean"
        Metric of the mean; "bw" is the Bures-Wasserstein barycenter with its exact
        derivative.
    kernel_size : int, optional
        Channels that are pooled together, without overlap; default all, which removes
        the channel dimension.

    Raises
    ------
    ValueError
        An unknown mode or metric, or a size that is no positive integer; in
        ``forward``, no channels, or a number that ``kernel_size`` does not divide.

    Examples
    --------
    >>> import torch
    >>> x = torch.stack([torch.eye(2), 4 * torch.eye(2)])
    >>> SPDPool()(x)
    tensor([[2., 0.],
            [0., 2.]])
    >>> SPDPool("max", kernel_size=2)(x).shape
    torch.Size([1, 2, 2])
    """

    def __init__(
        self,
        mode: str = "mean",
        metric: str = "log_euclidean",
        kernel_size: int | None = None,
    ):
        super().__init__()
        check_choice(mode, ("mean", "max"), "mode")
        check_choice(metric, _MEANS, "metric")
        optional(count())(kernel_size, "kernel_size")
        self.mode, self.metric, self.kernel_size = mode, metric, kernel_size

    def forward(self, x: Tensor) -> Tensor:
        """Pool (..., C, n, n) to (..., C / kernel_size, n, n), or (..., n, n)."""
        check_square(x, "x")
        if x.ndim < 3 or x.shape[-3] == 0:
            raise ValueError(
                f"x: expected shape (..., n_channels, n, n), found {tuple(x.shape)}"
            )
        if self.kernel_size is None:
            return self._pool(x)
        if x.shape[-3] % self.kernel_size:
            raise ValueError(
                f"x: expected a multiple of {self.kernel_size} channels, "
                f"found shape {tuple(x.shape)}"
            )
        return self._pool(x.unflatten(-3, (-1, self.kernel_size)))

    def _pool(self, x: Tensor) -> Tensor:
        if self.mode == "mean":
            y = x.to(compute_dtype(x.dtype))
            return _MEANS[self.metric](y).to(x.dtype)
        top = eigvalsh(x.detach().to(compute_dtype(x.dtype)))[..., -1]
        index = top.argmax(-1)[..., None, None, None]
        return x.take_along_dim(index, -3).squeeze(-3)

    def extra_repr(self) -> str:
        """Settings."""
        text = repr(self.mode) + (f", {self.metric!r}" if self.mode == "mean" else "")
        return text + (f", kernel_size={self.kernel_size}" if self.kernel_size else "")


def _bw_mean(x: Tensor) -> Tensor:
    from manifoldkit.spd.gbw.barycenter import gbw_mean

    return gbw_mean(x)


_MEANS = {
    "log_euclidean": lambda x: expm(log_spd(x).mean(-3)),
    "euclidean": lambda x: symmetrize(x.mean(-3)),
    "bw": _bw_mean,
}
