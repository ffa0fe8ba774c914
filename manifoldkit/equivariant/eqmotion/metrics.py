"""Errors of forecasts, and how well interactions were told apart."""

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def _tensor(value: ArrayLike, name: str) -> Tensor:
    """Return numbers as a tensor; booleans and whole numbers as floats."""
    try:
        value = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name}: expected a tensor or an array ({error})") from None
    if value.is_complex():
        raise TypeError(f"{name}: expected real numbers, found {value.dtype}")
    return value if value.is_floating_point() else value.to(torch.get_default_dtype())


def _errors(
    pred: ArrayLike, target: ArrayLike, mask: ArrayLike | None, modes: bool
) -> tuple[Tensor, Tensor]:
    """Distances (..., N[, K], T) and weights of agents (..., N)."""
    pred, target = _tensor(pred, "pred"), _tensor(target, "target")
    expected = target.ndim + modes
    wanted = "(..., N, K, T, D)" if modes else "(..., N, T, D)"
    if target.ndim < 2 or pred.ndim != expected:
        raise ValueError(
            f"pred, target: expected shapes {wanted} and (..., N, T, D), found "
            f"{tuple(pred.shape)} and {tuple(target.shape)}"
        )
    plain = pred.shape[:-3] + pred.shape[-2:] if modes else pred.shape
    if plain != target.shape:
        raise ValueError(
            f"pred: expected shape {wanted} for target {tuple(target.shape)}, found "
            f"{tuple(pred.shape)}"
        )
    if 0 in pred.shape[-(2 + modes) :]:
        raise ValueError(
            f"pred: expected modes, steps and dimensions, found {tuple(pred.shape)}"
        )
    target = target.unsqueeze(-3) if modes else target
    agents = plain[:-2]
    weight = _weights(mask, agents, pred.device)
    error = torch.linalg.vector_norm(pred - target, dim=-1)
    return error, weight


def _weights(
    mask: ArrayLike | None, agents: torch.Size, device: torch.device
) -> Tensor:
    """Which agents count: all without a mask."""
    if mask is None:
        return torch.ones(agents, dtype=torch.bool, device=device)
    weight = torch.as_tensor(mask, device=device).bool()
    if weight.shape != agents:
        raise ValueError(
            f"mask: expected shape {tuple(agents)}, found {tuple(weight.shape)}"
        )
    return weight


def _mean(error: Tensor, weight: Tensor) -> Tensor:
    """Mean over the valid agents; NaN elsewhere does no harm."""
    count = weight.sum()
    return error.where(weight, 0.0).sum() / count.clamp_min(1).to(error.dtype)


def ade(pred: ArrayLike, target: ArrayLike, mask: ArrayLike | None = None) -> Tensor:
    """Average displacement error: mean distance over agents and steps.

    Parameters
    ----------
    pred, target : Tensor or ndarray, shape (..., N, T, D)
        Forecast and true positions.
    mask : Tensor or ndarray of bool, shape (..., N), optional
        The agents that count.

    Returns
    -------
    Tensor
        A scalar in the units of the positions, differentiable; 0 without any agent.

    Raises
    ------
    ValueError
        Shapes that do not fit.

    Examples
    --------
    >>> true = torch.zeros(1, 2, 3, 2)
    >>> ade(true + torch.tensor([3.0, 4.0]), true)
    tensor(5.)
    """
    error, weight = _errors(pred, target, mask, modes=False)
    return _mean(error.mean(-1), weight)


def fde(pred: ArrayLike, target: ArrayLike, mask: ArrayLike | None = None) -> Tensor:
    """Final displacement error: mean distance over agents at the last step.

    Parameters, errors and return value are those of :func:`ade`.

    Examples
    --------
    >>> true = torch.zeros(1, 2, 3, 1)
    >>> fde(true + torch.arange(3.0)[:, None], true)
    tensor(2.)
    """
    error, weight = _errors(pred, target, mask, modes=False)
    return _mean(error[..., -1], weight)


def min_ade(
    pred: ArrayLike, target: ArrayLike, mask: ArrayLike | None = None
) -> Tensor:
    """Smallest ADE over the modes, for each agent by itself, then the mean.

    Parameters
    ----------
    pred : Tensor or ndarray, shape (..., N, K, T, D)
        K alternative forecasts.
    target : Tensor or ndarray, shape (..., N, T, D)
        True positions.
    mask : Tensor or ndarray of bool, shape (..., N), optional
        The agents that count.

    Examples
    --------
    >>> true = torch.zeros(1, 1, 3, 1)
    >>> min_ade(torch.tensor([2.0, -1.0]).view(1, 1, 2, 1, 1).expand(1, 1, 2, 3, 1),
    ...         true)
    tensor(1.)
    """
    error, weight = _errors(pred, target, mask, modes=True)
    return _mean(error.mean(-1).amin(-1), weight)


def min_fde(
    pred: ArrayLike, target: ArrayLike, mask: ArrayLike | None = None
) -> Tensor:
    """Smallest FDE over the modes, for each agent by itself, then the mean.

    The mode may be another one than that of :func:`min_ade`, whose parameters it has.

    Examples
    --------
    >>> true = torch.zeros(1, 1, 3, 1)
    >>> min_fde(torch.tensor([2.0, -1.0]).view(1, 1, 2, 1, 1).expand(1, 1, 2, 3, 1),
    ...         true)
    tensor(1.)
    """
    error, weight = _errors(pred, target, mask, modes=True)
    return _mean(error[..., -1].amin(-1), weight)


def edge_accuracy(
    category: ArrayLike, edges: ArrayLike, mask: ArrayLike | None = None
) -> float:
    """Share of pairs i != j in the right category, under the best naming.

    Inferred categories have no names, so they are matched one to one with the true
    ones such that the accuracy is largest (Hungarian algorithm).

    It reads values, so it does not run under ``torch.func.vmap``.

    Parameters
    ----------
    category : Tensor or ndarray, shape (..., N, N, K)
        Shares of the categories.
    edges : Tensor or ndarray, shape (..., N, N)
        True category of each ordered pair; any distinct values, such as 0 and 1.
    mask : Tensor or ndarray of bool, shape (..., N), optional
        The agents that count.

    Returns
    -------
    float
        NaN without any pair.

    Raises
    ------
    ValueError
        Shapes that do not fit.

    Examples
    --------
    >>> edges = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 0]])
    >>> swapped = torch.nn.functional.one_hot(1 - edges, 2).float()
    >>> edge_accuracy(swapped, edges)
    1.0
    """
    category, edges = _tensor(category, "category"), _tensor(edges, "edges")
    fits = category.ndim >= 3 and category.shape[:-1] == edges.shape
    if not fits or category.shape[-1] == 0 or edges.shape[-1] != edges.shape[-2]:
        raise ValueError(
            "category, edges: expected shapes (..., N, N, K) and (..., N, N), found "
            f"{tuple(category.shape)} and {tuple(edges.shape)}"
        )
    n = edges.shape[-1]
    counts = ~torch.eye(n, dtype=torch.bool, device=edges.device).expand(edges.shape)
    weight = _weights(mask, edges.shape[:-1], edges.device)
    counts = counts & weight[..., :, None] & weight[..., None, :]
    found = category.argmax(-1)[counts].cpu().numpy()
    true = edges[counts].cpu().numpy()
    if true.size == 0:
        return float("nan")
    names, code = np.unique(true, return_inverse=True)
    table = np.zeros((category.shape[-1], len(names)))
    np.add.at(table, (found, code.reshape(-1)), 1)
    return float(table[linear_sum_assignment(-table)].sum() / true.size)
