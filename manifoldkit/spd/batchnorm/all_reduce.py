"""Differentiable sums over the processes of ``torch.distributed``."""

import torch
import torch.distributed as dist
from torch import Tensor


class _AllReduceSum(torch.autograd.Function):
    """Sum over processes; every process's loss depends on every process's input."""

    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx, grad):
        return _AllReduceSum.apply(grad, ctx.group), None


def all_reduce_sum(x: Tensor, group: "dist.ProcessGroup | None" = None) -> Tensor:
    """Sum a tensor over the processes, differentiable; the tensor itself without any.

    Parameters
    ----------
    x : Tensor
        Values of this process, of the same shape in all.
    group : ProcessGroup, optional
        Default all processes.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return x
    return x if dist.get_world_size(group) == 1 else _AllReduceSum.apply(x, group)
