"""Products and reshaped views act part by part."""

import geoopt
import pytest
import torch

from manifoldkit.manifolds import (
    SPD,
    Euclidean,
    Oblique,
    PositiveReals,
    Product,
    Sphere,
    Stiefel,
)
from manifoldkit.manifolds.reshaped import Reshaped


@pytest.fixture
def product():
    return Product(
        (Sphere(), (2, 3)), (SPD(), (2, 2)), (PositiveReals(), ()), (Euclidean(), 2)
    )


def test_packing(product, generator):
    x = product.random(4, 13, dtype=torch.float64, generator=generator).data
    parts = product.unpack_tensor(x)
    assert [tuple(p.shape) for p in parts] == [(4, 2, 3), (4, 2, 2), (4,), (4, 2)]
    assert torch.equal(product.pack_point(*parts), x)
    empty = x[:0]
    assert product.retr(empty, empty).shape == (0, 13)


def test_parts(product, generator):
    x, y = product.random(2, 4, 13, dtype=torch.float64, generator=generator).data
    u = product.proju(x, torch.randn(4, 13, dtype=x.dtype, generator=generator))
    moved = product.unpack_tensor(product.expmap(x, u))
    parts = zip(product.unpack_tensor(x), product.unpack_tensor(u), strict=True)
    for manifold, (a, b), c in zip(product.factors, parts, moved, strict=True):
        torch.testing.assert_close(manifold.expmap(a, b), c)
    (a, p, s, e), (b, q, t, f) = product.unpack_tensor(x), product.unpack_tensor(y)
    squares = (Sphere().dist(a, b) ** 2).sum(-1) + SPD().dist(p, q) ** 2
    squares = squares + PositiveReals().dist(s, t) ** 2 + ((e - f) ** 2).sum(-1)
    torch.testing.assert_close(product.dist(x, y) ** 2, squares)


def test_components_stay_apart(product, generator):
    """One value a sphere and one a matrix, entry by entry for the flat factors."""
    x = product.random(13, dtype=torch.float64, generator=generator).data
    u = product.proju(x, torch.randn(13, dtype=x.dtype, generator=generator))
    component = product.component_inner(x, u)
    assert component.shape == u.shape
    assert [
        len(set(c.flatten().tolist())) for c in product.unpack_tensor(component)
    ] == [
        2,
        1,
        1,
        2,
    ]


def test_foreign_factors():
    """geoopt's manifolds as factors, ours in geoopt's product and scaled."""
    product = Product((geoopt.PoincareBall(), 3), (Sphere(), 3))
    x = product.random(2, 6)
    assert product.check_point_on_manifold(x.data)
    assert torch.isfinite(product.dist(x, product.origin(2, 6))).all()
    theirs = geoopt.ProductManifold((Sphere(), 3), (SPD(), (2, 2)))
    y = theirs.random(2, 7)
    assert theirs.check_point_on_manifold(y.data)
    scaled = geoopt.Scaled(Sphere(), 2.0)
    a, b = torch.eye(3)[:2]
    torch.testing.assert_close(scaled.dist(a, b), 2 * Sphere().dist(a, b))


@pytest.mark.parametrize(
    ("base", "shape", "options"),
    [
        (Stiefel(), (2, 3, 2), {"flatten": True, "transpose": True}),
        (Stiefel(), (8, 2, 2), {"flatten": True}),
        (Oblique(), (4, 3), {"transpose": True}),
        (Sphere(), (2, 2, 2), {"flatten": True}),
    ],
)
def test_reshaped_is_the_base_in_another_shape(base, shape, options, generator):
    view = Reshaped(base, shape, **options)
    x = view.random(5, *shape, dtype=torch.float64, generator=generator).data
    u = view.proju(x, torch.randn(5, *shape, dtype=x.dtype, generator=generator))
    a, b = view.to_base(x), view.to_base(u)
    assert torch.equal(view.from_base(a), x)
    assert base.check_point_on_manifold(a)
    torch.testing.assert_close(view.to_base(view.retr(x, u)), base.retr(a, b))
    torch.testing.assert_close(view.inner(x, u), base.inner(a, b))
    component = view.component_inner(x, u).expand(u.shape)
    expected = base.component_inner(a, b).expand(b.shape)
    torch.testing.assert_close(view.to_base(component), expected)
