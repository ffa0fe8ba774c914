import numpy as np
import pytest
import torch
from torch import nn

from manifoldkit.graphs import (
    GRUMonoid,
    LCMAggregation,
    layer_sensitivity,
    normalize_adjacency,
    receptive_field,
)
from manifoldkit.graphs.virtual.sensitivity import hop_distance


def path(n=6, dtype=torch.float64):
    a = torch.diag(torch.ones(n - 1, dtype=dtype), 1)
    return normalize_adjacency(a + a.T, "row")


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("norm", ["fro", "sum", "max"])
def test_linear_reference(layers, norm):
    p = path()
    power = torch.linalg.matrix_power(p, layers)
    x = torch.randn(6, 1, dtype=p.dtype)
    result = layer_sensitivity(lambda x: power @ x, x, norm=norm)
    torch.testing.assert_close(result.matrix, power)
    off = ~torch.eye(6, dtype=torch.bool)
    assert result.mean == pytest.approx(float(power[off].mean()))


def test_channels_make_blocks():
    p, w = path(), torch.randn(3, 2, dtype=torch.float64)
    x = torch.randn(6, 3, dtype=torch.float64)
    result = layer_sensitivity(lambda x: torch.tanh(p @ x @ w), x)
    jacobian = torch.func.jacrev(lambda x: torch.tanh(p @ x @ w))(x)
    expected = jacobian.movedim(2, 1).flatten(2).norm(dim=2)
    torch.testing.assert_close(result.matrix, expected)


def test_hutchinson_finds_the_same_on_average(generator):
    p, w = path(), torch.randn(3, 4, dtype=torch.float64)
    x = torch.randn(6, 3, dtype=torch.float64)
    exact = layer_sensitivity(lambda x: torch.tanh(p @ x @ w), x).matrix
    found = layer_sensitivity(
        lambda x: torch.tanh(p @ x @ w), x, probes=2000, generator=generator
    ).matrix
    torch.testing.assert_close(found, exact, rtol=0.08, atol=1e-3)


def test_layers_by_name_and_leading_axes():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(2, 3).double()

        def forward(self, x):
            return (path() @ self.first(x)).sum()

    net = Net()
    x = torch.randn(4, 6, 2, dtype=torch.float64)
    result = layer_sensitivity(net, x, layer="first")
    size = net.first.weight.norm() * 2  # four samples, each with the same block
    torch.testing.assert_close(result.matrix, size * torch.eye(6, dtype=x.dtype))
    assert result.mean == 0
    torch.testing.assert_close(
        layer_sensitivity(net, x, layer=net.first).matrix, result.matrix
    )


def test_a_backward_pass_of_its_own_is_taken_seed_by_seed(generator):
    """The GRU operator's backward does not take a batch of gradients at once."""
    torch.manual_seed(0)
    aggregate = LCMAggregation(GRUMonoid(3), permute="never").double()
    ends = torch.tensor([[0, 1, 2, 3, 0, 2], [1, 1, 3, 0, 0, 2]])
    x = torch.randn(4, 3, generator=generator, dtype=torch.float64)

    def layer(x):
        return aggregate(x[ends[0]], ends[1], dim_size=4)

    found = layer_sensitivity(layer, x)
    jacobian = torch.autograd.functional.jacobian(layer, x)
    torch.testing.assert_close(
        found.matrix, jacobian.movedim(2, 1).flatten(2).norm(dim=2)
    )
    assert found.matrix[1, 3] == 0 < found.matrix[1, 0]


def test_bins_by_hops():
    rows = layer_sensitivity(lambda x: path() @ path() @ x, torch.zeros(6, 1).double())
    table = rows.by_hops(path())
    assert [row["hops"] for row in table] == [0, 1, 2, 3, 4, 5]
    assert sum(row["pairs"] for row in table) == 36
    assert table[2]["mean"] > 0
    assert table[3]["mean"] == 0
    with pytest.raises(ValueError, match="adjacency"):
        rows.by_hops(np.eye(3))


def test_hops_follow_the_receivers():
    a = np.array([[0, 1], [0, 0]])  # node 0 listens to node 1
    assert hop_distance(a).tolist() == [[0, 1], [np.inf, 0]]


def test_receptive_field():
    assert receptive_field(path(), 5) == 1.0
    assert receptive_field(path(), 1) == pytest.approx(10 / 30)
    assert receptive_field(torch.ones(1, 1)) == 1.0
    whole = torch.eye(7, dtype=torch.float64)
    whole[6, :] = whole[:, 6] = 1
    assert receptive_field(whole, 2, num_real=6) == 1.0
    with pytest.raises(ValueError, match="layers"):
        receptive_field(path(), 0)
    for wrong in (-1, 0, 7):
        with pytest.raises(ValueError, match="num_real"):
            receptive_field(path(), 2, num_real=wrong)
    with pytest.raises(ValueError, match="one matrix"):
        receptive_field(path().expand(2, 6, 6), 2)


@torch.no_grad()
def test_features_that_depend_on_nothing_feel_nothing():
    x = torch.zeros(3, 2)
    constant = layer_sensitivity(lambda x: torch.ones(3, 2), x)
    assert constant.matrix.count_nonzero() == 0
    # derivatives are taken also where the caller has switched them off
    own = layer_sensitivity(lambda x: 2 * x, x[:, :1])
    assert torch.equal(own.matrix, 2 * torch.eye(3))


def test_bad_input():
    x = torch.zeros(3, 1)
    with pytest.raises(ValueError, match="norm"):
        layer_sensitivity(lambda x: x, x, norm="nuclear")
    with pytest.raises(ValueError, match="probes"):
        layer_sensitivity(lambda x: x, x, probes=0)
    with pytest.raises(ValueError, match="probes"):
        layer_sensitivity(lambda x: x, x, probes=3, norm="max")
    with pytest.raises(ValueError, match="num_real"):
        layer_sensitivity(lambda x: x, x, num_real=4)
    with pytest.raises(TypeError, match="layer"):
        layer_sensitivity(lambda x: x, x, layer="conv")
    with pytest.raises(ValueError, match="did not call"):
        layer_sensitivity(nn.Identity(), x, layer=nn.Linear(1, 1))
