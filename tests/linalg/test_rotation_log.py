"""Logarithms of rotations, also at zero, repeated and half turns."""

import math

import pytest
import torch

from manifoldkit.linalg.rotation_log import angle_over_sine, logm_rotation

exp = torch.linalg.matrix_exp


def skew(generator, *batch, n=4, norm=1.0):
    a = torch.randn(*batch, n, n, dtype=torch.float64, generator=generator)
    a = a - a.mT
    return norm * a / torch.linalg.matrix_norm(a, 2, keepdim=True)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-3, 1.0, 2.0, 3.1])
def test_inverts_the_exponential(n, angle, generator):
    a = torch.zeros(3, 1, 1).double() if n == 1 else skew(generator, 3, n=n, norm=angle)
    log = logm_rotation(exp(a))
    torch.testing.assert_close(log, a, rtol=1e-9, atol=1e-13)
    assert torch.equal(log, -log.mT)


def plane(*angles, n):
    a = torch.zeros(n, n, dtype=torch.float64)
    for i, angle in enumerate(angles):
        a[2 * i, 2 * i + 1], a[2 * i + 1, 2 * i] = -angle, angle
    return a


@pytest.mark.parametrize("angles", [(1.2, 1.2), (0.0, 0.5), (1.0, -1.0), (2.5, 2.5)])
def test_repeated_angles(angles, generator):
    q, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=generator))
    a = q @ plane(*angles, n=5) @ q.mT
    torch.testing.assert_close(logm_rotation(exp(a)), a, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("angles", [(math.pi,), (math.pi, math.pi), (math.pi, 1.0)])
def test_half_turns_get_one_of_their_logarithms(angles, dtype, generator):
    q, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=generator))
    r = (q @ exp(plane(*angles, n=5)) @ q.mT).to(dtype)
    log = logm_rotation(r)
    tol = 2e-3 if dtype == torch.float32 else 1e-6
    torch.testing.assert_close(exp(log), r, rtol=0, atol=tol)
    expected = math.sqrt(2 * sum(t**2 for t in angles))
    assert abs(float(log.norm()) - expected) < tol


def test_derivatives(generator):
    a = skew(generator, 2, n=4, norm=2.0)

    def through(b):
        return logm_rotation(exp(b - b.mT))

    for start in (a / 2, torch.zeros_like(a), plane(0.7, 0.7, n=4)):
        assert torch.autograd.gradcheck(through, start.requires_grad_(), atol=1e-6)
    assert torch.autograd.gradgradcheck(through, (a / 4).requires_grad_(), atol=1e-4)


def test_dtypes_batches_and_bad_members(generator):
    r = exp(skew(generator, 2, 3, n=3)).float()
    assert logm_rotation(r).dtype == torch.float32
    assert logm_rotation(r[:0]).shape == (0, 3, 3, 3)
    broken = r.clone()
    broken[0, 1] = torch.nan
    log = logm_rotation(broken)
    assert torch.isnan(log[0, 1]).all()
    assert torch.equal(log[1], logm_rotation(r)[1])
    with pytest.raises(ValueError, match="square"):
        logm_rotation(torch.ones(2, 3))


def test_angle_over_sine(generator):
    angles = torch.tensor([0.0, 1e-8, 0.3, 1.0, math.pi / 2]).double()
    expected = torch.where(angles == 0, 1.0, angles / angles.sin())
    found = angle_over_sine(angles.cos().diag()).diagonal()
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
