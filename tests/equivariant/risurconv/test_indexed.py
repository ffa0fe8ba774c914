"""Surfaces by the numbers of points against those by coordinates."""

import math

import pytest
import torch

from manifoldkit.equivariant.neighbors.grouping import group
from manifoldkit.equivariant.neighbors.sampling import farthest_point_sample
from manifoldkit.equivariant.neighbors.search import knn
from manifoldkit.equivariant.risurconv import surfaces as local_surfaces
from manifoldkit.equivariant.risurconv.indexed import order_neighbors, surface_features


@pytest.fixture
def cloud():
    g = torch.Generator().manual_seed(0)
    xyz = torch.randn(2, 40, 3, generator=g, dtype=torch.float64)
    normals = torch.nn.functional.normalize(xyz, dim=-1)
    center = farthest_point_sample(xyz, 6)
    return xyz, normals, center, knn(group(xyz, center), xyz, 9)[1]


def test_order_and_angles_are_those_of_the_definition(cloud):
    xyz, normals, center, neighbors = cloud
    index, angle = order_neighbors(*cloud)
    assert torch.equal(index.sort(-1).values, neighbors.sort(-1).values)
    assert (angle.diff(dim=-1) >= 0).all()
    n = group(normals, center)[:, :, None]
    offsets = group(xyz, index) - group(xyz, center)[:, :, None]
    flat = offsets - (offsets * n).sum(-1, keepdim=True) * n
    far = flat.norm(dim=-1).argmax(-1, keepdim=True)[..., None].expand(-1, -1, -1, 3)
    r = flat.gather(2, far)
    sine = (torch.linalg.cross(flat, r.expand_as(flat), dim=-1) * n).sum(-1)
    theta = torch.atan2(sine, (flat * r).sum(-1)) % (2 * math.pi)
    own = index == center[..., None]  # the center itself has no direction
    gap = (theta - angle).where(~own, 0.0)
    gap = (gap + math.pi) % (2 * math.pi) - math.pi
    assert gap.abs().max() < 1e-6
    assert torch.allclose(angle[own], angle.new_tensor(math.pi), atol=1e-6)


@pytest.mark.parametrize("shift", [1, 2])
def test_features_in_the_order_given_are_those_of_coordinates(cloud, shift):
    xyz, normals, center, neighbors = cloud
    index, _ = order_neighbors(*cloud)
    wanted, order = local_surfaces.surface_features(
        group(xyz, center),
        group(xyz, neighbors),
        group(normals, center),
        group(normals, neighbors),
        step=shift,
    )
    assert torch.equal(neighbors.gather(-1, order), index)
    assert torch.equal(surface_features(xyz, normals, center, index, shift), wanted)
    turned = index.roll(3, -1)  # the list is circular
    found = surface_features(xyz, normals, center, turned, shift)
    assert torch.equal(found, wanted.roll(3, -2))


def test_what_does_not_fit(cloud):
    xyz, normals, center, neighbors = cloud
    with pytest.raises(ValueError, match="xyz, normals: expected equal shapes"):
        order_neighbors(xyz, normals[:, 1:], center, neighbors)
    with pytest.raises(ValueError, match="center_index, neighbor_index: expected"):
        surface_features(xyz, normals, center[:, 1:], neighbors)
    with pytest.raises(ValueError, match="expected numbers below the 40 rows"):
        surface_features(xyz, normals, center, neighbors + 40)


def test_they_are_at_hand_beside_the_networks():
    from manifoldkit.equivariant import risurconv
    from manifoldkit.equivariant.risurconv import indexed as indexed_surfaces

    assert risurconv.order_neighbors is indexed_surfaces.order_neighbors
    assert risurconv.surface_features is indexed_surfaces.surface_features
