"""Farthest point sampling."""

import importlib.util

import torch
from torch import Tensor

from manifoldkit._checks import check_choice, check_count, is_integer
from manifoldkit.equivariant._clouds import binary_scale, has_memory, is_exporting
from manifoldkit.equivariant.neighbors.ragged import as_clouds
from manifoldkit.exceptions import InvalidValueError
from manifoldkit.linalg.draws import generator_option


def farthest_point_sample(
    x: Tensor,
    m: int,
    start: str | int = "farthest",
    *,
    mask: Tensor | None = None,
    batch: Tensor | None = None,
    pad: str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Choose ``m`` points, each the farthest from those before it.

    .. math:: i_{t+1} = \arg\max_i \min_{s \le t} \|x_i - x_{i_s}\|,

    ties to the lowest index. No index comes twice, so duplicates are taken only when
    no distinct point is left. The optional package ``torch-quickfps`` (extra
    ``points``) makes it about ten times faster on the CPU, with the same result.

    Parameters
    ----------
    x : Tensor, shape (B, N, 3), (N, 3)
        Points.
    m : int
        How many to choose from each cloud.
    start : {"farthest", "random"} or int
        First point: the one farthest from the centroid, which does not depend on pose
        or order, a random one, or the one of this index in its cloud.
    mask : Tensor of bool, shape (B, N), optional
        Points that exist.
    batch : Tensor of int, shape (N,), optional
        Cloud of each point, sorted, for ragged clouds.
    pad : {None, "repeat"}
        Where a cloud has fewer than ``m`` points: raise, or start over again (a cloud
        without any point always raises).
    generator : torch.Generator, optional
        For ``start="random"``.

    Returns
    -------
    Tensor of int64, shape (B, m), (m,), or (n_clouds, m) for ragged clouds
        Indices; into all points for ragged clouds.

    Raises
    ------
    ValueError
        Wrong shapes, points that are not finite, more points asked for than exist, or
        a first point that a cloud does not have.

    References
    ----------
    .. [1] Y. Eldar et al., "The farthest point strategy for progressive image
       sampling", IEEE TIP 6, 1997.

    Examples
    --------
    >>> x = torch.tensor([[0.0, 0, 0], [1, 0, 0], [4, 0, 0], [3.9, 0, 0]])
    >>> farthest_point_sample(x, 3)
    tensor([0, 2, 1])
    """
    check_choice(pad, (None, "repeat"), "pad")
    clouds, mask, offsets = as_clouds(x, mask, batch)
    check_count(m, "m")
    sizes = mask.sum(1) if mask is not None else None
    smallest = clouds.shape[1]
    if sizes is not None and sizes.shape[0]:
        smallest = int(sizes.min())
    if smallest == 0:
        raise ValueError("x: expected points in every cloud, found one without any")
    if m > smallest and pad is None:
        raise ValueError(
            f"m: expected at most {smallest} points, the size of the smallest cloud, "
            f"found {m}; pad='repeat' repeats points"
        )
    points = clouds.detach().double()
    points = points / binary_scale(points)
    first = _first_points(points, mask, start, generator)
    count = min(m, clouds.shape[1])
    index = sample(points, mask, first, count)
    if m > smallest:
        size = index.new_full(index.shape[:1], smallest) if sizes is None else sizes
        turn = (
            torch.arange(m, device=x.device)
            % size.to(x.device).clamp(1, count)[:, None]
        )
        index = index.gather(1, turn)
    if offsets is not None:
        return index + offsets[:, None]
    return index if x.ndim == 3 else index[0]


def _first_points(
    points: Tensor,
    mask: Tensor | None,
    start: str | int,
    generator: torch.Generator | None,
) -> Tensor:
    n_clouds, n = points.shape[:2]
    if start == "farthest":
        weight = points.new_ones(n_clouds, n) if mask is None else mask.to(points)
        weight = weight / weight.sum(1, keepdim=True).clamp_min(1)
        centroid = torch.einsum("bn,bnd->bd", weight, points)
        far = (points - centroid[:, None]).square().sum(-1)
        far = far.masked_fill(~mask, -1.0) if mask is not None else far
        # equal up to rounding counts as equal: the lowest index
        top = far.amax(1, keepdim=True) * (1 - 1e-12)
        return (far >= top).to(torch.uint8).argmax(1)
    if start == "random":
        option = generator_option(generator)
        chance = torch.rand(n_clouds, n, device=points.device, **option)
        return (chance if mask is None else chance * mask).argmax(1)
    if isinstance(start, str) or not is_integer(start) or not 0 <= start < n:
        raise InvalidValueError(
            f"start: expected an index from 0 to {n - 1}, 'farthest' or 'random', "
            f"found {start!r}"
        )
    if mask is not None and not bool(mask[:, start].all()):
        raise ValueError(
            f"start: expected a point that every cloud has, found {start}, which is "
            "not there in all of them"
        )
    return torch.full((n_clouds,), start, dtype=torch.int64, device=points.device)


def sample(points: Tensor, mask: Tensor | None, first: Tensor, m: int) -> Tensor:
    """Sample farthest points by the fast library where it can, else by the loop."""
    if is_exporting():
        return sample_traced(points, mask, first, m)
    return _sample(points, mask, first, m)


@torch.compiler.disable  # a loop over m points would be unrolled
def _sample(points: Tensor, mask: Tensor | None, first: Tensor, m: int) -> Tensor:
    enough = mask is None or int(mask.sum(1).min()) >= m
    fast = points.device.type == "cpu" and has_memory(points)
    fast = fast and importlib.util.find_spec("torch_quickfps") is not None
    if enough and fast:
        index = _sample_fast(points, mask, first, m)
        ordered = index.sort(1).values
        again = (ordered[:, 1:] == ordered[:, :-1]).any(1)
        if bool(again.any()):  # duplicates of points: only the loop keeps them apart
            rest = None if mask is None else mask[again]
            index[again] = sample_loop(points[again], rest, first[again], m)
        return index
    return sample_loop(points, mask, first, m)


def _sample_fast(points: Tensor, mask: Tensor | None, first: Tensor, m: int) -> Tensor:
    """A copy of each cloud's first point goes in front, which sets where to start."""
    import torch_quickfps

    row = torch.arange(len(points))
    joined = torch.cat([points[row, first][:, None], points], 1)
    if mask is not None:
        mask = torch.cat([mask.new_ones(len(mask), 1), mask], 1)
    index = torch_quickfps.sample_idx(joined, m, start_idx=0, mask=mask) - 1
    index[:, 0] = first
    return index


def sample_traced(points: Tensor, mask: Tensor | None, first: Tensor, m: int) -> Tensor:
    """Sample as :func:`sample_loop`, by a loop that ``torch.export`` keeps as one."""
    from torch._higher_order_ops.while_loop import while_loop

    def going_on(step: Tensor, nearest: Tensor, chosen: Tensor) -> Tensor:
        return step < m

    def choose(step: Tensor, nearest: Tensor, chosen: Tensor) -> tuple[Tensor, ...]:
        place = step.expand(chosen.shape[0], 1)
        last = chosen.gather(1, place - 1)
        offset = points - points.gather(1, last[..., None].expand(-1, -1, 3))
        distance = offset[..., 0].square()
        for axis in (1, 2):
            distance = distance + offset[..., axis].square()
        nearest = torch.minimum(nearest, distance).scatter(1, last, -1.0)
        found = nearest.argmax(1, keepdim=True)
        return step + 1, nearest, chosen.scatter(1, place, found)

    nearest = torch.full_like(points[..., 0], float("inf"))
    if mask is not None:
        nearest = nearest.masked_fill(~mask, -2.0)
    chosen = torch.nn.functional.pad(first[:, None], (0, m - 1))
    step = torch.ones((), dtype=torch.int64, device=points.device)
    return while_loop(going_on, choose, (step, nearest, chosen))[2]


def sample_loop(points: Tensor, mask: Tensor | None, first: Tensor, m: int) -> Tensor:
    """Sample farthest points step by step, all clouds at once."""
    planes = points.movedim(-1, 0).contiguous()  # one axis a plane: no strided sums
    nearest = points.new_full(points.shape[:2], float("inf"))
    if mask is not None:
        nearest = nearest.masked_fill(~mask, -2.0)
    chosen = [first[:, None]]
    for _ in range(m - 1):
        last = chosen[-1]
        distance = torch.zeros_like(nearest)
        for plane in planes:
            offset = plane - plane.gather(1, last)
            distance.addcmul_(offset, offset)
        nearest = torch.minimum(nearest, distance).scatter_(1, last, -1.0)
        chosen.append(nearest.argmax(1, keepdim=True))
    return torch.cat(chosen, 1)
