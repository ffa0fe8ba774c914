"""Rotation representations: vectors to rotation matrices and back.

Every decoder returns a rotation for every finite input, with finite derivatives, and
every function takes any leading batch dimensions, tensors or NumPy arrays. Matrices
act on column vectors; angles are radians; quaternions are scalar first unless
``order="xyzw"``; half precision is computed in float32.

References
----------
Zhou et al., "On the Continuity of Rotation Representations in Neural Networks",
CVPR 2019. Levinson et al., "An Analysis of SVD for Deep Rotation Estimation",
NeurIPS 2020.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.lie import _euler, _so3, haar
from manifoldkit.lie._arrays import accepts_numpy, check_vector, choice, unit_vector
from manifoldkit.lie._gram_schmidt import (
    finish,
    gram_schmidt,
    sixd_columns,
    stereographic_decode,
    stereographic_encode,
)
from manifoldkit.lie._procrustes import nearest_rotation
from manifoldkit.lie._top_vector import top_vector
from manifoldkit.lie.groups.rotation_maps import rotation_log, skew_exp
from manifoldkit.linalg.checks import check_square, compute_dtype

_LAYOUTS = ("columns", "rows")
_ORDERS = ("wxyz", "xyzw")
_STEREO_SCALE = (math.sqrt(2) + 1, math.sqrt(2) + 1, math.sqrt(2))


class Similarity(NamedTuple):
    """Scale, rotation and translation: ``x -> scale * r x + t``."""

    scale: Tensor
    r: Tensor
    t: Tensor


def _check_rotation(r: Tensor, n: int | None = 3) -> Tensor:
    """Check shape and dtype; values are the caller's."""
    check_square(r, "r", n)
    return r.to(compute_dtype(r.dtype))


@accepts_numpy
def rotation_6d_to_matrix(
    x: Tensor,
    *,
    layout: str = "columns",
    strict: bool = False,
    return_degenerate: bool = False,
) -> Any:
    r"""Rotation from two vectors by Gram-Schmidt.

    :math:`b_1 = a_1 / |a_1|`, :math:`b_2 \propto a_2 - (b_1 \cdot a_2) b_1`,
    :math:`b_3 = b_1 \times b_2`, :math:`R = [b_1\, b_2\, b_3]`.

    Parameters
    ----------
    x : Tensor, shape (..., 6)
        Any finite numbers. ``a1 = 0`` counts as the first unit vector; an ``a2`` on the
        line of ``a1`` is replaced by a fixed normal of it.
    layout : {"columns", "rows"}
        Whether the vectors become the first columns (the paper's) or rows of R.
    strict : bool, default=False
        Raise on such degenerate input.
    return_degenerate : bool, default=False
        Also return where the input was degenerate.

    Returns
    -------
    Tensor, shape (..., 3, 3), or a pair with a bool tensor of shape (...)

    Raises
    ------
    TypeError, ValueError
        Not floating point, or not six numbers.
    NotOnManifoldError
        Degenerate input and ``strict``.

    References
    ----------
    Zhou et al., CVPR 2019, equation 15.

    Examples
    --------
    >>> rotation_6d_to_matrix(torch.tensor([0., 2., 0., -1., 1., 0.])).round() + 0.0
    tensor([[ 0., -1.,  0.],
            [ 1.,  0.,  0.],
            [ 0.,  0.,  1.]])
    """
    choice(layout, _LAYOUTS, "layout")
    r, degenerate = sixd_columns(check_vector(x, 6))
    r = r.mT if layout == "rows" else r
    return finish(r, degenerate.any(-1), x.dtype, strict, return_degenerate)


@accepts_numpy
def matrix_to_rotation_6d(r: Tensor, *, layout: str = "columns") -> Tensor:
    """First two columns (or rows) of a rotation, one after the other.

    Parameters
    ----------
    r : Tensor, shape (..., 3, 3)
    layout : {"columns", "rows"}

    Returns
    -------
    Tensor, shape (..., 6)

    Examples
    --------
    >>> matrix_to_rotation_6d(torch.eye(3))
    tensor([1., 0., 0., 0., 1., 0.])
    """
    choice(layout, _LAYOUTS, "layout")
    check_square(r, "r", 3)
    r = r.mT if layout == "columns" else r
    return r[..., :2, :].flatten(-2)


@accepts_numpy
def rotation_5d_to_matrix(x: Tensor, *, scaled: bool = True, **options: Any) -> Any:
    """Rotation from five numbers: two entries and a stereographic projection.

    Parameters
    ----------
    x : Tensor, shape (..., 5)
        Any finite numbers.
    scaled : bool, default=True
        The three projected numbers are in units of (sqrt2 + 1, sqrt2 + 1, sqrt2), as in
        the authors' code.
    **options
        ``strict`` and ``return_degenerate`` of :func:`rotation_6d_to_matrix`.

    Returns
    -------
    Tensor, shape (..., 3, 3)

    References
    ----------
    Zhou et al., CVPR 2019, section 4.3.

    Examples
    --------
    >>> r = random_rotation(3, generator=torch.Generator().manual_seed(0))
    >>> back = rotation_5d_to_matrix(matrix_to_rotation_5d(r))
    >>> bool((back - r).abs().max() < 1e-5)
    True
    """
    v = check_vector(x, 5)
    projected = v[..., 2:]
    if scaled:
        projected = projected * v.new_tensor(_STEREO_SCALE)
        projected = projected.clamp(-torch.finfo(v.dtype).max, torch.finfo(v.dtype).max)
    six = torch.cat([v[..., :2], stereographic_decode(projected)], -1)
    return _back(rotation_6d_to_matrix(six, **options), x.dtype)


def _back(result: Any, dtype: torch.dtype) -> Any:
    if isinstance(result, tuple):
        return result[0].to(dtype), result[1]
    return result.to(dtype)


@accepts_numpy
def matrix_to_rotation_5d(r: Tensor, *, scaled: bool = True) -> Tensor:
    """Five continuous numbers of a rotation: see :func:`rotation_5d_to_matrix`.

    Parameters
    ----------
    r : Tensor, shape (..., 3, 3)
    scaled : bool, default=True

    Returns
    -------
    Tensor, shape (..., 5)
    """
    m = _check_rotation(r)
    six = m[..., :2].mT.flatten(-2)
    projected = stereographic_encode(six[..., 2:])
    if scaled:
        projected = projected / m.new_tensor(_STEREO_SCALE)
    return torch.cat([six[..., :2], projected], -1).to(r.dtype)


@accepts_numpy
def special_procrustes(
    m: Tensor, *, strict: bool = False, return_degenerate: bool = False
) -> Any:
    r"""Nearest rotation, :math:`\arg\min_{R \in SO(n)} |R - M|_F`.

    Parameters
    ----------
    m : Tensor, shape (..., n, n)
        Any finite matrices. Where the two smallest signed singular values cancel, the
        nearest rotation is not unique; the derivative stays bounded there.
    strict, return_degenerate : bool
        As in :func:`rotation_6d_to_matrix`.

    Returns
    -------
    Tensor, shape (..., n, n)

    References
    ----------
    Levinson et al., NeurIPS 2020, SVDO+.

    Examples
    --------
    >>> special_procrustes(torch.diag(torch.tensor([3., 2., -1.])))
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """
    check_square(m, "m")
    r, degenerate = nearest_rotation(m.to(compute_dtype(m.dtype)))
    return finish(r, degenerate, m.dtype, strict, return_degenerate)


def _scalar_first(q: Tensor, order: str) -> Tensor:
    choice(order, _ORDERS, "order")
    return q.roll(1, -1) if order == "xyzw" else q


def _ordered(q: Tensor, order: str) -> Tensor:
    choice(order, _ORDERS, "order")
    return q.roll(-1, -1) if order == "xyzw" else q


@accepts_numpy
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

    Examples
    --------
    >>> quaternion_to_matrix(torch.tensor([1., 0., 0., 1.])).round() + 0.0
    tensor([[ 0., -1.,  0.],
            [ 1.,  0.,  0.],
            [ 0.,  0.,  1.]])
    """
    v = _scalar_first(check_vector(q, 4, "q"), order)
    return _so3.quaternion_matrix(v).to(q.dtype)


@accepts_numpy
def matrix_to_quaternion(r: Tensor, *, order: str = "wxyz") -> Tensor:
    """Unit quaternion whose first non-zero entry of (w, x, y, z) is positive.

    Parameters
    ----------
    r : Tensor, shape (..., 3, 3)
    order : {"wxyz", "xyzw"}

    Returns
    -------
    Tensor, shape (..., 4)

    Examples
    --------
    >>> matrix_to_quaternion(torch.eye(3))
    tensor([1., 0., 0., 0.])
    """
    q = _so3.matrix_quaternion(_check_rotation(r))
    return _ordered(q, order).to(r.dtype)


@accepts_numpy
def rotvec_to_matrix(v: Tensor) -> Tensor:
    """Rotation about the axis ``v`` by the angle ``|v|``.

    Parameters
    ----------
    v : Tensor, shape (..., 3)
        Radians.

    Returns
    -------
    Tensor, shape (..., 3, 3)

    Examples
    --------
    >>> rotvec_to_matrix(torch.zeros(3))
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """
    return _so3.exp_so3(check_vector(v, 3, "v")).to(v.dtype)


@accepts_numpy
def matrix_to_rotvec(r: Tensor) -> Tensor:
    """Rotation vector of length at most pi, exact also near pi.

    Parameters
    ----------
    r : Tensor, shape (..., 3, 3)

    Returns
    -------
    Tensor, shape (..., 3)
    """
    return _so3.log_so3(_check_rotation(r)).to(r.dtype)


@accepts_numpy
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
    """
    v = check_vector(angles, 3, "angles")
    v = v * (math.pi / 180) if degrees else v
    return _euler.angles_to_matrix(v, order).to(angles.dtype)


@accepts_numpy
def matrix_to_euler(r: Tensor, order: str = "XYZ", *, degrees: bool = False) -> Tensor:
    """Euler angles of a rotation; at gimbal lock the third angle is zero.

    Parameters
    ----------
    r : Tensor, shape (..., 3, 3)
    order : str
    degrees : bool, default=False

    Returns
    -------
    Tensor, shape (..., 3)
    """
    q = _so3.matrix_quaternion(_check_rotation(r))
    angles = _euler.quaternion_to_angles(q, order)
    return (angles * (180 / math.pi) if degrees else angles).to(r.dtype)


_QUATERNIONS = {
    "rodrigues": _so3.gibbs_quaternion,
    "mrp": _so3.mrp_quaternion,
    "hopf": _so3.hopf_quaternion,
}
_ALIASES = {
    "svd": "matrix9",
    "procrustes": "matrix9",
    "6d": "sixd",
    "gram_schmidt": "sixd",
    "5d": "stereo",
}
_THREE = ("sym10", "quaternion", "axis_angle4", "euler", "rodrigues", "mrp", "hopf")


def dim(rep: str, n: int = 3) -> int:
    """Number of entries of a representation of SO(n).

    Parameters
    ----------
    rep : str
        "matrix9" (or "svd"), "sixd" (or "gram_schmidt"), "stereo", "rotvec" for any n;
        "orthogonal" for O(n); "angle2" for n = 2; "sym10", "quaternion", "axis_angle4",
        "euler", "rodrigues", "mrp", "hopf" for n = 3.
    n : int, default=3

    Returns
    -------
    int

    Raises
    ------
    ValueError
        Unknown representation, or none for this n.

    Examples
    --------
    >>> [dim(rep) for rep in ("svd", "sixd", "stereo", "quaternion", "rotvec")]
    [9, 6, 5, 4, 3]
    """
    rep = _ALIASES.get(rep, rep)
    sizes = {
        "matrix9": n * n,
        "sixd": n * n - n,
        "orthogonal": n * n,
        "stereo": n * n - n - 1,
        "rotvec": n * (n - 1) // 2,
        "angle2": 2,
        "sym10": 10,
        "quaternion": 4,
        "axis_angle4": 4,
    } | dict.fromkeys(("euler", "rodrigues", "mrp", "hopf"), 3)
    if rep not in sizes:
        raise ValueError(f"rep: expected one of {sorted(sizes)}, found {rep!r}")
    fits = {"angle2": n == 2, "stereo": n >= 3}.get(rep, n == 3 or rep not in _THREE)
    if n < 2 or not fits:
        raise ValueError(f"rep: {rep!r} is no representation of SO({n})")
    return sizes[rep]


@accepts_numpy
def decode(x: Tensor, rep: str = "sixd", n: int = 3, **options: Any) -> Any:
    """Rotation matrices of a representation.

    Parameters
    ----------
    x : Tensor, shape (..., dim(rep, n))
    rep : str
        See :func:`dim`.
    n : int, default=3
    **options
        ``layout``, ``scaled``, ``order``, ``degrees``, ``strict``,
        ``return_degenerate`` of the particular function.

    Returns
    -------
    Tensor, shape (..., n, n)

    Examples
    --------
    >>> decode(torch.tensor([3., 4.]), "angle2", n=2)
    tensor([[ 0.6000, -0.8000],
            [ 0.8000,  0.6000]])
    """
    rep = _ALIASES.get(rep, rep)
    v = check_vector(x, dim(rep, n))
    direct = {
        "quaternion": quaternion_to_matrix,
        "euler": euler_to_matrix,
        "matrix9": lambda v, **o: special_procrustes(v.unflatten(-1, (n, n)), **o),
    }
    if n == 3:
        direct |= {"sixd": rotation_6d_to_matrix, "stereo": rotation_5d_to_matrix}
    if rep in direct:
        return _back(direct[rep](v, **options), x.dtype)
    if rep in ("sixd", "stereo", "orthogonal"):
        return _back(_decode_columns(v, rep, n, **options), x.dtype)
    if options:
        raise TypeError(f"{rep} takes no options, found {sorted(options)}")
    if rep in _QUATERNIONS:
        out = _so3.quaternion_matrix(_QUATERNIONS[rep](v))
    elif rep == "sym10":
        out = _so3.quaternion_matrix(top_vector(v))
    elif rep == "axis_angle4":
        out = _so3.exp_so3(unit_vector(v[..., :3])[0] * v[..., 3:])
    elif rep == "angle2":
        c, s = unit_vector(v)[0].unbind(-1)
        out = torch.stack([c, -s, s, c], -1).unflatten(-1, (2, 2))
    elif n == 3:
        out = _so3.exp_so3(v)
    else:
        out = skew_exp(_skew(v, n))
    return out.to(x.dtype)


def _skew(v: Tensor, n: int) -> Tensor:
    """Skew matrices with ``v`` below the diagonal, row by row."""
    rows, columns = torch.tril_indices(n, n, -1, device=v.device)
    place = torch.zeros(n, n, dtype=torch.long, device=v.device)
    number = torch.arange(len(rows), device=v.device)
    place[rows, columns] = place[columns, rows] = number
    sign = torch.zeros(n, n, dtype=v.dtype, device=v.device)
    sign[rows, columns], sign[columns, rows] = 1.0, -1.0
    return v[..., place] * sign


def _decode_columns(
    v: Tensor,
    rep: str,
    n: int,
    layout: str = "columns",
    strict: bool = False,
    return_degenerate: bool = False,
) -> Any:
    """General n: stacked columns through QR with a positive diagonal."""
    choice(layout, _LAYOUTS, "layout")
    if rep == "stereo":
        head = n * n - 2 * n - 1
        v = torch.cat([v[..., :head], stereographic_decode(v[..., head:])], -1)
    r, degenerate = gram_schmidt(v.unflatten(-1, (-1, n)).mT)
    r = r.mT if layout == "rows" else r
    return finish(r, degenerate, v.dtype, strict, return_degenerate)


@accepts_numpy
def encode(r: Tensor, rep: str = "sixd", **options: Any) -> Tensor:
    """Representation of rotation matrices, the inverse of :func:`decode`.

    Parameters
    ----------
    r : Tensor, shape (..., n, n)
    rep : str
        See :func:`dim`. "rodrigues" is infinite at half turns and capped there.
    **options
        As in :func:`decode`.

    Returns
    -------
    Tensor, shape (..., dim(rep, n))

    Examples
    --------
    >>> encode(torch.eye(3), "quaternion")
    tensor([1., 0., 0., 0.])
    """
    m = _check_rotation(r, None)
    n = m.shape[-1]
    rep = _ALIASES.get(rep, rep)
    dim(rep, n)
    direct = {"quaternion": matrix_to_quaternion, "euler": matrix_to_euler}
    if n == 3:
        direct |= {"sixd": matrix_to_rotation_6d, "stereo": matrix_to_rotation_5d}
    if rep in direct:
        return direct[rep](m, **options).to(r.dtype)
    if rep in ("sixd", "orthogonal", "stereo"):
        return _encode_columns(m, rep, n, **options).to(r.dtype)
    if options:
        raise TypeError(f"{rep} takes no options, found {sorted(options)}")
    return _encode_plain(m, rep, n).to(r.dtype)


def _encode_columns(m: Tensor, rep: str, n: int, layout: str = "columns") -> Tensor:
    choice(layout, _LAYOUTS, "layout")
    m = m.mT if layout == "columns" else m
    if rep == "orthogonal":
        return m.flatten(-2)
    v = m[..., : n - 1, :].flatten(-2)
    if rep == "stereo":
        head = n * n - 2 * n - 1
        v = torch.cat([v[..., :head], stereographic_encode(v[..., head:])], -1)
    return v


def _encode_plain(m: Tensor, rep: str, n: int) -> Tensor:
    if rep == "matrix9":
        return m.flatten(-2)
    if rep == "angle2":
        return m[..., 0]
    if rep == "rotvec" and n != 3:
        rows, columns = torch.tril_indices(n, n, -1, device=m.device)
        return rotation_log(m)[..., rows, columns]
    q = _so3.matrix_quaternion(m)
    if rep == "rotvec":
        return _so3.quaternion_vector(q)
    if rep == "axis_angle4":
        v = _so3.quaternion_vector(q)
        return torch.cat([unit_vector(v)[0], _so3.safe_norm(v)[..., None]], -1)
    if rep == "rodrigues":
        w = q[..., :1].clamp_min(torch.finfo(q.dtype).tiny ** 0.5)
        return q[..., 1:] / w
    if rep == "mrp":
        return q[..., 1:] / (1 + q[..., :1])
    if rep == "hopf":
        return _so3.quaternion_hopf(q)
    rows, columns = torch.triu_indices(4, 4, device=m.device)
    return q[..., rows] * q[..., columns]


@accepts_numpy
def convert(x: Tensor, src: str, dst: str, n: int = 3) -> Tensor:
    """Convert between representations of SO(n) through the matrix.

    Parameters
    ----------
    x : Tensor, shape (..., dim(src, n))
    src, dst : str
        See :func:`dim`; "matrix" for the matrix itself.
    n : int, default=3

    Returns
    -------
    Tensor

    Examples
    --------
    >>> convert(torch.zeros(3), "rotvec", "quaternion")
    tensor([1., 0., 0., 0.])
    """
    r = x if src == "matrix" else decode(x, src, n)
    return r if dst == "matrix" else encode(r, dst)


@accepts_numpy
def decode_similarity(x: Tensor, n: int = 3, *, scale: str = "norm") -> Similarity:
    """Scale, rotation and translation from one vector.

    Parameters
    ----------
    x : Tensor, shape (..., n * n - n + n) or one more
        Gram-Schmidt code of the rotation, then, for ``scale="exp"``, the logarithm of
        the scale, then n numbers of translation.
    n : int, default=3
    scale : {"norm", "exp"}
        From the length of the first vector, or from a number of its own.

    Returns
    -------
    Similarity
        ``(scale, r, t)`` of shapes (...), (..., n, n), (..., n).
    """
    choice(scale, ("norm", "exp"), "scale")
    code = n * n - n
    v = check_vector(x, code + n + (scale == "exp"))
    r = decode(v[..., :code], "sixd", n)
    s = _so3.safe_norm(v[..., :n]) if scale == "norm" else v[..., code].exp()
    return Similarity(s.to(x.dtype), r.to(x.dtype), v[..., -n:].to(x.dtype))


@accepts_numpy
def geodesic_distance(a: Tensor, b: Tensor, *, degrees: bool = False) -> Tensor:
    r"""Angle of the rotation from ``a`` to ``b``.

    :math:`\operatorname{atan2}(|\operatorname{vee}(D - D')| / 2, (\operatorname{tr} D -
    1) / 2)` with :math:`D = a'b` for n = 3, exact at 0 and pi; the norm of the
    logarithm over sqrt 2 for other n.

    Parameters
    ----------
    a, b : Tensor, shape (..., n, n)
    degrees : bool, default=False

    Returns
    -------
    Tensor, shape (...)

    Examples
    --------
    >>> r = euler_to_matrix(torch.tensor([0., 0., 90.]), degrees=True)
    >>> round(geodesic_distance(torch.eye(3), r, degrees=True).item(), 4)
    90.0
    """
    d = _check_rotation(a, None).mT @ _check_rotation(b, None)
    if d.shape[-1] == 3:
        trace = d.diagonal(dim1=-2, dim2=-1).sum(-1)
        angle = torch.atan2(_so3.safe_norm(_so3.vee(d)), (trace - 1) / 2)
    else:
        log = rotation_log(d)
        angle = _so3.safe_norm(log.flatten(-2)) / math.sqrt(2)
    return (angle * (180 / math.pi) if degrees else angle).to(a.dtype)


@accepts_numpy
def slerp(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    """Point at ``t`` on the shortest way from rotation ``a`` (0) to ``b`` (1).

    Parameters
    ----------
    a, b : Tensor, shape (..., n, n)
    t : float or Tensor, shape (...)

    Returns
    -------
    Tensor, shape (..., n, n)

    Examples
    --------
    >>> r = rotvec_to_matrix(torch.tensor([0., 0., 1.]))
    >>> matrix_to_rotvec(slerp(torch.eye(3), r, 0.25))
    tensor([0.0000, 0.0000, 0.2500])
    """
    first, second = _check_rotation(a, None), _check_rotation(b, None)
    t = torch.as_tensor(t, dtype=first.dtype, device=first.device)
    d = first.mT @ second
    if d.shape[-1] == 3:
        step = _so3.exp_so3(t[..., None] * _so3.log_so3(d))
    else:
        step = skew_exp(t[..., None, None] * rotation_log(d))
    return (first @ step).to(a.dtype)


def random_rotation(
    *shape: int,
    n: int = 3,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Uniformly distributed (Haar) rotations.

    Parameters
    ----------
    *shape : int
        Batch dimensions.
    n : int, default=3
    generator : torch.Generator, optional
    dtype, device
        Default: torch's.

    Returns
    -------
    Tensor, shape (*shape, n, n)

    Examples
    --------
    >>> random_rotation(5, n=4).shape
    torch.Size([5, 4, 4])
    """
    size = (*shape, haar.rotation_points_dim(n))
    u = torch.rand(size, generator=generator, dtype=dtype, device=device)
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
        Not rotations to 1e-3.
    """
    from scipy.spatial.transform import Rotation

    m = _check_rotation(torch.as_tensor(r)).detach().double().cpu()
    defect = (m @ m.mT - torch.eye(3, dtype=m.dtype)).abs()
    if m.numel() and (float(defect.max()) > 1e-3 or bool((torch.det(m) < 0).any())):
        raise NotOnManifoldError(
            f"r: expected rotation matrices, found |r r' - I| up to {defect.max():.2g}"
        )
    return Rotation.from_matrix(m.numpy())
