"""Virtual nodes as a PyG transform."""

from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra
from torch import Tensor, nn
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.transforms import BaseTransform

from manifoldkit._checks import check_choice, check_count
from manifoldkit.linalg.checks import check_floating

_TARGETS = ("y", "train_mask", "val_mask", "test_mask")
# these are about pairs of nodes, however many there are
_PAIRS = ("edge_label", "edge_label_index")
_IGNORED = -100  # what torch's losses ignore by default


class AddVirtualNodes(BaseTransform):
    """Add virtual nodes to every graph, linked with its nodes in both directions.

    Safe on a ``Batch``: every graph gets nodes of its own, with right ``batch``,
    ``ptr`` and slices (PyG's ``VirtualNode`` gives a batch one common node, through
    which graphs see each other). Applied twice it does nothing the second time.
    Everything that has an entry a node, targets and masks among them, gets entries for
    the virtual nodes too, so that ``subgraph``, loaders and other transforms keep them
    together.

    Parameters
    ----------
    num : int, default=1
        Virtual nodes a graph.
    scheme : {"all", "cluster", "random"}, default="all"
        Every virtual node is linked with all real nodes; or with one of ``num``
        connected clusters (each node with the nearest of ``num`` seeds that lie far
        apart, by hops); or with a random part, drawn with ``generator``.
    features : {"zero", "mean", "learned"}, default="zero"
        ``x`` of a virtual node: zero; the mean over the nodes it is linked with; or
        zero, to be filled by :class:`VirtualNodeFeatures` inside the model.
    edge_weight : float, default=1.0
        Weight of the new links. A graph without ``edge_weight`` gets one, with ones for
        its own edges, unless this is 1. Other edge attributes are zero; ``edge_type``
        gets two new types, to and from the virtual node.
    batch_safe : bool, default=True
        False treats a ``Batch`` as the one graph that it is to PyG.
    extend_targets : {"ignored", True, False}, default="ignored"
        How ``y`` and the masks are extended, if they have one entry a node. "ignored":
        ``y`` with what no loss counts (-100 for classes, which torch's losses ignore;
        255 for bytes; NaN for numbers, which does not go unnoticed; False for
        booleans), masks with False; the target of a graph of one node alone is taken
        for the graph's. True: with zeros. False: they keep the length of the real
        nodes, for ``out[~data.is_virtual]``; never subset or batch such a graph by
        nodes, which would move the targets to other nodes.
    generator : torch.Generator, optional
        Source of the draws of ``scheme="random"``.

    Notes
    -----
    Adds ``is_virtual`` (bool, one a node) and ``virtual_id`` (0 to num - 1, and -1 for
    real nodes). Virtual nodes come last in each graph. Other attributes of nodes are
    extended with zeros, ``pos`` with the mean position, integers named ``..._id`` with
    -1, lists with None. ``edge_label`` and ``edge_label_index`` stay as they are.

    Examples
    --------
    >>> data = Data(x=torch.ones(3, 2), edge_index=torch.tensor([[0, 1], [1, 2]]))
    >>> out = AddVirtualNodes(num=2)(data)
    >>> out.num_nodes, out.num_edges, out.is_virtual.tolist()
    (5, 14, [False, False, False, True, True])
    """

    def __init__(
        self,
        num: int = 1,
        scheme: str = "all",
        features: str = "zero",
        edge_weight: float = 1.0,
        batch_safe: bool = True,
        extend_targets: bool | str = "ignored",
        generator: torch.Generator | None = None,
    ):
        check_count(num, "num", 0)
        check_choice(scheme, ("all", "cluster", "random"), "scheme")
        check_choice(features, ("zero", "mean", "learned"), "features")
        check_choice(extend_targets, ("ignored", True, False), "extend_targets")
        self.num, self.scheme, self.features = num, scheme, features
        self.edge_weight, self.batch_safe = edge_weight, batch_safe
        self.extend_targets, self.generator = extend_targets, generator

    def forward(self, data: Any) -> Any:
        """Return the graph, or batch of graphs, with virtual nodes.

        Raises
        ------
        TypeError
            Not a ``Data`` or ``Batch``.
        ValueError
            No ``edge_index``; a batch that has lost its slices.
        """
        if not isinstance(data, Data):
            way = (
                "; turn it into one kind of nodes first (to_homogeneous)"
                if isinstance(data, HeteroData)
                else ""
            )
            raise TypeError(
                f"data: expected a torch_geometric Data or Batch, found "
                f"{type(data).__name__}{way}"
            )
        if "is_virtual" in data:
            return data
        if isinstance(data, Batch) and self.batch_safe:
            try:
                graphs = data.to_data_list()
            except (RuntimeError, AttributeError) as error:
                raise ValueError(
                    "data: this Batch cannot be taken apart into its graphs "
                    f"({error}); add virtual nodes before batching"
                ) from None
            alike = _sliced_alike(data)
            single = all(g.num_nodes == 1 for g in graphs)
            if single and self.extend_targets is not True:
                alike -= {"y"}
            return Batch.from_data_list([self._extend(g, alike) for g in graphs])
        return self._extend(data)

    def _extend(self, data: Data, alike: set[str] | None = None) -> Data:
        if data.edge_index is None:
            turned = " (make it of adj_t first)" if "adj_t" in data else ""
            raise ValueError(f"data: expected edge_index, found none{turned}")
        n = int(data.num_nodes or 0)
        old_edges = data.num_edges
        real, virtual = self._links(data, n)
        device = data.edge_index.device
        up = torch.stack([real, virtual + n])
        links = torch.cat([up, up.flip(0)], 1).to(device)
        average = _averaging(real, virtual, n, self.num).to(device)
        if self.edge_weight != 1 and "edge_weight" not in data:
            data.edge_weight = torch.ones(old_edges, device=device)
            alike = None if alike is None else alike | {"edge_weight"}
        changed: dict[
            str, Any
        ] = {}  # first all, because sizes are guessed from what is there
        for key, value in data.items():
            if key == "edge_index" or key in _PAIRS:
                continue
            if isinstance(value, (list, tuple)):
                if len(value) == n and data.is_node_attr(key):
                    changed[key] = [*value, *[None] * self.num]
                continue
            if alike is not None and key not in alike:
                continue
            lonely = alike is None and n == 1 and self.extend_targets is not True
            if key == "y" and lonely:
                continue
            if data.is_edge_attr(key) and _length(data, key, value) == old_edges:
                changed[key] = self._edges(key, value, links.shape[1])
            elif data.is_node_attr(key) and _length(data, key, value) == n:
                changed[key] = self._nodes(key, value, average)
        for key, value in changed.items():
            data[key] = value
        data.edge_index = torch.cat([data.edge_index, links], 1)
        mask = torch.arange(n + self.num, device=device) >= n
        data.is_virtual = mask
        data.virtual_id = torch.where(mask, mask.cumsum(0) - 1, -1)
        data.num_nodes = n + self.num
        return data

    def _links(self, data: Data, n: int) -> tuple[Tensor, Tensor]:
        """Return real and virtual ends of the links."""
        everyone = torch.arange(n)
        if self.scheme == "all" or self.num == 0:
            return everyone.repeat(self.num), torch.arange(self.num).repeat_interleave(
                n
            )
        if self.scheme == "random":
            return everyone, torch.randint(self.num, (n,), generator=self.generator)
        return everyone, torch.from_numpy(
            hop_clusters(data.edge_index.cpu().numpy(), n, self.num)
        )

    def _edges(self, key: str, value: Tensor, count: int) -> Tensor:
        if key == "edge_type":
            first = int(value.max()) + 1 if len(value) else 0
            half = count // 2
            new = value.new_tensor([first] * half + [first + 1] * half)
            return torch.cat([value, new])
        fill = self.edge_weight if key == "edge_weight" else _blank(key, value)
        return torch.cat([value, value.new_full((count, *value.shape[1:]), fill)])

    def _nodes(self, key: str, value: Tensor, average: Tensor) -> Tensor:
        if key in _TARGETS and not self.extend_targets:
            return value
        ignored = key == "y" and self.extend_targets == "ignored"
        blank = _ignored(value) if ignored else _blank(key, value)
        new = value.new_full((self.num, *value.shape[1:]), blank)
        mean = key == "pos" or (key == "x" and self.features == "mean")
        if mean and value.is_floating_point():
            rows = value[:, None].flatten(1)
            new = (average.to(value.dtype) @ rows).view_as(new)
        return torch.cat([value, new])


def _sliced_alike(batch: Batch) -> set[str]:
    """Return the attributes that have an entry a node or an edge in every graph.

    In a graph of one node alone, an attribute of the graph looks like one of the node.
    """
    slices = batch._slice_dict
    edges = slices.get("edge_index")
    return {
        key
        for key, ends in slices.items()
        if torch.equal(ends, batch.ptr.to(ends.device))
        or (edges is not None and torch.equal(ends, edges))
    }


def _blank(key: str, value: Tensor) -> int:
    """Return what virtual nodes and their links have where they have nothing."""
    whole = value.dtype in (torch.int64, torch.int32)
    return -1 if whole and key.endswith("_id") else 0


def _ignored(y: Tensor) -> float:
    """Return a target that no loss counts."""
    if y.is_floating_point():
        return torch.nan
    if y.dtype == torch.bool:
        return False
    return _IGNORED if y.dtype.is_signed else torch.iinfo(y.dtype).max


def _length(data: Data, key: str, value: Any) -> int:
    """Size along the axis over which PyG concatenates; -1 for no tensor."""
    if not isinstance(value, Tensor) or value.ndim == 0:
        return -1
    return value.shape[0] if data.__cat_dim__(key, value) == 0 else -1


def _averaging(real: Tensor, virtual: Tensor, n: int, num: int) -> Tensor:
    """Return the matrix (num, n) of the means over the nodes of each virtual node."""
    links = torch.zeros(num, n).index_put((virtual, real), torch.tensor(1.0))
    return links / links.sum(1, keepdim=True).clamp_min(1)


def hop_clusters(edge_index: np.ndarray, n: int, num: int) -> np.ndarray:
    """Assign nodes to the nearest of ``num`` seeds, chosen far apart, by hops.

    Parameters
    ----------
    edge_index : ndarray of int, shape (2, E)
        Directions are ignored.
    n, num : int
        Nodes and clusters.

    Returns
    -------
    ndarray of int, shape (n,)

    Examples
    --------
    >>> hop_clusters(np.array([[0, 1, 2], [1, 2, 3]]), 4, 2)
    array([0, 0, 1, 1])
    """
    graph = coo_matrix((np.ones(edge_index.shape[1]), edge_index), shape=(n, n))
    nearest, owner = np.full(n, np.inf), np.zeros(n, dtype=np.int64)
    for k in range(min(num, n)):
        seed = 0 if k == 0 else int(nearest.argmax())
        hops = dijkstra(graph, directed=False, indices=seed, unweighted=True)
        closer = hops < nearest
        nearest[closer], owner[closer] = hops[closer], k
    return owner


class VirtualNodeFeatures(nn.Module):
    """Learned features of virtual nodes, for ``AddVirtualNodes(features="learned")``.

    Parameters
    ----------
    num, channels : int
        Virtual nodes a graph, features.

    Examples
    --------
    >>> data = Data(x=torch.ones(3, 2), edge_index=torch.tensor([[0, 1], [1, 2]]))
    >>> data = AddVirtualNodes(num=2, features="learned")(data)
    >>> VirtualNodeFeatures(2, 2)(data.x, data.virtual_id).shape
    torch.Size([5, 2])
    """

    def __init__(self, num: int, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num, channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw anew."""
        nn.init.normal_(self.weight, std=self.weight.shape[1] ** -0.5)

    def forward(self, x: Tensor, virtual_id: Tensor) -> Tensor:
        """Put the learned rows where ``virtual_id`` is not -1."""
        check_floating(x, "x")
        learned = self.weight.to(x.dtype)[virtual_id.clamp_min(0)]
        return torch.where((virtual_id >= 0)[:, None], learned, x)
