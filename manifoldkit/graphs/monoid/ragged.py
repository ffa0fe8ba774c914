"""What the aggregations of ragged sets share: input, projection, random orders."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn.aggr import Aggregation

from manifoldkit._checks import check_choice
from manifoldkit.graphs.modules import redraw_parts
from manifoldkit.graphs.monoid.plan import SegmentTreePlan
from manifoldkit.graphs.monoid.reduce import plan_for
from manifoldkit.linalg.checks import check_floating, check_tensor

_HALF = (torch.float16, torch.bfloat16)


class RaggedAggregation(Aggregation):
    """Projection, random orders, the axis, the plan; subclasses fold.

    Elements of a dtype narrower than the weights' are computed with in the weights';
    the result has the dtype of the elements.
    """

    def __init__(
        self,
        in_channels: int | None,
        out_channels: int | None,
        project: bool,
        permute: str,
        generator: torch.Generator | None,
    ):
        super().__init__()
        check_choice(permute, ("train", "always", "never"), "permute")
        self.permute, self.generator = permute, generator
        both = None not in (in_channels, out_channels)
        if both and in_channels != out_channels and not project:
            raise ValueError(
                f"project: expected True, as in_channels={in_channels} and "
                f"out_channels={out_channels} differ"
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.lin: nn.Module | None = None
        if project:
            if in_channels is None or out_channels is None:
                raise ValueError("in_channels, out_channels: needed by project=True")
            self.lin = nn.Linear(in_channels, out_channels)

    def reset_parameters(self) -> None:
        """Draw all weights again."""
        redraw_parts(self)

    def __call__(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
        """Check the elements before PyG reads their dimensions."""
        return super().__call__(check_tensor(x, "x"), *args, **options)

    def forward(
        self,
        x: Tensor,
        index: Tensor | None = None,
        ptr: Tensor | None = None,
        dim_size: int | None = None,
        dim: int = -2,
        max_num_elements: int | None = None,
        plan: SegmentTreePlan | None = None,
    ) -> Tensor:
        """Aggregate ``x`` along ``dim``; sets by ``index``, ``ptr`` or ``plan``.

        Returns a tensor with ``dim_size`` sets in place of the elements.
        """
        if not -check_tensor(x, "x").dim() <= dim < x.dim():
            raise ValueError(
                f"dim: expected a dimension of shape {tuple(x.shape)}, found {dim}"
            )
        if dim % x.dim() == x.dim() - 1:
            raise ValueError("dim: the last dimension holds the features")
        if plan is None:
            if index is not None:
                ptr = None  # PyG passes both; the index says it all
            plan = plan_for(index, ptr, dim_size)
        elif dim_size not in (None, plan.num_segments):
            raise ValueError(
                f"dim_size: expected {plan.num_segments} as the plan says, found "
                f"{dim_size}"
            )
        x = x.movedim(dim, 0)
        if x.shape[0] != plan.num_elements:
            raise ValueError(
                f"x, index: expected equal lengths, found {x.shape[0]} elements and "
                f"{plan.num_elements} indices"
            )
        out = self._fold(self._encode(x), plan)
        return out.to(x.dtype).movedim(0, dim)

    def _encode(self, x: Tensor) -> Tensor:
        """Project, in the dtype of the weights if that is the wider one."""
        features = self.in_channels
        if features is not None and x.shape[-1] != features:
            raise ValueError(
                f"x: expected in_channels={features} features, found {x.shape[-1]}"
            )
        weight = next(self.parameters(), None)
        if x.dtype.is_complex:
            raise TypeError(f"x: expected real numbers, found {x.dtype}")
        if weight is None:
            x = x.float() if x.dtype in _HALF else x
        elif x.dtype != weight.dtype:
            x = self._widened(check_floating(x, "x"), weight.dtype)
        return x if self.lin is None else self._project(x, self.lin)

    @staticmethod
    def _widened(x: Tensor, dtype: torch.dtype) -> Tensor:
        """Convert, unless that would lose digits."""
        if torch.promote_types(x.dtype, dtype) != dtype:
            raise TypeError(
                f"x: expected {dtype} as the weights or narrower, found {x.dtype}; "
                "convert the elements or the module"
            )
        return x.to(dtype)

    def _project(self, x: Tensor, layer: nn.Module) -> Tensor:
        """Apply the layer to a multiple of 16 rows: same bits in any company."""
        rows = x.reshape(-1, x.shape[-1])
        padding = rows[:1].expand(-len(rows) % 16, -1)
        out = layer(torch.cat([rows, padding])).relu()[: len(rows)]
        return out.view(*x.shape[:-1], out.shape[-1])

    def _ordered(self, plan: SegmentTreePlan) -> SegmentTreePlan:
        """Return the plan, in random order where ``permute`` says so."""
        if self.permute == "always" or (self.permute == "train" and self.training):
            return plan.shuffled(self.generator)
        return plan

    def _fold(self, x: Tensor, plan: SegmentTreePlan) -> Tensor:
        raise NotImplementedError


def take_part(x: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """Return ``x`` with a gradient, of zeros, for parameters that it does not need.

    ``DistributedDataParallel`` waits for the gradient of every parameter, also where a
    batch has no two elements to combine. No row of them is appended, so their values,
    NaN included, cannot enter.
    """
    if not torch.is_grad_enabled():
        return x
    shape = (0, *x.shape[1:])
    used = [p for p in parameters if p.requires_grad]
    nothing = [p.flatten()[:0].to(x).sum().expand(shape) for p in used]
    return torch.cat([x, *nothing]) if nothing else x
