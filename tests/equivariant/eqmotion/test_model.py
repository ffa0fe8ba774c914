"""EqMotion against its equations, and the authors' parameter names.

The equations are written below as they read: loops over agents, one map at a time,
parameters under the names of the authors' released code; nothing is shared with the
package.
"""

import copy
import math

import pytest
import torch

from manifoldkit.equivariant import EqMotion

F64 = torch.float64


def random_parameters(
    t_in,
    t_out,
    hidden,
    channels,
    layers,
    categories,
    modes=1,
    agents=None,
    seed=0,
    scale=1.0,
):
    """Return parameters, dead ones included, under the authors' names."""
    g = torch.Generator().manual_seed(seed)
    content = {}

    def linear(name, n_in, n_out, bias=True):
        bound = scale / math.sqrt(n_in)
        shape = {"weight": (n_out, n_in)} | ({"bias": (n_out,)} if bias else {})
        for key, size in shape.items():
            value = (2 * torch.rand(size, generator=g, dtype=torch.float64) - 1) * bound
            content[f"{name}.{key}"] = value

    def two(name, n_in, n_mid, n_out):
        linear(f"{name}.0", n_in, n_mid)
        linear(f"{name}.2", n_mid, n_out)

    def layer(name):
        h, c = hidden, channels
        linear(f"{name}.coord_vel", c, c, bias=False)
        two(f"{name}.edge_mlp", 2 * h + c, h, h)
        for k in range(categories):
            two(f"{name}.category_mlp.{k}", 2 * h + c, h, c)
        two(f"{name}.factor_mlp", c, c, c)
        two(f"{name}.node_mlp", 2 * h, h, h)
        two(f"{name}.node_att_mlp", c, c, 1)
        linear(f"{name}.coord_mlp.0", h, h)
        linear(f"{name}.coord_mlp.2", h, c, bias=False)
        linear(f"{name}.layer_q", c, c, bias=False)
        linear(f"{name}.layer_k", c, c, bias=False)
        linear(f"{name}.mlp_q.0", h, c)

    linear("embedding", t_in, hidden // 2)
    linear("embedding2", t_in, hidden // 2)
    linear("coord_trans", t_in, channels, bias=False)
    linear("vel_trans", t_in, channels, bias=False)
    two("edge_mlp", 2 * hidden + 2 * channels, hidden, hidden)
    two("coord_mlp", 2 * channels, hidden, 2 * channels)
    two("node_mlp", 2 * hidden, hidden, hidden)
    two("category_mlp", 2 * hidden + 2 * channels, hidden, categories)
    if agents is not None:
        content["agent_embed"] = torch.randn(
            1, agents, hidden, generator=g, dtype=torch.float64
        )
        two("embed_MLP", 2 * hidden, hidden, hidden)
    for i in range(layers if modes == 1 else layers - 1):
        layer(f"gcl_{i}")
    if modes == 1:
        linear("predict_head", channels, t_out, bias=False)
    else:
        for j in range(modes):
            layer(f"head_{j}")
            linear(f"predict_head.{j}", channels, t_out, bias=False)
    return content


def dct(n):
    rows = []
    for k in range(n):
        w = math.sqrt((1 if k == 0 else 2) / n)
        rows.append([w * math.cos(math.pi * (i + 0.5) * k / n) for i in range(n)])
    return torch.tensor(rows, dtype=torch.float64)


def act(x):
    return x * torch.sigmoid(x)


class Literal:
    """The equations for one sample: ``x`` (N, T, D) without padding."""

    def __init__(self, content, *, layers, categories, n_null=0, tau=1.0, modes=1):
        self.p, self.layers, self.tau, self.modes = content, layers, tau, modes
        self.categories, self.active = categories, categories - n_null

    def linear(self, name, x):
        y = self.p[f"{name}.weight"] @ x
        return y + self.p[f"{name}.bias"] if f"{name}.bias" in self.p else y

    def two(self, name, x, last=True):
        y = self.linear(f"{name}.2", act(self.linear(f"{name}.0", x)))
        return act(y) if last else y

    def __call__(self, x, category=None):
        n, t, _ = x.shape
        v = [
            [x[i, max(s, 1)] - x[i, max(s, 1) - 1] for s in range(t)] for i in range(n)
        ]
        center = x.mean((0, 1))
        h = []
        for i in range(n):
            speed, angle = [], []
            for s in range(t):
                a, b = v[i][max(s - 1, 0)], v[i][s]
                na, nb = a.norm(), b.norm()
                cos = (a @ b) / ((na + 1e-6) * (nb + 1e-6))
                speed.append(nb)
                angle.append(torch.acos(cos.clamp(-1, 1)))
            parts = [
                self.linear("embedding", torch.stack(speed)),
                self.linear("embedding2", torch.stack(angle)),
            ]
            feature = torch.cat(parts)
            if "agent_embed" in self.p:
                feature = torch.cat([feature, self.p["agent_embed"][0, i]])
                feature = self.two("embed_MLP", feature)
            h.append(feature)
        d = dct(t)
        gx = torch.stack([d @ (x[i] - center) for i in range(n)])
        gv = torch.stack([d @ torch.stack(v[i]) for i in range(n)])
        mu = gx.mean((0, 1))
        g = [self.p["coord_trans.weight"] @ (gx[i] - mu) + mu for i in range(n)]
        velocity = [self.p["vel_trans.weight"] @ gv[i] for i in range(n)]
        if category is None:
            category = self.reason(h, g, velocity)
        shared = self.layers if self.modes == 1 else self.layers - 1
        for i in range(shared):
            before = h
            h, g = self.layer(f"gcl_{i}", h, g, velocity, category)
        if self.modes == 1:
            return self.head("predict_head", g, center), category, before, g
        preds = []
        for j in range(self.modes):
            _, out = self.layer(f"head_{j}", h, g, velocity, category)
            preds.append(self.head(f"predict_head.{j}", out, center))
        return torch.stack(preds, 1), category, h, g

    def reason(self, h, g, velocity):
        n = len(h)
        both = [torch.cat([a, b]) for a, b in zip(g, velocity, strict=True)]
        r = {}
        for i in range(n):
            for j in range(n):
                r[i, j] = self.two("coord_mlp", (both[i] - both[j]).norm(dim=-1))
        new = []
        for i in range(n):
            total = torch.zeros_like(h[i])
            for j in range(n):
                if j != i:
                    e = torch.cat([h[i], h[j], r[i, j]])
                    total = total + self.two("edge_mlp", e)
            new.append(self.two("node_mlp", torch.cat([h[i], total])))
        rows = []
        for i in range(n):
            for j in range(n):
                e = torch.cat([new[i], new[j], r[i, j]])
                rows.append((self.two("category_mlp", e) / self.tau).softmax(-1))
        return torch.stack(rows).reshape(n, n, -1)

    def layer(self, name, h, g, velocity, category):
        n = len(h)
        mu = torch.stack(g).mean((0, 1))
        new, out_h = [], []
        for i in range(n):
            phi = act(self.linear(f"{name}.mlp_q.0", h[i]))
            value = g[i] + phi[:, None] * (g[i] - mu)
            total = torch.zeros_like(h[i])
            for j in range(n):
                delta = g[i] - g[j]
                e = torch.cat([h[i], h[j], delta.norm(dim=-1)])
                mixture = 0
                for k in range(self.active):
                    expert = self.two(f"{name}.category_mlp.{k}", e)
                    mixture = mixture + category[i, j, k] * expert
                w = self.two(f"{name}.factor_mlp", mixture)
                value = value + w[:, None] * delta
                if j != i:
                    total = total + self.two(f"{name}.edge_mlp", e)
            new.append(value + self.p[f"{name}.coord_vel.weight"] @ velocity[i])
            node = torch.cat([h[i], total])
            out_h.append(h[i] + self.two(f"{name}.node_mlp", node, last=False))
        mu = torch.stack(new).mean((0, 1))
        result = []
        for value in new:
            q = self.p[f"{name}.layer_q.weight"] @ (value - mu)
            k = self.p[f"{name}.layer_k.weight"] @ (value - mu)
            rows = []
            for qc, kc in zip(q, k, strict=True):
                p = qc @ kc
                rows.append(qc if p >= 0 else qc - p / (kc @ kc + 1e-4) * kc)
            result.append(torch.stack(rows) + mu)
        return out_h, result

    def head(self, name, g, center):
        mu = torch.stack(g).mean((0, 1))
        w = self.p[f"{name}.weight"]
        d = dct(len(w))
        return torch.stack([d.T @ (w @ (gi - mu) + mu) + center for gi in g])


def tracks(*shape, seed=0, dtype=F64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=dtype).cumsum(-2)


def twins(t_in=5, t_out=4, hidden=6, channels=5, layers=2, seed=0, **kw):
    """A model with random reference parameters, and the equations with the same."""
    categories, n_null = kw.get("n_categories", 2), kw.get("n_null", 0)
    modes, agents, tau = kw.get("n_modes", 1), kw.get("n_agents"), kw.get("tau", 1.0)
    content = random_parameters(
        t_in, t_out, hidden, channels, layers, categories, modes, agents, seed, 2.0
    )
    for value in content.values():
        value.requires_grad_()
    model = EqMotion(t_in, t_out, hidden, channels, layers, **kw, dtype=F64)
    dead = model.load_reference_state_dict(content)
    literal = Literal(
        content,
        layers=layers,
        categories=categories,
        n_null=n_null,
        tau=tau,
        modes=modes,
    )
    return model, literal, content, dead


CASES = [
    (n, d, kw)
    for n, d, kw in [
        (1, 3, {}),
        (2, 2, {}),
        (3, 3, {"tau": 0.5}),
        (6, 3, {}),
        (4, 1, {"n_categories": 1}),
        (4, 2, {"n_categories": 3}),
        (3, 3, {"n_categories": 4, "n_null": 2}),
        (3, 3, {"n_categories": 4, "n_null": 2, "n_agents": 3}),
        (3, 2, {"n_categories": 4, "n_null": 2, "n_modes": 3}),
        (1, 2, {"n_categories": 4, "n_null": 2, "n_modes": 3}),
        (2, 2, {"n_categories": 3, "n_null": 1, "n_modes": 2, "layers": 3}),
    ]
]


@pytest.mark.parametrize(("n", "d", "kw"), CASES)
def test_the_fast_form_computes_the_equations(n, d, kw):
    model, literal, content, _ = twins(**kw)
    x = tracks(2, n, 5, d).requires_grad_()
    out = model.eval()(x)
    slow = [literal(sample) for sample in x]
    for b, (pred, category, h, _) in enumerate(slow):
        torch.testing.assert_close(out.pred[b], pred, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(out.category[b], category, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(out.h[b], torch.stack(h), rtol=1e-9, atol=1e-9)
    g = torch.Generator().manual_seed(1)
    weight = torch.randn(out.pred.shape, generator=g, dtype=F64)
    (fast_x,) = torch.autograd.grad((out.pred * weight).sum(), x, retain_graph=True)
    total = sum((pred * w).sum() for (pred, *_), w in zip(slow, weight, strict=True))
    live = [value for value in content.values()]
    slow_x, *slow_p = torch.autograd.grad(total, [x, *live], allow_unused=True)
    torch.testing.assert_close(fast_x, slow_x, rtol=1e-8, atol=1e-8)
    # gradients of the parameters: moved to our names by the same loader
    named = {
        name: torch.zeros_like(value) if grad is None else grad
        for (name, value), grad in zip(content.items(), slow_p, strict=True)
    }
    holder = copy.deepcopy(model)
    holder.load_reference_state_dict(named)
    (out.pred * weight).sum().backward()
    for (name, value), (_, expected) in zip(
        model.named_parameters(), holder.named_parameters(), strict=True
    ):
        found = torch.zeros_like(value) if value.grad is None else value.grad
        torch.testing.assert_close(
            found,
            expected.data,
            rtol=1e-8,
            atol=1e-8,
            msg=lambda m, n=name: f"{n}: {m}",
        )


@pytest.mark.parametrize("kw", [{}, {"n_categories": 4, "n_null": 2, "n_modes": 3}])
def test_padding_computes_the_equations_of_the_valid_agents(kw):
    model, literal, *_ = twins(**kw)
    x = tracks(3, 4, 5, 2)
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 1, 0]], dtype=torch.bool)
    x[~mask] = torch.nan
    out = model.eval()(x, mask)
    for b in range(3):
        pred, category, h, _ = literal(x[b][mask[b]])
        torch.testing.assert_close(out.pred[b][mask[b]], pred, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(
            out.category[b][mask[b]][:, mask[b]], category, rtol=1e-9, atol=1e-9
        )
        torch.testing.assert_close(
            out.h[b][mask[b]], torch.stack(h), rtol=1e-9, atol=1e-9
        )
    assert (out.pred[~mask] == 0).all()
    assert (out.G[~mask] == 0).all()


def test_given_categories_replace_the_inferred_ones():
    model, literal, *_ = twins(n_categories=3)
    x = tracks(2, 3, 5, 3)
    g = torch.Generator().manual_seed(0)
    given = torch.rand(2, 3, 3, 3, generator=g, dtype=F64).softmax(-1)
    out = model(x, category=given)
    for b in range(2):
        pred, *_ = literal(x[b], given[b])
        torch.testing.assert_close(out.pred[b], pred, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(out.category, given)


@pytest.mark.parametrize("modes", [1, 2])
def test_reference_names_that_are_dead_are_ignored_and_told(modes):
    *_, content, dead = twins(n_categories=3, n_null=1, n_modes=modes)
    gone = set(dead)
    assert {n for n in content if "node_att_mlp" in n} <= gone
    assert {n for n in content if "category_mlp.2.0" in n} <= gone
    last = "gcl_1" if modes == 1 else "head_1"
    assert f"{last}.edge_mlp.0.weight" in gone
    assert f"{last}.node_mlp.2.bias" in gone
    assert "gcl_0.edge_mlp.0.weight" not in gone
    assert "predict_head.weight" not in gone


def test_reference_state_dict_errors():
    model, _, content, _ = twins()
    with pytest.raises(ValueError, match="unknown"):
        model.load_reference_state_dict(content | {"nobody.weight": torch.ones(1)})
    part = {k: v for k, v in content.items() if k != "vel_trans.weight"}
    with pytest.raises(ValueError, match="missing \\['vel_trans"):
        model.load_reference_state_dict(part)
    with pytest.raises(ValueError, match=r"vel_trans\.weight: expected shape"):
        model.load_reference_state_dict(part | {"vel_trans.weight": torch.ones(3, 2)})
    left = model.load_reference_state_dict(part | {"x": torch.ones(1)}, strict=False)
    assert "x" in left
    wrapped = {f"module.{k}": v for k, v in content.items()}
    model.load_reference_state_dict(wrapped)  # as DataParallel saves it


def test_float32_reference_weights_load_into_float64():
    content = random_parameters(5, 4, 6, 5, 2, 2)
    single = {k: v.float() for k, v in content.items()}
    model = EqMotion(5, 4, 6, 5, 2, dtype=F64)
    model.load_reference_state_dict(single)
    x = tracks(1, 3, 5, 3)
    pred, *_ = Literal(
        {k: v.double() for k, v in single.items()}, layers=2, categories=2
    )(x[0])
    torch.testing.assert_close(model(x).pred[0], pred, rtol=1e-9, atol=1e-9)
