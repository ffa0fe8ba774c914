"""Names of aggregations for PyG's resolver, on request."""

from typing import Any

import torch_geometric.nn.aggr as pyg_aggr

from manifoldkit.graphs.monoid.aggregation import LCMAggregation


class LCMRaggedAggregation(LCMAggregation):
    """:class:`LCMAggregation` as PyG's resolver builds it, see below.

    Parameters
    ----------
    in_channels, out_channels : int
        Features before and after.
    **settings
        Further arguments of :class:`LCMAggregation`.
    """

    def __init__(self, in_channels: int, out_channels: int, **settings: Any):
        super().__init__("gru", in_channels, out_channels, **settings)


def register_aggregations() -> None:
    """Let PyG find :class:`LCMAggregation` by the name ``"lcm_ragged"``.

    PyG looks names up among the attributes of ``torch_geometric.nn.aggr`` and has no
    other register, so this sets one there, on request only; without it give the
    aggregation itself as ``aggr=``. PyG's own names stay PyG's: ``"lcm"`` is its padded
    class. Arguments go through ``aggr_kwargs``; both numbers of channels are needed.

    Examples
    --------
    >>> from torch_geometric.nn import SAGEConv
    >>> register_aggregations()
    >>> sizes = {"in_channels": 4, "out_channels": 4}
    >>> SAGEConv(4, 8, aggr="lcm_ragged", aggr_kwargs=sizes).aggr_module
    LCMRaggedAggregation(GRUMonoid(...), permute='train')
    """
    pyg_aggr.LCMRaggedAggregation = LCMRaggedAggregation
