"""Gumbel-Sinkhorn: soft permutations from a matrix of logits.

Rows and columns carry masses, so that all padding of a set counts as one row (or
column) of the mass of what it stands for: the result of a pair does not depend on how
much it was padded, and neither does its cost.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from manifoldkit._checks import check_choice, check_count
from manifoldkit.linalg.checks import (
    check_floating,
    check_tensor,
    compute_dtype,
    must_not_look,
)
from manifoldkit.linalg.transforms import is_transformed

_METHODS = ("auto", "log", "scaling")
# beyond this range exp() of a logit in float64 could make a whole column vanish
_SCALING_RANGE = 600.0


def sinkhorn(
    log_alpha: Tensor,
    tau: float = 0.1,
    n_iter: int = 20,
    *,
    row_mass: Tensor | None = None,
    column_mass: Tensor | None = None,
    noise: float = 0.0,
    generator: torch.Generator | None = None,
    method: str = "auto",
) -> Tensor:
    r"""Normalize ``exp(log_alpha / tau)`` to given row and column sums, alternately.

    With :math:`K = \exp(L / \tau)` and masses :math:`r, c`, from :math:`v = c`,

    .. math:: u = r / (K v), \quad v = c / (K^\top u), \quad P = u_i K_{ij} v_j .

    Columns come last, so column sums are exact and row sums approach ``row_mass``:
    after 20 iterations sharp logits may still be off by a factor.

    Parameters
    ----------
    log_alpha : Tensor, shape (..., n, m)
        Logits.
    tau : float
        Temperature; the smaller, the closer to a permutation.
    n_iter : int
        Number of row and column normalizations.
    row_mass, column_mass : Tensor, shape (..., n) and (..., m), optional
        Sums of the rows and columns; default one, which needs ``n = m``. Zero for rows
        or columns that are not there, whose logits are then not looked at.
    noise : float
        Factor of Gumbel noise added to the logits; nothing is drawn when it is zero.
    generator : torch.Generator, optional
        Source of the noise.
    method : {"auto", "log", "scaling"}
        "log" works on logarithms and never overflows. "scaling" iterates the vectors
        ``u`` and ``v`` in float64 with a backward pass of its own; it is several times
        faster and holds up to a range of 600 of ``log_alpha / tau``. "auto" scales on
        the CPU where the range allows it; on an accelerator, where looking at the range
        would wait for the device, it takes "log". So does it under ``torch.compile``
        and the transforms of ``torch.func``, whatever the method. Second derivatives
        need "log".

    Returns
    -------
    Tensor, shape (..., n, m)
        The plan, in the dtype of ``log_alpha``.

    Raises
    ------
    TypeError, ValueError
        Logits that are not floating-point numbers; ``tau`` or ``n_iter`` not positive;
        masses that are missing, of a wrong shape, or (on the CPU, where looking does
        not wait) negative or not finite.

    References
    ----------
    Mena et al., "Learning latent permutations with Gumbel-Sinkhorn networks", ICLR
    2018.

    Examples
    --------
    >>> plan = sinkhorn(torch.eye(3, dtype=torch.float64))
    >>> bool((plan.diagonal() > 0.99).all())
    True
    """
    rows, columns = _masses(log_alpha, row_mass, column_mass)
    if not tau > 0:
        raise ValueError(f"tau: expected a positive temperature, found {tau}")
    check_count(n_iter, "n_iter")
    check_choice(method, _METHODS, "method")
    dtype = log_alpha.dtype
    logits = log_alpha.to(compute_dtype(dtype))
    if noise:
        logits = logits + noise * _gumbel(logits, generator)
    logits = logits / tau
    shape = logits.shape
    count = math.prod(shape[:-2])
    logits = logits.reshape(count, *shape[-2:])
    rows = rows.expand(*shape[:-1]).reshape(count, shape[-2])
    columns = columns.expand(*shape[:-2], shape[-1]).reshape(count, shape[-1])
    plan = _normalize(logits, rows, columns, n_iter, method)
    return plan.reshape(shape).to(dtype)


def _normalize(
    logits: Tensor, rows: Tensor, columns: Tensor, n_iter: int, method: str
) -> Tensor:
    """Choose the form, matrix by matrix."""
    if not logits.numel():
        return logits
    if torch.compiler.is_compiling() or is_transformed():
        method = "log"  # a backward pass of its own knows no transforms
    if method == "auto":
        method = "log" if must_not_look(logits) else "scaling"
        wide = _too_wide(logits) if method == "scaling" else None
        if wide is not None:  # rare: sharp logits of a few pairs
            rest = (~wide).nonzero()[:, 0]
            wide = wide.nonzero()[:, 0]
            parts = [
                _normalize(logits[at], rows[at], columns[at], n_iter, form)
                for at, form in ((wide, "log"), (rest, "scaling"))
            ]
            return torch.cat(parts)[torch.argsort(torch.cat([wide, rest]))]
    if method == "log":
        return _log_form(logits, rows, columns, n_iter)
    plan: Any = _Scaling.apply(logits, rows, columns, n_iter)
    return plan


def _masses(
    log_alpha: Tensor, rows: Tensor | None, columns: Tensor | None
) -> tuple[Tensor, Tensor]:
    check_floating(log_alpha, "log_alpha")
    if log_alpha.ndim < 2:
        raise ValueError(
            f"log_alpha: expected shape (..., n, m), found {tuple(log_alpha.shape)}"
        )
    n, m = log_alpha.shape[-2:]
    if rows is None or columns is None:
        if rows is not columns or n != m:
            raise ValueError(
                "row_mass, column_mass: expected both, as only a square matrix has "
                f"rows and columns of sum one; found a matrix of shape ({n}, {m})"
            )
        rows = columns = log_alpha.new_ones(n)
    rows, columns = _numbers(rows, "row_mass"), _numbers(columns, "column_mass")
    batch = log_alpha.shape[:-2]
    for name, mass, size in (("row_mass", rows, n), ("column_mass", columns, m)):
        if not _expands(mass.shape, (*batch, size)):
            raise ValueError(
                f"{name}: expected shape (..., {size}) for the logits "
                f"{tuple(log_alpha.shape)}, found {tuple(mass.shape)}"
            )
        look = not (must_not_look(mass) or is_transformed())
        if look and not bool(((mass >= 0) & (mass < torch.inf)).all()):
            raise ValueError(f"{name}: expected finite numbers, none negative")
    return rows, columns


def _numbers(mass: Tensor, name: str) -> Tensor:
    """Return real floating-point numbers; counts may be integers."""
    if check_tensor(mass, name).is_floating_point() or mass.is_complex():
        return check_floating(mass, name)
    return mass.to(torch.get_default_dtype())


def _expands(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether a tensor can be expanded to a shape, its last axis as it is."""
    pairs = zip(shape[-2::-1], target[-2::-1], strict=False)
    fits = all(have in (1, want) for have, want in pairs)
    return fits and len(shape) <= len(target) and shape[-1:] == target[-1:]


def _gumbel(like: Tensor, generator: torch.Generator | None) -> Tensor:
    exponential = torch.empty_like(like).exponential_(generator=generator)
    return -exponential.clamp_min(torch.finfo(like.dtype).tiny).log()


def _too_wide(logits: Tensor) -> Tensor | None:
    """Which matrices have a row whose exponentials float64 cannot hold, if any."""
    low, high = torch.aminmax(logits.detach(), dim=-1)
    wide = ~((high - low).amax(-1) < _SCALING_RANGE)  # NaN is wide too
    return wide if bool(wide.any()) else None


def _log_form(logits: Tensor, rows: Tensor, columns: Tensor, n_iter: int) -> Tensor:
    """Iterate logarithms of the scalings; differentiable any number of times."""
    there = (rows > 0).unsqueeze(-1) & (columns > 0).unsqueeze(-2)
    logits = logits.masked_fill(~there, 0.0)  # finite, and no part of any sum
    log_rows, log_columns = rows.log(), columns.log()
    empty = (rows.sum(-1) == 0) | (columns.sum(-1) == 0)  # nothing to normalize
    zero = torch.zeros_like(log_columns)
    g = torch.where(empty.unsqueeze(-1), zero, log_columns)
    log_rows = torch.where(empty.unsqueeze(-1), torch.zeros_like(log_rows), log_rows)
    log_columns = g
    for _ in range(n_iter):
        f = log_rows - torch.logsumexp(logits + g.unsqueeze(-2), -1)
        g = log_columns - torch.logsumexp(logits + f.unsqueeze(-1), -2)
    plan = (logits + f.unsqueeze(-1) + g.unsqueeze(-2)).exp()
    return plan.masked_fill(empty[:, None, None], 0.0)


class _Scaling(torch.autograd.Function):
    """The scaling form in float64; its backward needs the scalings only.

    The row "isonet-node, training step" takes 30 % longer on logarithms instead.
    """

    @staticmethod
    def forward(ctx: Any, logits, rows, columns, n_iter):
        rows, columns = rows.double(), columns.double()
        there = (rows > 0).unsqueeze(-1) & (columns > 0).unsqueeze(-2)
        kernel = logits.double()
        top = kernel.masked_fill(~there, -torch.inf).amax(-1, keepdim=True)
        # what is not there must not divide by zero; its mass of zero removes it
        kernel = (kernel - top).masked_fill_(~there, 0.0).exp_()
        turned = kernel.mT.contiguous()
        u = kernel.new_empty(n_iter, *rows.shape)
        v = kernel.new_empty(n_iter + 1, *columns.shape)
        v[0] = columns
        tiny = torch.finfo(torch.float64).tiny
        for t in range(n_iter):
            sums = torch.bmm(kernel, v[t].unsqueeze(-1)).squeeze(-1)
            torch.div(rows, sums.clamp_min_(tiny), out=u[t])
            sums = torch.bmm(turned, u[t].unsqueeze(-1)).squeeze(-1)
            torch.div(columns, sums.clamp_min_(tiny), out=v[t + 1])
        ctx.save_for_backward(kernel, rows, columns, u, v)
        ctx.dtype = logits.dtype
        plan = u[-1].unsqueeze(-1) * kernel * v[-1].unsqueeze(-2)
        return plan.to(logits.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad):
        kernel, rows, columns, u, v = ctx.saved_tensors
        n_iter = len(u)
        weighted = grad.double() * kernel
        grad_u = torch.bmm(weighted, v[-1].unsqueeze(-1)).squeeze(-1)
        grad_v = torch.bmm(weighted.mT, u[-1].unsqueeze(-1)).squeeze(-1)
        # d(1 / sum) = -(1 / sum)^2, and the reciprocal sum is scaling over mass
        by_row = torch.where(rows > 0, 1 / rows, 0.0)
        by_column = torch.where(columns > 0, 1 / columns, 0.0)
        turned = kernel.mT.contiguous()
        left, right = torch.empty_like(u), torch.empty_like(v[1:])
        for t in reversed(range(n_iter)):
            # in this order nothing overflows where the scalings are large
            torch.mul(grad_v * v[t + 1], -by_column * v[t + 1], out=right[t])
            grad_u = grad_u + torch.bmm(kernel, right[t].unsqueeze(-1)).squeeze(-1)
            torch.mul(grad_u * u[t], -by_row * u[t], out=left[t])
            grad_v = torch.bmm(turned, left[t].unsqueeze(-1)).squeeze(-1)
            grad_u = torch.zeros_like(grad_u)
        outer = torch.bmm(
            torch.cat([u, left]).permute(1, 2, 0),
            torch.cat([right, v[:-1]]).transpose(0, 1),
        )
        direct = grad.double() * u[-1].unsqueeze(-1) * v[-1].unsqueeze(-2)
        there = (rows > 0).unsqueeze(-1) & (columns > 0).unsqueeze(-2)
        result = ((outer + direct) * kernel).masked_fill_(~there, 0.0)
        return result.to(ctx.dtype), None, None, None
