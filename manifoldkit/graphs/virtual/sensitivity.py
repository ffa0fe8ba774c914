"""How far information reaches: derivatives between nodes, and receptive fields."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra
from torch import Tensor, nn

from manifoldkit._checks import check_choice, check_count
from manifoldkit.linalg.checks import check_finite, check_last, check_square


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """Size of the derivatives between nodes.

    Attributes
    ----------
    matrix : Tensor, shape (n, n)
        ``matrix[v, u]`` is the norm of the derivative of node v's features with
        respect to node u's inputs.
    mean : float
        Mean over pairs of different nodes.
    """

    matrix: Tensor
    mean: float

    def by_hops(self, adjacency: ArrayLike) -> list[dict[str, float]]:
        """Return the mean by number of hops on a graph.

        Parameters
        ----------
        adjacency : array-like, shape (n, n)
            Row listens to column; positive entries are edges.

        Returns
        -------
        list of dict
            ``hops`` (inf for pairs without a path), ``pairs``, ``mean``.

        Raises
        ------
        ValueError
            A graph of another number of nodes.
        """
        hops = hop_distance(adjacency)
        if hops.shape != tuple(self.matrix.shape):
            raise ValueError(
                f"adjacency: expected shape {tuple(self.matrix.shape)}, found "
                f"{hops.shape}"
            )
        values = self.matrix.cpu().numpy()
        return [
            {
                "hops": float(h),
                "pairs": int((hops == h).sum()),
                "mean": float(values[hops == h].mean()),
            }
            for h in np.unique(hops)
        ]


def hop_distance(adjacency: ArrayLike) -> np.ndarray:
    """Return the number of hops over which node i (row) hears of node j (column).

    >>> hop_distance(np.array([[0, 1, 0], [0, 0, 1], [0, 0, 0]]))
    array([[ 0.,  1.,  2.],
           [inf,  0.,  1.],
           [inf, inf,  0.]])
    """
    graph = csr_matrix(np.asarray(adjacency) > 0)
    return dijkstra(graph, directed=True, unweighted=True)


@torch.enable_grad()
def layer_sensitivity(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    layer: str | nn.Module | None = None,
    probes: int | None = None,
    norm: str = "fro",
    num_real: int | None = None,
    node_dim: int = -2,
    generator: torch.Generator | None = None,
) -> Sensitivity:
    r"""Measure over-squashing: how much each node feels of every other.

    .. math:: J_{vu} = \frac{\partial h_v^{(l)}}{\partial x_u}, \qquad
        S_l = \operatorname{mean}_{v \ne u} \| J_{vu} \|.

    For :math:`h = P^l x` this is :math:`|P^l|`. Exact by as many backward passes as h
    has entries; or, with ``probes``, an unbiased estimate of :math:`\|J_{vu}\|_F^2`
    from random signs (Hutchinson), by ``n * probes`` passes.

    It differentiates the model itself, so it does not run under ``torch.func.vmap``.

    Parameters
    ----------
    model : callable or Module
        Maps ``x`` to features of nodes. Set it to evaluation mode first.
    x : Tensor, shape (..., n, channels)
        Inputs; leading axes (batch, time) are summed up in the norm.
    layer : str or Module, optional
        Look at the output of this part of the model (by name) instead.
    probes : int, optional
        Number of random probes a node; default exact.
    norm : {"fro", "sum", "max"}, default="fro"
        Norm of each block; estimates know "fro" only.
    num_real : int, optional
        Look at the first nodes alone (virtual ones come last).
    node_dim : int, default=-2
        Axis of the nodes, in inputs and in features.
    generator : torch.Generator, optional
        Source of the probes.

    Returns
    -------
    Sensitivity

    Raises
    ------
    TypeError, ValueError
        Inputs without nodes, channels or floating-point numbers; an unknown norm or
        layer; numbers of probes or nodes out of range.

    Notes
    -----
    The definition is ours; published plots of sensitivity do not say theirs exactly.

    Examples
    --------
    >>> p = torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    >>> layer_sensitivity(lambda x: p @ p @ x, torch.zeros(2, 1)).matrix
    tensor([[0.2500, 0.7500],
            [0.0000, 1.0000]])
    """
    check_choice(norm, ("fro", "sum", "max"), "norm")
    if probes is not None:
        check_count(probes, "probes")
        if norm != "fro":
            raise ValueError(f"probes: expected norm='fro' with them, found {norm!r}")
    check_last(x, ("n", "channels"), "x")
    if not x.numel():
        raise ValueError(f"x: expected nodes and channels, found {tuple(x.shape)}")
    x = x.detach().clone().requires_grad_(True)
    h = _features(model, x, layer).movedim(node_dim, 0)
    there = x.shape[node_dim]
    n = _first_nodes(there if num_real is None else num_real, min(len(h), there))
    rows = []
    for v in range(n):
        flat = h[v].reshape(-1)
        if probes is None:
            seeds = torch.eye(flat.numel(), dtype=h.dtype, device=h.device)
        else:
            signs = torch.randint(
                2,
                (probes, flat.numel()),
                generator=generator,
                dtype=torch.int8,
                device="cpu" if generator is None else generator.device,
            )
            seeds = (2 * signs - 1).to(flat)
        rows.append(_row(flat, x, seeds, norm, node_dim, n, probes))
    matrix = torch.stack(rows)
    off = ~torch.eye(n, dtype=torch.bool, device=matrix.device)
    mean = float(matrix[off].mean()) if n > 1 else 0.0
    return Sensitivity(matrix, mean)


def _first_nodes(n: int, limit: int) -> int:
    if check_count(n, "num_real") > limit:
        raise ValueError(f"num_real: expected 1 to {limit} nodes, found {n}")
    return n


def _features(
    model: Callable[[Tensor], Tensor], x: Tensor, layer: str | nn.Module | None
) -> Tensor:
    if layer is None:
        return model(x)
    if isinstance(layer, str):
        if not isinstance(model, nn.Module):
            raise TypeError("layer: a name needs a model that is a torch module")
        layer = model.get_submodule(layer)
    caught: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _, __, out: caught.append(out))
    try:
        model(x)
    finally:
        handle.remove()
    if not caught:
        raise ValueError("layer: the model did not call it")
    return caught[-1]


def _row(flat, x, seeds, norm, node_dim, n, probes) -> Tensor:
    """Norms of the derivatives of one node's features, shape (n,)."""
    total = flat.new_zeros(n)
    for part in seeds.split(32):  # blocks bound the memory
        grad = _pull_back(flat, x, part)
        axis = node_dim if node_dim < 0 else node_dim + 1
        block = grad.movedim(axis, 0)[:n].flatten(1).detach()
        if norm == "fro":
            total = total + (block**2).sum(1)
        elif norm == "sum":
            total = total + block.abs().sum(1)
        else:
            total = torch.maximum(total, block.abs().amax(1))
    if norm == "fro":
        total = (total / (probes or 1)).sqrt()
    return total


def _pull_back(flat: Tensor, x: Tensor, seeds: Tensor) -> Tensor:
    """Return the gradients for several seeds, stacked."""
    if not flat.requires_grad:  # these features do not depend on the inputs
        return x.new_zeros(len(seeds), *x.shape)
    gradient = partial(
        torch.autograd.grad,
        flat,
        x,
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    try:
        return gradient(seeds, is_grads_batched=True)[0]
    except RuntimeError:  # a hand-written backward that knows no batches
        return torch.stack([gradient(seed)[0] for seed in seeds])


def receptive_field(
    adjacency: Tensor, layers: int = 2, num_real: int | None = None
) -> float:
    """Return the share of ordered pairs of real nodes that some layers connect.

    It reads values, so it does not run under ``torch.func.vmap``.

    Parameters
    ----------
    adjacency : Tensor, shape (n, n)
        Row listens to column, with self loops; real nodes first.
    layers : int, default=2
        Graph layers.
    num_real : int, optional
        Count pairs of the first nodes alone.

    Returns
    -------
    float
        1 where there is a single node.

    Raises
    ------
    TypeError, ValueError
        Not one square matrix of finite floating-point numbers; no layers; more nodes
        than there are.

    Examples
    --------
    >>> a = torch.eye(3) + torch.diag(torch.ones(2), 1)
    >>> round(receptive_field(a, 1), 3), receptive_field(a, 2)
    (0.333, 0.5)
    """
    check_count(layers, "layers")
    if check_square(adjacency, "adjacency").ndim != 2:
        raise ValueError(
            f"adjacency: expected one matrix, found shape {tuple(adjacency.shape)}"
        )
    check_finite(adjacency, "adjacency")
    n = _first_nodes(len(adjacency) if num_real is None else num_real, len(adjacency))
    step = (adjacency.detach() > 0).double()
    reach = step
    for _ in range(layers - 1):
        reach = (step @ reach > 0).double()
    if n < 2:
        return 1.0
    real = reach[:n, :n]
    return float((real.sum() - real.diagonal().sum()) / (n * (n - 1)))
