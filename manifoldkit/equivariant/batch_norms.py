"""Batch normalization fused with its neighbors, over the last axis of any shape."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.compiler import is_compiling


def channel_norm(norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
    """Batch normalization of the last axis, over all others."""
    check_rows(norm, x)
    if x.ndim == 2:  # no view, so that what follows may be in place
        return norm(x)
    return norm(x.reshape(-1, x.shape[-1])).view(x.shape)


def check_rows(norm: nn.BatchNorm1d, x: Tensor) -> None:
    """Raise in training where there are too few rows for statistics."""
    if norm.training and x.numel() // max(x.shape[-1], 1) < 2:
        raise ValueError(
            "x: batch normalization needs more than one value a channel in training, "
            f"found shape {tuple(x.shape)}; use larger batches or eval()"
        )


def _running(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None:
        raise ValueError("norm: expected running statistics, found none")
    return mean, var


def update_running(norm: nn.BatchNorm1d, mean: Tensor, var: Tensor, count: int) -> None:
    """Move the running statistics towards those of a batch (biased variance)."""
    running_mean, running_var = _running(norm)
    with torch.no_grad():
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        rate = 0.1 if norm.momentum is None else norm.momentum
        running_mean.lerp_(mean.to(running_mean), rate)
        unbiased = var * (count / max(count - 1, 1))
        running_var.lerp_(unbiased.to(running_var), rate)


# without it "RISurConv, training step with cached geometry" takes 1.21 times as long
def normalized_weight(
    weight: Tensor, cov: Tensor, mean: Tensor, norm: nn.BatchNorm1d, count: int
) -> Tensor:
    """Scale a linear map such that its output is normalized.

    The statistics of the output follow from the covariance of the input, so the output
    need not exist to be normalized.

    Parameters
    ----------
    weight : Tensor, shape (n_out, n_in)
        The map, applied to centered input.
    cov : Tensor, shape (n_in, n_in)
        Covariance of the input.
    mean : Tensor, shape (n_out,)
        Mean of the output, for the running statistics.
    norm : BatchNorm1d
        In training mode; its offset is left to the caller.
    count : int
        Rows that the covariance is made of.
    """
    var = ((weight @ cov) * weight).sum(1).clamp_min(0)
    update_running(norm, mean, var, count)
    return (norm.weight / (var + norm.eps).sqrt())[:, None] * weight


# without it "PaRot, 8 x 1024 points, training step" takes 1.05 to 1.14 times as long
def norm_linear(linear: nn.Linear, norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
    """Apply a linear map without bias from few channels, normalized in one product."""
    if not norm.training:
        return channel_norm(norm, linear(x))
    check_rows(norm, x)
    rows = x.reshape(-1, x.shape[-1])
    mean = rows.mean(0)
    centered = rows - mean
    cov = centered.T @ centered / len(rows)
    weight = normalized_weight(
        linear.weight, cov, linear.weight @ mean, norm, len(rows)
    )
    return F.linear(centered, weight, norm.bias).view(*x.shape[:-1], len(weight))


# without it "PaRot, 8 x 1024 points, training step" takes 1.39 times as long
def norm_relu_max(
    norm: nn.BatchNorm1d, x: Tensor, shift: Tensor | float = 0.0
) -> Tensor:
    """Normalize (..., k, C) over all but the last axis, ReLU, maximum over k.

    An increasing function commutes with the maximum, so only the chosen entries are
    normalized (the smallest ones where the scale is negative). ``shift`` (C,) is what
    a bias would have added to ``x``: a batch's mean takes it away again, so that it
    matters to the running mean alone and has gradient zero in training.
    """
    if not norm.training:
        mean, var = _running(norm)
        scale = norm.weight / (var + norm.eps).sqrt()
        offset = norm.bias + scale * (shift - mean)
        if is_compiling():  # no value may be read
            top = torch.where(scale < 0, x.amin(-2), x.amax(-2))
        else:
            top = _extreme(x, scale)[0]
        return F.relu(scale * top + offset)
    check_rows(norm, x)
    offset = norm.bias + 0.0 * shift
    pooled, mean, var, *_ = _NormMax.apply(x, norm.weight, offset, norm.eps)
    update_running(norm, mean + shift, var, x.numel() // x.shape[-1])
    return F.relu(pooled)


def _extreme(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Entries of the second axis from the end that are largest once scaled."""
    if bool((scale < 0).any()):
        # as scale * x orders them; a channel of scale 0 may choose any
        index = (x * scale.sign()).argmax(-2, keepdim=True)
        return torch.return_types.max(
            (x.gather(-2, index)[..., 0, :], index[..., 0, :])
        )
    return x.max(-2)


class _NormMax(torch.autograd.Function):
    """Batch normalization and maximum over the second axis from the end."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float):
        rows = x.reshape(-1, x.shape[-1])
        mean, var = torch.batch_norm_update_stats(rows, None, None, 0.0)
        top, index = _extreme(x, weight)
        inverse = (var + eps).rsqrt()
        standard = (top - mean) * inverse
        out = torch.addcmul(bias, standard, weight)
        return out, mean, var, inverse, standard, index

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        x, weight, _, _ = inputs
        _, mean, _, inverse, standard, index = output
        ctx.save_for_backward(x, weight, mean, inverse, standard, index)
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_):
        x, weight, mean, inverse, standard, index = ctx.saved_tensors
        channels = x.shape[-1]
        d_bias = grad.reshape(-1, channels).sum(0)
        d_weight = (grad * standard).reshape(-1, channels).sum(0)
        count = x.numel() // channels
        # the statistics see every entry, the maximum one in k
        slope = -weight * inverse.square() * d_weight / count
        level = -weight * inverse * d_bias / count - slope * mean
        d_x = torch.addcmul(level, x, slope)
        direct = (grad * (weight * inverse))[..., None, :]
        d_x.scatter_add_(-2, index[..., None, :], direct)
        return d_x, d_weight, d_bias, None
