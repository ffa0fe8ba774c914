"""Continuous representations: 6D, 5D and the nearest rotation."""

import math
from typing import Any, Literal, overload

import torch
from torch import Tensor

from manifoldkit._checks import check_choice
from manifoldkit.lie._arrays import array_function
from manifoldkit.lie._proper import proper
from manifoldkit.lie.closed_forms.gram_schmidt import (
    finish,
    sixd_columns,
    stereographic_decode,
    stereographic_encode,
)
from manifoldkit.lie.closed_forms.procrustes import nearest_rotation
from manifoldkit.linalg.checks import check_last, check_square

LAYOUTS = ("columns", "rows")
_STEREO_SCALE = (math.sqrt(2) + 1, math.sqrt(2) + 1, math.sqrt(2))


@overload
def rotation_6d_to_matrix(
    x: Tensor,
    *,
    layout: str = ...,
    strict: bool = ...,
    return_degenerate: Literal[False] = ...,
) -> Tensor: ...
@overload
def rotation_6d_to_matrix(
    x: Tensor,
    *,
    layout: str = ...,
    strict: bool = ...,
    return_degenerate: Literal[True],
) -> tuple[Tensor, Tensor]: ...
@array_function
def rotation_6d_to_matrix(
    x: Tensor,
    *,
    layout: str = "columns",
    strict: bool = False,
    return_degenerate: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
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
    check_choice(layout, LAYOUTS, "layout")
    r, degenerate = sixd_columns(check_last(x, (6,)))
    bad = degenerate[..., 0] | degenerate[..., 1]
    r = r.mT if layout == "rows" else r
    return finish(r, bad, strict, return_degenerate)


@array_function
def matrix_to_rotation_6d(r: Tensor, *, layout: str = "columns") -> Tensor:
    """First two columns (or rows) of a rotation, one after the other.

    Parameters
    ----------
    r : Tensor, shape (..., 3, 3)
        Rotations; another matrix of positive determinant stands for the nearest one.
    layout : {"columns", "rows"}

    Returns
    -------
    Tensor, shape (..., 6)

    Raises
    ------
    TypeError, ValueError
        Not floating-point matrices of shape (..., 3, 3), or an unknown layout.
    NotOnManifoldError
        A determinant that is not positive, such as that of a reflection (NaN on
        accelerators and in traced functions).

    Examples
    --------
    >>> matrix_to_rotation_6d(torch.eye(3))
    tensor([1., 0., 0., 0., 1., 0.])
    """
    check_choice(layout, LAYOUTS, "layout")
    r = proper(check_square(r, "r", 3))
    r = r.mT if layout == "columns" else r
    # a copy: writing into the code must not change the matrices
    return r[..., :2, :].clone(memory_format=torch.contiguous_format).flatten(-2)


@overload
def rotation_5d_to_matrix(
    x: Tensor,
    *,
    scaled: bool = ...,
    layout: str = ...,
    strict: bool = ...,
    return_degenerate: Literal[False] = ...,
) -> Tensor: ...
@overload
def rotation_5d_to_matrix(
    x: Tensor,
    *,
    scaled: bool = ...,
    layout: str = ...,
    strict: bool = ...,
    return_degenerate: Literal[True],
) -> tuple[Tensor, Tensor]: ...
@array_function
def rotation_5d_to_matrix(
    x: Tensor, *, scaled: bool = True, **options: Any
) -> Tensor | tuple[Tensor, Tensor]:
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

    Raises
    ------
    TypeError, ValueError
        Not floating point, or not five numbers.
    NotOnManifoldError
        Degenerate input and ``strict``.

    References
    ----------
    Zhou et al., CVPR 2019, section 4.3.

    Examples
    --------
    >>> from manifoldkit.lie.rotation import random_rotation
    >>> r = random_rotation(3, generator=torch.Generator().manual_seed(0))
    >>> back = rotation_5d_to_matrix(matrix_to_rotation_5d(r))
    >>> bool((back - r).abs().max() < 1e-5)
    True
    """
    v = check_last(x, (5,))
    projected = v[..., 2:]
    if scaled:
        projected = projected * v.new_tensor(_STEREO_SCALE)
        projected = projected.clamp(-torch.finfo(v.dtype).max, torch.finfo(v.dtype).max)
    six = torch.cat([v[..., :2], stereographic_decode(projected)], -1)
    return rotation_6d_to_matrix(six, **options)


@array_function
def matrix_to_rotation_5d(r: Tensor, *, scaled: bool = True) -> Tensor:
    """Five continuous numbers of a rotation: see :func:`rotation_5d_to_matrix`.

    Parameters
    ----------
    r : Tensor, shape (..., 3, 3)
        Rotations; another matrix of positive determinant stands for the nearest one.
    scaled : bool, default=True

    Returns
    -------
    Tensor, shape (..., 5)

    Raises
    ------
    TypeError, ValueError
        Not floating-point matrices of shape (..., 3, 3).
    NotOnManifoldError
        A determinant that is not positive, such as that of a reflection (NaN on
        accelerators and in traced functions).

    Examples
    --------
    >>> matrix_to_rotation_5d(torch.eye(3))
    tensor([1.0000, 0.0000, 0.0000, 0.4142, 0.0000])
    """
    m = proper(check_square(r, "r", 3))
    six = m[..., :2].mT.flatten(-2)
    projected = stereographic_encode(six[..., 2:])
    if scaled:
        projected = projected / m.new_tensor(_STEREO_SCALE)
    return torch.cat([six[..., :2], projected], -1)


@overload
def special_procrustes(
    m: Tensor, *, strict: bool = ..., return_degenerate: Literal[False] = ...
) -> Tensor: ...
@overload
def special_procrustes(
    m: Tensor, *, strict: bool = ..., return_degenerate: Literal[True]
) -> tuple[Tensor, Tensor]: ...
@array_function
def special_procrustes(
    m: Tensor, *, strict: bool = False, return_degenerate: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Nearest rotation, :math:`\arg\min_{R \in SO(n)} |R - M|_F`.

    Parameters
    ----------
    m : Tensor, shape (..., n, n)
        Any finite matrices. Where the two smallest signed singular values cancel, the
        nearest rotation is not unique; the derivative stays bounded there.
    strict, return_degenerate : bool
        Raise where the rotation is not unique, or also return where.

    Returns
    -------
    Tensor, shape (..., n, n)

    Raises
    ------
    TypeError, ValueError
        Not floating-point square matrices.
    NotOnManifoldError
        Degenerate input and ``strict``.

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
    r, degenerate = nearest_rotation(m)
    return finish(r, degenerate, strict, return_degenerate)
