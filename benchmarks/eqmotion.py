"""EqMotion against its formulas as they are written, and the simulator against a loop.

The peer computes the same function from the same parameters in the plain way: features
of both agents tiled and concatenated with their distances, ``norm`` over the last axis,
one linear map at a time, one modal head after the other.
"""

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.memory import memory_row, peak_apart, resident_peak
from benchmarks.timing import ratio_row
from manifoldkit.datasets import simulate_particles
from manifoldkit.equivariant import EqMotion


class Literal:
    """The equations on tiled tensors; reads the parameters of one of our models.

    As the authors' code does, it also computes the messages and new features of the
    last layer and of every head, which nothing reads (with parameters of its own).
    """

    def __init__(self, model):
        self.m = model
        h, c, dtype = model.hidden, model.channels, model.future_dct.dtype
        sizes = ((2 * h + c, h), (h, h), (2 * h, h), (h, h))
        maps = [linear(torch.nn.Linear(*size, dtype=dtype)) for size in sizes]
        self.unread = {"message": maps[:2], "node": maps[2:]}

    def pair_features(self, h, d):
        """Tile both agents and join."""
        n = h.shape[1]
        a = h[:, :, None].repeat(1, 1, n, 1)
        b = h[:, None].repeat(1, n, 1, 1)
        return torch.cat([a, b, d], -1)

    def two(self, x, first, second):
        """Two layers."""
        return F.silu(F.linear(F.silu(F.linear(x, *first)), *second))

    def mix(self, weight, x):
        """Linear map of the channels of (B, N, C, D)."""
        return (x.transpose(2, 3) @ weight.T).transpose(2, 3)

    def center(self, x):
        """Mean over agents and channels."""
        return x.mean((1, 2), keepdim=True)

    def __call__(self, x):
        """Forecast."""
        m = self.m
        v = torch.cat([x[:, :, 1:2] - x[:, :, :1], x[:, :, 1:] - x[:, :, :-1]], 2)
        before = torch.cat([v[:, :, :1], v[:, :, :-1]], 2)
        length = torch.norm(before, dim=-1) + 1e-6
        cosine = (before * v).sum(-1) / (length * (torch.norm(v, dim=-1) + 1e-6))
        angle = torch.acos(cosine.clamp(-1, 1))
        middle = self.center(x)
        g, v = m.past_dct @ (x - middle), m.past_dct @ v
        speed = torch.norm(
            torch.cat([x[:, :, 1:2] - x[:, :, :1], x[:, :, 1:] - x[:, :, :-1]], 2),
            dim=-1,
        )
        h = torch.cat([m.speed_embedding(speed), m.angle_embedding(angle)], -1)
        mu = self.center(g)
        g = self.mix(m.position_channels.weight, g - mu) + mu
        v = self.mix(m.velocity_channels.weight, v)
        category = self.reason(h, torch.cat([g, v], 2))
        for layer in m.layers:
            h, g = self.layer(layer_parameters(layer), h, g, v, category)
        if m.heads is None:
            return self.head(m.head.weight, g) + middle
        parts = [
            self.head(
                m.heads.out[j].T,
                self.layer(head_parameters(m.heads, j), h, g, v, category)[1],
            )
            for j in range(m.n_modes)
        ]
        return torch.stack(parts, 2) + middle[:, :, None]

    def reason(self, h, both):
        """Categories of pairs."""
        r = self.m.reasoning
        n = h.shape[1]
        d = torch.norm(both[:, :, None] - both[:, None], dim=-1)
        d = F.silu(r.distance(d))
        e = F.silu(
            r.edge_out(F.silu(F.linear(self.pair_features(h, d), *linear(r.edge))))
        )
        off = 1 - torch.eye(n, dtype=h.dtype)[..., None].repeat(len(h), 1, 1, 1)
        node = F.silu(r.node(torch.cat([h, (e * off).sum(2)], -1)))
        e = F.linear(self.pair_features(node, d), *linear(r.logit))
        return F.softmax(F.silu(r.logit_out(F.silu(e))) / self.m.tau, -1)

    def layer(self, p, h, g, v, category):
        """One layer."""
        n = h.shape[1]
        delta = g[:, :, None] - g[:, None]
        p = self.unread | p
        e = self.pair_features(h, torch.norm(delta, dim=-1))
        message = self.two(e, *p["message"])
        new = g + F.silu(F.linear(h, *p["attention"]))[..., None] * (g - self.center(g))
        e = self.pair_features(h, torch.norm(delta, dim=-1))
        factor = 0
        for k, expert in enumerate(p["experts"]):
            factor = factor + category[..., k : k + 1] * self.two(e, *expert)
        factor = self.two(factor, *p["factor"])
        new = new + (factor[..., None] * delta).sum(2) + self.mix(p["velocity"], v)
        mu = self.center(new)
        q, k = self.mix(p["q"], new - mu), self.mix(p["k"], new - mu)
        product = (q * k).sum(-1, keepdim=True)
        keep = (product >= 0).to(q.dtype)
        square = (k * k).sum(-1, keepdim=True)
        new = keep * q + (1 - keep) * (q - product / (square + 1e-4) * k) + mu
        off = 1 - torch.eye(n, dtype=h.dtype)[..., None].repeat(len(h), 1, 1, 1)
        total = torch.cat([h, (message * off).sum(2)], -1)
        first, second = p["node"]
        h = h + F.linear(F.silu(F.linear(total, *first)), *second)
        return h, new

    def head(self, weight, g):
        """Output map and inverse transform."""
        mu = self.center(g)
        return self.m.future_dct.T @ (self.mix(weight, g - mu) + mu)


def linear(module):
    return module.weight, module.bias


def layer_parameters(layer):
    n, c = layer.hidden, layer.channels
    w, b = linear(layer.pair)
    rows = [slice(k * n, (k + 1) * n) for k in range(layer.n_active)]
    parts = {
        "attention": linear(layer.attention),
        "experts": [
            ((w[r], b[r]), linear(layer.experts[k])) for k, r in enumerate(rows)
        ],
        "factor": (linear(layer.factor[0]), linear(layer.factor[2])),
        "velocity": layer.velocity.weight,
        "q": layer.rectifier.weight[:c],
        "k": layer.rectifier.weight[c:],
    }
    if layer.update_pattern:
        last = slice(layer.n_active * n, None)
        parts["message"] = (w[last], b[last]), linear(layer.message)
        parts["node"] = linear(layer.node[0]), linear(layer.node[2])
    return parts


def head_parameters(heads, j):
    c = heads.channels
    experts = [
        (
            (heads.pair[e].T, heads.pair_bias[e, 0]),
            (heads.expert[e].T, heads.expert_bias[e, 0]),
        )
        for e in range(j * heads.n_active, (j + 1) * heads.n_active)
    ]
    return {
        "attention": (heads.attention[j].T, heads.attention_bias[j, 0]),
        "experts": experts,
        "factor": (
            (heads.factor[j].T, heads.factor_bias[j, 0]),
            (heads.factor_out[j].T, heads.factor_out_bias[j, 0]),
        ),
        "velocity": heads.velocity[j].T,
        "q": heads.rectifier[j].T[:c],
        "k": heads.rectifier[j].T[c:],
    }


PARTICLES = {"past_len": 20, "future_len": 20}
PEDESTRIANS = {
    "past_len": 8,
    "future_len": 12,
    "n_categories": 4,
    "n_null": 2,
    "n_modes": 20,
}


def case(options, b, n, dim):
    """A model, its literal twin and input."""
    torch.manual_seed(0)
    model = EqMotion(**options, rescale=None)  # as the formulas are
    x = 0.1 * torch.randn(b, n, options["past_len"], dim).cumsum(2)
    return model, Literal(model), x


def peak(who, b, n):
    """In a process of its own, because the peak never falls again."""
    torch.set_num_threads(1)
    model, literal, x = case(PARTICLES, b, n, 3)
    f = literal if who == "literal" else lambda x: model(x).pred
    f(x[:2]).sum().backward()  # libraries and gradients are there before
    before = resident_peak()
    for _ in range(2):
        f(x).sum().backward()
    return (resident_peak() - before) / 1024


def network_rows():
    rows = []
    for name, options, b, n, dim, repeats in (
        ("particles", PARTICLES, 50, 5, 3, 15),
        ("particles", PARTICLES, 100, 5, 3, 9),
        ("particles", PARTICLES, 50, 20, 3, 3),
        ("pedestrians, 20 modes", PEDESTRIANS, 100, 1, 2, 9),
        ("pedestrians, 20 modes", PEDESTRIANS, 100, 2, 2, 7),
        ("pedestrians, 20 modes", PEDESTRIANS, 100, 3, 2, 5),
    ):
        model, literal, x = case(options, b, n, dim)
        double, twin, y = case(options | {"dtype": torch.float64}, 2, n, dim)
        y = y.double()
        gap = float((double(y).pred - twin(y)).detach().abs().max())

        def ours(model=model, x=x):
            with torch.no_grad():
                return model(x)

        def plain(literal=literal, x=x):
            with torch.no_grad():
                return literal(x)

        def ours_both(model=model, x=x):
            model.zero_grad()
            model(x).pred.square().sum().backward()

        def plain_both(literal=literal, model=model, x=x):
            model.zero_grad()
            literal(x).square().sum().backward()

        targets = ("0.25", "0.4") if options is PARTICLES else ("0.25", "0.25")
        for what, a, c, target in (
            ("forward", ours, plain, targets[0]),
            ("forward + backward", ours_both, plain_both, targets[1]),
        ):
            rows.append(
                ratio_row(
                    f"{name}, B = {b}, N = {n}, {what}",
                    a,
                    "formulas as written",
                    c,
                    repeats=repeats,
                    target=target,
                    max_abs_diff=gap,
                    note=f"difference in float64 {gap:.0e}",
                )
            )
    return rows


def memory_rows():
    rows = []
    for b, n in ((50, 5), (50, 20)):
        ours, plain = (peak_apart("eqmotion", who, b, n) for who in ("ours", "literal"))
        case = f"particles, B = {b}, N = {n}, peak memory of a training step"
        rows.append(memory_row(case, ours, "formulas as written", plain, "0.65"))
    return rows


def plain_loop(kind, steps, n=5):
    """One trajectory by array operations on one state, step after step."""
    rng = np.random.default_rng(0)
    x, v = rng.standard_normal((3, n)), rng.standard_normal((3, n))
    q = rng.choice([-1.0, 1.0], n)
    e = np.outer(q, q) if kind == "charged" else (np.outer(q, q) > 0).astype(float)
    np.fill_diagonal(e, 0)
    for _ in range(steps):
        gap = np.stack([np.subtract.outer(row, row) for row in x])
        if kind == "charged":
            square = (gap**2).sum(0)
            np.fill_diagonal(square, 1)
            size = e / square**1.5
        else:
            size = -0.1 * e
        force = (size * gap).sum(-1).clip(-100, 100)
        x = x + 0.001 * v
        v = v + 0.001 * force
    return x


def simulator_rows(steps=400, count=512):
    rows = []
    for kind in ("springs", "charged"):
        row = ratio_row(
            f"{kind}, 5 particles, a trajectory of {steps} steps ({count} at once)",
            lambda kind=kind: simulate_particles(kind, count, steps=steps, every=200),
            "loop over steps and trajectories",
            lambda kind=kind: plain_loop(kind, steps),
            repeats=5,
            target="0.033",
            note="per trajectory",
        )
        row["ours_s"] /= count
        row["ratio"] /= count
        rows.append(row)
    return rows


def run():
    """Return the rows."""
    return network_rows() + memory_rows() + simulator_rows()


if __name__ == "__main__":
    for row in run():
        print(row)
