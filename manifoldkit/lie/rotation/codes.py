"""Any representation by its name."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypedDict, Unpack, overload

import torch
from torch import Tensor

from manifoldkit._checks import check_choice
from manifoldkit.lie._arrays import (
    array_function,
    unit_vector,
)
from manifoldkit.lie._proper import proper
from manifoldkit.lie.closed_forms import so3 as _so3
from manifoldkit.lie.closed_forms.gram_schmidt import (
    finish,
    gram_schmidt,
    stereographic_decode,
    stereographic_encode,
)
from manifoldkit.lie.closed_forms.top_vector import top_vector
from manifoldkit.lie.groups.rotation_maps import rotation_log, skew_exp
from manifoldkit.lie.rotation.classic import (
    euler_to_matrix,
    matrix_to_euler,
    matrix_to_quaternion,
    quaternion_to_matrix,
)
from manifoldkit.lie.rotation.vectors import (
    LAYOUTS,
    matrix_to_rotation_5d,
    matrix_to_rotation_6d,
    rotation_5d_to_matrix,
    rotation_6d_to_matrix,
    special_procrustes,
)
from manifoldkit.linalg.checks import (
    check_broadcast,
    check_floating,
    check_last,
    check_square,
    common_dtype,
)


class Similarity(NamedTuple):
    """Scale, rotation and translation: ``x -> scale * r x + t``.

    Examples
    --------
    >>> scale, r, t = Similarity(torch.tensor(2.), torch.eye(2), torch.ones(2))
    >>> scale * r @ torch.tensor([1., 2.]) + t
    tensor([3., 5.])
    """

    scale: Tensor
    r: Tensor
    t: Tensor


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
    return _size(rep, n, "rep")


def _size(rep: str, n: int, name: str) -> int:
    rep = _ALIASES.get(rep, rep) if isinstance(rep, str) else rep
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
    check_choice(rep, sizes, name)
    fits = {"angle2": n == 2, "stereo": n >= 3}.get(rep, n == 3 or rep not in _THREE)
    if n < 2 or not fits:
        raise ValueError(f"{name}: {rep!r} is no representation of SO({n})")
    return sizes[rep]


class _CodeOptions(TypedDict, total=False):
    """Options of the particular functions."""

    layout: str
    scaled: bool
    order: str
    degrees: bool


class _DecodeOptions(_CodeOptions, total=False):
    strict: bool


@overload
def decode(
    x: Tensor,
    rep: str = ...,
    n: int = ...,
    *,
    return_degenerate: Literal[False] = ...,
    **options: Unpack[_DecodeOptions],
) -> Tensor: ...
@overload
def decode(
    x: Tensor,
    rep: str = ...,
    n: int = ...,
    *,
    return_degenerate: Literal[True],
    **options: Unpack[_DecodeOptions],
) -> tuple[Tensor, Tensor]: ...
@array_function
def decode(
    x: Tensor, rep: str = "sixd", n: int = 3, **options: Any
) -> Tensor | tuple[Tensor, Tensor]:
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

    Raises
    ------
    TypeError, ValueError
        An unknown representation or option, or vectors of another length.

    Examples
    --------
    >>> decode(torch.tensor([3., 4.]), "angle2", n=2)
    tensor([[ 0.6000, -0.8000],
            [ 0.8000,  0.6000]])
    """
    rep = _ALIASES.get(rep, rep)
    v = check_last(x, (dim(rep, n),))
    direct: dict[str, Callable[..., Any]] = {
        "quaternion": quaternion_to_matrix,
        "euler": euler_to_matrix,
        "matrix9": lambda v, **o: special_procrustes(v.unflatten(-1, (n, n)), **o),
    }
    if n == 3:
        direct |= {"sixd": rotation_6d_to_matrix, "stereo": rotation_5d_to_matrix}
    if rep in direct:
        return direct[rep](v, **options)
    if rep in ("sixd", "stereo", "orthogonal"):
        return _decode_columns(v, rep, n, **options)
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
    return out


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
    check_choice(layout, LAYOUTS, "layout")
    if rep == "stereo":
        head = n * n - 2 * n - 1
        v = torch.cat([v[..., :head], stereographic_decode(v[..., head:])], -1)
    r, degenerate = gram_schmidt(v.unflatten(-1, (-1, n)).mT)
    r = r.mT if layout == "rows" else r
    return finish(r, degenerate, strict, return_degenerate)


@array_function
def encode(r: Tensor, rep: str = "sixd", **options: Unpack[_CodeOptions]) -> Tensor:
    """Representation of rotation matrices, the inverse of :func:`decode`.

    Parameters
    ----------
    r : Tensor, shape (..., n, n)
        Rotations; another matrix of positive determinant stands for the nearest one.
        "orthogonal" takes what it is given.
    rep : str
        See :func:`dim`. "rodrigues" is infinite at half turns and capped there.
    **options
        ``layout``, ``scaled``, ``order``, ``degrees`` of the particular function.

    Returns
    -------
    Tensor, shape (..., dim(rep, n))

    Raises
    ------
    TypeError, ValueError
        An unknown representation or option, or no square matrices.
    NotOnManifoldError
        A determinant that is not positive, such as that of a reflection (NaN on
        accelerators and in traced functions).

    Examples
    --------
    >>> encode(torch.eye(3), "quaternion")
    tensor([1., 0., 0., 0.])
    """
    m = check_square(r, "r")
    n = m.shape[-1]
    rep = _ALIASES.get(rep, rep)
    dim(rep, n)
    chosen: dict[str, Any] = {**options}
    direct: dict[str, Callable[..., Tensor]] = {
        "quaternion": matrix_to_quaternion,
        "euler": matrix_to_euler,
    }
    if n == 3:
        direct |= {"sixd": matrix_to_rotation_6d, "stereo": matrix_to_rotation_5d}
    if rep in direct:
        return direct[rep](m, **chosen)
    m = m if rep == "orthogonal" else proper(m)
    if rep in ("sixd", "orthogonal", "stereo"):
        return _encode_columns(m, rep, n, **chosen)
    if options:
        raise TypeError(f"{rep} takes no options, found {sorted(options)}")
    return _encode_plain(m, rep, n)


def _encode_columns(m: Tensor, rep: str, n: int, layout: str = "columns") -> Tensor:
    check_choice(layout, LAYOUTS, "layout")
    m = m.mT if layout == "columns" else m
    m = m.clone(memory_format=torch.contiguous_format)  # the code is no view of r
    if rep == "orthogonal":
        return m.flatten(-2)
    v = m[..., : n - 1, :].flatten(-2)
    if rep == "stereo":
        head = n * n - 2 * n - 1
        v = torch.cat([v[..., :head], stereographic_encode(v[..., head:])], -1)
    return v


def _encode_plain(m: Tensor, rep: str, n: int) -> Tensor:
    if rep == "matrix9":
        return m.clone(memory_format=torch.contiguous_format).flatten(-2)
    if rep == "angle2":
        return m[..., 0].clone()
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


@array_function
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

    Raises
    ------
    TypeError, ValueError
        An unknown representation, or vectors of another length.

    Examples
    --------
    >>> convert(torch.zeros(3), "rotvec", "quaternion")
    tensor([1., 0., 0., 0.])
    """
    for name, rep in (("src", src), ("dst", dst)):
        if rep != "matrix":
            _size(rep, n, name)
    r = check_square(x, "x", n) if src == "matrix" else decode(x, src, n)
    if dst == "matrix":
        return proper(r).clone() if src == "matrix" else r
    return encode(r, dst)


@array_function
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

    Raises
    ------
    TypeError, ValueError
        Not floating point, or of another length.

    Examples
    --------
    >>> code = torch.tensor([2., 0., 0., 0., 1., 0., 7., 8., 9.])
    >>> decode_similarity(code).scale, decode_similarity(code).t
    (tensor(2.), tensor([7., 8., 9.]))
    """
    check_choice(scale, ("norm", "exp"), "scale")
    code = n * n - n
    v = check_last(x, (code + n + (scale == "exp"),))
    r = decode(v[..., :code], "sixd", n)
    s = _so3.safe_norm(v[..., :n]) if scale == "norm" else v[..., code].exp()
    return Similarity(s, r, v[..., -n:])


@array_function
def encode_similarity(
    scale: Tensor, r: Tensor, t: Tensor, *, form: str = "norm"
) -> Tensor:
    """Vector of a similarity transform, the inverse of :func:`decode_similarity`.

    Parameters
    ----------
    scale : Tensor, shape (...)
        Positive numbers.
    r : Tensor, shape (..., n, n)
        Rotations.
    t : Tensor, shape (..., n)
        Translations.
    form : {"norm", "exp"}
        The ``scale`` of :func:`decode_similarity`.

    Returns
    -------
    Tensor, shape (..., n * n) or one more

    Raises
    ------
    TypeError, ValueError
        Not floating point, or shapes that do not fit.

    Examples
    --------
    >>> code = encode_similarity(torch.tensor(2.), torch.eye(2), torch.ones(2))
    >>> code
    tensor([2., 0., 1., 1.])
    """
    check_choice(form, ("norm", "exp"), "form")
    m = check_square(r, "r")
    n = m.shape[-1]
    shift = check_last(t, (n,), "t")
    size = check_floating(scale, "scale")
    check_broadcast(scale=(scale, 0), r=(r, 2), t=(t, 1))
    m, shift, size = common_dtype(m, shift, size)
    batch = torch.broadcast_shapes(m.shape[:-2], shift.shape[:-1], size.shape)
    m, shift = m.expand(*batch, n, n), shift.expand(*batch, n)
    size = size.expand(batch)
    columns = encode(m, "sixd")
    if form == "norm":
        columns = torch.cat([size[..., None] * columns[..., :n], columns[..., n:]], -1)
        return torch.cat([columns, shift], -1)
    return torch.cat([columns, size.log()[..., None], shift], -1)
