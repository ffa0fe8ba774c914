"""``reversible`` promises that a step back along the transported vector undoes it."""

import pytest
import torch

from manifoldkit.manifolds import (
    SPD,
    Euclidean,
    GLPlus,
    Grassmann,
    Oblique,
    PositiveReals,
    Product,
    SpecialLinear,
    SpecialOrthogonal,
    Sphere,
    Stiefel,
)

KINDS = ("expm", "cayley", "exp")
MANIFOLDS = [
    Euclidean(2),
    PositiveReals(),
    Sphere(),
    Oblique(),
    Grassmann(),
    *(Stiefel("euclidean", r) for r in ("cholqr", "qr", "polar", "cayley", "exp")),
    *(Stiefel("canonical", r) for r in ("cayley", "exp")),
    *(SpecialOrthogonal(r) for r in ("cayley", "qr", "exp")),
    *(SPD(m) for m in ("airm", "log_euclidean", "log_cholesky", "bw", "gbw")),
    *(GLPlus(retraction=r) for r in KINDS),
    *(GLPlus("polar", r) for r in KINDS),
    *(SpecialLinear(r) for r in KINDS),
]
WIDE = (Grassmann, Stiefel, Oblique)


def gap(manifold):
    generator = torch.Generator().manual_seed(0)
    shape = (2, 5, 3) if isinstance(manifold, WIDE) else (2, 3, 3)
    x = manifold.random(*shape, dtype=torch.float64, generator=generator)
    x = x.as_subclass(torch.Tensor)
    u = torch.randn(*shape, dtype=torch.float64, generator=generator)
    u = manifold.proju(x, u)
    u = u / manifold.norm(x, u).max() / 2
    y, v = manifold.retr_transp(x, u, u)
    return float((manifold.retr_transp(y, -v, v)[0] - x).abs().max())


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=str)
def test_reversible_manifolds_go_back(manifold):
    if manifold.reversible:
        assert gap(manifold) < 1e-12


def test_the_flag_is_not_given_away():
    """Those that do come back say so; the others are further off than rounding."""
    never = [SPD("airm"), SpecialOrthogonal("qr"), GLPlus(retraction="exp")]
    never.append(SpecialLinear("exp"))
    for manifold in never:
        assert not manifold.reversible
        assert gap(manifold) > 1e-4
    for manifold in (SPD("log_cholesky"), SpecialOrthogonal(), GLPlus("polar", "exp")):
        assert manifold.reversible
    pair = [(SPD("airm"), (3, 3)), (SpecialOrthogonal(), (3, 3))]
    assert not Product(pair).reversible
