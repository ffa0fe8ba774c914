"""The methods that :mod:`manifoldkit.experiments.motion.particle_motion` compares.

All take observed positions (B, N, T_in, 3) and return future ones (B, N, T_out, 3).
"""

from itertools import pairwise

import torch
from e3nn import nn as e3nn_nn
from e3nn import o3
from torch import Tensor, nn


def _mlp(*sizes: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for a, b in pairwise(sizes):
        parts += [nn.Linear(a, b), nn.SiLU()]
    return nn.Sequential(*parts[:-1])


def _mlps(count: int, *sizes: int) -> nn.ModuleList:
    return nn.ModuleList(_mlp(*sizes) for _ in range(count))


def _pairs(h: Tensor, *more: Tensor) -> Tensor:
    """Features (..., N, C) of both agents of all pairs, and more: (..., N, N, 2 C)."""
    shape = (*h.shape[:-1], *h.shape[-2:])
    own, other = h.unsqueeze(-2).expand(shape), h.unsqueeze(-3).expand(shape)
    return torch.cat([own, other, *more], -1)


def _others(n: int, like: Tensor) -> Tensor:
    """1 for pairs i != j, shape (N, N, 1)."""
    return 1 - torch.eye(n, dtype=like.dtype, device=like.device)[..., None]


class ConstantVelocity(nn.Module):
    """The last observed displacement, repeated."""

    def __init__(self, t_in: int, t_out: int):
        super().__init__()
        self.t_out = t_out

    def forward(self, x: Tensor) -> Tensor:
        """Forecast."""
        k = torch.arange(1, self.t_out + 1, dtype=x.dtype, device=x.device)[:, None]
        return x[:, :, -1:] + k * (x[:, :, -1:] - x[:, :, -2:-1])


class EGNN(nn.Module):
    """E(n)-equivariant graph network (Satorras et al. 2021) with velocities.

    Coordinates start at the last observed step; h reads the speeds. Since the original
    predicts one step, the output maps h to combinations of the coordinates' change
    and of the observed displacements, one a future step.
    """

    def __init__(self, t_in: int, t_out: int, hidden: int = 64, n_layers: int = 4):
        super().__init__()
        self.t_out, self.n_layers = t_out, n_layers
        self.embed = nn.Linear(t_in - 1, hidden)
        self.edge = _mlps(n_layers, 2 * hidden + 1, hidden, hidden)
        self.node = _mlps(n_layers, 2 * hidden, hidden, hidden)
        self.pull = _mlps(n_layers, hidden, hidden, 1)
        self.push = _mlps(n_layers, hidden, hidden, 1)
        for pull in self.pull:  # the authors' start of the coordinate map
            nn.init.xavier_uniform_(pull.get_parameter("2.weight"), gain=0.001)
        self.out = nn.Linear(hidden, t_out * t_in)

    def forward(self, x: Tensor) -> Tensor:
        """Forecast."""
        steps = x.diff(dim=2)
        start, v, n = x[:, :, -1], steps[:, :, -1], x.shape[1]
        h = self.embed(steps.norm(dim=-1))
        place, others = start, _others(n, x)
        for k in range(self.n_layers):
            gap = place[:, :, None] - place[:, None]
            square = (gap * gap).sum(-1, keepdim=True)
            m = nn.functional.silu(self.edge[k](_pairs(h, square)))
            place = place + (gap * self.pull[k](m) * others).sum(2) / max(n - 1, 1)
            place = place + self.push[k](h) * v
            h = h + self.node[k](torch.cat([h, (m * others).sum(2)], -1))
        vectors = torch.cat([(place - start)[:, :, None], steps], 2)
        weight = self.out(h).unflatten(-1, (self.t_out, -1))
        return start[:, :, None] + weight @ vectors


class GraphNetwork(nn.Module):
    """Message passing on plain coordinates: centered, but not equivariant."""

    def __init__(self, t_in: int, t_out: int, hidden: int = 128, n_layers: int = 4):
        super().__init__()
        self.t_out, self.n_layers = t_out, n_layers
        self.embed = nn.Linear(3 * t_in, hidden)
        self.edge = _mlps(n_layers, 2 * hidden, hidden, hidden)
        self.node = _mlps(n_layers, 2 * hidden, hidden, hidden)
        self.out = nn.Linear(hidden, 3 * t_out)

    def forward(self, x: Tensor) -> Tensor:
        """Forecast."""
        n, last = x.shape[1], x[:, :, -1:]
        centered = x - last.mean(1, keepdim=True)
        features = torch.cat([centered[:, :, -1:], x.diff(dim=2)], 2)
        h = self.embed(features.flatten(2))
        others = _others(n, x)
        for edge, node in zip(self.edge, self.node, strict=True):
            m = (nn.functional.silu(edge(_pairs(h))) * others).sum(2)
            h = h + node(torch.cat([h, m], -1))
        return last + self.out(h).unflatten(-1, (self.t_out, 3))


class SphericalGraphNetwork(nn.Module):
    """Gated message passing with e3nn's tensor products, l <= 1.

    Nodes carry the observed displacements and the centered position as vectors;
    messages are tensor products with the spherical harmonics of the gap between two
    agents, weighted by a network of its length.
    """

    def __init__(
        self, t_in: int, t_out: int, multiplicity: int = 16, n_layers: int = 3
    ):
        super().__init__()
        self.t_out, m = t_out, multiplicity
        self.harmonics = o3.Irreps("1x0e + 1x1o")
        self.start = o3.Linear(f"{t_in - 1}x0e + {t_in}x1o", f"{m}x0e + {m}x1o")
        self.products, self.mixers = nn.ModuleList(), nn.ModuleList()
        self.radial, self.gates = nn.ModuleList(), nn.ModuleList()
        for _ in range(n_layers):
            gate = e3nn_nn.Gate(
                f"{m}x0e", [nn.functional.silu], f"{m}x0e", [torch.sigmoid], f"{m}x1o"
            )
            product = o3.FullyConnectedTensorProduct(
                f"{m}x0e + {m}x1o",
                self.harmonics,
                f"{m}x0e + {m}x1o",
                shared_weights=False,
            )
            self.products.append(product)
            self.mixers.append(o3.Linear(f"{2 * m}x0e + {2 * m}x1o", gate.irreps_in))
            self.radial.append(_mlp(8, 32, product.weight_numel))
            self.gates.append(gate)
        self.out = o3.Linear(f"{m}x0e + {m}x1o", f"{t_out}x1o")
        self.m = m

    def _join(self, a: Tensor, b: Tensor) -> Tensor:
        """Two features of m scalars and m vectors as one."""
        m = self.m
        return torch.cat([a[..., :m], b[..., :m], a[..., m:], b[..., m:]], -1)

    def forward(self, x: Tensor) -> Tensor:
        """Forecast."""
        b, n, last = x.shape[0], x.shape[1], x[:, :, -1]
        steps = x.diff(dim=2)
        place = last - last.mean(1, keepdim=True)
        vectors = torch.cat([place[:, :, None], steps], 2)
        scale = steps.norm(dim=-1)
        h = self.start(torch.cat([scale, vectors.flatten(2)], -1))
        i, j = (_others(n, x)[..., 0] > 0).nonzero(as_tuple=True)
        gap = last[:, i] - last[:, j]
        length = gap.norm(dim=-1, keepdim=True)
        angular = o3.spherical_harmonics(
            self.harmonics, gap, normalize=True, normalization="component"
        )
        centers = torch.linspace(0, 4, 8, dtype=x.dtype, device=x.device)
        radial = torch.exp(-2 * (length - centers) ** 2)
        for product, mixer, net, gate in zip(
            self.products, self.mixers, self.radial, self.gates, strict=True
        ):
            message = product(h[:, j], angular, net(radial))
            total = h.new_zeros(b, n, h.shape[-1]).index_add(1, i, message)
            h = h + gate(mixer(self._join(h, total / max(n - 1, 1) ** 0.5)))
        out = self.out(h).unflatten(-1, (self.t_out, 3))
        return last[:, :, None] + out


def _frames(points: Tensor) -> Tensor:
    """The eight principal frames of O(3) of centered points (B, P, 3): (B, 8, 3, 3)."""
    wide = points.detach().double()
    axes = torch.linalg.eigh(wide.mT @ wide).eigenvectors
    one = torch.tensor([1.0, -1.0], dtype=axes.dtype, device=axes.device)
    signs = torch.cartesian_prod(one, one, one)
    return (axes[:, None] * signs[:, None]).to(points.dtype)


class FrameAveragedGNN(nn.Module):
    """FA-GNN (Puny et al. 2022): a frame a layer, plain message passing in each.

    All layers see their vectors (20 a node, 60 features) in the eight principal
    frames; afterwards the vectors are turned back, averaged, centered and framed anew.
    """

    def __init__(self, t_in: int, t_out: int, n_vectors: int = 20, n_layers: int = 4):
        super().__init__()
        self.t_out, hidden = t_out, 3 * n_vectors
        self.embed = nn.Linear(3 * t_in, hidden)
        self.edge = _mlps(n_layers, 2 * hidden + 1, hidden, hidden)
        self.node = _mlps(n_layers, 2 * hidden, hidden, hidden)
        self.out = _mlp(hidden, hidden, 3 * t_out)

    def forward(self, x: Tensor) -> Tensor:
        """Forecast."""
        n, last = x.shape[1], x[:, :, -1:]
        place = last - last.mean(1, keepdim=True)
        square = (last - last.transpose(1, 2)).square().sum(-1, keepdim=True)
        square = square[:, None].expand(-1, 8, -1, -1, -1)
        others = _others(n, x)
        vectors = torch.cat([place, x.diff(dim=2)], 2)
        frame = _frames(place[:, :, 0])
        h = self.embed(self._project(vectors, frame))
        for edge, node in zip(self.edge, self.node, strict=True):
            m = (nn.functional.silu(edge(_pairs(h, square))) * others).sum(3)
            h = h + node(torch.cat([h, m], -1))
            vectors = self._average(h, frame)
            vectors = vectors - vectors.mean((1, 2), keepdim=True)
            frame = _frames(vectors.flatten(1, 2))
            h = self._project(vectors, frame)
        return last + self._average(self.out(h), frame)

    @staticmethod
    def _project(vectors: Tensor, frame: Tensor) -> Tensor:
        """Vectors (B, N, V, 3) in every frame, flat: (B, 8, N, 3 V)."""
        return torch.einsum("bnvi,bfij->bfnvj", vectors, frame).flatten(-2)

    @staticmethod
    def _average(h: Tensor, frame: Tensor) -> Tensor:
        """Back to space, the mean over frames: (B, N, V, 3)."""
        return torch.einsum("bfnvj,bfij->bnvi", h.unflatten(-1, (-1, 3)), frame) / 8
