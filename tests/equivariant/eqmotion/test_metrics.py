import numpy as np
import pytest
import torch

from manifoldkit.equivariant import ade, edge_accuracy, fde, min_ade, min_fde


@pytest.fixture
def case():
    g = torch.Generator().manual_seed(0)
    pred = torch.randn(3, 4, 6, 5, 2, generator=g, dtype=torch.float64)
    target = torch.randn(3, 4, 5, 2, generator=g, dtype=torch.float64)
    mask = torch.rand(3, 4, generator=g) < 0.6
    return pred, target, mask


def test_against_loops(case):
    pred, target, mask = case
    values = {"ade": [], "fde": [], "min_ade": [], "min_fde": []}
    for b in range(3):
        for n in range(4):
            if not mask[b, n]:
                continue
            error = np.array(
                [
                    [
                        float((p - t).norm())
                        for p, t in zip(path, target[b, n], strict=True)
                    ]
                    for path in pred[b, n]
                ]
            )
            values["ade"].append(error[0].mean())
            values["fde"].append(error[0, -1])
            values["min_ade"].append(error.mean(1).min())
            values["min_fde"].append(error[:, -1].min())
    first = pred[:, :, 0]
    assert float(ade(first, target, mask)) == pytest.approx(np.mean(values["ade"]))
    assert float(fde(first, target, mask)) == pytest.approx(np.mean(values["fde"]))
    assert float(min_ade(pred, target, mask)) == pytest.approx(
        np.mean(values["min_ade"])
    )
    assert float(min_fde(pred, target, mask)) == pytest.approx(
        np.mean(values["min_fde"])
    )


def test_masked_agents_do_not_count(case):
    pred, target, mask = case
    spoiled = pred.clone()
    spoiled[~mask] = torch.nan
    torch.testing.assert_close(
        min_ade(spoiled, target, mask), min_ade(pred, target, mask)
    )
    nobody = torch.zeros_like(mask)
    assert float(ade(spoiled[:, :, 0], target, nobody)) == 0


def test_arrays_and_gradients(case):
    pred, target, _ = case
    value = ade(pred[:, :, 0].numpy(), target.numpy())
    assert float(value) == pytest.approx(float(ade(pred[:, :, 0], target)))
    pred.requires_grad_()
    min_fde(pred, target).backward()
    # the gradient reaches the last step of one mode of each agent
    assert ((pred.grad != 0).any(-1).sum((2, 3)) == 1).all()


def test_shapes_are_checked(case):
    pred, target, _ = case
    with pytest.raises(ValueError, match="pred"):
        ade(pred, target)
    with pytest.raises(ValueError, match="pred"):
        min_ade(pred[..., :3, :], target)
    with pytest.raises(ValueError, match="mask: expected shape"):
        ade(pred[:, :, 0], target, torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="category, edges"):
        edge_accuracy(torch.ones(2, 3, 3, 2), torch.ones(2, 4, 4))


def test_edge_accuracy_finds_the_best_naming():
    g = torch.Generator().manual_seed(1)
    edges = torch.randint(3, (20, 5, 5), generator=g)
    naming = torch.tensor([2, 0, 1])
    category = torch.nn.functional.one_hot(naming[edges], 4).float()
    assert edge_accuracy(category, edges) == 1.0
    wrong = category.clone()
    wrong[0] = 0
    wrong[0, ..., 3] = 1  # 20 of the 400 pairs get a name that is nobody's
    assert edge_accuracy(wrong, edges) == pytest.approx(1 - 20 / 400)
    mask = torch.ones(20, 5, dtype=torch.bool)
    mask[0] = False
    assert edge_accuracy(wrong, edges, mask) == 1.0
    assert np.isnan(edge_accuracy(category[:, :1, :1], edges[:, :1, :1]))


def test_edge_accuracy_ignores_the_diagonal():
    edges = torch.eye(4, dtype=torch.long)
    category = torch.zeros(4, 4, 2)
    category[..., 0] = 1
    assert edge_accuracy(category, edges) == 1.0


@pytest.mark.parametrize("shape", [(2, 0, 4), (2, 3, 0)])
def test_errors_of_nothing_are_refused(shape):
    with pytest.raises(ValueError, match="pred: expected modes, steps"):
        ade(torch.zeros(shape), torch.zeros(shape))
    with pytest.raises(ValueError, match="pred: expected modes, steps"):
        min_fde(torch.zeros(2, 0, 3, 4), torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match="mask: expected shape"):
        edge_accuracy(torch.rand(3, 3, 2), torch.zeros(3, 3), torch.ones(4))
