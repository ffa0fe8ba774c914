"""Distances, geodesics, Jacobians, random rotations, SciPy."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from manifoldkit._checks import check_count
from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.lie import haar
from manifoldkit.lie._arrays import array_function, check_pair
from manifoldkit.lie._proper import proper
from manifoldkit.lie.closed_forms import so3 as _so3
from manifoldkit.lie.groups.rotation_maps import rotation_log, skew_exp
from manifoldkit.linalg.checks import (
    check_broadcast,
    check_finite,
    check_last,
    check_square,
    common_dtype,
    first_index,
    subscript,
)
from manifoldkit.linalg.draws import generator_option


@array_function
def geodesic_distance(a: Tensor, b: Tensor, *, degrees: bool = False) -> Tensor:
    r"""Angle of the rotation from ``a`` to ``b``.

    :math:`\operatorname{atan2}(|\operatorname{vee}(D - D')| / 2, (\operatorname{tr} D -
    1) / 2)` with :math:`D = a'b` for n = 3, exact at 0 and pi; the norm of the
    logarithm over sqrt 2 for other n.

    Parameters
    ----------
    a, b : Tensor, shape (..., n, n)
        Rotations; another matrix of positive determinant stands for the nearest one.
    degrees : bool, default=False

    Returns
    -------
    Tensor, shape (...)

    Raises
    ------
    TypeError, ValueError
        Not floating-point square matrices of one size, or batches that do not
        broadcast.
    NotOnManifoldError
        A determinant that is not positive, such as that of a reflection (NaN on
        accelerators and in traced functions).

    Examples
    --------
    >>> from manifoldkit.lie.rotation import euler_to_matrix
    >>> r = euler_to_matrix(torch.tensor([0., 0., 90.]), degrees=True)
    >>> round(geodesic_distance(torch.eye(3), r, degrees=True).item(), 4)
    90.0
    """
    check_pair(a, b)
    first, second = common_dtype(a, b)
    first, second = proper(first, "a"), proper(second, "b")
    d = first.mT @ second
    if d.shape[-1] == 3:
        trace = d.diagonal(dim1=-2, dim2=-1).sum(-1)
        angle = torch.atan2(_so3.safe_norm(_so3.vee(d)), (trace - 1) / 2)
    else:
        log = rotation_log(d)
        angle = _so3.safe_norm(log.flatten(-2)) / math.sqrt(2)
    return (angle * (180 / math.pi) if degrees else angle).to(a.dtype)


@array_function
def left_jacobian(v: Tensor, *, inverse: bool = False) -> Tensor:
    r"""Derivative of the rotation vector's exponential, seen from the left.

    :math:`\exp(v + d) \approx \exp(J d) \exp(v)` with

    .. math:: J = I + \frac{1 - \cos t}{t^2} \hat v + \frac{t - \sin t}{t^3} \hat v^2,
              \qquad t = |v| .

    Parameters
    ----------
    v : Tensor, shape (..., 3)
        Rotation vectors, radians.
    inverse : bool, default=False
        Return the inverse, which exists for t < 2 pi.

    Returns
    -------
    Tensor, shape (..., 3, 3)

    Raises
    ------
    TypeError, ValueError
        Not floating point, or not three numbers.

    References
    ----------
    G. S. Chirikjian, "Stochastic Models, Information Theory, and Lie Groups 2", 2012.

    Examples
    --------
    >>> left_jacobian(torch.zeros(3))
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """
    x = check_last(v, (3,), "v")
    jacobian = _so3.left_jacobian_inverse if inverse else _so3.left_jacobian
    return jacobian(x)


@array_function
def right_jacobian(v: Tensor, *, inverse: bool = False) -> Tensor:
    r"""The same seen from the right, :math:`\exp(v + d) \approx \exp(v) \exp(J d)`.

    It is the transpose of :func:`left_jacobian`.

    Parameters
    ----------
    v : Tensor, shape (..., 3)
    inverse : bool, default=False

    Returns
    -------
    Tensor, shape (..., 3, 3)

    Raises
    ------
    TypeError, ValueError
        Not floating point, or not three numbers.

    Examples
    --------
    >>> v = torch.tensor([0.3, -0.2, 0.9])
    >>> bool(torch.allclose(right_jacobian(v), left_jacobian(v).mT))
    True
    """
    return left_jacobian(-check_last(v, (3,), "v"), inverse=inverse)


@array_function
def slerp(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    """Point at ``t`` on the shortest way from rotation ``a`` (0) to ``b`` (1).

    Parameters
    ----------
    a, b : Tensor, shape (..., n, n)
        Rotations; another matrix of positive determinant stands for the nearest one.
    t : float or Tensor, shape (...)

    Returns
    -------
    Tensor, shape (..., n, n)

    Raises
    ------
    TypeError, ValueError
        Not floating-point square matrices of one size, a ``t`` that is no number, or
        batches that do not broadcast.
    NotOnManifoldError
        A determinant that is not positive, such as that of a reflection (NaN on
        accelerators and in traced functions).

    Examples
    --------
    >>> from manifoldkit.lie.rotation import matrix_to_rotvec, rotvec_to_matrix
    >>> r = rotvec_to_matrix(torch.tensor([0., 0., 1.]))
    >>> matrix_to_rotvec(slerp(torch.eye(3), r, 0.25))
    tensor([0.0000, 0.0000, 0.2500])
    """
    check_pair(a, b)
    first, second = common_dtype(a, b)
    first, second = proper(first, "a"), proper(second, "b")
    if not isinstance(t, Tensor | float | int):
        raise TypeError(f"t: expected a number or a tensor, found {t!r}")
    t = torch.as_tensor(t, dtype=first.dtype, device=first.device)
    check_broadcast(a=(a, 2), b=(b, 2), t=(t, 0))
    d = first.mT @ second
    if d.shape[-1] == 3:
        step = _so3.exp_so3(t[..., None] * _so3.log_so3(d))
    else:
        step = skew_exp(t[..., None, None] * rotation_log(d))
    return (first @ step).to(a.dtype)


def random_rotation(
    *shape: int | Sequence[int],
    n: int = 3,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Uniformly distributed (Haar) rotations.

    Parameters
    ----------
    *shape : int, or one sequence of int
        Batch dimensions: ``random_rotation(4, 5)`` or ``random_rotation((4, 5))``.
    n : int, default=3
    generator : torch.Generator, optional
    dtype, device
        Default: torch's.

    Returns
    -------
    Tensor, shape ``(*shape, n, n)``

    Raises
    ------
    ValueError
        A size that is no count, or n below 2.

    Examples
    --------
    >>> random_rotation(5, n=4).shape
    torch.Size([5, 4, 4])
    """
    batch: Any = shape
    if len(shape) == 1 and isinstance(shape[0], tuple | list):
        batch = shape[0]
    for size in batch:
        check_count(size, "shape", 0)
    check_count(n, "n", 2)
    points = (*batch, haar.rotation_points_dim(n))
    options = generator_option(generator)
    u = torch.rand(points, dtype=dtype, device=device, **options)
    return haar.haar_rotations(u, n)


def from_scipy(rotation: Any, dtype: torch.dtype = torch.float64) -> Tensor:
    """Matrices of a :class:`scipy.spatial.transform.Rotation`.

    Parameters
    ----------
    rotation : scipy.spatial.transform.Rotation
    dtype : torch.dtype, default=torch.float64

    Returns
    -------
    Tensor, shape (..., 3, 3)

    Examples
    --------
    >>> from scipy.spatial.transform import Rotation
    >>> from_scipy(Rotation.from_euler("z", 180, degrees=True)).round() + 0.0
    tensor([[-1.,  0.,  0.],
            [ 0., -1.,  0.],
            [ 0.,  0.,  1.]], dtype=torch.float64)
    """
    return torch.as_tensor(rotation.as_matrix(), dtype=dtype)


def to_scipy(r: Tensor) -> Any:
    """A :class:`scipy.spatial.transform.Rotation` of matrices.

    Parameters
    ----------
    r : Tensor, shape (3, 3) or (m, 3, 3)

    Returns
    -------
    scipy.spatial.transform.Rotation

    Raises
    ------
    NotOnManifoldError
        Not rotations to 1e-3, or reflections.

    Examples
    --------
    >>> half = torch.diag(torch.tensor([1., -1., -1.]))
    >>> float(to_scipy(half).magnitude().round(4))
    3.1416
    """
    from scipy.spatial.transform import Rotation

    m = check_square(torch.as_tensor(r), "r", 3).detach().double().cpu()
    m = check_finite(m, "r", 2)
    near = proper(m)
    gap = (near - m).abs().amax((-2, -1)) > 1e-3
    if bool(gap.any()):
        at = first_index(gap)
        defect = (m[at] @ m[at].mT - torch.eye(3, dtype=m.dtype)).abs().max()
        raise NotOnManifoldError(
            f"r{subscript(at)}: expected a rotation matrix, found |r r' - I| up to "
            f"{float(defect):.2g} (determinant {float(torch.det(m[at])):.3g}); "
            "special_procrustes gives the nearest rotation"
        )
    return Rotation.from_matrix(near.numpy())
