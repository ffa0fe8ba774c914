"""Isometric tangent coordinates of the generalized Bures-Wasserstein geometry."""

import torch
from torch import Tensor

from manifoldkit._checks import check_choice
from manifoldkit.linalg import eigh, symmetrize, unvech, vech
from manifoldkit.linalg.checks import check_floating
from manifoldkit.linalg.elementary import eye_like
from manifoldkit.linalg.factorizations import eigvalsh
from manifoldkit.spd.gbw.chart import prepare
from manifoldkit.spd.gbw.metric import stretch, transport

OUTSIDE = ("raise", "clip")

#: Smallest eigenvalue of L that clipping leaves; at -1 the boundary is met.
_CLIP = -0.999


def _slope(root: Tensor, invert: bool) -> Tensor:
    """Divided differences of x^(+-1/2) at x_ac and x_bc, (..., a, b, c)."""
    x, y = root[..., :, None, :], root[..., None, :, :]
    return -1 / (x * y * (x + y)) if invert else 1 / (x + y)


class _Once(torch.autograd.Function):
    """Identity that refuses to be differentiated by what it was computed from."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value, *sources):
        return value.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        raise RuntimeError("second derivatives of tangent vectors are not available")


class _Hadamard(torch.autograd.Function):
    """Multiply by ((s_a + s_b) / 2)^p, p = +-1/2, in the eigenbasis of base.

    The roots and the eigenvectors are outputs for the derivatives only.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(base, v, invert):
        s, u = eigh(base)
        root = ((s[..., :, None] + s[..., None, :]) / 2).sqrt()
        weight = 1 / root if invert else root
        return u @ (weight * (u.mT @ v @ u)) @ u.mT, root, u

    @staticmethod
    def setup_context(ctx, inputs, output):
        base, v, ctx.invert = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(base, v, *output[1:])
        ctx.save_for_forward(base, v, *output[1:])

    @staticmethod
    def backward(ctx, grad, *_):
        upstream = grad
        base, v, root, u = ctx.saved_tensors
        weight = 1 / root if ctx.invert else root
        g = u.mT @ symmetrize(grad) @ u
        grad_base = grad_v = None
        if ctx.needs_input_grad[1]:
            grad_v = (u @ (weight * g) @ u.mT).sum_to_size(v.shape)
        if ctx.needs_input_grad[0]:
            w = u.mT @ v @ u
            if base.ndim == 2:
                n = base.shape[-1]
                products = torch.einsum(
                    "iab,icb->acb", g.reshape(-1, n, n), w.reshape(-1, n, n)
                )
            else:
                products = g[..., :, None, :] * w[..., None, :, :]
            core = symmetrize((_slope(root, ctx.invert) * products).sum(-1))
            grad_base = (u @ core @ u.mT).sum_to_size(base.shape)
        sources = base, v, upstream
        grads = (
            None if g is None else _Once.apply(g.detach(), *sources)
            for g in (grad_base, grad_v)
        )
        return *grads, None

    @staticmethod
    def jvp(ctx, base_t, v_t, _):
        _, v, root, u = ctx.saved_tensors
        weight = 1 / root if ctx.invert else root
        core = torch.zeros_like(v)
        if v_t is not None:
            core = core + weight * (u.mT @ v_t @ u)
        if base_t is not None:
            change, w = u.mT @ base_t @ u, u.mT @ v @ u
            # (a, b, c): change_ab w_bc, and its mirror image for a symmetric w
            products = change[..., :, :, None] * w[..., None, :, :]
            half = (_slope(root, ctx.invert) * products).sum(-2)
            core = core + symmetrize(half)
        return u @ core @ u.mT, None, None


def _hadamard(base: Tensor, v: Tensor, invert: bool) -> Tensor:
    batch = torch.broadcast_shapes(base.shape, v.shape)
    return symmetrize(_Hadamard.apply(base, v.expand(batch), invert)[0])


def tangent_vector(
    base: Tensor, point: Tensor, M: Tensor | None = None, power: float = 1.0
) -> Tensor:
    r"""Isometric coordinates of :math:`\log_G X`: length equals distance to the base.

    The logarithm is transported to the identity of the flat picture, which is exact
    and in closed form, :math:`Z_{ab} = \sqrt{(s_a + s_b)/2}\,(T - I)_{ab} / \theta` in
    the eigenbasis of ``G = U diag(s) U'``, and half-vectorized with :math:`\sqrt 2` off
    the diagonal.

    Parameters
    ----------
    base, point, M, power
        The arguments of :func:`gbw_log`.

    Returns
    -------
    Tensor, shape (..., n (n + 1) / 2)

    Examples
    --------
    >>> tangent_vector(torch.eye(2), torch.diag(torch.tensor([4., 1.])))
    tensor([1., 0., 0.])
    """
    (base, point), chart, dtype = prepare(
        {"base": (base, "spd"), "point": (point, "psd")}, M, power, False
    )
    flat = chart.to_flat(base)
    t = transport(flat, chart.to_flat(point))
    eye = eye_like(t)
    return (vech(_hadamard(flat, t - eye, False)) / power).to(dtype)


def from_tangent_vector(
    base: Tensor,
    vector: Tensor,
    M: Tensor | None = None,
    power: float = 1.0,
    *,
    outside: str = "raise",
) -> Tensor:
    """Invert :func:`tangent_vector`.

    Parameters
    ----------
    base : Tensor, shape (..., n, n)
        SPD matrices.
    vector : Tensor, shape (..., n (n + 1) / 2)
        Coordinates.
    M, power
        The arguments of :func:`gbw_log`.
    outside : {"raise", "clip"}
        What to do with a vector outside the injectivity domain, which is no logarithm
        of anything: raise, or shorten it so that its geodesic ends before the boundary.

    Returns
    -------
    Tensor, shape (..., n, n)

    Raises
    ------
    NotOnManifoldError
        The first vector outside the domain.

    Examples
    --------
    >>> from_tangent_vector(torch.eye(2), torch.tensor([1., 0., 0.]))
    tensor([[4., 0.],
            [0., 1.]])
    """
    check_choice(outside, OUTSIDE, "outside")
    z = unvech(check_floating(vector, "vector"))
    (base, z), chart, dtype = prepare(
        {"base": (base, "spd"), "vector": (z, "symmetric")}, M, power, False
    )
    flat = chart.to_flat(base)
    change = _hadamard(flat, power * z, True)
    if outside == "clip":
        smallest = eigvalsh(change)[..., :1, None]
        change = change * (_CLIP / smallest.clamp_max(_CLIP))
    return chart.from_flat(stretch(flat, change, True, "vector")).to(dtype)
