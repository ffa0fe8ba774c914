"""Eigenvector of the largest eigenvalue of 4 x 4 symmetric matrices."""

import torch
from torch import Tensor

from manifoldkit.lie._arrays import without_dust


def top_vector(x: Tensor) -> Tensor:
    """Unit eigenvectors of (..., 10) upper triangles, row by row.

    Repeated smaller eigenvalues do no harm (the code q q' of a rotation has three
    zeros); where the largest one is repeated the derivative is zero.
    """
    scale = x.detach().abs().amax(-1, keepdim=True)
    usable = torch.isfinite(scale) & (scale > 0)
    first = torch.zeros_like(x)
    first = torch.cat([first[..., :1] + 1, first[..., 1:]], -1)
    y = torch.where(usable, x, first) / torch.where(usable, scale, 1.0)
    y = torch.where(scale < 1e-30, y.detach(), y)
    y = without_dust(y)
    place = torch.zeros(4, 4, dtype=torch.long, device=x.device)
    rows, columns = torch.triu_indices(4, 4, device=x.device)
    number = torch.arange(10, device=x.device)
    place[rows, columns] = place[columns, rows] = number
    function = _TopCompiled if torch.compiler.is_compiling() else _Top
    v = function.apply(y[..., place])
    return torch.where(torch.isfinite(scale), v, torch.nan)


def _change(a: Tensor, v: Tensor, h: Tensor) -> Tensor:
    """Solve (lambda I - A) z = (I - vv') h with z orthogonal to v."""
    with torch.autocast(a.device.type, enabled=False):
        outer = v[..., :, None] * v[..., None, :]
        value = ((a @ v[..., None])[..., 0] * v).sum(-1)[..., None, None]
        eye = torch.eye(4, dtype=a.dtype, device=a.device)
        matrix = value * eye - a + outer
        s = torch.linalg.eigvalsh(matrix.detach())
        single = (s[..., 0] > 1e-5)[..., None]
        matrix = torch.where(single[..., None], matrix, eye)
        h = h - v * (v * h).sum(-1, keepdim=True)
        return torch.where(single, torch.linalg.solve(matrix, h), 0.0)


class _TopCompiled(torch.autograd.Function):
    @staticmethod
    def forward(a):
        return torch.linalg.eigh(a)[1][..., -1].clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0], output)
        ctx.save_for_forward(inputs[0], output)

    @staticmethod
    def backward(ctx, grad):
        a, v = ctx.saved_tensors
        z = _change(a, v, grad)
        out = z[..., :, None] * v[..., None, :]
        return (out + out.mT) / 2


class _Top(_TopCompiled):
    generate_vmap_rule = True

    @staticmethod
    def jvp(ctx, a_t):
        a, v = ctx.saved_tensors
        return _change(a, v, (a_t @ v[..., None])[..., 0])
