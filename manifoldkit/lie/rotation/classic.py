"""Quaternions, rotation vectors and Euler angles."""

import math

from torch import Tensor

from manifoldkit._checks import check_choice
from manifoldkit.lie._arrays import array_function
from manifoldkit.lie._proper import proper
from manifoldkit.lie.closed_forms import euler
from manifoldkit.lie.closed_forms import so3 as _so3
from manifoldkit.linalg.checks import check_last, check_square


def _rolled(q: Tensor, order: str, by: int) -> Tensor:
    check_choice(order, ("wxyz", "xyzw"), "order")
    return q.roll(by, -1) if order == "xyzw" else q


@array_function
def quaternion_to_matrix(q: Tensor, *, order: str = "wxyz") -> Tensor:
    """Rotation of a quaternion of any length; zero counts as the identity.

    Parameters
    ----------
    q : Tensor, shape (..., 4)
    order : {"wxyz", "xyzw"}
        Scalar first (e3nn, pytorch3d) or last (SciPy, roma).

    Returns
    -------
    Tensor, shape (..., 3, 3)

    Raises
    ------
    TypeError, ValueError
        Not floating point, not four numbers, or an unknown order.

    Examples
    --------
    >>> import torch
    >>> quaternion_to_matrix(torch.tensor([1., 0., 0., 1.])).round() + 0.0
    tensor([[ 0., -1.,  0.],
            [ 1.,  0.,  0.],
            [ 0.,  0.,  1.]])
    """
    v = _rolled(check_last(q, (4,), "q"), order, 1)
    return _so3.quaternion_matrix(v)


@array_function
def matrix_to_quaternion(r: Tensor, *, order: str = "wxyz") -> Tensor:
    """Unit quaternion whose first non-zero entry of (w, x, y, z) is positive.

    Parameters
    ----------
    r : Tensor, shape (..., 3, 3)
        Rotations; another matrix of positive determinant stands for the nearest one.
    order : {"wxyz", "xyzw"}

    Returns
    -------
    Tensor, shape (..., 4)

    Raises
    ------
    TypeError, ValueError
        Not floating-point matrices of shape (..., 3, 3), or an unknown order.
    NotOnManifoldError
        A determinant that is not positive, such as that of a reflection (NaN on
        accelerators and in traced functions).

    Examples
    --------
    >>> import torch
    >>> matrix_to_quaternion(torch.eye(3))
    tensor([1., 0., 0., 0.])
    """
    q = _so3.matrix_quaternion(proper(check_square(r, "r", 3)))
    return _rolled(q, order, -1)


@array_function
def rotvec_to_matrix(v: Tensor) -> Tensor:
    """Rotation about the axis ``v`` by the angle ``|v|``.

    Parameters
    ----------
    v : Tensor, shape (..., 3)
        Radians.

    Returns
    -------
    Tensor, shape (..., 3, 3)

    Raises
    ------
    TypeError, ValueError
        Not floating point, or not three numbers.

    Examples
    --------
    >>> import torch
    >>> rotvec_to_matrix(torch.zeros(3))
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """
    return _so3.exp_so3(check_last(v, (3,), "v"))


@array_function
def matrix_to_rotvec(r: Tensor) -> Tensor:
    """Rotation vector of length at most pi, exact also near pi.

    Parameters
    ----------
    r : Tensor, shape (..., 3, 3)
        Rotations; another matrix of positive determinant stands for the nearest one.

    Returns
    -------
    Tensor, shape (..., 3)

    Raises
    ------
    TypeError, ValueError
        Not floating-point matrices of shape (..., 3, 3).
    NotOnManifoldError
        A determinant that is not positive, such as that of a reflection (NaN on
        accelerators and in traced functions).

    Examples
    --------
    >>> import torch
    >>> half = torch.diag(torch.tensor([1., -1., -1.]))  # about the first axis
    >>> matrix_to_rotvec(half)
    tensor([3.1416, 0.0000, 0.0000])
    """
    return _so3.log_so3(proper(check_square(r, "r", 3)))


@array_function
def euler_to_matrix(
    angles: Tensor, order: str = "XYZ", *, degrees: bool = False
) -> Tensor:
    """Rotation of Euler angles, in SciPy's naming.

    Parameters
    ----------
    angles : Tensor, shape (..., 3)
    order : str
        Upper case intrinsic, lower case extrinsic; 24 orders.
    degrees : bool, default=False

    Returns
    -------
    Tensor, shape (..., 3, 3)

    Raises
    ------
    TypeError, ValueError
        Not floating point, not three numbers, or an unknown order.

    Examples
    --------
    >>> import torch
    >>> r = euler_to_matrix(torch.tensor([90., 0., 0.]), "ZYX", degrees=True)
    >>> r.round() + 0.0
    tensor([[ 0., -1.,  0.],
            [ 1.,  0.,  0.],
            [ 0.,  0.,  1.]])
    """
    v = check_last(angles, (3,), "angles")
    v = v * (math.pi / 180) if degrees else v
    return euler.angles_to_matrix(v, order)


@array_function
def matrix_to_euler(r: Tensor, order: str = "XYZ", *, degrees: bool = False) -> Tensor:
    """Euler angles of a rotation; at gimbal lock the third angle is zero.

    Parameters
    ----------
    r : Tensor, shape (..., 3, 3)
        Rotations; another matrix of positive determinant stands for the nearest one.
    order : str
    degrees : bool, default=False

    Returns
    -------
    Tensor, shape (..., 3)

    Raises
    ------
    TypeError, ValueError
        Not floating-point matrices of shape (..., 3, 3), or an unknown order.
    NotOnManifoldError
        A determinant that is not positive, such as that of a reflection (NaN on
        accelerators and in traced functions).

    Examples
    --------
    >>> import torch
    >>> r = torch.tensor([[0., -1., 0.], [1., 0., 0.], [0., 0., 1.]])
    >>> matrix_to_euler(r, "ZYX", degrees=True).round() + 0.0
    tensor([90.,  0.,  0.])
    """
    q = _so3.matrix_quaternion(proper(check_square(r, "r", 3)))
    angles = euler.quaternion_to_angles(q, order)
    return angles * (180 / math.pi) if degrees else angles
