"""Clip gradients by their Riemannian length."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from manifoldkit.optim.buckets import Batch, Bucket, base_of, sort_out
from manifoldkit.optim.fused import geometry_of
from manifoldkit.optim.options import check_norm


@torch.no_grad()
def clip_riemannian_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    r"""Scale gradients so that their Riemannian norm is at most ``max_norm``.

    The length of a gradient on a manifold is that of the Riemannian gradient at the
    point, :math:`\sqrt{\langle g, g\rangle_x}`, not that of ``.grad``; for Euclidean
    parameters they are the same. The gradients are scaled in place.

    Parameters
    ----------
    parameters : Tensor or iterable of Tensor
        Parameters; those without a gradient are passed over.
    max_norm : float
        Largest norm, positive.
    norm_type : float, default=2
        Order p of the norm; lengths of the points, and entries of Euclidean
        parameters, are combined by it. ``inf`` takes the largest.
    error_if_nonfinite : bool, default=False
        Raise, rather than scale by NaN, where the norm is not finite.

    Returns
    -------
    Tensor
        The norm before clipping.

    Raises
    ------
    ValueError
        ``max_norm`` or ``norm_type`` is not positive.
    RuntimeError
        The norm is not finite, with ``error_if_nonfinite``; or sparse gradients.

    Examples
    --------
    >>> import geoopt
    >>> x = geoopt.ManifoldParameter(torch.tensor([1., 0.]), manifold=geoopt.Sphere())
    >>> x.grad = torch.tensor([100., 3.])   # only 3 is along the sphere
    >>> clip_riemannian_grad_norm_([x], max_norm=1.0)
    tensor(3.)
    >>> x.grad
    tensor([33.3333,  1.0000])
    """
    check_norm(max_norm, "max_norm")
    check_norm(norm_type, "norm_type")
    parameters = [parameters] if isinstance(parameters, Tensor) else parameters
    params = [p for p in parameters if p.grad is not None]
    if not params:
        return torch.zeros(())
    device = params[0].device
    norms = [n.to(device) for n in _norms(params, float(norm_type))]
    total = torch.linalg.vector_norm(torch.stack(norms), float(norm_type))
    if error_if_nonfinite and not bool(torch.isfinite(total)):
        raise RuntimeError(
            f"the Riemannian norm of order {norm_type} of the gradients is {total}; "
            "error_if_nonfinite=False would scale by it all the same"
        )
    factor = (max_norm / (total + 1e-6)).clamp_max(1.0)
    for grad in (p.grad for p in params):
        if grad is not None:
            grad.mul_(factor.to(grad))
    return total


def _norms(params: list[Tensor], order: float) -> list[Tensor]:
    """Norm of the lengths of each batch of points and of each flat parameter."""
    flat, batches = sort_out(params)
    slopes: list[Any] = [p.grad for p in flat]
    norms = list(torch._foreach_norm(slopes, order)) if slopes else []
    for manifold, members in batches:
        geometry = geometry_of(base_of(manifold))
        bucket = Bucket(members, geometry, {}, manifold)
        grads: list[Any] = [p.grad for p in members]
        batch = Batch(bucket, bucket.gather(grads), None)
        frame = geometry.frame(batch.x)
        u = geometry.gradient(batch.x, frame, batch.egrad)
        lengths = geometry.lengths(batch.x, frame, u)
        norms.append(torch.linalg.vector_norm(lengths.flatten(), order))
    return norms
