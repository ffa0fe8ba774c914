r"""Principal logarithm of real matrices, n >= 3, with derivatives of every order.

Inverse scaling and squaring without a Schur form, so that a batch needs no loop: square
roots by the product form of the Denman-Beavers iteration, until the matrix is close to
the identity, then :math:`\log(I + X) = \sum_j w_j X (I + x_j X)^{-1}` with
Gauss-Legendre nodes (Higham, Functions of Matrices, 2008, chapters 6 and 11). The
derivative is the corner of a logarithm again,

.. math:: \log \begin{pmatrix} A & E \\ 0 & A \end{pmatrix}
   = \begin{pmatrix} \log A & L(A, E) \\ 0 & \log A \end{pmatrix}.
"""

import numpy as np
import torch
from torch import Tensor

from manifoldkit.linalg.elementary import eye_like

_NODES, _WEIGHTS = (
    [float(v) for v in values] for values in np.polynomial.legendre.leggauss(8)
)


def _square_root(a: Tensor, eye: Tensor, steps: int) -> Tensor:
    """Principal root by the scaled product form M <- (I + (mu M + M^-1/mu) / 2) / 2."""
    m, x = a, a
    for step in range(steps):
        inverse = torch.linalg.inv_ex(m)[0]
        if step < steps - 4:  # scaling, by the size of M against that of its inverse
            size = (m.abs().sum((-2, -1)) / inverse.abs().sum((-2, -1))).sqrt()
            mu = (1 / size)[..., None, None]
        else:
            mu = torch.ones_like(a[..., :1, :1])
        root = mu.sqrt()
        x = (root * x + (x @ inverse) / root) / 2
        m = (eye + (mu * m + inverse / mu) / 2) / 2
    return x


def principal_log(a: Tensor) -> Tensor:
    """Logarithm of each matrix, without derivatives; useless where there is none."""
    eye = eye_like(a)
    scale = a.abs().amax((-2, -1), keepdim=True)
    x = a / scale
    # every root costs a bit of accuracy: no more than the series needs
    roots = 6 if a.dtype == torch.float64 else 5
    for k in range(roots):
        x = _square_root(x, eye, 14 if k == 0 else 9)
    x = x - eye
    total = torch.zeros_like(x)
    for t, w in zip(_NODES, _WEIGHTS, strict=True):
        total = total + w / 2 * torch.linalg.solve_ex(eye + (t + 1) / 2 * x, x)[0]
    return total * 2**roots + scale.log() * eye


def _corner(a: Tensor, e: Tensor, log) -> Tensor:
    """L(a, e), the derivative of the logarithm at a in direction e."""
    n = a.shape[-1]
    # linear in e: bring it to the size of a, where the blocks are computed best
    size = e.detach().abs().amax((-2, -1), keepdim=True)
    size = size / a.detach().abs().amax((-2, -1), keepdim=True)
    size = torch.where(size > 0, size, torch.ones_like(size))
    top = torch.cat([a, e / size], -1)
    block = torch.cat([top, torch.cat([torch.zeros_like(a), a], -1)], -2)
    return log(block)[..., :n, n:] * size


class _LogCompiled(torch.autograd.Function):
    """The principal logarithm; the form that torch.compile can trace."""

    @staticmethod
    def forward(a):
        return principal_log(a)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx, grad):
        return _corner(ctx.saved_tensors[0].mT, grad, _LogCompiled.apply)


class _Log(_LogCompiled):
    """With forward mode, vmap and derivatives of every order."""

    generate_vmap_rule = True

    @staticmethod
    def backward(ctx, grad):
        return _corner(ctx.saved_tensors[0].mT, grad, _Log.apply)

    @staticmethod
    def jvp(ctx, a_t):
        return _corner(ctx.saved_tensors[0], a_t, _Log.apply)


def general_log(a: Tensor) -> Tensor:
    """Principal logarithm, NaN where there is none."""
    function = _LogCompiled if torch.compiler.is_compiling() else _Log
    x = function.apply(a)
    # no iteration tells that it failed; its result does
    back = torch.linalg.matrix_exp(x.detach())
    gap = (back - a.detach()).abs().amax((-2, -1))
    bound = torch.finfo(a.dtype).eps ** 0.5 * a.detach().abs().amax((-2, -1))
    return torch.where((gap <= bound)[..., None, None], x, torch.nan)
