"""Views of clouds for training and for votes."""

import numpy as np
import pytest
import torch

from manifoldkit.datasets import make_point_clouds
from manifoldkit.equivariant import PointCloudClassifier, rotate_clouds
from manifoldkit.equivariant.point_clouds.training import CloudSource
from manifoldkit.equivariant.point_clouds.views import training_views, voting_views


@pytest.fixture
def clouds(generator):
    x = torch.randn(64, 40, 3, generator=generator, dtype=torch.float64)
    x = x * torch.tensor([1.0, 0.6, 0.3], dtype=x.dtype)
    normals = torch.nn.functional.normalize(
        torch.randn(64, 40, 3, generator=generator, dtype=torch.float64), dim=-1
    )
    return x, normals


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def _second(x, normals, n=None, seed=0, **changes):
    settings = {"jitter": 0.0, "stretch": 0.3, "mirror": True} | changes
    again = torch.Generator().manual_seed(seed)
    return training_views(x, normals, None, n, 2, generator=again, **settings)[1]


def _map(x, view):
    """Linear map of each cloud, found from the order of ``_take`` in float64."""
    order = torch.rand(x.shape[:2], generator=torch.Generator().manual_seed(0))
    taken = x.gather(1, order.argsort(1)[..., None].expand(-1, -1, 3))
    return torch.linalg.lstsq(taken, view.points).solution.mT, taken, order


def test_deformation_is_linear_within_its_range_and_half_are_mirrored(clouds):
    x, normals = clouds
    view = _second(x, normals)
    change, taken, _ = _map(x, view)
    torch.testing.assert_close(taken @ change.mT, view.points)
    mirrored = int((torch.linalg.det(change) < 0).sum())
    assert 20 <= mirrored <= 44
    values = torch.linalg.svdvals(change)  # up to the common factor of the radius
    assert float((values[:, 0] / values[:, 2]).max()) <= 1.3**2 + 1e-9
    radius = x.norm(dim=-1).amax(1)
    torch.testing.assert_close(view.points.norm(dim=-1).amax(1), radius)
    plain = _second(x, normals, mirror=False)
    assert bool((torch.linalg.det(_map(x, plain)[0]) > 0).all())


def test_normals_stay_perpendicular_to_the_surface(clouds, generator):
    x, normals = clouds
    view = _second(x, normals)
    change, _, order = _map(x, view)
    n = normals.gather(1, order.argsort(1)[..., None].expand(-1, -1, 3))
    tangent = torch.linalg.cross(n, torch.randn(n.shape, generator=generator).to(n))
    moved = tangent @ change.mT
    assert float((moved * view.normals).sum(-1).abs().max()) < 1e-12


def test_view_of_a_turned_cloud_is_the_turned_view(clouds, generator):
    x, normals = clouds
    q = torch.linalg.qr(torch.randn(3, 3, generator=generator).double())[0]
    view, turned = _second(x, normals), _second(x @ q.T, normals @ q.T)
    torch.testing.assert_close(turned.points, view.points @ q.T)
    torch.testing.assert_close(turned.normals, view.normals @ q.T)


def test_views_without_normals_take_the_same_points_and_their_labels(clouds):
    x, _ = clouds
    labels = torch.arange(x.shape[1]).expand(x.shape[:2])
    settings = {"jitter": 0.0, "stretch": 0.0, "mirror": False}
    view = training_views(
        x, None, labels, 16, 3, generator=torch.Generator().manual_seed(1), **settings
    )[2]
    rows = view.extra[..., None].expand(-1, -1, 3)
    torch.testing.assert_close(view.points, x.gather(1, rows), rtol=0, atol=0)
    assert view.normals is None
    assert view.points.shape == (64, 16, 3)


@pytest.mark.parametrize("per_point", [False, True])
def test_every_cloud_of_a_training_batch_has_its_own_view(per_point):
    n, n_views, n_points = 30, 4, 3
    number = torch.arange(n_views * n, dtype=torch.float32)
    inputs = number[:, None, None].expand(-1, n_points, 3)
    y = torch.arange(n_views * n if per_point else n)
    y = y[:, None].expand(-1, n_points) if per_point else y
    augment = {"rotation": "none", "axis": 2, "scale": (1.0, 1.0)}
    source = CloudSource(inputs, y, None, augment, seed=0, n=n)
    rows = torch.arange(n).flip(0)
    batch, target = source.__getitems__(rows.tolist())
    seen = batch["x"][:, 0, 0].long()
    assert torch.equal(seen % n, rows)
    assert set((seen // n).tolist()) == set(range(n_views))
    assert torch.equal(target, y[seen] if per_point else y[rows])
    plain, _ = CloudSource(inputs, y, None, None, 0, n).__getitems__(rows.tolist())
    assert torch.equal(plain["x"][:, 0, 0].long(), rows)


def test_points_of_views_lie_farther_apart_than_points_at_random(clouds, generator):
    x, _ = clouds
    settings = {"jitter": 0.0, "stretch": 0.0, "mirror": False}
    views = training_views(x, None, None, 16, 3, generator=generator, **settings)

    def gap(points):
        apart = torch.cdist(points, points) + 9 * torch.eye(16)
        return float(apart.amin(-1).mean())

    chance = gap(x[:, :16])
    assert all(gap(view.points) > 1.2 * chance for view in views)
    votes = voting_views(x, None, 16, 3)
    assert all(gap(view.points) > 1.2 * chance for view in votes)
    assert not torch.equal(views[1].points, views[2].points)


def test_votes_depend_on_the_cloud_alone(clouds, generator):
    x, normals = clouds
    many, one = voting_views(x, normals, 16, 3), voting_views(x[5:6], None, 16, 3)
    assert len(many) == 3
    for a, b in zip(many, one, strict=True):
        assert torch.equal(a.points[5], b.points[0])
    assert not torch.equal(many[1].points, many[2].points)
    q = torch.linalg.qr(torch.randn(3, 3, generator=generator).double())[0]
    for a, b in zip(many, voting_views(x @ q.T, None, 16, 3), strict=True):
        torch.testing.assert_close(a.points @ q.T, b.points)
    assert len(voting_views(x, normals, None, 3)) == 1  # nothing else to choose


def test_votes_are_averaged_and_invariant():
    clouds = make_point_clouds(12, 96, shapes=("box", "torus"), random_state=0)
    model = PointCloudClassifier(
        model_options={"sizes": (32, 16, 8, 8), "n_blocks": 0},
        n_points=48,
        n_views=3,
        stretch=0.2,
        mirror=True,
        n_votes=3,
        max_epochs=2,
        random_state=0,
    ).fit(clouds.X, clouds.y, normals=clouds.normals)
    scores = model.decision_function(clouds.X, clouds.normals)
    turned, normals = rotate_clouds(
        clouds.X, "so3", normals=clouds.normals, random_state=0
    )
    assert np.abs(model.decision_function(turned, normals) - scores).max() < 1e-3
    alone = model.decision_function(clouds.X[3:4], clouds.normals[3:4])
    np.testing.assert_allclose(alone, scores[3:4], atol=1e-5)
    single = model.set_params(n_votes=1).decision_function(clouds.X, clouds.normals)
    assert np.abs(single - scores).max() > 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [({"stretch": -0.1}, "stretch: expected"), ({"n_votes": 0}, "n_votes: expected")],
)
def test_bad_settings(options, message):
    clouds = make_point_clouds(4, 32, shapes=("box", "torus"), random_state=0)
    with pytest.raises(ValueError, match=message):
        PointCloudClassifier(**options).fit(clouds.X, clouds.y)
