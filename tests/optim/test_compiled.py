"""A compiled step is the eager one, on every manifold and for every optimizer."""

import pytest
import torch

from manifoldkit.manifolds import (
    SPD,
    GLPlus,
    Grassmann,
    Oblique,
    SpecialLinear,
    SpecialOrthogonal,
    Sphere,
    Stiefel,
    as_parameter,
)
from manifoldkit.optim import (
    LandingAdam,
    LandingSGD,
    RiemannianAdam,
    RiemannianAdamW,
    RiemannianSGD,
    StiefelMuon,
)

MATRICES = [
    Stiefel(),
    Stiefel("canonical"),
    Grassmann(),
    Oblique(),
    Sphere(),
    SpecialOrthogonal(),
    *(SPD(m) for m in ("airm", "log_euclidean", "log_cholesky", "bw", "gbw")),
    GLPlus(),
    GLPlus("polar"),
    SpecialLinear(),
]
ORTHONORMAL = [Stiefel(), SpecialOrthogonal()]
OPTIMIZERS = {
    "sgd": (lambda p: RiemannianSGD(p, lr=0.002, momentum=0.9), MATRICES),
    "adam": (lambda p: RiemannianAdam(p, lr=0.02), MATRICES),
    "adamw": (lambda p: RiemannianAdamW(p, lr=0.02), MATRICES),
    "muon": (lambda p: StiefelMuon(p, lr=0.02), ORTHONORMAL),
    "landing": (lambda p: LandingSGD(p, lr=0.02), ORTHONORMAL),
    "pogo": (lambda p: LandingAdam(p, lr=0.02), ORTHONORMAL),
    "muon, dual": (lambda p: StiefelMuon(p, lr=0.02, lmo="dual"), ORTHONORMAL),
}


def run(name, compiled, steps=20):
    build, manifolds = OPTIMIZERS[name]
    generator = torch.Generator().manual_seed(0)
    params, targets = [], []
    for manifold in manifolds:
        options = {"dtype": torch.float64, "generator": generator}
        start = manifold.random(3, 3, **options).detach().as_subclass(torch.Tensor)
        params.append(as_parameter(start, manifold))
        targets.append(torch.randn(3, 3, **options))
    optimizer = build(params)
    torch._dynamo.reset()
    step = torch.compile(optimizer.step, backend="aot_eager") if compiled else None
    for _ in range(steps):
        optimizer.zero_grad()
        loss = sum((p - t).square().sum() for p, t in zip(params, targets, strict=True))
        loss.backward()
        (step or optimizer.step)()
    return {str(m): p.detach() for m, p in zip(manifolds, params, strict=True)}


@pytest.mark.compile
@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_compiled_steps_equal_eager(name):
    torch.testing.assert_close(run(name, True), run(name, False), rtol=1e-8, atol=1e-8)
