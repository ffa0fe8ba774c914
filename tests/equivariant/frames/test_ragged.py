"""Frame averaging of torch-geometric graphs."""

import pytest
import torch
from frame_cases import cloud
from torch import nn

from manifoldkit.equivariant import FrameAveraging
from manifoldkit.testing.groups import random_orthogonal


def test_graphs_of_torch_geometric():
    data = pytest.importorskip("torch_geometric.data")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3)).double()

    class Messages(nn.Module):
        def forward(self, g):
            i, j = g.edge_index
            h = net(torch.cat([g.pos, g.x], -1))
            out = torch.zeros_like(h).index_add(0, j, torch.tanh(h[i]))
            return {"force": out, "energy": torch.zeros(
                int(g.batch.max()) + 1, 1, dtype=out.dtype
            ).index_add(0, g.batch, out[:, :1])}  # fmt: skip

    graphs = []
    for n in (4, 6, 5):
        edges = torch.combinations(torch.arange(n)).T
        graphs.append(
            data.Data(
                pos=cloud(n, 3, seed=n), x=cloud(n, 2, seed=n + 9), edge_index=edges
            )
        )
    wrapped = FrameAveraging(
        Messages(), "E(3)", {"pos": "position", "x": "node_scalar"},
        {"force": "vector", "energy": "scalar"}, chunk=3,
    )  # fmt: skip
    together = wrapped(data.Batch.from_data_list(graphs))
    alone = wrapped(graphs[1])
    assert torch.allclose(together["force"][4:10], alone["force"])
    assert torch.allclose(together["energy"][1:2], alone["energy"])
    q = random_orthogonal(3, torch.Generator().manual_seed(1))
    moved = [
        data.Data(pos=g.pos @ q.T + 2, x=g.x, edge_index=g.edge_index) for g in graphs
    ]
    turned = wrapped(data.Batch.from_data_list(moved))
    assert torch.allclose(turned["force"], together["force"] @ q.T)
    assert torch.allclose(turned["energy"], together["energy"])

    joined = data.Data(**data.Batch.from_data_list(graphs).to_dict())  # no num_graphs
    assert torch.allclose(wrapped(joined)["energy"], together["energy"])
    joined.batch = joined.batch.flip(0)
    with pytest.raises(ValueError, match="batch: expected sorted numbers"):
        wrapped(joined)
    three = FrameAveraging(Messages(), "E(3)", ("vector", "scalar", "vector"), "scalar")
    with pytest.raises(ValueError, match="in_types: name the attributes"):
        three(graphs[0])
