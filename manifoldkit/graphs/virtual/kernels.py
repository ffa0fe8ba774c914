"""Adjacency matrices of sensor graphs as plain functions of tensors.

``A[i, j]`` is the weight with which node i listens to node j: rows receive. (PyG's
``edge_index[0]`` is the source j, ``edge_index[1]`` the target i.)
"""

import torch
from torch import Tensor

from manifoldkit._checks import check_choice, check_interval, check_positive
from manifoldkit.linalg.checks import (
    check_finite,
    check_last,
    check_square,
    compute_dtype,
    first_index,
    tolerance,
)
from manifoldkit.linalg.transforms import is_vmapped

MODES = ("semi", "adaptive", "all_ones", "distance")


def check_adjacency(a: Tensor, name: str = "a_dist", n: int | None = None) -> Tensor:
    """Raise unless a dense adjacency is square, finite and not negative."""
    check_square(a, name, n)
    if a.ndim != 2:
        raise ValueError(f"{name}: expected one matrix, found shape {tuple(a.shape)}")
    return check_nonnegative(a, name)


def check_nonnegative(a: Tensor, name: str) -> Tensor:
    """Raise unless all weights are finite and none is negative."""
    check_finite(a, name)
    if not is_vmapped() and bool((a < 0).any()):
        where = first_index(a < 0)
        raise ValueError(
            f"{name}{[*where]} is {float(a[where]):.3g}: expected no negative weight"
        )
    return a


def gaussian_kernel_adjacency(
    distance: Tensor, sigma: float | None = None, cutoff: float = 0.1
) -> Tensor:
    r"""Turn road distances into weights by a thresholded Gaussian kernel.

    .. math:: A_{ij} = \exp(-(d_{ij} / \sigma)^2), \text{ zero below the cutoff.}

    It reads values, so it does not run under ``torch.func.vmap``.

    Parameters
    ----------
    distance : Tensor, shape (n, n)
        Distance from the node of the row to that of the column, in any unit; infinite
        or NaN where there is no road.
    sigma : float, optional
        Width; default the standard deviation of the finite distances.
    cutoff : float, default=0.1
        Smaller weights become zero.

    Returns
    -------
    Tensor, shape (n, n)

    Raises
    ------
    ValueError
        Not square; negative distances; no finite distance, or all of them equal but
        for rounding and no ``sigma``; a cutoff that is no share.

    References
    ----------
    .. [1] Y. Li et al., "Diffusion convolutional recurrent neural network", ICLR
       2018, section 4.1.

    Examples
    --------
    >>> d = torch.tensor([[0.0, 1.0], [torch.inf, 0.0]])
    >>> gaussian_kernel_adjacency(d, sigma=1.0)
    tensor([[1.0000, 0.3679],
            [0.0000, 1.0000]])
    """
    dtype = check_square(distance, "distance").dtype
    check_interval(cutoff, "cutoff", 0, 1)
    distance = distance.to(compute_dtype(dtype))
    finite = torch.isfinite(distance)
    if not bool(finite.any()):
        raise ValueError("distance: expected finite entries, found none")
    if bool((distance[finite] < 0).any()):
        raise ValueError("distance: expected no negative distance")
    if sigma is None:
        known = distance[finite].detach().double()
        largest = known.max().clamp_min(torch.finfo(torch.float64).tiny)
        share = float((known / largest).std(correction=0))  # squares of no extremes
        if share < tolerance(dtype, 8):
            raise ValueError(
                "distance: all are alike, so their standard deviation is no width; "
                "say sigma="
            )
        sigma = share * float(largest)
    check_positive(sigma, "sigma")
    weight = torch.exp(-((distance / sigma) ** 2))
    return torch.where(finite & (weight >= cutoff), weight, 0.0).to(dtype)


def normalize_adjacency(a: Tensor, how: str = "row", self_loops: bool = True) -> Tensor:
    r"""Add self loops and normalize.

    "row" gives :math:`(A + I)_{ij} / r_i`, "sym" gives
    :math:`r_i^{-1/2} (A + I)_{ij} c_j^{-1/2}` with the sums r of the rows and c of the
    columns, which is the usual symmetric form also where A is directed.

    Parameters
    ----------
    a : Tensor, shape (..., n, n)
        Weights, not negative.
    how : {"row", "sym", "none"}
        Normalization.
    self_loops : bool, default=True
        Add the identity first. Without it rows that are zero stay zero.

    Returns
    -------
    Tensor, shape (..., n, n)

    Raises
    ------
    ValueError
        Not square; weights that are not finite or negative; unknown normalization.

    Examples
    --------
    >>> normalize_adjacency(torch.tensor([[0.0, 3.0], [0.0, 0.0]]), "row")
    tensor([[0.2500, 0.7500],
            [0.0000, 1.0000]])
    """
    check_normalization(how)
    if not torch.compiler.is_compiling():  # it cannot look at values
        check_nonnegative(check_square(a, "a"), "a")
    if a.dtype == torch.float64 or how == "none":
        return normalized(a, how, self_loops)
    # sums of large weights have to fit
    return normalized(a.double(), how, self_loops).to(a.dtype)


def normalized(a: Tensor, how: str, self_loops: bool) -> Tensor:
    """Do what :func:`normalize_adjacency` says, without looking at the values."""
    if self_loops:
        a = a + torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    if how == "none":
        return a
    rows = a.sum(-1)
    if how == "row":
        return a * inverse(rows)[..., None]
    columns = a.sum(-2)
    return inverse(rows).sqrt()[..., None] * a * inverse(columns).sqrt()[..., None, :]


def check_normalization(how: str) -> None:
    """Raise ``ValueError`` on an unknown name."""
    check_choice(how, ("row", "sym", "none"), "normalize")


def inverse(x: Tensor) -> Tensor:
    """Return 1 / x, and zero with a zero derivative where x is zero."""
    zero = x == 0
    return torch.where(zero, 0.0, 1 / torch.where(zero, 1.0, x))


def antisymmetric_weights(
    left1: Tensor, left2: Tensor, right1: Tensor, right2: Tensor, threshold: float = 0.0
) -> Tensor:
    """Return relu(e1 f2' - e2 f1') between two groups of nodes, small entries zero."""
    weight = torch.relu(left1 @ right2.mT - left2 @ right1.mT)
    return cut(weight, threshold)


def cut(weight: Tensor, threshold: float) -> Tensor:
    """Set what is below the threshold to zero."""
    if threshold <= 0:
        return weight
    return torch.where(weight >= threshold, weight, 0.0)


def semi_adaptive_adjacency(
    a_dist: Tensor,
    e1: Tensor,
    e2: Tensor,
    threshold: float = 0.0,
    mode: str = "semi",
) -> Tensor:
    r"""Extend a road graph by virtual nodes with learned links.

    With n = N + nv and :math:`A = \mathrm{relu}(E_1 E_2^T - E_2 E_1^T)`, entries below
    the threshold zero, "adaptive" returns A; "semi" replaces the block of the N real
    nodes by the road graph; "all_ones" links every virtual node to and from every
    real node with weight 1; "distance" returns the road graph itself. Of
    :math:`a_{ij}` and :math:`a_{ji}` at most one is positive, so a virtual node either
    reads from a real node or writes to it.

    Parameters
    ----------
    a_dist : Tensor, shape (N, N)
        Road graph, row listens to column.
    e1, e2 : Tensor, shape (N + nv, d)
        Embeddings, real nodes first.
    threshold : float, default=0.0
        Learned weights below it become zero.
    mode : {"semi", "adaptive", "all_ones", "distance"}
        Which blocks are learned, fixed or left out.

    Returns
    -------
    Tensor, shape (N + nv, N + nv), or (N, N) with mode "distance"
        Weights, not normalized.

    Raises
    ------
    ValueError
        Shapes that do not fit; weights that are not finite or negative; unknown mode.

    References
    ----------
    .. [1] X. Cao, D. Zhuang, J. Zhao, S. Wang, "Virtual nodes improve long-term
       traffic prediction", arXiv 2501.10048.

    Examples
    --------
    >>> e1, e2 = torch.eye(3)[:, :2], torch.ones(3, 2)
    >>> semi_adaptive_adjacency(torch.eye(2), e1, e2)
    tensor([[1., 0., 1.],
            [0., 1., 1.],
            [0., 0., 0.]])
    """
    check_choice(mode, MODES, "mode")
    check_adjacency(a_dist)
    n_real = len(a_dist)
    if mode == "distance":
        return a_dist
    check_last(e1, ("n", "d"), "e1")
    check_last(e2, ("n", "d"), "e2")
    if not a_dist.dtype == e1.dtype == e2.dtype:
        raise TypeError(
            "a_dist, e1, e2: expected one dtype, found "
            f"{a_dist.dtype}, {e1.dtype} and {e2.dtype}"
        )
    n = len(e1)
    if e1.shape != e2.shape or e1.ndim != 2 or n < n_real:
        raise ValueError(
            f"e1, e2: expected shape (N + nv, d) with N = {n_real}, found "
            f"{tuple(e1.shape)} and {tuple(e2.shape)}"
        )
    if not torch.compiler.is_compiling():
        check_finite(e1, "e1")
        check_finite(e2, "e2")
    if mode == "all_ones":
        out = a_dist.new_ones(n, n)
        out[n_real:, n_real:] = 0
    else:
        out = antisymmetric_weights(e1, e2, e1, e2, threshold)
    if mode == "adaptive":
        return out
    real = torch.arange(n, device=out.device) < n_real
    road = torch.nn.functional.pad(a_dist, (0, n - n_real, 0, n - n_real))
    return torch.where(real[:, None] & real, road.to(out.dtype), out)
