"""The order of neighbors and the 14 invariants against their formulas."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from manifoldkit.equivariant import SurfaceFeatures, surface_features, surface_order


def unit(v):
    return v / (v.norm(dim=-1, keepdim=True) + 1e-7)


def neighborhoods(b=4, k=9, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    center, n_p = torch.randn(2, b, 3, generator=g, dtype=torch.float64)
    around, n_i = torch.randn(2, b, k, 3, generator=g, dtype=torch.float64)
    n_p, n_i = (torch.nn.functional.normalize(v, dim=-1) for v in (n_p, n_i))
    return [v.to(dtype) for v in (center, around, n_p, n_i)]


def brute_order(g, n):
    flat = g - (g @ n)[:, None] * n
    longest = int(flat.norm(dim=1).argmax())
    ref, angles = flat[longest], []
    for t in flat:
        turn = torch.linalg.cross(t, ref) @ n
        angles.append(float(torch.atan2(turn, t @ ref) % (2 * math.pi)))
    angles[longest] = 0.0  # not a rounding error below a full turn
    return sorted(range(len(g)), key=lambda i: angles[i])


def brute_features(p, x, n_p, n_i, step):
    order = brute_order(x - p, n_p)
    rows, k = [], len(order)
    for place, i in enumerate(order):
        m, q = order[(place - step) % k], order[(place + step) % k]
        a, am, aq = unit(x[i] - p), unit(x[m] - p), unit(x[q] - p)
        e, h = unit(x[i] - x[m]), unit(x[q] - x[i])
        cross = torch.linalg.cross
        rows.append(
            torch.stack(
                [
                    (x[i] - p).norm(),
                    a @ n_p,
                    -a @ n_i[i],
                    a @ am,
                    am @ n_p,
                    -am @ n_i[m],
                    am @ unit(x[m] - x[i]),
                    -e @ n_i[i],
                    e @ n_i[m],
                    aq @ a,
                    aq @ h,
                    h @ n_i[q],
                    a @ n_i[q],
                    cross(aq, a) @ cross(am, a),
                ]
            )
        )
    return torch.stack(rows), torch.tensor(order)


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_features_equal_the_formulas(step, dtype):
    tol = 1e-12 if dtype == torch.float64 else 1e-5
    data = neighborhoods(dtype=dtype)
    features, order = surface_features(*data, step=step)
    assert features.dtype == dtype
    for i in range(len(order)):
        want, at = brute_features(*(v[i] for v in data), step)
        assert torch.equal(order[i], at)
        torch.testing.assert_close(features[i], want, rtol=0, atol=tol)


def test_features_do_not_change_under_rotation_and_shift():
    p, x, n_p, n_i = neighborhoods()
    r = torch.from_numpy(Rotation.random(random_state=0).as_matrix())
    features, order = surface_features(p, x, n_p, n_i)
    turned = surface_features(p @ r.T + 1, x @ r.T + 1, n_p @ r.T, n_i @ r.T)
    assert torch.equal(order, turned[1])
    torch.testing.assert_close(features, turned[0], rtol=0, atol=1e-12)
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0])).double()
    reflected = surface_features(p @ mirror, x @ mirror, n_p @ mirror, n_i @ mirror)
    assert not torch.allclose(reflected[0], features, atol=1e-3)  # the order reverses


def test_flipping_the_normal_reverses_the_order():
    p, x, n_p, _ = neighborhoods()
    order = surface_order(x - p[:, None], n_p)
    back = surface_order(x - p[:, None], -n_p)
    assert torch.equal(order[:, 0], back[:, 0])  # the reference comes first
    assert torch.equal(order[:, 1:].flip(-1), back[:, 1:])


def test_unsigned_features_ignore_the_signs_of_normals():
    p, x, n_p, n_i = neighborhoods()
    sign = (
        torch.randint(2, (4, 9, 1), generator=torch.Generator().manual_seed(0)) * 2 - 1
    )
    features, order = surface_features(p, x, n_p, n_i, unsigned=True)
    flipped, back = surface_features(p, x, -n_p, n_i * sign, unsigned=True)
    for i in range(4):  # the same rows, in the other order
        torch.testing.assert_close(
            features[i][order[i].argsort()], flipped[i][back[i].argsort()]
        )
    signed = surface_features(p, x, -n_p, n_i)[0]
    assert not torch.allclose(signed, surface_features(p, x, n_p, n_i)[0])


def test_neighbors_at_the_center_and_on_the_normal():
    p, x, n_p, n_i = neighborhoods(1, 6)
    x[0, 2] = p[0]
    x[0, 4] = p[0] + 0.5 * n_p[0]
    features, order = surface_features(p, x, n_p, n_i)
    at = order[0].tolist().index(2)
    assert torch.equal(
        features[0, at, [0, 1, 2, 3, 9, 12, 13]], torch.zeros(7).double()
    )
    # both stand at half a turn, in the order of the list
    angle = {j: place for place, j in enumerate(order[0].tolist())}
    assert angle[4] == angle[2] + 1


def test_gradients_are_right_and_finite_everywhere():
    p, x, n_p, n_i = (v.requires_grad_() for v in neighborhoods(1, 5, seed=3))
    assert torch.autograd.gradcheck(
        lambda *data: surface_features(*data)[0], (p, x, n_p, n_i)
    )
    same = torch.zeros(1, 5, 3, dtype=torch.float64, requires_grad=True)
    out, _ = surface_features(p.detach() * 0, same, n_p.detach(), n_i.detach())
    assert torch.equal(out, torch.zeros_like(out))
    assert bool(torch.autograd.grad(out.sum(), same)[0].isfinite().all())


def test_three_neighborhoods_are_not_mixed():
    """A cross product over the wrong axis shows with batches of three."""
    data = neighborhoods(3, 3)
    features, _ = surface_features(*data)
    for i in range(3):
        alone = surface_features(*(v[i : i + 1] for v in data))[0]
        torch.testing.assert_close(features[i : i + 1], alone)


def test_layer_equals_the_function():
    x = torch.randn(2, 20, 3, generator=torch.Generator().manual_seed(0))
    n = torch.nn.functional.normalize(x, dim=-1)
    index = torch.arange(20).view(1, 4, 5).expand(2, 4, 5)
    features, lists = SurfaceFeatures(step=2)(x, n, index)
    want, order = surface_features(
        x[:, :4], x.view(2, 4, 5, 3), n[:, :4], n.view(2, 4, 5, 3), step=2
    )
    assert torch.equal(features, want)
    assert torch.equal(lists, index.gather(-1, order))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({1: lambda v: v[..., :2]}, ValueError, "neighbors: expected shape"),
        ({0: lambda v: v[:2]}, ValueError, r"center: expected shape \(4, 3\)"),
        ({2: lambda v: v[:2]}, ValueError, "center_normal: expected shape"),
        ({3: lambda v: v[:, :4]}, ValueError, "neighbor_normals: expected shape"),
        ({1: lambda v: v.long()}, TypeError, "neighbors: expected floating"),
    ],
)
def test_bad_input(change, error, message):
    data = neighborhoods()
    for place, fn in change.items():
        data[place] = fn(data[place])
    with pytest.raises(error, match=message):
        surface_features(*data)


def test_step_must_be_positive():
    with pytest.raises(ValueError, match="step: expected an integer >= 1"):
        surface_features(*neighborhoods(), step=0)


def test_centers_come_with_their_normals():
    x = torch.randn(2, 20, 3)
    index = torch.randint(20, (2, 5, 8))
    with pytest.raises(ValueError, match="centers, center_normals: expected both"):
        SurfaceFeatures()(x, x, index, centers=x[:, :5])
