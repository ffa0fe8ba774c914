import pytest
import torch

from manifoldkit.graphs import pairwise_ranking_loss


def test_agrees_with_a_loop():
    torch.manual_seed(0)
    scores = torch.randn(20, dtype=torch.float64)
    labels = torch.rand(20) < 0.3
    terms = [
        max(0.0, 0.5 + float(n) - float(p))
        for p in scores[labels]
        for n in scores[~labels]
    ]
    expected = sum(terms) / len(terms)
    assert float(pairwise_ranking_loss(scores, labels)) == pytest.approx(expected)


@pytest.mark.parametrize("value", [0, 1])
def test_one_class_gives_zero_with_a_gradient(value):
    scores = torch.randn(4, requires_grad=True)
    loss = pairwise_ranking_loss(scores, torch.full((4,), value))
    loss.backward()
    assert float(loss.detach()) == 0
    assert not scores.grad.any()


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="equal shapes"):
        pairwise_ranking_loss(torch.zeros(3), torch.zeros(2))
