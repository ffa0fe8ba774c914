r"""How a spectral function is evaluated and differentiated (Daleckii and Krein).

.. math::
    DF(X)[H] = U (f[s_a, s_b] \circ (U' H U)) U', \quad
    D^2F(X)[H, K]_{ac} = \sum_b f[s_a, s_b, s_c] (H_{ab} K_{bc} + K_{ab} H_{bc}).

Complex Hermitian matrices obey the same formulas with the adjoint for the transpose.
"""

from contextlib import nullcontext

import torch
from torch import Tensor

from manifoldkit._checks import check_choice, check_numbers
from manifoldkit.linalg import spectral
from manifoldkit.linalg._refine import eigen_residual
from manifoldkit.linalg.checks import (
    check_broadcast,
    check_square,
    compute_dtype,
    known_any,
    must_not_look,
    semidefinite_floor,
)
from manifoldkit.linalg.elementary import hermitian_part
from manifoldkit.linalg.factorizations import Eig, decompose
from manifoldkit.linalg.transforms import (
    change,
    is_transformed,
    traced_order,
    with_value,
)

_FUNCTIONS = {
    "sqrtm": spectral.Sqrt,
    "invsqrtm": spectral.InvSqrt,
    "logm": spectral.Log,
    "expm": spectral.Exp,
    "powm": spectral.Power,
}


#: Condition number up to which the plain decomposition loses at most two digits less
#: than the dtype has, so that its residual is not computed.
PLAIN_CONDITION = 64.0


def full_precision(x: Tensor):
    """Keep autocast from rounding the products of a decomposition."""
    if not torch.is_autocast_enabled(x.device.type):
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def _value(f, x: Tensor, s: Tensor, u: Tensor) -> Tensor:
    """F(X), corrected by the residual where small eigenvalues matter.

    Each matrix by its own condition number; all of them where values cannot be seen.
    """
    with full_precision(x):
        refine = getattr(f, "refine", None) if f.sees_small_eigenvalues else False
        if refine is None and not must_not_look(x):
            wide = ~(s[..., -1] <= PLAIN_CONDITION * s[..., 0])
            if known_any(wide) is False:
                refine = False
            elif known_any(~wide):
                out = _plain(f, s, u)
                out[wide] = _refined(f, x[wide], s[wide], u[wide])
                return out
        return _plain(f, s, u) if refine is False else _refined(f, x, s, u)


def _plain(f, s: Tensor, u: Tensor) -> Tensor:
    """F(X) of a decomposition as it is."""
    return (u * f.value(s)[..., None, :]) @ u.mH


def _refined(f, x: Tensor, s: Tensor, u: Tensor) -> Tensor:
    """F(X) of a decomposition that is corrected by its residual."""
    core = f.first(s[..., :, None], s[..., None, :]) * eigen_residual(x, s, u)
    core.diagonal(dim1=-2, dim2=-1).add_(f.value(s))
    return u @ core @ u.mH


def _frechet(f, s: Tensor, u: Tensor, h: Tensor) -> Tensor:
    """DF(X)[h]: two products into the eigenbasis, two back."""
    with full_precision(h):
        difference = f.first(s[..., :, None], s[..., None, :])
        return u @ (difference * (u.mH @ h @ u)) @ u.mH


def _frechet2(f, s: Tensor, u: Tensor, h: Tensor, k: Tensor) -> Tensor:
    """D^2F(X)[h, k]."""
    with full_precision(h):
        a, b = s[..., :, None, None], s[..., None, :, None]
        d = f.second(a, b, s[..., None, None, :])
        h, k = u.mH @ h @ u, u.mH @ k @ u
        core = (d * h[..., None]).mul(k[..., None, :, :]).sum(-2)
        core = core + (d * k[..., None]).mul(h[..., None, :, :]).sum(-2)
        return u @ core @ u.mH


class _NoThirdDerivative(torch.autograd.Function):
    """Identity that refuses to be differentiated."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        raise RuntimeError("third derivatives of matrix functions are not available")


class _DerivativeCompiled(torch.autograd.Function):
    """DF(X)[h] as a function of X and h; the form that torch.compile can trace.

    The decomposition s, u of X is a constant.
    """

    @staticmethod
    def forward(x, h, s, u, f):
        return _frechet(f, s, u, h)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, h, s, u, f = inputs
        ctx.f = f
        ctx.save_for_backward(x, h, s, u)
        ctx.save_for_forward(x, h, s, u)

    @staticmethod
    def backward(ctx, grad):
        _, h, s, u = ctx.saved_tensors
        grad_x = _frechet2(ctx.f, s, u, h.mH, grad)
        return grad_x, _frechet(ctx.f, s, u, grad), None, None, None


class _Derivative(_DerivativeCompiled):
    """With a second derivative in h, forward mode and vmap."""

    generate_vmap_rule = True

    @staticmethod
    def backward(ctx, grad):
        x, h, s, u = ctx.saved_tensors
        grad_x = grad_h = None
        if ctx.needs_input_grad[0]:
            grad_x = _NoThirdDerivative.apply(_frechet2(ctx.f, s, u, h.mH, grad))
        if ctx.needs_input_grad[1]:
            grad_h = _Derivative.apply(x, grad, s, u, ctx.f)
        return grad_x, grad_h, None, None, None

    @staticmethod
    def jvp(ctx, x_t, h_t, s_t, u_t, f):
        _, h, s, u = ctx.saved_tensors
        out = torch.zeros_like(h)
        if x_t is not None:
            out = out + _frechet2(ctx.f, s, u, h, x_t)
        if h_t is not None:
            out = out + _frechet(ctx.f, s, u, h_t)
        return out


class _SpectralCompiled(torch.autograd.Function):
    """F(X); the form that torch.compile can trace (no forward-mode rule)."""

    @staticmethod
    def forward(x, s, u, f):
        return _value(f, x, s, u)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, s, u, f = inputs
        ctx.f = f
        ctx.save_for_backward(x, s, u)
        ctx.save_for_forward(x, s, u)

    @staticmethod
    def backward(ctx, grad):
        _, s, u = ctx.saved_tensors
        return _frechet(ctx.f, s, u, grad), None, None, None


class _Spectral(_SpectralCompiled):
    """F(X) with second derivatives, forward mode and vmap."""

    generate_vmap_rule = True

    @staticmethod
    def backward(ctx, grad):
        x, s, u = ctx.saved_tensors
        return _Derivative.apply(x, grad, s, u, ctx.f), None, None, None

    @staticmethod
    def jvp(ctx, x_t, s_t, u_t, f):
        x, s, u = ctx.saved_tensors
        return _Derivative.apply(x, x_t, s, u, ctx.f)


class _Finite:
    """A spectral function whose infinite divided differences are the largest numbers.

    So that a change of zero leaves the value of a singular matrix alone.
    """

    def __init__(self, f):
        self.f = f

    def first(self, a: Tensor, b: Tensor) -> Tensor:
        """f[a, b]."""
        largest = torch.finfo(a.dtype).max
        return self.f.first(a, b).clamp(-largest, largest)

    def second(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """f[a, b, c]."""
        largest = torch.finfo(a.dtype).max
        return self.f.second(a, b, c).clamp(-largest, largest)


def _refuse_order(order: int, highest: int) -> None:
    """Leave the compiled graph where a Taylor polynomial would be too short."""
    if order > highest:
        torch._dynamo.graph_break()


def _spectral_series(x: Tensor, s: Tensor, u: Tensor, f, order: int) -> Tensor:
    """F(X) whose elementary operations have two right derivatives."""
    _refuse_order(order, 3)
    h, g = change(x), _Finite(f)
    series = _frechet(g, s, u, h) + _frechet2(g, s, u, h, h) / 2
    return with_value(_value(f, x.detach(), s, u), series)


def _derivative_series(x: Tensor, h: Tensor, s: Tensor, u: Tensor, f, order: int):
    """DF(X)[h] whose elementary operations have one right derivative in X."""
    _refuse_order(order, 2)
    return _frechet(f, s, u, h) + _frechet2(_Finite(f), s, u, h, change(x))


def _round_up_to_zero(s: Tensor) -> Tensor:
    """Set eigenvalues that are negative by rounding only to zero."""
    if not must_not_look(s) and known_any(s < 0) is False:
        return s
    return torch.where((s < 0) & (s >= semidefinite_floor(s)), torch.zeros_like(s), s)


def _decompose(x: Tensor, eig: Eig | None, semidefinite: bool) -> Eig:
    if eig is None:
        s, u = decompose(x)
    else:
        real = x.dtype.to_real() if x.is_complex() else x.dtype
        s, u = eig[0].to(real), eig[1].to(x.dtype)
    return (_round_up_to_zero(s) if semidefinite else s), u


def apply_spectral(x: Tensor, f, eig: Eig | None, semidefinite: bool = False) -> Tensor:
    """Evaluate F on the symmetric, or Hermitian, part of x."""
    y = hermitian_part(x.to(compute_dtype(x.dtype)))
    s, u = _decompose(y, eig, semidefinite)
    if not torch.compiler.is_compiling():
        if not (is_transformed() or (y.requires_grad and torch.is_grad_enabled())):
            return _value(f, y, s, u).to(x.dtype)
        return _Spectral.apply(y, s, u, f).to(x.dtype)
    if order := traced_order():
        return _spectral_series(y, s, u, f, order).to(x.dtype)
    return _SpectralCompiled.apply(y, s, u, f).to(x.dtype)


def apply_derivative(
    x: Tensor, h: Tensor, f, eig: Eig | None, semidefinite: bool = False
) -> Tensor:
    """Evaluate DF at the symmetric part of x in the direction of that of h."""
    dtype = torch.promote_types(x.dtype, h.dtype)
    y, h = x.to(compute_dtype(dtype)), h.to(compute_dtype(dtype))
    y, h = hermitian_part(y), hermitian_part(h)
    s, u = _decompose(y, eig, semidefinite)
    batch = torch.broadcast_shapes(y.shape, h.shape, u.shape)
    y, h = y.expand(batch), h.expand(batch)
    if not torch.compiler.is_compiling():
        s, u = s.expand(batch[:-1]), u.expand(batch)  # one shape, as vmap wants it
        return _Derivative.apply(y, h, s, u, f).to(dtype)
    if order := traced_order():
        return _derivative_series(y, h, s, u, f, order).to(dtype)
    return _DerivativeCompiled.apply(y, h, s, u, f).to(dtype)


def frechet_derivative(
    x: Tensor,
    direction: Tensor,
    function: str,
    *,
    power: float | None = None,
    eig: Eig | None = None,
) -> Tensor:
    r"""Directional derivative of a matrix function at a symmetric matrix.

    With :math:`X = U \operatorname{diag}(s) U'` and the divided differences
    :math:`f[a, b] = (f(a) - f(b)) / (a - b)`,

    .. math:: DF(X)[H] = U \bigl(f[s_a, s_b] \circ (U' H U)\bigr) U' ,

    exact also where eigenvalues meet. The same as
    ``torch.func.jvp(logm, (x,), (direction,))[1]``, but broadcasting, and right under
    ``torch.compile``.

    Parameters
    ----------
    x : Tensor, shape (..., n, n)
        Symmetric or complex Hermitian matrices in the domain of the function.
    direction : Tensor, shape (..., n, n)
        Directions (the symmetric part is used); batch dimensions broadcast.
    function : {"sqrtm", "invsqrtm", "logm", "expm", "powm"}
        Which function of this package.
    power : float, optional
        The exponent, for ``"powm"`` only.
    eig : tuple of Tensor, optional
        ``eigh(x)``, if it is known already.

    Returns
    -------
    Tensor, shape (..., n, n)
        Linear in ``direction``; once differentiable in ``x``. NaN for a matrix outside
        the domain, or with NaN in it or in its direction, alone.

    Raises
    ------
    TypeError, ValueError
        Not floating-point square matrices of one size, batches that do not broadcast,
        an unknown function, or a power that is missing or has no use.

    References
    ----------
    .. [1] N. J. Higham, "Functions of Matrices", SIAM, 2008, theorem 3.11.

    Examples
    --------
    >>> x = torch.diag(torch.tensor([1., 4.]))
    >>> frechet_derivative(x, torch.ones(2, 2), "sqrtm")
    tensor([[0.5000, 0.3333],
            [0.3333, 0.2500]])
    """
    check_square(x, hermitian=True)
    check_square(direction, "direction", x.shape[-1], hermitian=True)
    check_broadcast(x=(x, 2), direction=(direction, 2))
    check_choice(function, _FUNCTIONS, "function")
    if (function == "powm") != (power is not None):
        need = "needs" if power is None else "takes no"
        raise ValueError(f'power: function="{function}" {need} power')
    if power is None:
        f, semidefinite = _FUNCTIONS[function](), function == "sqrtm"
    else:
        check_numbers(power=power)
        f, semidefinite = spectral.Power(float(power)), power > 0
    return apply_derivative(x, direction, f, eig, semidefinite)
