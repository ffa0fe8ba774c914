"""Heads that end in a rotation (that they learn is tested with the losses)."""

import copy

import pytest
import torch

from manifoldkit.lie import SO
from manifoldkit.lie.nn import RotationHead


@pytest.mark.parametrize(
    ("rep", "n"),
    [
        *(
            (rep, 3)
            for rep in ("sixd", "stereo", "svd", "quaternion", "rotvec", "euler")
        ),
        *(("sym10", 3), ("sixd", 5), ("svd", 4), ("stereo", 4)),
    ],
)
def test_rotations_of_any_batch_in_both_precisions(rep, n):
    torch.manual_seed(0)
    head = RotationHead(6, rep, n)
    for shape in ((), (0,), (4,), (2, 3)):
        assert head(torch.randn(*shape, 6)).shape == (*shape, n, n)
    head = head.double()
    x = 3 * torch.randn(7, 6, dtype=torch.float64)
    assert SO(n).belongs(head(x), atol=1e-10).all()
    torch.testing.assert_close(copy.deepcopy(head)(x), head(x))
    assert torch.autograd.gradcheck(head, (x[:2].requires_grad_(),))


def test_fresh_heads_return_nearly_the_identity():
    head = RotationHead(6, "sixd", 4)
    torch.testing.assert_close(head(torch.zeros(6)), torch.eye(4))


def test_decodes_in_full_precision_under_autocast():
    head = RotationHead(6, "sixd")
    with torch.autocast("cpu", torch.bfloat16):
        r = head(torch.randn(5, 6))
    assert SO(3).belongs(r.float(), atol=0.02).all()


def test_bad_input():
    with pytest.raises(ValueError, match="rep"):
        RotationHead(6, "9d")
    with pytest.raises(ValueError, match="n"):
        RotationHead(6, "quaternion", 4)
