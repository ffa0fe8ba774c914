"""Learnable operators and the penalties that teach them."""

import copy
import pickle

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from manifoldkit.graphs import (
    ExactMonoid,
    GRUMonoid,
    LSTMMonoid,
    SymmetricGRUMonoid,
    SymmetricMLPMonoid,
    associativity_loss,
    commutativity_loss,
    identity_loss,
)
from manifoldkit.graphs.monoid.gru_kernel import SymmetricGRU

LEARNABLE = [GRUMonoid, LSTMMonoid, SymmetricGRUMonoid, SymmetricMLPMonoid]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", LEARNABLE)
def test_operators_commute_and_survive_copies(kind):
    operator = kind(6)
    a, b = torch.randn(2, 10, 6)
    out = operator(a, b)
    torch.testing.assert_close(out, operator(b, a), rtol=0, atol=1e-6)
    for twin in (copy.deepcopy(operator), pickle.loads(pickle.dumps(operator))):
        assert torch.equal(twin(a, b), out)
    state = copy.deepcopy(operator.state_dict())
    operator.reset_parameters()
    assert not torch.equal(operator(a, b), out)
    operator.load_state_dict(state)
    assert torch.equal(operator(a, b), out)


@pytest.mark.parametrize("kind", LEARNABLE)
def test_blocks_on_a_cpu_change_nothing(kind):
    operator = kind(64, dtype=torch.float64)
    a, b = torch.randn(2, 5000, 64, dtype=torch.float64)
    torch.testing.assert_close(operator(a, b), operator.combine(a, b))


@pytest.mark.parametrize("recompute", [False, True])
def test_the_gru_and_its_own_backward(recompute):
    operator = GRUMonoid(4, recompute=recompute, dtype=torch.float64)
    cell = operator.cell
    a, b = torch.randn(2, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(operator(a, b), (cell(a, b) + cell(b, a)) / 2)
    weights = [cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh]
    inputs = [t.detach().requires_grad_() for t in (a, b, *weights)]

    def apply(*inputs):
        return SymmetricGRU.apply(*inputs, recompute)

    assert gradcheck(apply, inputs)
    assert gradgradcheck(apply, inputs)
    inputs[0].requires_grad_(False)
    inputs[3].requires_grad_(False)
    assert gradgradcheck(apply, inputs)


def test_repeated_backward_and_autocast():
    operator = GRUMonoid(4)
    a, b = torch.randn(2, 5, 4)
    loss = operator(a, b).sum()
    loss.backward(retain_graph=True)
    first = operator.cell.weight_ih.grad.clone()
    loss.backward()
    torch.testing.assert_close(operator.cell.weight_ih.grad, 2 * first)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = operator(a, b)
    torch.testing.assert_close(half.float(), operator(a, b), rtol=0.05, atol=0.05)


def test_the_gate_reaches_the_exact_operators():
    """Maximum and minimum of two numbers are values of the parametrization."""
    operator = SymmetricMLPMonoid(3)
    a, b = torch.randn(2, 8, 3)
    for sign, exact in ((20.0, torch.maximum), (-20.0, torch.minimum)):
        with torch.no_grad():
            operator.outer.weight.zero_()
            operator.outer.bias.copy_(torch.tensor([sign] * 3 + [0.0] * 3))
        torch.testing.assert_close(operator(a, b), exact(a, b))


def test_losses_vanish_for_the_laws_and_not_otherwise():
    a, b, c = torch.randn(3, 20, 4)
    e = torch.zeros(4)
    assert commutativity_loss(torch.maximum, a, b) == 0
    assert associativity_loss(torch.maximum, a, b, c) == 0
    assert identity_loss(torch.add, a, e) == 0
    assert identity_loss(ExactMonoid("max"), a) == 0
    by_hand = (2 * (a - b)).square().mean()
    torch.testing.assert_close(commutativity_loss(torch.sub, a, b), by_hand)
    torch.testing.assert_close(
        associativity_loss(torch.sub, a, b, c), (2 * c).square().mean()
    )
    operator = GRUMonoid(4)
    loss = associativity_loss(operator, a, b, c) + identity_loss(operator, a)
    loss.backward()
    assert operator.identity.grad.abs().max() > 0
    with pytest.raises(ValueError, match="identity"):
        identity_loss(torch.add, a)


def test_the_penalty_teaches_associativity():
    operator = GRUMonoid(4)
    optimizer = torch.optim.Adam(operator.parameters(), lr=0.02)
    a, b, c = torch.randn(3, 64, 4)
    before = associativity_loss(operator, a, b, c).item()
    for _ in range(60):
        optimizer.zero_grad()
        associativity_loss(operator, a, b, c).backward()
        optimizer.step()
    assert associativity_loss(operator, a, b, c).item() < 0.1 * before


def test_bad_input():
    with pytest.raises(ValueError, match="kind"):
        ExactMonoid("median")
    with pytest.raises(ValueError, match="dim: expected an integer >= 1"):
        GRUMonoid(0)
    with pytest.raises(ValueError, match="even"):
        LSTMMonoid(3)
    with pytest.raises(ValueError, match=r"\(m, 4\)"):
        GRUMonoid(4)(torch.randn(2, 4), torch.randn(3, 4))
