"""Types of values: each goes into frames and comes out of them."""

import math

import pytest
import torch
from frame_cases import Backbone, cloud

from manifoldkit.equivariant import FrameAveraging
from manifoldkit.testing import assert_equivariant, check_equivariance

TYPES = {
    "scalar": (1, "scalar"), "vector": (3, "vector"),
    "pseudovector": (3, "pseudovector"),
    "matrix": (9, "matrix"), "sym_matrix": (9, "sym_matrix"), "spd": (9, "spd"),
    "covariance": (9, "covariance"), "normal": (3, "normal"),
    "2x0e+1x1o+1x1e+1x2e": (13, "2x0e+1x1o+1x1e+1x2e"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TYPES)
def test_output_types(kind):
    size, name = TYPES[kind]
    net = Backbone(3, size, pool=True)

    def shaped(x):
        o = net(x)
        if size != 9:
            return o
        m = o.unflatten(-1, (3, 3))
        if kind == "matrix":
            return m
        return m @ m.mT + torch.eye(3).to(m)

    wrapped = FrameAveraging(shaped, "E(3)", out_types=name)
    x = cloud(3, 6, 3)
    # only unregistered tensors of a closure are not cast: give the module
    report = check_equivariance(
        wrapped, x, "position", name if kind != "scalar" else "scalar", "E(3)", n=3,
        modules=[net], dtypes=["float64"],
    )  # fmt: skip
    assert report.passed, report.summary()
    if kind == "spd":
        net.double()
        assert (torch.linalg.eigvalsh(wrapped(x)) > 0).all()


def test_vector_types_agree_with_irreps():
    net, x = Backbone().double(), cloud(3, 6, 3)
    a = FrameAveraging(net, "E(3)", out_types="vector")(x)
    b = FrameAveraging(net, "E(3)", out_types="1x1o")(x)
    assert (a - b).abs().max() < 1e-12


SHAPES = {
    "vector": (3,), "pseudovector": (3,), "normal": (3,), "matrix": (3, 3),
    "sym_matrix": (3, 3), "spd": (3, 3), "covariance": (3, 3), "1x0e+1x2e": (6,),
    "node_scalar": (2,),
}  # fmt: skip


@pytest.mark.parametrize("kind", SHAPES)
def test_input_types(kind):
    """Every type that comes out can also go in, beside the points of the frame."""
    x, v = cloud(2, 6, 3), cloud(2, 6, *SHAPES[kind], seed=1)
    if kind in ("sym_matrix", "spd", "covariance"):
        v = v @ v.mT
    size = math.prod(SHAPES[kind])
    net = Backbone(3 + size, 3)

    def mixed(x, v):
        v = v.flatten(2) if v.ndim == 4 else v
        return net(x, v.abs() if kind == "normal" else v)

    if kind == "normal":  # a sign of its own a normal: an even function of it

        def mixed(x, v):
            return net(x, (v[..., :, None] * v[..., None, :])[..., 0])

    framed = FrameAveraging(mixed, "E(3)", ("position", kind), "vector")
    assert_equivariant(
        framed, (x, v), ("position", kind), "vector", "S(n) x E(3)", n=2,
        modules=[net], dtypes=["float64"],
    )  # fmt: skip
