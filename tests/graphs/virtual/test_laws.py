"""Laws of the kernels and of the learned adjacency, entry by entry."""

import numpy as np
import pytest
import torch

from manifoldkit.graphs import (
    SemiAdaptiveAdjacency,
    VirtualNodeFeatures,
    VirtualNodeState,
    gaussian_kernel_adjacency,
    normalize_adjacency,
    receptive_field,
    semi_adaptive_adjacency,
)
from manifoldkit.graphs.virtual.kernels import cut, inverse

N, NV = 5, 2


def road(dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    a = torch.rand(N, N, generator=g, dtype=torch.float64)
    return torch.where(a > 0.5, a, 0.0).fill_diagonal_(0).to(dtype)


def module(**options):
    g = torch.Generator().manual_seed(1)
    plain = {"normalize": "none", "self_loops": False, "embed_dim": 3}
    return SemiAdaptiveAdjacency(road(), NV, generator=g, **plain | options)


def test_a_threshold_keeps_what_reaches_it():
    weight = torch.tensor([0.0, 0.2, 0.5, 0.7], dtype=torch.float64)
    for threshold in (0.2, 0.5, 0.6):
        expected = [w if w >= threshold else 0.0 for w in weight.tolist()]
        assert cut(weight, threshold).tolist() == expected
    assert torch.equal(cut(weight, 0.0), weight)
    eye = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    assert gaussian_kernel_adjacency(eye, 1.0, cutoff=1.0).tolist() == [[1, 0], [0, 1]]
    one = float(torch.exp(torch.tensor(-1.0)))
    assert gaussian_kernel_adjacency(eye, 1.0, cutoff=one)[0, 1] == pytest.approx(one)
    assert gaussian_kernel_adjacency(eye, 1.0, cutoff=one * 1.001)[0, 1] == 0


@pytest.mark.parametrize("how", ["row", "sym"])
def test_rows_and_columns_of_nothing_stay_nothing(how):
    a = road()
    a[1], a[:, 3] = 0, 0
    a[4], a[:, 4] = 0, 0
    a.requires_grad_()
    out = normalize_adjacency(a, how, self_loops=False)
    assert out[1].eq(0).all()
    assert out[:, 3].eq(0).all()
    assert out.isfinite().all()
    (grad,) = torch.autograd.grad((out**2).sum(), a)
    assert grad.isfinite().all()
    x = torch.tensor([0.0, 2.0], requires_grad=True)
    assert inverse(x).tolist() == [0, 0.5]
    (grad,) = torch.autograd.grad(inverse(x).sum(), x)
    assert grad.tolist() == [0, -0.25]


@pytest.mark.parametrize("mode", ["semi", "adaptive", "all_ones", "distance"])
@pytest.mark.parametrize("threshold", [0.0, 0.4])
def test_the_module_is_the_function(mode, threshold):
    net = module(mode=mode, threshold=threshold)
    g = torch.Generator().manual_seed(2)
    e1, e2 = torch.randn(2, N + NV, 3, generator=g, dtype=torch.float64)
    if net.e1.numel():
        net.e1.data, net.e2.data = e1, e2
    expected = semi_adaptive_adjacency(road(), e1, e2, threshold, mode)
    torch.testing.assert_close(net(), expected)
    x = torch.randn(4, len(expected), 2, generator=g, dtype=torch.float64)
    torch.testing.assert_close(net.propagation()(x), expected @ x)
    torch.testing.assert_close(net.propagation(True)(x), expected.mT @ x)


def test_reading_and_writing_have_embeddings_of_their_own():
    net = module(bidirectional=True, threshold=0.1)
    out = net()
    e1, e2, f1, f2 = (p.detach() for p in (net.e1, net.e2, net.f1, net.f2))
    reads, writes = e1[:N] @ e2[N:].mT, f2[N:] @ f1[:N].mT
    torch.testing.assert_close(out[:N, N:], torch.where(reads >= 0.1, reads, 0.0))
    torch.testing.assert_close(out[N:, :N], torch.where(writes >= 0.1, writes, 0.0))
    assert torch.equal(out[:N, :N], road())
    blocks = {"reads": out[:N, N:], "writes": out[N:, :N]}
    for name, block in blocks.items():
        grads = torch.autograd.grad(
            block.sum(), [net.e1, net.e2, net.f1, net.f2], retain_graph=True,
            allow_unused=True, materialize_grads=True,
        )  # fmt: skip
        own = grads[:2] if name == "reads" else grads[2:]
        other = grads[2:] if name == "reads" else grads[:2]
        assert all(bool(g.any()) for g in own)
        assert not any(bool(g.any()) for g in other)
    weights = net.explain()
    torch.testing.assert_close(weights.reads, out[:N, N:])
    torch.testing.assert_close(weights.writes, out[N:, :N].mT)


@pytest.mark.parametrize("sparse", [False, True])
def test_data_updates_are_seen_at_once(sparse):
    """Nothing is kept between calls: an average of weights acts in evaluation too."""
    a = road().to_sparse() if sparse else road()
    nets = [
        SemiAdaptiveAdjacency(a, NV, generator=torch.Generator().manual_seed(k)).eval()
        for k in (0, 1)
    ]
    x = torch.randn(N + NV, 2, dtype=torch.float64)
    with torch.inference_mode():
        before = nets[0].propagation()(x)
        for own, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
            own.data.copy_(other.data)
        after = nets[0].propagation()(x)
        torch.testing.assert_close(after, nets[1].propagation()(x))
        assert not torch.allclose(before, after)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1e9, 1e30, 1e37])
def test_the_unit_of_distances_and_weights(dtype, scale):
    g = torch.Generator().manual_seed(0)
    distance = torch.rand(N, N, generator=g, dtype=dtype).fill_diagonal_(0)
    expected = gaussian_kernel_adjacency(distance)
    found = gaussian_kernel_adjacency(distance * scale)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for how in ("row", "sym"):
        expected = normalize_adjacency(distance, how, self_loops=False)
        found = normalize_adjacency(distance * scale, how, self_loops=False)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_half_precision_computes_in_more():
    g = torch.Generator().manual_seed(0)
    a = (1e4 * torch.rand(40, 40, generator=g)).half()  # sums do not fit
    for how in ("row", "sym"):
        out = normalize_adjacency(a, how)
        assert out.dtype == torch.float16
        expected = normalize_adjacency(a.double(), how).half()
        torch.testing.assert_close(out, expected)
    expected = gaussian_kernel_adjacency(a.double()).half()
    torch.testing.assert_close(
        gaussian_kernel_adjacency(a), expected, rtol=2e-3, atol=2e-3
    )


def test_distances_that_are_alike_but_for_rounding():
    alike = torch.tensor([[0.1 + 0.2, 0.3], [0.3, 0.3]], dtype=torch.float64)
    with pytest.raises(ValueError, match="say sigma="):
        gaussian_kernel_adjacency(alike)
    with pytest.raises(ValueError, match="cutoff"):
        gaussian_kernel_adjacency(alike, 1.0, cutoff=float("nan"))


@pytest.mark.parametrize("sparse", [False, True])
def test_integers_are_numbers_and_complex_numbers_keep_both_parts(sparse):
    net = SemiAdaptiveAdjacency(road().to_sparse() if sparse else road(), NV)
    propagate = net.propagation()
    x = torch.arange(14).view(7, 2)
    torch.testing.assert_close(propagate(x), propagate(x.double()))
    z = torch.complex(x.double(), 2 * x.double())
    torch.testing.assert_close(propagate(z).imag, 2 * propagate(x))
    for bad in (x[:, :2], z):
        with pytest.raises(TypeError, match="h: "):
            VirtualNodeState(2)(bad, torch.zeros(1, 2), torch.zeros(7).long())
        with pytest.raises(TypeError, match="x: "):
            VirtualNodeFeatures(NV, 2)(bad, torch.zeros(7).long())
    with pytest.raises(TypeError, match="real"):
        SemiAdaptiveAdjacency(road() + 1j)


def test_reach_by_brute_force():
    g = np.random.default_rng(0)
    for layers in (1, 2, 3):
        a = (g.random((6, 6)) > 0.7) * 1.0
        np.fill_diagonal(a, 1)
        reach = np.linalg.matrix_power(a, layers) > 0
        pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
        expected = np.mean([reach[i, j] for i, j in pairs])
        found = receptive_field(torch.as_tensor(a), layers, num_real=4)
        assert found == pytest.approx(expected)
    with pytest.raises(ValueError, match="not finite"):
        receptive_field(torch.full((2, 2), torch.nan))
