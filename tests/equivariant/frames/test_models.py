"""Frame-averaged networks are equivariant, and their shortcuts change nothing."""

import pytest
import torch

from manifoldkit.equivariant import (
    FrameGNN,
    FramePointNet,
    LocalFrames,
    PointNetBackbone,
)
from manifoldkit.testing import assert_equivariant


def cloud(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("frames", ["global", "local"])
@pytest.mark.parametrize("task", ["normals", "vectors", "classification"])
def test_point_networks_are_equivariant(task, frames):
    torch.manual_seed(0)
    classes = 4 if task == "classification" else None
    net = FramePointNet(task, classes, frames, k=6, n_vectors=5, width=0.1)
    for norm in net.modules():  # running statistics as after training
        if isinstance(norm, torch.nn.BatchNorm1d):
            norm.running_var.mul_(0.05)
    kind = {"normals": "normal", "vectors": "vector", "classification": "scalar"}[task]
    # normals up to sign have no size: float32 loses what small gaps cost
    assert_equivariant(
        net, cloud(2, 14, 3), "position", kind, "S(n) x E(3)", n=2,
        dtypes=["float64"], rtol=1e-8,
    )  # fmt: skip


def test_shared_part_is_the_plain_first_layer():
    torch.manual_seed(0)
    net = PointNetBackbone(width=0.1).double().eval()
    x = cloud(2, 9, 3)
    stages, h = [], x
    for linear, norm in zip(net.stages, net.norms, strict=True):
        h = torch.relu(norm(linear(h).flatten(0, 1)).unflatten(0, (2, 9)))
        stages.append(h)
    wide = torch.cat([*stages, h.amax(1, keepdim=True).expand_as(h)], -1)
    weight = torch.cat([net.local.weight, net.shared.weight], 1)
    h = wide @ weight.T + net.local.bias
    for norm, layer in zip(net.head_norms, [*net.middle, net.out], strict=True):
        h = layer(torch.relu(norm(h.flatten(0, 1)).unflatten(0, (2, 9))))
    assert torch.allclose(net(x), h)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[:, 7:] = False
    assert torch.allclose(net(x, mask)[:, :7], net(x[:, :7]))


def test_full_network_has_the_published_width():
    net = PointNetBackbone()
    assert net.local.in_features + net.shared.in_features == 4928


@pytest.mark.parametrize("n_out", [1, 3])
def test_graph_network_is_equivariant(n_out):
    torch.manual_seed(0)
    net = FrameGNN(n_out, n_vectors=6, n_layers=3)
    x, v = cloud(3, 5, 3), cloud(3, 5, 3, seed=1)
    q = cloud(3, 5, 1, seed=2)
    pairs = (q * q.mT)[..., None]

    def forecast(x, v, pairs):
        return net(x, v, edge_features=pairs)

    assert_equivariant(
        forecast, (x, v, pairs), ("position", "vector", "edge_scalar"),
        "position@1", "S(n) x E(3)", n=3, allow=["ILL-CONDITIONED"],
    )  # fmt: skip


def test_networks_train():
    torch.manual_seed(0)
    net = FrameGNN(n_vectors=4, n_layers=2, n_inputs=1, n_edge=1)
    x = cloud(4, 5, 3).float()
    net(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    points = FramePointNet("normals", frames="local", k=5, n_vectors=3, width=0.1)
    y = points(cloud(2, 12, 3).float())
    assert torch.allclose(y.norm(dim=-1), torch.ones(2, 12), atol=1e-5)
    y[..., 0].square().sum().backward()
    assert all(
        p.grad.isfinite().all() for p in points.parameters() if p.grad is not None
    )


def test_published_sizes_of_the_graph_network():
    assert sum(p.numel() for p in FrameGNN().parameters()) == 92_103


def test_bad_inputs():
    x = cloud(2, 5, 3).float()
    net = FrameGNN(n_vectors=4, n_layers=2, n_edge=2)
    with pytest.raises(ValueError, match=r"x: expected shape \(B, n, 3\)"):
        net(x[0])
    with pytest.raises(ValueError, match=r"vectors: expected 1"):
        net(x)
    with pytest.raises(ValueError, match=r"vectors\[0\]"):
        net(x, x[:, :4])
    with pytest.raises(ValueError, match="edge_features"):
        net(x, x)
    with pytest.raises(TypeError, match="floating"):
        net(x.long(), x)
    for points in (FramePointNet(width=0.1), LocalFrames(4, 2)):
        with pytest.raises(ValueError, match=r"x: expected shape"):
            points(x[0])
    with pytest.raises(ValueError, match=r"\(B, n, 6\)"):
        PointNetBackbone(6, width=0.1)(x)


def test_bad_options():
    with pytest.raises(ValueError, match="task"):
        FramePointNet("poses")
    with pytest.raises(ValueError, match="frames"):
        FramePointNet(frames="middle")
    with pytest.raises(ValueError, match="n_classes"):
        FramePointNet("classification")
    with pytest.raises(ValueError, match="k: expected an integer >= 1, found 0"):
        FramePointNet(frames="local", k=0)
