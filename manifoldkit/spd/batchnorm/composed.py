"""GBW batch normalization composed of differentiable matrix functions.

The plain form of the formulas in :mod:`manifoldkit.spd.batchnorm.kernel`, used for
second derivatives. The operators H_p are dense matrices of size n^2: for small n.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from manifoldkit.linalg import invsqrtm, sqrtm, symmetrize
from manifoldkit.linalg.elementary import eye_like
from manifoldkit.spd.batchnorm.roots import weighted_sum


def hadamard(base: Tensor, v: Tensor, inverse: bool) -> Tensor:
    """H_p(B)[V] = (2 (B x I + I x B))^p vec V; base (c, n, n), v (c, N, n, n)."""
    n = base.shape[-1]
    eye = torch.eye(n, dtype=base.dtype, device=base.device)
    total = 2 * (
        torch.einsum("cij,kl->cikjl", base, eye)
        + torch.einsum("ij,ckl->cikjl", eye, base)
    ).reshape(-1, n * n, n * n)
    operator = invsqrtm(total) if inverse else sqrtm(total)
    return (v.flatten(-2) @ operator).view_as(v)


def transport(flat: Tensor, x: Tensor) -> Tensor:
    """T with T G T = X; flat (c, n, n), x (c, N, n, n)."""
    root, inverse = sqrtm(flat)[:, None], invsqrtm(flat)[:, None]
    return inverse @ sqrtm(root @ x @ root) @ inverse


def _whiten(c: Tensor, x: Tensor) -> Tensor:
    half = torch.linalg.solve(c, symmetrize(x))
    return symmetrize(torch.linalg.solve(c, half.mT))


def center(y: Tensor, c: Tensor, mean: Tensor, u: Tensor) -> Tensor:
    """Tangent vectors at I in the basis u."""
    flat = _whiten(c, mean)
    t = transport(flat, _whiten(c[:, None], y))
    eye = eye_like(y)
    return u.mT[:, None] @ hadamard(flat, t - eye, False) @ u[:, None]


def sum_transport(y: Tensor, c: Tensor, mean: Tensor, weights: Tensor | None) -> Tensor:
    """Sum of the transport maps, in the flat picture."""
    return weighted_sum(transport(_whiten(c, mean), _whiten(c[:, None], y)), weights)


def expand(v: Tensor, c: Tensor, bias: Tensor, gain: Tensor, u: Tensor) -> Tensor:
    """Tangent vectors at I in the basis u to matrices around the bias."""
    flat = _whiten(c, bias)
    v = gain[:, None, None, None] * (u[:, None] @ symmetrize(v) @ u.mT[:, None])
    eye = eye_like(v)
    step = c[:, None] @ (eye + hadamard(flat, v, True))
    return step @ flat[:, None] @ step.mT


def differentiate(
    function: Callable[..., Tensor], inputs: tuple, wanted: tuple, grad: Tensor
) -> list[Tensor | None]:
    """Gradients of the composed form, themselves differentiable."""
    with torch.enable_grad():
        # aliases: the gradient stops at them, not further back in the graph
        aliases = [x.view_as(x) for x in inputs]
        value = function(*aliases)
        chosen = [x for x, want in zip(aliases, wanted, strict=False) if want]
        grads = iter(torch.autograd.grad(value, chosen, grad, create_graph=True))
    return [
        next(grads) if want else None for _, want in zip(inputs, wanted, strict=False)
    ]
