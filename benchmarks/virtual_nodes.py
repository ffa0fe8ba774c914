"""Virtual nodes: cost of a training step, dense against low-rank propagation."""

import torch
from torch_geometric.nn import GCNConv

from benchmarks.timing import compare, ratio_row
from manifoldkit.graphs import (
    STGCN,
    AddVirtualNodes,
    SemiAdaptiveAdjacency,
    VirtualNodeMPNN,
)

SMALL = {"channels": (32, 16, 32), "order": 2, "out_channels": 64}


def chain(n, degree=8):
    """A road graph whose sensors have a few neighbors."""
    i = torch.arange(n).repeat_interleave(degree)
    j = (i + torch.arange(1, degree + 1).repeat(n) - degree // 2).clamp(0, n - 1)
    weight = torch.rand(len(i), generator=torch.Generator().manual_seed(0))
    return torch.sparse_coo_tensor(
        torch.stack([i, j]), weight, (n, n), check_invariants=True
    ).coalesce()


def step_rows(n=207, batch=32):
    """A training step of STGCN with and without virtual nodes."""
    road = chain(n).to_dense()
    x = torch.randn(batch, 12, n, 3)
    models = {}
    for nv in (0, 1, 10):
        torch.manual_seed(0)
        models[nv] = STGCN(SemiAdaptiveAdjacency(road, nv), 12, 20, **SMALL)

    def step(nv):
        models[nv].zero_grad()
        models[nv](x).abs().mean().backward()

    return [
        ratio_row(
            f"STGCN, {n} sensors, batch {batch}, {nv} virtual nodes",
            lambda nv=nv: step(nv),
            "none",
            lambda: step(0),
            repeats=7,
            target="1.2" if nv == 10 else "",
        )
        for nv in (1, 10)
    ]


def product_rows(channels=64):
    """The product with the adjacency, forward and backward."""
    rows = []
    for n in (200, 716, 2000, 3834, 8600):
        road = chain(n)
        sparse = SemiAdaptiveAdjacency(road, 10)
        x = torch.randn(n + 10, channels, requires_grad=True)

        def run(module, x=x):
            module.propagation()(x).sum().backward()
            x.grad = None

        note = f"{channels} channels, 10 virtual nodes, 8 roads a sensor"
        if n > 4000:  # 300 MB a dense matrix and more than a second
            seconds = compare({"ours": lambda m=sparse: run(m)}, repeats=5)["ours"]
            rows.append(
                {
                    "case": f"{n} sensors, low rank (the dense product is left out)",
                    "ours_s": seconds,
                    "peer": "",
                    "peer_s": 0.0,
                    "ratio": 0.0,
                    "note": note,
                }
            )
            continue
        dense = SemiAdaptiveAdjacency(road.to_dense(), 10)
        rows.append(
            ratio_row(
                f"{n} sensors, low rank, weights and product, forward and backward",
                lambda m=sparse: run(m),
                "dense",
                lambda m=dense: run(m),
                repeats=5,
                note=note,
            )
        )
    return rows


def state_rows(n=20_000, channels=32):
    """A virtual state outside the graph against a virtual node inside it."""
    from torch_geometric.data import Data

    index = chain(n, 4).indices()
    torch.manual_seed(0)
    layers = [GCNConv(channels, channels) for _ in range(3)]
    data = AddVirtualNodes()(Data(x=torch.randn(n, channels), edge_index=index))
    x = data.x[:n]
    state = VirtualNodeMPNN(layers, channels)

    def inside():
        h = data.x
        for layer in layers:
            h = torch.relu(layer(h, data.edge_index))
        h.sum().backward()

    def plain():
        h = x
        for layer in layers:
            h = torch.relu(layer(h, index))
        h.sum().backward()

    case = f"three GCN layers, {n} nodes: virtual state"

    def after():
        state(x, index).sum().backward()

    return [
        ratio_row(case, after, "AddVirtualNodes", inside, repeats=7),
        ratio_row(case, after, "no virtual node", plain, repeats=7),
    ]


def run():
    """Return the rows."""
    return step_rows() + product_rows() + state_rows()


if __name__ == "__main__":
    for entry in run():
        print(entry)
