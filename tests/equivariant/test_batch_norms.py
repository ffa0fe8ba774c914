"""Batch normalization over the last axis, alone and fused with ReLU and maximum."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from manifoldkit.equivariant.batch_norms import (
    channel_norm,
    norm_linear,
    norm_relu_max,
)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("negative", [True, False])
def test_fused_normalization_equals_the_plain_one(training, negative):
    x = torch.randn(5, 7, 4, generator=torch.Generator().manual_seed(0)).double()
    x.requires_grad_()
    ours = nn.BatchNorm1d(4).double().train(training)
    with torch.no_grad():
        ours.weight.copy_(torch.tensor([1.0, 0.5, 2.0, -1.0 if negative else 1.0]))
        ours.bias.copy_(torch.tensor([0.1, -0.2, 0.3, 0.0]))
    plain = copy.deepcopy(ours)
    one = norm_relu_max(ours, x)
    two = F.relu(plain(x.reshape(-1, 4)).view(x.shape)).amax(-2)
    torch.testing.assert_close(one, two)
    for a, b in zip(ours.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(a, b)
    grads = torch.autograd.grad(one.square().sum(), [x, *ours.parameters()])
    wants = torch.autograd.grad(two.square().sum(), [x, *plain.parameters()])
    for a, b in zip(grads, wants, strict=True):
        torch.testing.assert_close(a, b)
    shift = torch.tensor([0.5, -1.0, 0.0, 2.0], requires_grad=True)
    biased, apart = copy.deepcopy(ours), copy.deepcopy(ours)
    two = norm_relu_max(biased, x + shift)
    one = norm_relu_max(apart, x, shift.double())
    torch.testing.assert_close(one, two)
    for a, b in zip(apart.buffers(), biased.buffers(), strict=True):
        torch.testing.assert_close(a, b)
    grads = torch.autograd.grad(one.square().sum(), [x, shift])
    wants = torch.autograd.grad(two.square().sum(), [x, shift])
    for a, b in zip(grads, wants, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-6)
    linear = nn.Linear(4, 6, bias=False).double()
    norm = nn.BatchNorm1d(6).double().train(training)
    twin, third = copy.deepcopy(norm), copy.deepcopy(norm)
    want = twin(linear(x.reshape(-1, 4))).view(5, 7, 6)
    torch.testing.assert_close(channel_norm(norm, linear(x)), want)
    torch.testing.assert_close(norm.running_var, twin.running_var)
    torch.testing.assert_close(norm_linear(linear, third, x), want)
    torch.testing.assert_close(third.running_var, twin.running_var)
