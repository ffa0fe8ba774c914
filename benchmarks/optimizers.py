"""Optimizer steps against geoopt's RiemannianAdam and torch's Adam.

Rows against POGO appear where ``pogo-torch`` is installed.

What is left in a step of many small parameters, in microseconds of this machine:

- 1000 spheres, 480: the gradients are read (57) and stacked (80), the addresses of
  parameters compared (62) and their version counters raised (75), which is 270 before
  any arithmetic on 64,000 numbers;
- 200 SPD matrices, 400: two batched Cholesky factors (80), four batched products (100),
  two symmetrizations (25), and 60 to gather;
- 50 Stiefel matrices, 270: seven batched products (130), and 33 to gather. Steps above
  0.013 in float32 take a Cholesky factor and a solve (70) more.
"""

from importlib.util import find_spec

import geoopt
import torch

from benchmarks.timing import compare
from manifoldkit.manifolds import SPD, Sphere, Stiefel
from manifoldkit.optim import LandingAdam, RiemannianAdam, StiefelMuon

_GEOOPT = "geoopt RiemannianAdam"


def _parameters(manifold, shape, count):
    torch.manual_seed(0)
    params = []
    for _ in range(count):
        x = manifold.random(*shape, dtype=torch.float32).data
        params.append(geoopt.ManifoldParameter(x.clone(), manifold=manifold))
    return _with_gradients(params)


def _with_gradients(params):
    for p in params:
        p.grad = torch.randn_like(p)
    return params


_STEPS = 5


def _steps(optimizer):
    for _ in range(_STEPS):
        optimizer.step()


def _row(case, ours, peer, peer_name=_GEOOPT, target="", note="", repeats=31):
    """Time a few steps in a row, as in training; the gradients stay what they are."""
    t = compare(
        {"ours": lambda: _steps(ours), "peer": lambda: _steps(peer)},
        repeats=repeats,
        warmup=3,
    )
    return {
        "case": case,
        "ours_s": t["ours"] / _STEPS,
        "peer": peer_name,
        "peer_s": t["peer"] / _STEPS,
        "ratio": t["ours"] / t["peer"],
        "target": target,
        "note": note,
    }


def _against_geoopt(case, ours, theirs, shape, count, target, note=""):
    """Step ``count`` parameters on the two libraries' own manifolds."""
    return _row(
        case,
        RiemannianAdam(_parameters(ours, shape, count), lr=1e-3),
        geoopt.optim.RiemannianAdam(_parameters(theirs, shape, count), lr=1e-3),
        target=target,
        note=note,
    )


def _flat_model(count, shape):
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape)) for _ in range(count)]
    return _with_gradients(params)


def _against_pogo():
    """Adam's directions in both; separate parameters, and one stacked tensor."""
    if find_spec("pogo") is None:
        return []
    from pogo import POGO
    from pogo.base import VectorAdam

    rows = []
    for case, shape, count, target in (
        ("Stiefel(64, 32), POGO", (64, 32), 1, "<= 1"),
        ("200 x Stiefel(64, 32) in one tensor, POGO", (200, 64, 32), 1, ""),
        ("1000 x Stiefel(16, 8), POGO", (16, 8), 1000, "<= 0.2"),
    ):
        ours = _parameters(Stiefel(), shape, count)
        theirs = [p.detach().clone().view(-1, *shape[-2:]) for p in ours]
        theirs = _with_gradients([torch.nn.Parameter(p) for p in theirs])
        peer = POGO(theirs, VectorAdam(), lr=1e-3, rows=False)
        few = 9 if count > 1 else 31
        optimizer = LandingAdam(ours, lr=1e-3)
        rows.append(_row(case, optimizer, peer, "pogo-torch", target, repeats=few))
    return rows


def _muon():
    """The two directions of StiefelMuon against a step of Adam."""
    rows = []
    for lmo in ("project", "dual"):
        ours = StiefelMuon(_parameters(Stiefel(), (64, 16), 1), lr=1e-3, lmo=lmo)
        adam = RiemannianAdam(_parameters(Stiefel(), (64, 16), 1), lr=1e-3)
        case = f'Stiefel(64, 16), StiefelMuon(lmo="{lmo}")'
        rows.append(_row(case, ours, adam, "RiemannianAdam"))
    return rows


def run():
    """Return the rows."""
    canonical = Stiefel("canonical"), geoopt.CanonicalStiefel()
    euclidean = Stiefel("euclidean"), geoopt.EuclideanStiefel()
    spd = SPD("airm"), geoopt.SymmetricPositiveDefinite()
    sphere = Sphere(), geoopt.Sphere()
    rows = [
        _against_geoopt(
            "50 x Stiefel(32, 16), Euclidean metric",
            *euclidean,
            (32, 16),
            50,
            "<= 0.1",
            "floor: seven batched products",
        ),
        _against_geoopt(
            "50 x Stiefel(32, 16), canonical metric", *canonical, (32, 16), 50, "<= 0.2"
        ),
        _against_geoopt(
            "200 x SPD(8)",
            *spd,
            (8, 8),
            200,
            "<= 0.015",
            "floor: two Cholesky factors, four batched products",
        ),
        _against_geoopt(
            "1000 x sphere(64)",
            *sphere,
            (64,),
            1000,
            "<= 0.015",
            "floor: touching 1000 tensors in Python",
        ),
        _against_geoopt(
            "sphere(8), 100,000 rows", *sphere, (100_000, 8), 1, "<= 0.7", "eager"
        ),
        _against_geoopt(
            "Stiefel(64, 32), defaults of both (Cholesky-QR, Cayley)",
            Stiefel(),
            geoopt.Stiefel(),
            (64, 32),
            1,
            "<= 0.6",
        ),
        _against_geoopt(
            "Stiefel(64, 32), Euclidean metric", *euclidean, (64, 32), 1, ""
        ),
        _against_geoopt(
            "Stiefel(64, 32), canonical metric", *canonical, (64, 32), 1, ""
        ),
    ]
    flat = "50 x flat (64, 64)"
    for options in ({}, {"foreach": True}, {"fused": True}):
        named = ", ".join(f"{k}={v}" for k, v in options.items())
        rows.append(
            _row(
                f"{flat}{', ' + named if named else ''}",
                RiemannianAdam(_flat_model(50, (64, 64)), **options),
                torch.optim.Adam(_flat_model(50, (64, 64)), **options),
                "torch Adam",
                "<= 1.1",
            )
        )
    return rows + _against_pogo() + _muon()
