"""Does anyone carry a flag? A task that needs to see the whole graph."""

from typing import Any

import torch
from torch import Tensor, nn

NODES, LAYERS, HIDDEN = 40, 4, 32


def path_graphs(count: int, generator: torch.Generator) -> list[Any]:
    """Return paths of 40 nodes; in two thirds of them one node carries a flag.

    Every node has to say whether there is a flag in its graph.
    """
    from torch_geometric.data import Data

    first = torch.arange(NODES - 1)
    one_way = torch.stack([first, first + 1])
    edges = torch.cat([one_way, one_way.flip(0)], 1)
    graphs = []
    for _ in range(count):
        x, y = torch.zeros(NODES, 1), 0.0
        if torch.rand((), generator=generator) < 2 / 3:
            x[torch.randint(NODES, (), generator=generator)] = y = 1.0
        graphs.append(Data(x=x, edge_index=edges, y=torch.full((NODES,), y)))
    return graphs


class FlagNetwork(nn.Module):
    """Four graph convolutions, as in Kipf and Welling; or with a virtual state."""

    def __init__(self, state: bool = False):
        super().__init__()
        from torch_geometric.nn import GCNConv

        from manifoldkit.graphs import VirtualNodeMPNN

        self.embed = nn.Linear(1, HIDDEN)
        layers = [GCNConv(HIDDEN, HIDDEN) for _ in range(LAYERS)]
        self.net = VirtualNodeMPNN(layers, HIDDEN) if state else nn.ModuleList(layers)
        self.head = nn.Linear(HIDDEN, 1)

    def forward(self, data: Any) -> Tensor:
        """Return a logit for every node."""
        h = self.embed(data.x)
        if isinstance(self.net, nn.ModuleList):
            for layer in self.net:
                h = torch.relu(layer(h, data.edge_index))
        else:
            h = self.net(h, data.edge_index, batch=data.batch)
        return self.head(h)[:, 0]


def _real(out: Tensor, data: Any) -> Tensor:
    return out[~data.is_virtual] if "is_virtual" in data else out


def _loss(model: nn.Module, data: Any) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(
        _real(model(data), data), data.y
    )


def train_flag(
    kind: str, *, epochs: int, seed: int, device: str = "cpu"
) -> dict[str, Any]:
    """Train one network; return the share of nodes that answer right.

    Parameters
    ----------
    kind : {"none", "node", "state"}
        No virtual node; one by :class:`~manifoldkit.graphs.AddVirtualNodes`; a
        virtual state outside the graph.
    epochs, seed : int
        Passes over the training graphs; the seed of graphs, weights and order.
    device : str
        Where to train.
    """
    from torch_geometric.data import Batch

    from manifoldkit.experiments.training import fit, seeded
    from manifoldkit.graphs import AddVirtualNodes

    generator = torch.Generator().manual_seed(seed)
    train, test = path_graphs(600, generator), path_graphs(300, generator)
    if kind == "node":
        transform = AddVirtualNodes(extend_targets=False)
        train, test = ([transform(g) for g in graphs] for graphs in (train, test))
    with seeded(seed):
        model = FlagNetwork(state=kind == "state")
    batches = [
        Batch.from_data_list(train[k : k + 50]).to(device) for k in range(0, 600, 50)
    ]
    log = fit(
        model,
        _loss,
        batches,
        optimizer=lambda net: torch.optim.Adam(net.parameters(), lr=3e-3),
        epochs=epochs,
        device=device,
        seed=seed,
        progress=False,
    )
    whole = Batch.from_data_list(test).to(device)
    with torch.no_grad():
        right = (_real(model.to(device)(whole), whole) > 0) == whole.y.bool()
    return {
        "accuracy": float(right.double().mean()),
        "chance": float(max(whole.y.mean(), 1 - whole.y.mean())),
        "train_seconds": log.seconds,
    }
