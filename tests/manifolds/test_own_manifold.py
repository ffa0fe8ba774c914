"""The manifold that the documentation adds is one, and can be trained on."""

import re
from pathlib import Path

import geoopt
import pytest
import torch

from manifoldkit.manifolds import check_manifold
from manifoldkit.optim import RiemannianAdam, RiemannianSGD, karcher_mean

PAGE = Path(__file__).parents[2] / "docs/extending/manifold.md"


@pytest.fixture(scope="module")
def simplex():
    code, *_ = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    names: dict = {}
    exec(code, names)
    return names["Simplex"]


def test_laws_hold(simplex):
    report = check_manifold(simplex(), 5)
    assert bool(report), str(report)
    assert simplex() == simplex()


@pytest.mark.parametrize(
    "optimizer",
    [RiemannianAdam, RiemannianSGD, geoopt.optim.RiemannianAdam],
)
def test_maximum_likelihood_of_frequencies(simplex, optimizer):
    manifold, counts = simplex(), torch.tensor([5.0, 3.0, 1.0, 1.0])
    params = [
        geoopt.ManifoldParameter(manifold.origin(4).data, manifold=manifold)
        for _ in range(3)
    ]
    steps = optimizer(params, lr=0.05)
    for _ in range(300):
        steps.zero_grad()
        sum(-(counts / 10 * p.log()).sum() for p in params).backward()
        steps.step()
    for p in params:
        torch.testing.assert_close(p.data, counts / 10, rtol=0.02, atol=0.0)


def test_mean(simplex):
    x = torch.tensor([[0.5, 0.5], [0.1, 0.9]], dtype=torch.float64)
    mean = karcher_mean(simplex(), x).mean
    middle = x.sqrt().sum(0)
    torch.testing.assert_close(mean, (middle / middle.norm()) ** 2)


def test_settings_are_what_the_constructor_keeps(simplex):
    class Scaled(simplex):
        def __init__(self, size, note=""):
            super().__init__()
            self.size = size

    assert Scaled(2.0).settings() == {"size": 2.0}
    assert Scaled(2.0) == Scaled(2.0, "the note is not kept")
    assert Scaled(2.0) != Scaled(3.0)
    assert repr(Scaled(2.0)) == "Simplex(size=2.0)"
