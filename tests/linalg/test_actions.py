"""How grids and values of irreducible types turn under orthogonal maps."""

import math

import pytest
import torch
from e3nn import o3

from manifoldkit.linalg.actions import (
    act_on_irreps,
    haar_orthogonal,
    names_irreps,
    signed_permutations,
    turn_grid,
    wigner_matrices,
)


def test_names():
    assert names_irreps("0e")
    assert names_irreps(" 2x0e+1o ")
    assert not names_irreps("2x0")
    assert not names_irreps("position")


def test_wigner_matrices_are_orthogonal_representations(generator):
    a, b = haar_orthogonal((2,), 3, special=True, generator=generator)
    first, second, both = (wigner_matrices(r, 4, o3.wigner_3j) for r in (a, b, a @ b))
    for degree, (x, y, z) in enumerate(zip(first, second, both, strict=True)):
        assert z.shape == (2 * degree + 1, 2 * degree + 1)
        torch.testing.assert_close(x @ y, z)
        torch.testing.assert_close(x @ x.mT, torch.eye(2 * degree + 1).double())


def test_irreps_turn_in_blocks_and_parity_is_a_sign(generator):
    irreps = o3.Irreps("2x0e+1o+1e+0o")
    x = torch.randn(5, irreps.dim, dtype=torch.float64, generator=generator)
    r = haar_orthogonal((), 3, special=True, generator=generator)
    y = act_on_irreps(x, irreps, r, o3.wigner_3j)
    torch.testing.assert_close(y[:, :2], x[:, :2])
    torch.testing.assert_close(y[:, 2:5], x[:, 2:5] @ r.T)
    mirrored = act_on_irreps(x, irreps, -r, o3.wigner_3j)
    sign = torch.tensor([1, 1, -1, -1, -1, 1, 1, 1, -1])
    torch.testing.assert_close(mirrored, sign * y)
    with pytest.raises(ValueError, match=r"expected 9 components .* found 8"):
        act_on_irreps(x[:, 1:], irreps, r, o3.wigner_3j)


@pytest.mark.parametrize("d", [2, 3])
def test_symmetries_of_the_cube(d):
    turns, all_ = signed_permutations(d, mirrors=False), signed_permutations(d)
    assert len(all_) == 2 * len(turns) == 2**d * math.factorial(d)
    assert torch.equal(all_[0], torch.eye(d).double())
    assert (torch.linalg.det(turns) > 0).all()
    x = torch.arange(float(4**d)).reshape([4] * d)
    for a in all_[:12]:
        for b in all_[-5:]:
            assert torch.equal(turn_grid(turn_grid(x, b), a), turn_grid(x, a @ b))
    assert len({tuple(turn_grid(x, a).flatten().tolist()) for a in all_}) == len(all_)


def test_haar_matrices(generator):
    q = haar_orthogonal((4000,), 3, generator=generator)
    torch.testing.assert_close(q @ q.mT, torch.eye(3).double().expand_as(q))
    det = torch.linalg.det(q)
    assert abs(float(det.mean())) < 0.06
    assert float(q.mean(0).abs().max()) < 0.04
    rotations = haar_orthogonal((50,), 3, special=True, generator=generator)
    assert (torch.linalg.det(rotations) > 0).all()
