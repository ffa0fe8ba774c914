"""The set of SPD matrices, and the constructor that chooses the metric."""

from importlib import import_module
from typing import Self

import torch
from torch import Tensor

from manifoldkit._checks import check_choice
from manifoldkit.linalg import eigh, symmetrize
from manifoldkit.linalg.checks import tolerance
from manifoldkit.manifolds.base import SquareMatrixManifold, sample_normal

_CLASSES = {
    "airm": ("affine_invariant", "AffineInvariantSPD"),
    "log_euclidean": ("flat", "LogEuclideanSPD"),
    "log_cholesky": ("flat", "LogCholeskySPD"),
    "bw": ("wasserstein", "BuresWassersteinSPD"),
    "gbw": ("wasserstein", "GeneralizedBuresWassersteinSPD"),
}
_ALIASES = {"riemann": "airm", "logeuclid": "log_euclidean", "wasserstein": "bw"}


def whiten(factor: Tensor, u: Tensor) -> Tensor:
    """``L^-1 u L^-T`` for a lower triangular L and symmetric u, symmetrized."""
    w = torch.linalg.solve_triangular(factor, u, upper=False)
    w = torch.linalg.solve_triangular(factor, w.mT, upper=False)
    return (w + w.mT) / 2


def color(factor: Tensor, w: Tensor) -> Tensor:
    """``L w L'``, the inverse of :func:`whiten`, symmetrized."""
    u = factor @ w @ factor.mT
    return (u + u.mT) / 2


class SPD(SquareMatrixManifold):
    r"""Symmetric positive definite matrices; tangent vectors are symmetric matrices.

    ``SPD(metric)`` returns an instance of the subclass of that metric.

    Parameters
    ----------
    metric : {"airm", "log_euclidean", "log_cholesky", "bw", "gbw"}
        - ``"airm"``, affine-invariant: :math:`\operatorname{tr} x^{-1}u x^{-1}v`.
        - ``"log_euclidean"``: Frobenius product of the changes of :math:`\log x`.
        - ``"log_cholesky"``: Frobenius product of the changes of the Cholesky factor,
          with the logarithm of its diagonal.
        - ``"bw"``, Bures-Wasserstein: :math:`\operatorname{tr}(u L_v) / 2` with
          :math:`x L_v + L_v x = v`.
        - ``"gbw"``, generalized: the same with :math:`x L_v M + M L_v x = v`.

        pyriemann's ``"riemann"``, ``"logeuclid"`` and ``"wasserstein"`` are accepted.
    M : Tensor, shape (n, n), optional
        SPD matrix of ``"gbw"``, default the identity (which is ``"bw"``). An
        ``nn.Parameter`` is learned: it becomes a parameter of the manifold module, and
        ``dist``, ``expmap`` and ``logmap`` pass gradients to it. Any other tensor is a
        constant, cast to the dtype and device of the points.

    Raises
    ------
    TypeError, ValueError
        Unknown metric, M for a metric that has none, or M that is not SPD.

    References
    ----------
    .. [1] X. Pennec, P. Fillard, N. Ayache, "A Riemannian framework for tensor
       computing", IJCV 66, 2006.
    .. [2] V. Arsigny et al., "Geometric means in a novel vector space structure on
       symmetric positive-definite matrices", SIAM J. Matrix Anal. Appl. 29, 2007.
    .. [3] Z. Lin, "Riemannian geometry of symmetric positive definite matrices via
       Cholesky decomposition", SIAM J. Matrix Anal. Appl. 40, 2019.
    .. [4] R. Bhatia, T. Jain, Y. Lim, "On the Bures-Wasserstein distance between
       positive definite matrices", Expo. Math. 37, 2019.
    .. [5] A. Han, B. Mishra, P. Jawanpuria, J. Gao, "Learning with symmetric positive
       definite matrices via generalized Bures-Wasserstein geometry", 2023.

    Examples
    --------
    >>> manifold = SPD("airm")
    >>> x, y = torch.eye(2), torch.e * torch.eye(2)
    >>> manifold.dist(x, y)
    tensor(1.4142)
    >>> SPD("riemann") == manifold
    True
    """

    name = "SPD"
    metric = "airm"
    #: A mean is unique wherever the points are, so that nobody looks for a better one.
    unique_means = True

    def __new__(cls, metric: str = "airm", M: Tensor | None = None) -> Self:
        """Choose the class of the metric."""
        if cls is not SPD:
            return super().__new__(cls)
        metric = _ALIASES.get(metric, metric)
        check_choice(metric, _CLASSES, "metric")
        if M is not None and metric != "gbw":
            raise ValueError(f'M: only metric="gbw" takes a matrix, found {metric!r}')
        file, name = _CLASSES[metric]
        module = import_module(f"manifoldkit.manifolds.spd.{file}")
        return super().__new__(getattr(module, name))

    def __init__(self, metric: str | None = None, M: Tensor | None = None):
        super().__init__()

    def _violation(self, x):
        scale = x.abs().amax((-2, -1)).clamp_min(torch.finfo(x.dtype).tiny)
        asymmetry = (x - x.mT).abs().amax((-2, -1)) / scale
        definite = torch.linalg.cholesky_ex((x + x.mT) / 2)[1] == 0
        what = "max|x - x'| / max|x| (2 for a matrix that is not positive definite)"
        return torch.where(definite, asymmetry, 2.0), what

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """Symmetric part."""
        u = symmetrize(u)
        return u.expand(torch.broadcast_shapes(x.shape, u.shape))

    def projx(self, x: Tensor) -> Tensor:
        """Nearest symmetric matrix with eigenvalues of at least a few roundings.

        The floor is ``10 n eps`` times the largest eigenvalue modulus, so that a
        singular matrix becomes positive definite.
        """
        s, u = eigh(x)
        top = s.abs().amax(-1, keepdim=True)
        top = torch.where(top == 0, torch.ones_like(top), top)
        floor = top * tolerance(x.dtype, 10 * x.shape[-1])
        # a matrix that satisfies the bound keeps its bits
        good = (s[..., :1] >= floor)[..., None]
        y = (u * torch.maximum(s, floor)[..., None, :]) @ u.mT
        return torch.where(good, symmetrize(x), symmetrize(y)).to(x.dtype)

    def _sample(self, shape, generator, dtype, device):
        x = sample_normal(shape, generator, dtype, device)
        x = (x + x.mT) / (2 * x.shape[-1] ** 0.5)
        return symmetrize(torch.linalg.matrix_exp(x))
