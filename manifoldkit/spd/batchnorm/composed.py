"""GBW batch normalization composed of differentiable matrix functions.

The plain form of the formulas in :mod:`manifoldkit.spd.batchnorm.kernel`, used for
second derivatives. The operators H_p are dense matrices of size n^2: for small n.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from manifoldkit.linalg import invsqrtm, sqrtm, symmetrize
from manifoldkit.linalg.elementary import eye_like


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


def root(k: Tensor, y: Tensor) -> Tensor:
    """(K Y K')^(1/2); k (c, n, n), y (c, N, n, n)."""
    return sqrtm(k[:, None] @ y @ k.mT[:, None])


def _whiten(c: Tensor, x: Tensor) -> Tensor:
    half = torch.linalg.solve(c, symmetrize(x))
    return symmetrize(torch.linalg.solve(c, half.mT))


def center(y: Tensor, c: Tensor, mean: Tensor, u: Tensor) -> Tensor:
    """Tangent vectors at I in the basis u."""
    flat = _whiten(c, mean)
    inverse = invsqrtm(flat)[:, None]
    t = inverse @ root(sqrtm(flat), _whiten(c[:, None], y)) @ inverse
    v = hadamard(flat, t - eye_like(y), False)
    return u.mT[:, None] @ v @ u[:, None]


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
        chosen = [x for x, want in zip(aliases, wanted, strict=True) if want]
        grads = iter(torch.autograd.grad(value, chosen, grad, create_graph=True))
    return [next(grads) if want else None for want in wanted]
