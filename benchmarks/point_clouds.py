"""Point-cloud networks and neighborhoods against the published formulas as written.

The peers compute what the released codes compute, from the parameters of our networks:
channels-first 1x1 convolutions, gathered and concatenated tensors, batch normalization
of everything before the maximum, farthest point sampling and neighbors in plain torch
(the released CUDA operators replaced), both siamese branches also in evaluation. The
released defects that change the function are left out, so the results agree.
"""

import math

import torch
import torch.nn.functional as F

from benchmarks.timing import compare, ratio_row
from manifoldkit.equivariant import PaRotClassifier, RISurConvClassifier, neighbors
from manifoldkit.lie import rotation


def fps(x, m, start=None):
    """The usual loop: one masked update of the distances a point."""
    b, n, _ = x.shape
    chosen = torch.zeros(b, m, dtype=torch.long)
    distance = torch.full((b, n), 1e10, dtype=x.dtype)
    far = torch.zeros(b, dtype=torch.long) if start is None else start
    rows = torch.arange(b)
    for i in range(m):
        chosen[:, i] = far
        center = x[rows, far].view(b, 1, 3)
        d = ((x - center) ** 2).sum(-1)
        mask = d < distance
        distance[mask] = d[mask]
        far = distance.max(-1)[1]
    return chosen


def gather(x, index):
    """Advanced indexing with the batch number repeated."""
    rows = torch.arange(len(x)).view(-1, *[1] * (index.ndim - 1)).expand_as(index)
    return x[rows, index]


def nearest(query, ref, k):
    """All distances, then the smallest."""
    return torch.cdist(query, ref).topk(k, largest=False)[1]


def farthest_start(x):
    """Our start rule, so that the same centers come out."""
    return ((x - x.mean(1, keepdim=True)) ** 2).sum(-1).argmax(1)


def norm(bn, x):
    """Batch normalization of the second axis."""
    return F.batch_norm(
        x,
        bn.running_mean,
        bn.running_var,
        bn.weight,
        bn.bias,
        bn.training,
        bn.momentum,
        bn.eps,
    )


def conv(linear, x):
    """A linear map of the second axis, as a 1x1 convolution."""
    weight = linear.weight.view(*linear.weight.shape, *[1] * (x.ndim - 2))
    run = F.conv1d if x.ndim == 3 else F.conv2d
    return run(x, weight, linear.bias)


def unit(v):
    """Published unit vectors."""
    return v / (v.norm(dim=-1, keepdim=True) + 1e-7)


def ordered(offsets, normal):
    """Sort neighbors by their signed cosine with the longest projection."""
    n = normal.unsqueeze(-2)
    flat = offsets - (offsets * n).sum(-1, keepdim=True) * n
    length = flat.norm(dim=-1)
    ref = flat.gather(
        -2, length.argmax(-1)[..., None, None].expand(*flat.shape[:-2], 1, 3)
    )
    turn = (torch.cross(flat, ref.expand_as(flat), dim=-1) * n).sum(-1)
    theta = torch.atan2(turn, (flat * ref).sum(-1)) % (2 * math.pi)
    theta = theta.masked_fill(length < 1e-12, math.pi)
    return theta.sort(-1)[1]


def risp(p, n_p, x, n_i, step):
    """The 14 numbers, one product after the other."""
    g = x - p.unsqueeze(-2)
    n_p = n_p.unsqueeze(-2)
    index = ordered(g, n_p.squeeze(-2))
    g = g.gather(-2, index[..., None].expand_as(g))
    n_i = n_i.gather(-2, index[..., None].expand_as(n_i))
    gm, nm = g.roll(step, -2), n_i.roll(step, -2)
    gq, nq = g.roll(-step, -2), n_i.roll(-step, -2)
    a, m, q = unit(g), unit(gm), unit(gq)
    e, h = unit(g - gm), unit(gq - g)

    def dot(u, v):
        return (u * v).sum(-1, keepdim=True)

    parts = [
        g.norm(dim=-1, keepdim=True),
        dot(a, n_p),
        dot(-a, n_i),
        dot(a, m),
        dot(m, n_p),
        dot(-m, nm),
        dot(-m, e),
        dot(-e, n_i),
        dot(e, nm),
        dot(q, a),
        dot(q, h),
        dot(h, nq),
        dot(a, nq),
        dot(torch.cross(q, a, dim=-1), torch.cross(m, a, dim=-1)),
    ]
    return torch.cat(parts, -1), index


def attention(block, h):
    """Offset attention of (..., C, n), three maps of all tokens."""
    lead = h.shape[:-2]
    x = h.reshape(-1, *h.shape[-2:])
    q, k = conv(block.query, x), conv(block.key, x)
    energy = q.transpose(1, 2) @ k
    p = torch.softmax(energy, -1)
    p = p / (1e-9 + p.sum(1, keepdim=True))
    r = conv(block.value, x) @ p
    r = F.relu(norm(block.norm, conv(block.transform, x - r)))
    return (x + r).reshape(*lead, *h.shape[-2:])


def surface_conv(layer, features, previous, index):
    """One layer on (B, S, K, 14), channels first."""
    x = features.permute(0, 3, 2, 1)
    x = norm(layer.embed.norm1, conv(layer.embed.first, x))
    x = F.relu(norm(layer.embed.norm2, conv(layer.embed.second, x)))
    x = attention(layer.around, x.permute(0, 3, 1, 2).contiguous())  # (B, S, C, K)
    x = x.permute(0, 2, 3, 1)
    if previous is not None:
        x = torch.cat([x, gather(previous, index).permute(0, 3, 2, 1)], 1)
    x = F.relu(norm(layer.norm, conv(layer.mix, x))).max(2)[0]
    return attention(layer.between, x).transpose(1, 2)


class LiteralRISurConv:
    """The classifier from our parameters, geometry included."""

    def __init__(self, model):
        self.m = model

    def __call__(self, x, normals):
        """Score clouds."""
        m, h = self.m, None
        start = farthest_start(x)
        for layer, size, k in zip(m.layers, m.sizes, m.neighbors, strict=True):
            chosen = fps(x, size, start)
            start = torch.zeros(len(x), dtype=torch.long)
            p, n_p = gather(x, chosen), gather(normals, chosen)
            near = nearest(p, x, k)
            step = 2 if size >= 1024 else 1
            features, index = risp(p, n_p, gather(x, near), gather(normals, near), step)
            h = surface_conv(layer, features, h, near.gather(-1, index))
            x, normals = p, n_p
        h = self.whole(x, normals, h)
        for block in m.blocks:
            h = block(h[:, None])[:, 0]
        return m.head(h)

    def whole(self, x, normals, h):
        """The layer over all points, both directions of its axis."""
        center = x.mean(1, keepdim=True)
        offset = x - center
        d = offset.norm(dim=-1)
        w = d.max(1, keepdim=True)[0] - d
        w = w / w.sum(1, keepdim=True)
        cov = offset.transpose(1, 2) @ (w[..., None] * offset)
        axis = torch.linalg.eigh(cov)[1][..., 0]
        rows = []
        for sign in (1, -1):
            features, index = risp(
                center, sign * axis[:, None], x[:, None], normals[:, None], 1
            )
            rows.append((features, index))
        features = torch.cat([r[0] for r in rows])
        index = torch.cat([r[1] for r in rows])
        out = surface_conv(self.m.whole, features, torch.cat([h, h]), index)
        return sum(out[:, 0].chunk(2)) / 2


class LiteralPaRot:
    """The classifier from our parameters, both branches always."""

    def __init__(self, model):
        self.m = model

    def dense(self, layer, x):
        """Convolution, normalization, activation of (M, C, k) or (B, C, S, k)."""
        return F.leaky_relu(norm(layer.norm, conv(layer.linear, x)), layer.slope)

    def flat(self, layer, x):
        """The same for rows."""
        return F.leaky_relu(norm(layer.norm, layer.linear(x)), layer.slope)

    def disentangle(self, net, patches):
        """Codes and directions of (M, k, 3)."""
        x = patches.transpose(1, 2).contiguous()
        for layer in (net.point1, net.point2, net.point3):
            x = self.dense(layer, x)
        h = x.max(-1)[0]
        code = h
        for layer in net.code:
            code = self.flat(layer, code)
        directions = []
        for head in net.directions:
            d = self.flat(head[1], self.flat(head[0], h))
            directions.append(F.normalize(head[2](d), dim=-1))
        return code, torch.stack(directions, 1)

    def siamese(self, net, patches, generator):
        """Both branches, and their losses."""
        flat = patches.flatten(0, 1)
        if net.training:
            q = torch.randn(2 * len(flat), 4, generator=generator, dtype=flat.dtype)
            r1, r2 = rotation.quaternion_to_matrix(q).chunk(2)
        else:
            r1 = r2 = torch.eye(3, dtype=flat.dtype).expand(len(flat), 3, 3)
        code, d1 = self.disentangle(net.net, torch.bmm(flat, r1))
        other, d2 = self.disentangle(net.net, torch.bmm(flat, r2))
        turned = torch.bmm(torch.bmm(d2, r2.transpose(1, 2)), r1)
        losses = (
            ((d1 - turned) ** 2).mean(),
            ((d1[:, 0] * d1[:, 1]).sum(-1) ** 2).mean(),
            ((code - other) ** 2).mean(),
        )
        shape = patches.shape[:2]
        directions = torch.bmm(d1, r1.transpose(1, 2))
        return code.view(*shape, -1), directions.view(*shape, 2, 3), losses

    def axes(self, d, detach):
        """Two directions and their cross product."""
        third = F.normalize(torch.cross(d[..., 0, :], d[..., 1, :], dim=-1), dim=-1)
        third = third.detach() if detach else third
        return torch.cat([d, third[..., None, :]], -2)

    def __call__(self, x, y=None, generator=None):
        """Score clouds, or return the training loss."""
        m, e = self.m, self.m.encoder
        chosen = fps(x, e.n_patches, farthest_start(x))
        c = gather(x, chosen)
        near = nearest(c, x, e.k_local)
        local = gather(x, near) - c[:, :, None]
        spread = (
            gather(x, fps(x, e.k_global, farthest_start(x)))[:, None] - c[:, :, None]
        )
        f, d, loss_l = self.siamese(e.local, local, generator)
        g, dg, loss_g = self.siamese(e.whole, spread, generator)
        a = self.axes(d, False)
        around = nearest(c, c, e.k_intra)
        aj, ai = gather(a, around), a[:, :, None].expand(*around.shape, 3, 3)
        r = gather(c, around) - c[:, :, None]
        u = F.normalize(r, dim=-1)[..., None]
        pose = torch.cat(
            [
                (aj @ ai.transpose(-1, -2)).flatten(-2),
                (ai @ u).squeeze(-1),
                (aj @ u).squeeze(-1),
                r.norm(dim=-1, keepdim=True),
            ],
            -1,
        )
        fj, fi = gather(f, around), f[:, :, None].expand(*around.shape, -1)
        pose = self.dense(e.intra_pose, pose.permute(0, 3, 1, 2).contiguous())
        h = torch.cat([torch.cat([fj, fj - fi], -1).permute(0, 3, 1, 2), pose], 1)
        for layer in (e.intra1, e.intra2, e.intra3):
            h = self.dense(layer, h)
        h = h.max(-1)[0]
        lo, wo = self.axes(d, True), self.axes(dg, True)
        v = F.normalize(c, dim=-1)[..., None]
        inter = torch.cat(
            [
                c.norm(dim=-1, keepdim=True),
                (lo @ wo.transpose(-1, -2)).flatten(-2),
                (lo @ v).squeeze(-1),
                (wo @ v).squeeze(-1),
            ],
            -1,
        )
        inter = self.dense(m.inter_pose, inter.transpose(1, 2).contiguous())
        h = torch.cat([h, g.transpose(1, 2), inter], 1)
        for layer in (*m.inter, m.embed):
            h = self.dense(layer, h)
        scores = m.head(h.max(-1)[0])
        if y is None:
            return scores
        n = scores.shape[1]
        target = torch.full_like(scores, m.smoothing / (n - 1))
        target.scatter_(1, y[:, None], 1 - m.smoothing)
        loss = -(target * scores.log_softmax(1)).sum(1).mean()
        weights = m.loss_weights
        loss = (
            loss + weights["dir_local"] * loss_l[0] + weights["dir_global"] * loss_g[0]
        )
        return (
            loss
            + weights["orth_local"] * loss_l[1]
            + weights["orth_global"] * loss_g[1]
        )


def clouds(b, n, seed=0):
    """Bumpy closed surfaces with their radial directions as normals."""
    generator = torch.Generator().manual_seed(seed)
    u = F.normalize(torch.randn(b, n, 3, generator=generator), dim=-1)
    stretch = 0.5 + torch.rand(b, 1, 3, generator=generator)
    x = u * stretch * (1 + 0.3 * torch.sin(3 * u[..., :1]) * torch.cos(2 * u[..., 1:2]))
    return x - x.mean(1, keepdim=True), u


def step(model, loss):
    """One training step without the optimizer."""

    def run():
        model.zero_grad(set_to_none=True)
        loss().backward()

    return run


def network_rows(name, model, ours, literal, ours_eval, literal_eval, targets):
    """Train and evaluation rows of one network."""
    model.train()
    seconds = compare({"ours": step(model, ours), "peer": step(model, literal)}, 5)
    model.eval()
    with torch.no_grad():
        evaluated = compare({"ours": ours_eval, "peer": literal_eval}, 5)
    rows = []
    for kind, values, target in zip(
        ("training step", "evaluation"), (seconds, evaluated), targets, strict=True
    ):
        rows.append(
            {
                "case": f"{name} {kind}",
                "ours_s": values["ours"],
                "peer": "published formulas in torch",
                "peer_s": values["peer"],
                "ratio": values["ours"] / values["peer"],
                "target": target,
            }
        )
    return rows


def run():
    """Return the rows."""
    x, _ = clouds(16, 1024)
    rows = [
        ratio_row(
            "farthest points, 16 x 1024 -> 512",
            lambda: neighbors.farthest_point_sample(x, 512),
            "torch loop",
            lambda: fps(x, 512),
            target="0.125 (with torch-quickfps)",
        )
    ]
    for k in (8, 16, 32):
        rows.append(
            ratio_row(
                f"{k} nearest of 1024 points, 16 clouds",
                lambda k=k: neighbors.knn(x, x, k),
                "cdist + topk",
                lambda k=k: nearest(x, x, k),
                target="0.33",
                note="nearly all of it SciPy's tree, exact in float64",
            )
        )
    x, n = clouds(8, 1024)
    y = torch.arange(8) % 15
    model = RISurConvClassifier(15)
    literal = LiteralRISurConv(model)
    rows += network_rows(
        "RISurConv, 8 x 1024 points,",
        model,
        lambda: F.cross_entropy(model(x, n), y),
        lambda: F.cross_entropy(literal(x, n), y),
        lambda: model(x, n),
        lambda: literal(x, n),
        ("0.74", "0.63"),
    )
    graph = model.precompute(x, n).to(dtype=torch.float32)
    model.train()
    rows.append(
        ratio_row(
            "RISurConv, same, training step with cached geometry",
            step(model, lambda: F.cross_entropy(model(graph), y)),
            "published formulas in torch",
            step(model, lambda: F.cross_entropy(literal(x, n), y)),
            target="0.5",
        )
    )
    model = PaRotClassifier(15)
    parot = LiteralPaRot(model)
    rows += network_rows(
        "PaRot, 8 x 1024 points,",
        model,
        lambda: model.losses(x, y)["total"],
        lambda: parot(x, y),
        lambda: model(x),
        lambda: parot(x),
        ("0.67", "0.5"),
    )
    return rows
