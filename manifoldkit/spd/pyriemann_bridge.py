"""The generalized Bures-Wasserstein geometry in the form pyriemann's ``metric=`` takes.

The only module that imports from ``pyriemann.geometry``.
"""

import math
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from pyriemann.geometry.base import invsqrtm, powm, sqrtm
from pyriemann.geometry.distance import distance
from pyriemann.geometry.geodesic import geodesic
from pyriemann.geometry.mean import gmean
from pyriemann.geometry.tangentspace import exp_map
from torch import Tensor

from manifoldkit.linalg.elementary import eye_like, trace
from manifoldkit.linalg.hermitian import hermitian_to_real, real_to_hermitian
from manifoldkit.spd.gbw.barycenter import gbw_mean
from manifoldkit.spd.gbw.chart import check_power, power_of
from manifoldkit.spd.gbw.metric import gbw_distance, gbw_exp, gbw_geodesic, gbw_log
from manifoldkit.spd.gbw.tangent import tangent_vector
from manifoldkit.spd.hermitian import check_hermitian


def _from_numpy(arrays) -> list[Tensor]:
    """Return tensors of one dtype: double unless every array is single already."""
    given = [np.asarray(x) for x in arrays]
    for x in given:
        if x.dtype.kind not in "fiubc":
            raise TypeError(f"X: expected matrices of numbers, found dtype {x.dtype}")
    dtype = np.result_type(*(x.dtype for x in given), np.float32)
    if dtype.itemsize > (16 if dtype.kind == "c" else 8):  # torch has no longer ones
        dtype = np.dtype(np.complex128 if dtype.kind == "c" else np.float64)
    return [torch.as_tensor(x.astype(dtype, copy=False)) for x in given]


class _Geometry:
    """Shared state: picklable, comparable, NumPy in and out, torch in and out."""

    def __init__(self, M: np.ndarray | None, power: float):
        self.M = M
        self.power = power

    def _run(self, function, *arrays, doubled=None, **keywords):
        """Call a function of tensors; complex matrices by their real forms.

        ``doubled`` undoes what the real form has done to the result.
        """
        if any(isinstance(x, Tensor) for x in arrays):
            device = next(x.device for x in arrays if isinstance(x, Tensor))
            tensors = [torch.as_tensor(x, device=device) for x in arrays]
            back = None
        else:
            tensors = _from_numpy(arrays)
            back = Tensor.numpy
        M = None if self.M is None else torch.from_numpy(self.M).to(tensors[0].device)
        matrices = [*tensors] if M is None else [*tensors, M]
        if any(x.is_complex() for x in matrices):
            dtype = torch.empty(0, dtype=tensors[0].dtype).real.dtype
            tensors = [hermitian_to_real(x) for x in tensors]
            M = None if M is None else hermitian_to_real(M).to(dtype)
            keywords = {
                name: hermitian_to_real(value) if name == "init" else value
                for name, value in keywords.items()
            }
            out = (doubled or real_to_hermitian)(
                function(*tensors, M=M, power=self.power, **keywords)
            )
        else:
            M = None if M is None else M.to(tensors[0].dtype)
            out = function(*tensors, M=M, power=self.power, **keywords)
        return out if back is None else back(out)

    def _key(self):
        return type(self), self.power, None if self.M is None else self.M.tobytes()

    def __eq__(self, other):
        return isinstance(other, _Geometry) and self._key() == other._key()

    def __hash__(self):
        return hash(self._key())

    def __repr__(self):
        M = "None" if self.M is None else f"array{self.M.shape}"
        name = type(self).__name__.strip("_").lower()
        return f"<gbw {name}, M={M}, power={self.power}>"


class _Mean(_Geometry):
    """mean(X, sample_weight=) as ``gmean`` calls it, mean(A, B, t) as ``geodesic``.

    pyriemann's online estimators move a mean along a geodesic by the same metric
    entry, with the two ends and the position as positional arguments.
    """

    def __call__(
        self, X, B=None, alpha=None, *, sample_weight=None, init=None, tol=1e-10,
        maxiter=100,
    ):  # fmt: skip
        if B is not None:
            return self._geodesic(X, B, alpha)
        keywords = {"tol": tol, "max_iter": maxiter, "validate": True}
        for name, value in (("weights", sample_weight), ("init", init)):
            if value is not None:
                like = X.dtype if isinstance(X, Tensor) else None
                if like is not None and name == "weights":
                    like = X.real.dtype
                value = torch.as_tensor(value, dtype=like)
                keep = value.is_floating_point() or value.is_complex()
                keywords[name] = value if keep else value.double()
        return self._run(gbw_mean, X, **keywords)

    def _geodesic(self, A, B, alpha):
        def geodesic(a, b, **options):
            t = alpha
            if not isinstance(alpha, float | int):
                t = torch.as_tensor(alpha, dtype=a.dtype, device=a.device)
            return gbw_geodesic(a, b, t, **options)

        return self._run(geodesic, A, B)


class _Distance(_Geometry):
    """distance(A, B, squared=False), broadcasting."""

    def __call__(self, A, B, squared=False):
        factor = 2 if squared else math.sqrt(2)
        return self._run(
            gbw_distance, A, B, squared=squared, doubled=lambda d: d / factor
        )


class _Map(_Geometry):
    """Logarithm at Cref, and the exponential where pyriemann asks for that.

    pyriemann hands one "map" entry, as a callable with one signature, to ``log_map``
    and to ``exp_map`` (for strings these look in different tables), so the caller is
    the only thing that tells them apart. Call :meth:`log` and :meth:`exp` directly.
    """

    def __call__(self, X, Cref):
        if sys._getframe(1).f_code is exp_map.__code__:
            return self.exp(X, Cref)
        return self.log(X, Cref)

    def log(self, X, Cref):
        """Matrices to tangent matrices at Cref."""
        return self._run(lambda x, c, **kw: gbw_log(c, x, **kw), X, Cref)

    def exp(self, X, Cref):
        """Tangent matrices at Cref to matrices."""
        return self._run(lambda x, c, **kw: gbw_exp(c, x, **kw), X, Cref)


class _Kernel(_Geometry):
    """Inner products of the logarithms at Cref (default the mean of X).

    In units of the size of Cref, so that a support vector machine does not see the
    unit of the signals; ``reg`` is a part of the mean diagonal.
    """

    def __call__(self, X, Y=None, Cref=None, metric=None, *, reg=1e-10):
        if Cref is None:
            Cref = _Mean(self.M, self.power)(X)
        x = self._features(X, Cref)
        if Y is not None and Y is not X:
            return x @ self._features(Y, Cref).T
        kernel = x @ x.T
        eye = eye_like(kernel) if isinstance(kernel, Tensor) else np.eye(len(x))
        return kernel + reg * kernel.diagonal().mean() * eye

    def _features(self, X, Cref):
        def features(x, c, M, power):
            flat = power_of(c, power)
            if M is not None:
                flat = torch.linalg.solve(M, flat)
            size = (trace(flat) / flat.shape[-1]).sqrt()
            return tangent_vector(c, x, M, power) / size

        return self._run(features, X, Cref, doubled=lambda v: v / math.sqrt(2))


def gbw_metric(
    M: ArrayLike | Tensor | None = None, power: float = 1.0
) -> dict[str, Callable[..., Any]]:
    """Return the generalized Bures-Wasserstein metric for pyriemann's estimators.

    Parameters
    ----------
    M : array-like or Tensor, shape (n, n), optional
        SPD metric matrix, real or Hermitian; default the identity (Bures-Wasserstein).
    power : float, default=1
        Deformation, see :func:`~manifoldkit.spd.gbw_distance`.

    Returns
    -------
    dict
        Callables under "mean", "distance" (also as "dist"), "map" and "kernel". They
        can be pickled and sent to other processes, take NumPy arrays or torch tensors,
        real or complex Hermitian, and return the same kind. For
        ``pyriemann.classification.SVC`` give
        ``Cref=metric["mean"], kernel_fct=metric["kernel"]``. The "mean" called with
        two matrices and a position, or an array of positions, is the geodesic. The
        "kernel" is in units of the size of ``Cref``, so it has no unit.

    Raises
    ------
    TypeError, ValueError
        M is not an SPD matrix of real numbers, or power is near 0.

    Notes
    -----
    ``pyriemann.tangentspace.TangentSpace`` returns raw tangent matrices, whose norm is
    not the distance; :class:`~manifoldkit.spd.GBWTangentSpace` is isometric.

    Examples
    --------
    >>> import numpy as np
    >>> from pyriemann.classification import MDM
    >>> X = np.array([np.diag([1., 1.]), np.diag([9., 1.])])
    >>> MDM(metric=gbw_metric()).fit(X, [0, 1]).transform(X)
    array([[0., 2.],
           [2., 0.]])
    """
    power = check_power(power)
    if M is not None:
        M = np.array(M.detach().cpu().numpy() if isinstance(M, Tensor) else M)
        if M.dtype.kind not in "fiuc":
            raise TypeError(f"M: expected numbers, found dtype {M.dtype}")
        M = M.astype(np.complex128 if M.dtype.kind == "c" else np.float64)
        if M.ndim != 2:
            raise ValueError(f"M: expected a matrix (n, n), found shape {M.shape}")
        check_hermitian(torch.from_numpy(M), "M")
    between = _Distance(M, power)
    return {
        "mean": _Mean(M, power),
        "distance": between,
        "dist": between,
        "map": _Map(M, power),
        "kernel": _Kernel(M, power),
    }


#: Names of metrics that have a mean, a distance and a geodesic without parameters.
METRICS = ("riemann", "euclid", "logeuclid")


class Geometry(NamedTuple):
    """Mean, distance and geodesic of one metric on NumPy arrays of SPD matrices.

    Attributes
    ----------
    mean : callable
        ``mean(X, sample_weight=)`` of matrices (n_matrices, n, n).
    distance : callable
        ``distance(X, center, squared=)`` to one matrix.
    geodesic : callable
        ``geodesic(A, B, t)`` from A to B.
    """

    mean: Callable[..., np.ndarray]
    distance: Callable[..., np.ndarray]
    geodesic: Callable[..., np.ndarray]


def geometry_of(metric: str | dict[str, Callable[..., Any]]) -> Geometry:
    """Return what a metric computes, by its name or as :func:`gbw_metric` gives it.

    Raises
    ------
    ValueError
        Unknown name, or a dictionary without a mean and a distance.

    Examples
    --------
    >>> A, B = np.diag([1.0, 1.0]), np.diag([4.0, 1.0])
    >>> geometry_of("riemann").geodesic(A, B, 0.5).round(12).tolist()
    [[2.0, 0.0], [0.0, 1.0]]
    """
    if isinstance(metric, dict) and {"mean", "distance"} <= metric.keys():
        mean = metric["mean"]
        return Geometry(mean, metric["distance"], metric.get("geodesic", mean))
    if isinstance(metric, str) and metric in METRICS:
        return Geometry(
            partial(gmean, metric=metric),
            partial(distance, metric=metric),
            partial(geodesic, metric=metric),
        )
    names = ", ".join(map(repr, METRICS))
    raise ValueError(f"metric: expected {names} or gbw_metric(...), found {metric!r}")


def root(X: np.ndarray) -> np.ndarray:
    """Return square roots of SPD matrices (..., n, n)."""
    return sqrtm(X)


def inverse_root(X: np.ndarray) -> np.ndarray:
    """Return inverse square roots of SPD matrices (..., n, n)."""
    return invsqrtm(X)


def matrix_power(X: np.ndarray, power: float) -> np.ndarray:
    """Return powers of SPD matrices (..., n, n)."""
    return powm(X, power)
