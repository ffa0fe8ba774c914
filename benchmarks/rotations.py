"""Rotation representations against roma, SciPy and the usual formulas."""

import roma
import torch
from scipy.spatial.transform import Rotation

from benchmarks.timing import ratio_row
from manifoldkit.lie import rotation

COUNT = 10_000


def _backward(function, x):
    x = x.clone().requires_grad_()
    weights = torch.randn(COUNT, 3, 3, dtype=x.dtype)

    def run():
        (grad,) = torch.autograd.grad((function(x) * weights).sum(), x)
        return grad

    return run


def _gram_schmidt_roma(x):
    return roma.special_gramschmidt(x.view(-1, 2, 3).mT)


def _row(case, function, peer_name, peer, x, target="", y=None):
    """Both of them on x (or the peer on y); calls are short, so there are many."""
    y = x if y is None else y
    return ratio_row(
        case,
        lambda: function(x),
        peer_name,
        lambda: peer(y),
        repeats=101,
        target=target,
    )


def _representations(dtype):
    six, nine, v = (torch.randn(COUNT, *s, dtype=dtype) for s in ((6,), (3, 3), (3,)))
    r = rotation.random_rotation(COUNT, dtype=dtype)
    return [
        (
            "6D to matrix",
            rotation.rotation_6d_to_matrix,
            _gram_schmidt_roma,
            six,
            0.65,
            0.55,
        ),
        (
            "SVD to matrix",
            rotation.special_procrustes,
            roma.special_procrustes,
            nine,
            0.8,
            0.8,
        ),
        (
            "rotation vector to matrix",
            rotation.rotvec_to_matrix,
            roma.rotvec_to_rotmat,
            v,
            1.0,
            0.5,
        ),
        (
            "matrix to rotation vector",
            rotation.matrix_to_rotvec,
            roma.rotmat_to_rotvec,
            r,
            0.6,
            None,
        ),
    ]


def run():
    """Return the rows."""
    torch.manual_seed(0)
    compiled = torch.compile(rotation.rotation_6d_to_matrix, fullgraph=True)
    rows = []
    for dtype in (torch.float32, torch.float64):
        kind = str(dtype).removeprefix("torch.")
        for name, ours, peer, x, forward, both in _representations(dtype):
            target = f"<= {forward}"
            rows.append(_row(f"{name}, {kind}", ours, "roma", peer, x, target))
            if both:
                rows.append(
                    ratio_row(
                        f"{name}, with gradient, {kind}",
                        _backward(ours, x),
                        "roma",
                        _backward(peer, x),
                        repeats=51,
                        target=f"<= {both}",
                    )
                )
        six = torch.randn(COUNT, 6, dtype=dtype)
        compiled(six)
        name = f"6D to matrix, compiled, {kind}"
        rows.append(_row(name, compiled, "roma", _gram_schmidt_roma, six, "<= 0.2"))
    r = rotation.random_rotation(COUNT)
    rows.append(
        _row(
            "matrix to rotation vector",
            rotation.matrix_to_rotvec,
            "SciPy",
            lambda array: Rotation.from_matrix(array).as_rotvec(),
            r,
            y=r.numpy(),
        )
    )
    rows.append(
        _row(
            "uniform rotations",
            rotation.random_rotation,
            "roma",
            roma.random_rotmat,
            COUNT,
            "<= 1",
        )
    )
    return rows
