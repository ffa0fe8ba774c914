"""Weights on manifolds for any optimizer, and matrices of fixed rank.

A step is what a network sees: the weight from its free numbers, the gradient, an Adam
step of torch. Peers are torch's orthogonal parametrization in its three maps and, where
installed, geotorch.
"""

import importlib.util
import warnings

import torch
from torch import nn
from torch.nn.utils.parametrizations import orthogonal

from benchmarks.timing import compare, ratio_row, row
from manifoldkit.manifolds import (
    SPD,
    FixedRank,
    SpecialOrthogonal,
    Stiefel,
    as_parameter,
    parametrize,
)
from manifoldkit.optim import LoRALinear, RiemannianSGD


class _Weight(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.weight = nn.Parameter(value.clone())


def _stepper(module):
    """Return a function that makes a step of Adam towards a random target."""
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    target = torch.randn_like(module.weight)

    def step():
        optimizer.zero_grad()
        (module.weight * target).sum().backward()
        optimizer.step()

    return step


def _peers(kind, value, **sizes):
    """Yield (name, module) of what others offer for a manifold."""
    if kind in ("stiefel", "rotation") and value.ndim == 2:
        for name in ("matrix_exp", "cayley", "householder"):
            peer = orthogonal(_Weight(value), orthogonal_map=name)
            yield f"torch orthogonal, {name}", peer
    if importlib.util.find_spec("geotorch") is None:
        return
    geotorch = importlib.import_module("geotorch")
    makers = {
        "stiefel": geotorch.orthogonal,
        "rotation": geotorch.orthogonal,
        "spd": geotorch.positive_definite,
        "low rank": geotorch.fixed_rank,
    }
    module = _Weight(value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        makers[kind](module, "weight", **sizes)
    yield "geotorch", module


def _cases():
    torch.manual_seed(0)
    yield "stiefel", Stiefel(), (64, 32), "<= 1", {}
    yield "stiefel", Stiefel(), (512, 16), "<= 1", {}
    yield "stiefel", Stiefel(), (50, 32, 16), "<= 1", {}
    yield "rotation", SpecialOrthogonal(), (64, 64), "", {}
    yield "spd", SPD(), (32, 32), "<= 1", {}
    yield "low rank", FixedRank(200, 200, 5), (200, 200), "<= 1", {"rank": 5}


def _remark(peer, target):
    """Cayley maps leave out what has the eigenvalue -1: no equal to be beaten."""
    if peer.endswith("cayley"):
        return {"note": "the peer does not reach points with the eigenvalue -1"}
    return {"target": target}


def _completion():
    g = torch.Generator().manual_seed(0)
    double = {"dtype": torch.float64, "generator": g}
    truth = torch.randn(200, 5, **double) @ torch.randn(5, 200, **double)
    seen = torch.rand(200, 200, generator=g) < 0.3

    def run():
        x = as_parameter(truth * seen / 0.3, FixedRank(200, 200, 5))
        optimizer = RiemannianSGD([x], lr=0.8, momentum=0.3)
        error = torch.tensor(1.0)
        for _ in range(100):
            optimizer.zero_grad()
            (((x - truth) * seen).square().sum() / 0.6).backward()
            optimizer.step()
            error = (x.detach() - truth).norm() / truth.norm()
            if error < 1e-6:
                break
        return error

    seconds = compare({"ours": run}, 5)["ours"]
    return row(
        "completion of 200 x 200 of rank 5, 30 % seen, to 1e-6",
        seconds,
        target="5 s",
        note=f"relative error {float(run()):.0e}",
    )


def _adapters():
    layer = nn.Linear(256, 256)
    x = torch.randn(128, 256)
    plain, ours = (
        LoRALinear.from_linear(layer, manifold=kind) for kind in (None, "fixed_rank")
    )
    return ratio_row(
        "LoRALinear(fixed_rank), 256 x 256, rank 8, forward and backward",
        lambda: ours(x).sum().backward(),
        "LoRALinear(None)",
        lambda: plain(x).sum().backward(),
        repeats=31,
    )


def run():
    """Return the rows."""
    rows = []
    for kind, manifold, shape, target, sizes in _cases():
        value = manifold.random(*shape).data
        ours = _stepper(parametrize(_Weight(value), "weight", manifold))
        size = " x ".join(map(str, shape))
        for name, peer in _peers(kind, value, **sizes):
            rows.append(
                ratio_row(
                    f"{type(manifold).__name__}, {size}, step of Adam",
                    ours,
                    name,
                    _stepper(peer),
                    repeats=15,
                    **_remark(name, target),
                )
            )
    return [*rows, _completion(), _adapters()]
