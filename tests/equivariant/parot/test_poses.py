"""Poses of patches: their definition, and that they do not turn."""

import torch
from scipy.spatial.transform import Rotation

from manifoldkit.equivariant import orientation, relative_pose, scale_pose


def clouds(b=4, n=80, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(b, n, 3, generator=g, dtype=torch.float64)
    return x - x.mean(1, keepdim=True)


def rotations(*shape):
    count = int(torch.tensor(shape).prod())
    r = torch.from_numpy(Rotation.random(count, random_state=0).as_matrix())
    return r.view(*shape, 3, 3)


def test_poses_equal_their_definition_and_are_invariant():
    a = rotations(6)
    offset = clouds(1, 3)[0]
    pose = relative_pose(a[:3], a[3:], offset)
    for i in range(3):
        u = offset[i] / offset[i].norm()
        want = [(a[3 + i] @ a[i].T).flatten(), a[i] @ u, a[3 + i] @ u]
        want = torch.cat([*want, offset[i].norm()[None]])
        torch.testing.assert_close(pose[i], want, rtol=0, atol=1e-12)
    r = rotations(1)[0]  # rows are axes: a turned cloud has axes a r
    turned = relative_pose(a[:3] @ r, a[3:] @ r, offset @ r)
    torch.testing.assert_close(turned, pose, rtol=0, atol=1e-12)
    seen = scale_pose(a[:3], a[3:], offset)
    for i in range(3):
        u = offset[i] / offset[i].norm()
        want = [offset[i].norm()[None], (a[i] @ a[3 + i].T).flatten(), a[i] @ u]
        torch.testing.assert_close(seen[i], torch.cat([*want, a[3 + i] @ u]))
    torch.testing.assert_close(scale_pose(a[:3] @ r, a[3:] @ r, offset @ r), seen)
    itself = relative_pose(a[:1], a[:1], torch.zeros(1, 3).double())
    assert not bool(itself[:, 9:].any())


def test_orientation_is_right_handed_for_batches_of_three():
    d = rotations(3, 3)[..., :2, :]
    full = orientation(d)
    torch.testing.assert_close(torch.linalg.det(full), torch.ones(3, 3).double())
    d.requires_grad_()
    third = orientation(d, detach_third=True)[..., 2, :].sum()
    assert not bool(torch.autograd.grad(third, d)[0].any())
