"""Rotation representations against roma, SciPy and the usual formulas, float32."""

import roma
import torch
from scipy.spatial.transform import Rotation

from benchmarks.timing import ratio_row
from manifoldkit.lie import rotation

COUNT = 10_000


def _backward(function, x):
    x = x.clone().requires_grad_()
    weights = torch.randn(COUNT, 3, 3)

    def run():
        (grad,) = torch.autograd.grad((function(x) * weights).sum(), x)
        return grad

    return run


def _gram_schmidt_roma(x):
    return roma.special_gramschmidt(x.view(-1, 2, 3).mT)


def run():
    """Return the rows."""
    torch.manual_seed(0)
    six, nine, v = (torch.randn(COUNT, *s) for s in ((6,), (3, 3), (3,)))
    r = rotation.random_rotation(COUNT)
    compiled = torch.compile(rotation.rotation_6d_to_matrix, fullgraph=True)
    compiled(six)
    cases = [
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
    ]
    rows = []
    for name, ours, peer, x, forward, both in cases:
        rows.append(
            ratio_row(
                name,
                lambda f=ours, x=x: f(x),
                "roma",
                lambda f=peer, x=x: f(x),
                target=f"<= {forward}",
            )
        )
        rows.append(
            ratio_row(
                f"{name}, with gradient",
                _backward(ours, x),
                "roma",
                _backward(peer, x),
                target=f"<= {both}",
            )
        )
    rows.append(
        ratio_row(
            "6D to matrix, compiled",
            lambda: compiled(six),
            "roma",
            lambda: _gram_schmidt_roma(six),
            target="<= 0.2",
        )
    )
    rows.append(
        ratio_row(
            "matrix to rotation vector",
            lambda: rotation.matrix_to_rotvec(r),
            "roma",
            lambda: roma.rotmat_to_rotvec(r),
            target="<= 0.6",
        )
    )
    array = r.numpy()
    rows.append(
        ratio_row(
            "matrix to rotation vector",
            lambda: rotation.matrix_to_rotvec(r),
            "SciPy",
            lambda: Rotation.from_matrix(array).as_rotvec(),
        )
    )
    rows.append(
        ratio_row(
            "uniform rotations",
            lambda: rotation.random_rotation(COUNT),
            "roma",
            lambda: roma.random_rotmat(COUNT),
            target="<= 1",
        )
    )
    return rows
