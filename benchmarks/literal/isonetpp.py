"""The published matching networks as their formulas are written.

One row for every message, both directions separately, everything padded to a fixed
size, Sinkhorn on logarithms, the alignment computed again for the score, the partners
stored after the last round too. ``Literal`` reads weights under the authors' names: the
benchmark measures against it, and the tests compare with it.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Literal(nn.Module):
    """The published networks as they are written, for graphs (num_nodes, edges).

    Parameters
    ----------
    which : {"isonetpp-node", "isonetpp-edge", "isonet-node", "isonet-edge", "gmn"}
    padded : int
        Size of all node (or edge) sets.
    """

    def __init__(self, which, padded, rounds=3, layers=5, dtype=torch.float32):
        super().__init__()
        self.which, self.padded, self.rounds, self.layers = (
            which,
            padded,
            rounds,
            layers,
        )
        edges = which == "isonetpp-edge"
        self.encoder = nn.ModuleDict({"MLP1": nn.Sequential(nn.Linear(1, 10))})
        if edges:
            self.encoder["MLP2"] = nn.Sequential(nn.Linear(1, 20))
        self.prop_layer = nn.Module()
        self.prop_layer._message_net = nn.Sequential(nn.Linear(40 if edges else 21, 20))
        self.prop_layer.GRU = nn.GRU(30 if which == "gmn" else 20, 10)
        d = 20 if which.endswith("edge") else 10
        if which == "gmn":
            self.aggregator = nn.ModuleDict(
                {
                    "MLP1": nn.Sequential(nn.Linear(10, 20)),
                    "MLP2": nn.Sequential(nn.Linear(10, 10)),
                }
            )
        else:
            self.sinkhorn_feature_layers = two_layers(d, 16, 16)
        if "pp" in which:
            self.interaction_layer = two_layers(2 * d, 2 * d, d)
        self.to(dtype)

    def forward(self, queries, corpus):
        """Score lists of graphs of equal length."""
        graphs = [g for pair in zip(queries, corpus, strict=True) for g in pair]
        sizes = [n for n, _ in graphs]
        counts = [len(e) for _, e in graphs]
        start = np.cumsum([0, *sizes[:-1]])
        ends = np.concatenate(
            [
                np.asarray(e).reshape(-1, 2) + s
                for (_, e), s in zip(graphs, start, strict=True)
            ]
        )
        u, v = torch.from_numpy(ends).T
        ones = next(self.parameters()).new_ones
        x = self.encoder["MLP1"](ones(sum(sizes), 1))
        e = ones(len(ends), 1)
        if self.which == "gmn":
            return self.gmn(x, e, u, v, sizes)
        if self.which == "isonetpp-edge":
            return self.edge_rounds(x, self.encoder["MLP2"](e), u, v, counts)
        if self.which == "isonetpp-node":
            return self.node_rounds(x, e, u, v, sizes)
        for _ in range(self.layers):
            x = self.propagate(x, x, e, u, v)
        if self.which == "isonet-edge":
            x, sizes = self.edge_message(x, e, u, v), counts
        return self.score(x, sizes, self.plan(x, sizes))

    def messages(self, x, e, u, v):
        """Sum over both directions, one row a message."""
        total = x.new_zeros(len(x), 20)
        for s, t in ((u, v), (v, u)):
            rows = self.prop_layer._message_net(torch.cat([x[s], x[t], e], -1))
            total = total.index_add(0, t, rows)
        return total

    def propagate(self, x, hidden, e, u, v, extra=()):
        """One step of message passing."""
        rows = torch.cat([self.messages(x, e, u, v), *extra], -1)
        return self.prop_layer.GRU(rows[None], hidden[None])[1][0]

    def edge_message(self, x, e, u, v):
        """Sum of both messages of an edge."""
        net = self.prop_layer._message_net
        return net(torch.cat([x[u], x[v], e], -1)) + net(torch.cat([x[v], x[u], e], -1))

    def stack(self, rows, sizes):
        """Pad every graph's rows; queries and corpus graphs alternate."""
        parts = torch.split(rows, sizes)
        parts = [F.pad(p, (0, 0, 0, self.padded - len(p))) for p in parts]
        return torch.stack(parts[0::2]), torch.stack(parts[1::2])

    def unstack(self, query, corpus, sizes):
        """Undo :meth:`stack`."""
        parts = [p for pair in zip(query, corpus, strict=True) for p in pair]
        return torch.cat([p[:n] for p, n in zip(parts, sizes, strict=True)])

    def plan(self, rows, sizes):
        """Sinkhorn on logarithms."""
        sides = self.stack(rows, sizes)
        masks = self.stack(rows.new_ones(len(rows), 1), sizes)
        q, c = (
            self.sinkhorn_feature_layers(s) * m
            for s, m in zip(sides, masks, strict=True)
        )
        log = q @ c.mT / 0.1
        for _ in range(20):
            log = log - torch.logsumexp(log, 2, keepdim=True)
            log = log - torch.logsumexp(log, 1, keepdim=True)
        return log.exp()

    def score(self, rows, sizes, plan):
        """Minus the uncovered part."""
        q, c = self.stack(rows, sizes)
        return -torch.relu(q - plan @ c).sum((1, 2))

    def partners(self, store, sizes, plan):
        """What the partner looked like, in all layers; zero in layer 0."""
        d = store.shape[1] // (self.layers + 1)
        q, c = self.stack(store, sizes)
        rows = self.unstack(plan @ c, plan.mT @ q, sizes)
        return torch.cat([torch.zeros_like(rows[:, :d]), rows[:, d:]], 1)

    def node_rounds(self, x0, e, u, v, sizes):
        """IsoNet++ with partners of nodes."""
        partner = x0.new_zeros(len(x0), 10 * (self.layers + 1))
        for _ in range(self.rounds):
            x, store = x0, [torch.zeros_like(x0)]
            for k in range(self.layers):
                seen = partner[:, 10 * k : 10 * (k + 1)]
                z = self.interaction_layer(torch.cat([x, seen], -1))
                x = self.propagate(z, z, e, u, v)
                store.append(x)
            plan = self.plan(x, sizes)
            partner = self.partners(torch.cat(store, 1), sizes, plan)
        return self.score(x, sizes, self.plan(x, sizes))

    def edge_rounds(self, x0, e0, u, v, counts):
        """IsoNet++ with partners of edges."""
        partner = e0.new_zeros(len(e0), 20 * (self.layers + 1))
        for _ in range(self.rounds):
            x, e, store = x0, e0, [torch.zeros_like(e0)]
            for k in range(self.layers):
                seen = partner[:, 20 * k : 20 * (k + 1)]
                e = self.interaction_layer(torch.cat([e, seen], -1))
                x = self.propagate(x, x, e, u, v)
                e = self.edge_message(x, e, u, v)
                store.append(e)
            plan = self.plan(e, counts)
            partner = self.partners(torch.cat(store, 1), counts, plan)
        return self.score(e, counts, plan)

    def gmn(self, x, e, u, v, sizes):
        """Graph matching network."""
        for _ in range(self.layers):
            q, c = self.stack(x, sizes)
            logits = q @ c.mT / 0.1
            partner = self.unstack(
                logits.softmax(2) @ c, logits.mT.softmax(2) @ q, sizes
            )
            x = self.propagate(x, x, e, u, v, (x - partner,))
        gate, value = self.aggregator["MLP1"](x).chunk(2, -1)
        parts = torch.split(gate.sigmoid() * value, sizes)
        whole = self.aggregator["MLP2"](torch.stack([p.sum(0) for p in parts]))
        return -torch.relu(whole[0::2] - whole[1::2]).sum(-1)


def two_layers(a, b, c):
    return nn.Sequential(nn.Linear(a, b), nn.ReLU(), nn.Linear(b, c))
