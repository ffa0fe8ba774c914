"""Small pieces: their values, and derivatives where the plain forms have none."""

import torch

from manifoldkit.linalg.elementary import eye_like, safe_divide, safe_sqrt, trace


def test_identity_and_trace(make_spd):
    x = make_spd(2, 3, n=4)
    eye = eye_like(x.float())
    assert eye.shape == (4, 4)
    assert eye.dtype == torch.float32
    torch.testing.assert_close(trace(x), torch.einsum("...ii", x))


def test_root_and_quotient_at_zero():
    x = torch.tensor([4.0, 0.0, -1e-9, torch.nan], requires_grad=True)
    y = safe_sqrt(x)
    assert y[:3].tolist() == [2, 0, 0]
    assert y[3].isnan()
    y[:3].sum().backward()
    assert x.grad[:3].tolist() == [0.25, 0, 0]
    a = torch.tensor([1.0, 0.0], requires_grad=True)
    b = torch.tensor([2.0, 0.0], requires_grad=True)
    ratio = safe_divide(a, b, torch.ones(2))
    assert ratio.tolist() == [0.5, 1]
    ratio.sum().backward()
    assert a.grad.isfinite().all()
    assert b.grad.isfinite().all()
