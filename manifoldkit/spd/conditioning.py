"""The scale of data, eigenvalues lost to rounding, and values that no layer can take.

What layers, batch normalizations and networks share. Thresholds are relative to the
mean eigenvalue of a matrix, or to a constant that is learned once from data
(:class:`Rescaled`), so that the unit of the data does not change an answer, and neither
does the company in which a matrix is evaluated.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from manifoldkit.linalg import logm, powm, symmetrize
from manifoldkit.linalg.checks import (
    check_finite,
    maybe_any,
    must_not_look,
    semidefinite_floor,
    tolerance,
)
from manifoldkit.linalg.factorizations import Eig, eigh
from manifoldkit.linalg.transforms import is_transformed, traced_order


def mean_eigenvalue(x: Tensor) -> Tensor:
    """Trace over size, shape (..., 1, 1).

    >>> mean_eigenvalue(torch.diag(torch.tensor([1.0, 3.0])))
    tensor([[2.]])
    """
    # divided first: the sum of numbers near the largest would overflow
    diagonal = x.diagonal(dim1=-2, dim2=-1) / x.shape[-1]
    return diagonal.sum(-1)[..., None, None]


def unit_of(x: Tensor) -> Tensor:
    """Mean eigenvalue, or 1 where it is not positive: such a matrix has no scale.

    >>> unit_of(torch.stack([4 * torch.eye(2), torch.zeros(2, 2)])).flatten()
    tensor([4., 1.])
    """
    scale = mean_eigenvalue(x)
    return torch.where(scale > 0, scale, torch.ones_like(scale))


class Rescaled(nn.Module):
    """A module that divides its input by a constant scale.

    The first batch in training sets the constant, to the median scale of its items; it
    is part of ``state_dict`` and stays what it is. Before it is set, evaluation takes
    the scale of each item by itself.

    Attributes
    ----------
    scale : Tensor, shape (), or None
        The constant, 0 before it is set; None: the input is taken as it is.
    """

    scale: Tensor | None
    #: Whether the first batches of all processes set it, and which processes.
    synchronized: bool = False
    process_group: Any = None

    def _add_scale(self, rescale: bool, **factory: Any) -> None:
        start = torch.zeros((), **factory) if rescale else None
        self.register_buffer("scale", start)

    @torch.no_grad()
    def _forget_scale(self) -> None:
        if self.scale is not None:
            self.scale.zero_()

    def _divided(self, x: Tensor, size: Callable[[Tensor], Tensor]) -> Tensor:
        """Divide x by the constant, which is learned in training.

        ``size`` gives the scale of every item of x, in a shape that broadcasts with it.
        """
        if self.scale is None or (x.numel() == 0 and not self.synchronized):
            return x
        known = self.scale.to(x.dtype)
        if not must_not_look(known) and bool(known > 0):
            return x / known
        sizes = size(x)
        if self.training:
            known = self._learn(known, sizes)
            return x / known
        own = torch.where(sizes > 0, sizes, torch.ones_like(sizes))
        return x / torch.where(known > 0, known, own)

    @torch.no_grad()
    def _learn(self, known: Tensor, sizes: Tensor) -> Tensor:
        """Set the constant where it is not set; an artifact does not move a median."""
        positive = torch.where(sizes > 0, sizes, torch.nan).flatten()
        if self.synchronized:
            positive = _joined(positive, self.process_group)
        positive = torch.cat([positive, positive.new_full((1,), torch.nan)])
        typical = positive.nanmedian().nan_to_num(1.0)
        known = torch.where(known > 0, known, typical)
        if self.scale is not None:
            self.scale.copy_(known)
        return known

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *rest: Any) -> None:
        # version 0.1.0 knew no scale: its numbers are absolute
        old = any(key.startswith(prefix) for key in state_dict)
        if self.scale is not None and old:
            state_dict.setdefault(f"{prefix}scale", torch.ones_like(self.scale))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def __setstate__(self, state: dict) -> None:
        """Accept modules that were pickled whole before there was a scale."""
        super().__setstate__(state)
        self._buffers.setdefault("scale", None)


def _joined(values: Tensor, group: Any) -> Tensor:
    """Values of all processes; NaN fills the shorter ones."""
    if not (dist.is_available() and dist.is_initialized()):
        return values
    count = torch.tensor(len(values), device=values.device)
    dist.all_reduce(count, dist.ReduceOp.MAX, group=group)
    padded = values.new_full((int(count),), torch.nan)
    padded[: len(values)] = values
    parts = [torch.empty_like(padded) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, padded, group=group)
    return torch.cat(parts)


def lost_to_rounding(y: Tensor, s: Tensor, u: Tensor, exact: bool = True) -> Tensor:
    """Which eigenvalues are rounding only: below n eps, and no better determined.

    Small eigenvalues of a graded matrix, such as diag(1, 1e-20), are exact: there
    ``X u = s u`` holds to their own digits, and with ``exact`` they are not counted.
    """
    low = tolerance(s.dtype, s.shape[-1]) * s.abs().amax(-1, keepdim=True)
    lost = (s < low) & (s >= semidefinite_floor(s))
    if not exact or (not must_not_look(s) and not maybe_any(lost)):
        return lost
    gap = torch.linalg.vector_norm(y @ u - u * s[..., None, :], dim=-2)
    return lost & (gap >= s / 2)


def lift(x: Tensor, exact: bool = True) -> tuple[Tensor, Eig]:
    """Raise eigenvalues that are lost to rounding to the rounding level.

    Parameters
    ----------
    x : Tensor, shape (..., n, n)
        Symmetric matrices in a dtype to compute in.
    exact : bool, default=True
        Leave small eigenvalues that are determined better.

    Returns
    -------
    x : Tensor, shape (..., n, n)
        Matrices whose lost eigenvalues are ``4 n eps`` times the largest. The lift is
        a constant for differentiation; all other matrices are what they were.
    eig : tuple of Tensor
        The eigendecomposition.
    """
    with torch.no_grad():
        y = x.detach()
        s, u = eigh(y)
        lost = lost_to_rounding(y, s, u, exact)
        if not must_not_look(s) and not maybe_any(lost):
            return x, (s, u)
        low = tolerance(s.dtype, 4 * s.shape[-1]) * s.abs().amax(-1, keepdim=True)
        lifted = torch.where(lost, low, s)
        change = (u * (lifted - s)[..., None, :]) @ u.mT
        # the others to the bit
        change = torch.where(lost.any(-1)[..., None, None], change, 0.0)
    return x + symmetrize(change), (lifted, u)


def definite(x: Tensor) -> Tensor:
    """Lift matrices that are singular, or indefinite, by rounding.

    >>> x = torch.ones(2, 2)
    >>> bool(torch.linalg.cholesky_ex(definite(x))[1] == 0)
    True
    """
    with torch.no_grad():
        y = x.detach()
        factor, info = torch.linalg.cholesky_ex(y)
        # the smallest eigenvalue is no larger than the square of a pivot
        pivot = factor.diagonal(dim1=-2, dim2=-1).amin(-1).square()
        top = y.diagonal(dim1=-2, dim2=-1).amax(-1)
        failed = (info != 0) | (pivot < tolerance(y.dtype, y.shape[-1]) * top)
    if not must_not_look(x) and not maybe_any(failed):
        return x
    better = lift(x)[0]
    with torch.no_grad():
        again = torch.linalg.cholesky_ex(better.detach())[1] != 0
    better = torch.where(again[..., None, None], lift(x, exact=False)[0], better)
    return torch.where(failed[..., None, None], better, x)


def log_spd(x: Tensor) -> Tensor:
    """Logarithm in which eigenvalues that are lost to rounding are at its level.

    >>> log_spd(torch.diag(torch.tensor([1.0, 0.0]))).isfinite().all()
    tensor(True)
    """
    y, eig = lift(symmetrize(x))
    return logm(y, eig=eig)


def power_spd(x: Tensor, power: float) -> Tensor:
    """Power of matrices, whose derivative stays finite where they are singular.

    >>> power_spd(torch.diag(torch.tensor([4.0, 1.0])), 0.5)
    tensor([[2., 0.],
            [0., 1.]])
    """
    if power == 1:
        return x
    if power == 2:
        return symmetrize(x @ x)
    y, eig = lift(x)
    return powm(y, power, eig=eig)


def transformed() -> bool:
    """Whether a transform of ``torch.func``, or forward mode, surrounds the call.

    Functions with a derivative of their own that saves work in reverse mode give way to
    their plain form there.

    >>> transformed()
    False
    """
    return traced_order() > 0 if torch.compiler.is_compiling() else is_transformed()


def seems_clear(mask: Tensor) -> bool:
    """Whether nothing is true; True where values cannot be read, under ``vmap``."""
    try:
        return not bool(mask.any())
    except RuntimeError:
        return True


def check_batch(
    x: Tensor, looked_at: Tensor | None = None, event_ndim: int = 2
) -> None:
    """Raise for a training batch with an item that is not finite, and name it.

    Statistics that a module keeps would not be finite any more. Values cannot be read
    while a graph is compiled.

    Parameters
    ----------
    x : Tensor
        The batch, as the user gave it.
    looked_at : Tensor, optional
        Fewer numbers that are not finite where x is not; default x itself.
    event_ndim : int, default=2
        Dimensions of an item.
    """
    if torch.compiler.is_compiling():
        return
    y = (x if looked_at is None else looked_at).detach()
    if not seems_clear(~y.sum().isfinite()):
        check_finite(x.detach(), "x", event_ndim)
