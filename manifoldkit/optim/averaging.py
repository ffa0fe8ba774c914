"""Averages of the weights of a model, along geodesics."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from manifoldkit._checks import check_interval
from manifoldkit.linalg.checks import compute_dtype
from manifoldkit.optim.buckets import curved_manifold

Average = Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]


def karcher_average(model: torch.nn.Module, decay: float | None = None) -> Average:
    r"""Average of weights for :class:`torch.optim.swa_utils.AveragedModel`.

    The plain averages of torch leave the manifolds: a mean of rotations is none. Here a
    point a of the average moves along the geodesic to the point p of the model,

    .. math::

        a \leftarrow \exp_a\bigl(t \log_a p\bigr), \qquad
        t = 1 - \text{decay} \ \text{ or } \ t = \frac{1}{k + 1}

    after k models: an exponential moving average, or the inductive Karcher mean, which
    is exact on flat spaces and follows the Karcher mean elsewhere. Flat parameters have
    the plain averages.

    Parameters
    ----------
    model : nn.Module
        The model in training; it tells which parameters are points.
    decay : float, optional
        Share of the average that stays, in [0, 1); None for equal weights.

    Returns
    -------
    callable
        For ``multi_avg_fn``.

    Raises
    ------
    NotImplementedError
        When it is called: a manifold has no logarithm.
    TypeError, ValueError
        ``model`` is none, ``decay`` is out of range; or, when it is called, the average
        is on another device than the model.

    References
    ----------
    K.-T. Sturm, Probability measures on metric spaces of nonpositive curvature, 2003.

    Examples
    --------
    >>> from torch.optim.swa_utils import AveragedModel
    >>> from manifoldkit.manifolds import Stiefel, attach
    >>> model = torch.nn.Linear(2, 3, bias=False)
    >>> weight = attach(model, "weight", Stiefel())
    >>> average = AveragedModel(model, multi_avg_fn=karcher_average(model, decay=0.9))
    >>> for _ in range(3):
    ...     weight.data = Stiefel().projx(weight.data + 0.1 * torch.randn(3, 2))
    ...     average.update_parameters(model)
    >>> w = average.module.weight.detach()
    >>> torch.allclose(w.mT @ w, torch.eye(2), atol=1e-5)
    True
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, found {model!r}")
    if decay is not None:
        check_interval(decay, "decay", 0, 1, "[)")

    @torch.no_grad()
    def average(
        averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int
    ) -> None:
        # torch hands over plain tensors: the memory tells which parameter one is
        manifolds = {p.data_ptr(): curved_manifold(p) for p in model.parameters()}
        known = {t.data_ptr() for t in model.buffers()} | manifolds.keys()
        share = 1 / (int(count) + 1) if decay is None else 1 - decay
        for a, p in zip(averaged, current, strict=True):
            if p.numel() and p.data_ptr() not in known:
                raise ValueError(
                    "model: what is averaged are not its parameters; average the model "
                    "that karcher_average was given, on the same device"
                )
            manifold = manifolds.get(p.data_ptr())
            if manifold is not None:
                dtype = compute_dtype(a.dtype)
                x, y = a.to(dtype), p.to(dtype)
                a.copy_(manifold.expmap(x, share * manifold.logmap(x, y)))
            elif a.is_floating_point() or a.is_complex():
                a.lerp_(p, share)
            else:
                a.copy_(p)

    return average
