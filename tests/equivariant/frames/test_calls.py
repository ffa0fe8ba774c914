"""Containers of inputs and outputs, and backbones that cannot be averaged."""

from dataclasses import dataclass

import pytest
import torch
from frame_cases import Backbone, cloud

from manifoldkit.equivariant import FrameAveraging
from manifoldkit.testing import assert_equivariant


def test_several_inputs_share_one_frame():
    x, v, s = cloud(3, 6, 3), cloud(3, 6, 3, seed=1), cloud(3, 6, 2, seed=2)
    kinds = ("position", "vector", "node_scalar")
    net = FrameAveraging(Backbone(8, 3), "E(3)", kinds, "vector", frame_from=(0, 1))
    assert_equivariant(net, (x, v, s), kinds, "vector", "S(n) x E(3)", n=2)
    tracks = cloud(3, 5, 4, 3, seed=3)
    moving = FrameAveraging(Backbone(), "SE(3)", out_types="position", point_dim=-3)
    assert_equivariant(moving, tracks, "position@", "position@", "SE(3)", n=2)


def test_dicts_dataclasses_and_tuples():
    x, v = cloud(3, 6, 3), cloud(3, 6, 3, seed=1)

    @dataclass
    class State:
        place: torch.Tensor
        speed: torch.Tensor

    net = Backbone(6, 3).double()
    types = {"place": "position", "speed": "vector"}
    plain = FrameAveraging(net, "E(3)", ("position", "vector"), "vector")(x, v)
    by_name = FrameAveraging(
        lambda s: net(s["place"], s["speed"]), "E(3)", types, "vector"
    )
    assert torch.allclose(by_name({"place": x, "speed": v}), plain)
    typed = FrameAveraging(
        lambda s: {"u": net(s.place, s.speed)}, "E(3)", types, {"u": "vector"}
    )
    assert torch.allclose(typed(State(x, v))["u"], plain)
    pair = FrameAveraging(
        lambda x, v: (net(x, v), net(x, v)[..., 0]),
        "E(3)", ("position", "vector"), ("vector", "node_scalar"),
    )  # fmt: skip
    assert torch.allclose(pair(x, v)[0], plain)


@pytest.mark.parametrize(
    ("backbone", "out_types", "error", "message"),
    [
        (lambda x: None, "scalar", TypeError, "NoneType"),
        (lambda x: x.argmax(-1), "scalar", TypeError, "averaged"),
        (lambda x: x.sum(), "scalar", ValueError, "items"),
        (lambda x: x[..., :2], "vector", ValueError, "vector"),
        (lambda x: (x, x), "vector", ValueError, "out_types"),
        (lambda x: {"a": x}, {"b": "vector"}, ValueError, "out_types"),
        (lambda x: {"a": "text"}, {"a": "vector"}, TypeError, "str"),
        (lambda x: x, "velocity", ValueError, "unknown type"),
        (lambda x: x, "1x2e", ValueError, "components"),
    ],
)
def test_bad_backbones(backbone, out_types, error, message):
    with pytest.raises(error, match=message):
        FrameAveraging(backbone, out_types=out_types)(cloud(2, 5, 3))


def test_inputs_that_do_not_belong_together():
    def first(x, v):
        return x

    apart = FrameAveraging(first, "SE(3)", ("position", "vector"), "vector")
    joint = FrameAveraging(
        first, "SE(3)", ("position", "vector"), "vector", frame_from=(0, 1)
    )
    with pytest.raises(ValueError, match=r"inputs\[1\]: expected 3 coordinates"):
        apart(cloud(2, 5, 3), cloud(2, 5, 2))
    with pytest.raises(ValueError, match="expected 3 coordinates"):
        joint(cloud(2, 5, 3), cloud(2, 5, 2))
    with pytest.raises(ValueError, match=r"inputs\[1\]: expected a batch of 2"):
        apart(cloud(2, 5, 3), cloud(3, 5, 3))
    with pytest.raises(ValueError, match="expected a batch of 2"):
        joint(cloud(2, 5, 3), cloud(3, 5, 3))
    with pytest.raises(TypeError, match="ndarray"):
        apart(cloud(2, 5, 3).numpy(), cloud(2, 5, 3))
    mixed = joint(cloud(2, 5, 3).float(), cloud(2, 5, 3, seed=1))
    assert mixed.dtype == torch.float32  # values keep their dtype, frames are float64
