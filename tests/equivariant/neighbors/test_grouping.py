"""Gathering features of neighbors, and interpolation."""

import torch

from manifoldkit.equivariant.neighbors import group, three_interpolate


def cloud(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_group_and_interpolation():
    x, f = cloud(2, 30, 3), cloud(2, 30, 5, seed=1)
    index = torch.randint(30, (2, 7, 4), generator=torch.Generator().manual_seed(0))
    picked = group(f, index)
    assert torch.equal(picked[1, 3], f[1][index[1, 3]])
    query = cloud(2, 9, 3, seed=3)
    out = three_interpolate(query, x, f)
    gap = torch.cdist(query, x)
    near, at = gap.topk(3, largest=False)
    weight = 1 / (near**2 + 1e-8)
    weight = weight / weight.sum(-1, keepdim=True)
    torch.testing.assert_close(out, (weight[..., None] * group(f, at)).sum(-2))
    torch.testing.assert_close(three_interpolate(x, x, f), f, rtol=0, atol=1e-5)
    assert three_interpolate(query, x[:, :2], f[:, :2]).shape == (2, 9, 5)
    f.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: three_interpolate(query, x, v), (f,))
