"""Parameters of equal manifold and point shape, gathered into one batch.

The state of an optimizer is per parameter and knows nothing of buckets: each state
tensor is a view of the bucket's stacked one, and a bucket can be thrown away and
rebuilt from the state at any time. The parameters themselves become views of one
tensor too (:mod:`manifoldkit.optim.storage`), where nobody else looks at their memory.
"""

from collections.abc import Callable, Iterable
from itertools import repeat
from operator import is_
from typing import Any

import geoopt
import torch
from torch import Tensor
from torch._C import DisableTorchFunctionSubclass

from manifoldkit.linalg.checks import compute_dtype
from manifoldkit.manifolds import manifold_of
from manifoldkit.manifolds.reshaped import Reshaped
from manifoldkit.optim.storage import SharedStorage

#: geoopt manifolds that hold no tensors and are therefore equal by type and options
_VALUE_CLASSES = (
    geoopt.CanonicalStiefel,
    geoopt.EuclideanStiefel,
    geoopt.EuclideanStiefelExact,
    geoopt.Lorentz,
    geoopt.Sphere,
    geoopt.SphereExact,
    geoopt.SymmetricPositiveDefinite,
)


def curved_manifold(p: Tensor):
    """Return the manifold of a parameter, None where it is flat.

    >>> curved_manifold(torch.zeros(2)) is None
    True
    """
    if getattr(p, "manifold", None) is None:
        return None
    manifold = manifold_of(p)
    return None if isinstance(manifold, geoopt.Euclidean) else manifold


def base_of(manifold):
    """Return the manifold that a reshaped view computes with."""
    return manifold.base if isinstance(manifold, Reshaped) else manifold


def manifold_key(manifold) -> tuple:
    """Return a key that is equal for manifolds whose points can share a batch.

    >>> manifold_key(geoopt.Sphere()) == manifold_key(geoopt.Sphere())
    True
    """
    holds_tensors = manifold.device is not None
    group_key = getattr(manifold, "group_key", None)
    if callable(group_key) and not holds_tensors:
        return ("value", group_key())
    if type(manifold) in _VALUE_CLASSES and not holds_tensors:
        return ("value", type(manifold), manifold.extra_repr())
    return ("object", id(manifold))


Alike = tuple[Any, list[Tensor]]


def sort_out(
    params: Iterable[Tensor], together: bool = True
) -> tuple[list[Tensor], list[Alike]]:
    """Return the flat parameters, and those that share a batch with their manifold.

    ``together=False`` keeps every parameter on a manifold by itself.
    """
    flat: list[Tensor] = []
    batches: dict[Any, Alike] = {}
    for i, p in enumerate(params):
        manifold = curved_manifold(p)
        if manifold is None:
            flat.append(p)
            continue
        shape = p.shape[p.ndim - manifold.ndim :]
        key: Any = (manifold_key(manifold), shape, p.dtype, p.device)
        batches.setdefault(key if together else i, (manifold, []))[1].append(p)
    return flat, list(batches.values())


class Bucket:
    """Parameters that are stepped as one batch ``(B, *point)``.

    Parameters
    ----------
    params : list of Tensor
        Parameters of equal manifold, point shape, dtype and device.
    geometry : TangentGeometry
        How their points move.
    state : mapping
        The optimizer's state, by parameter.
    manifold : geoopt.Manifold
        The parameters' manifold: that of the geometry, or a reshaped view of it.
    views : bool, default=False
        Make the parameters views of one tensor where that is safe.
    master : bool, default=False
        Keep points of half precision in float32 between steps.
    """

    def __init__(
        self, params: list[Tensor], geometry, state, manifold, views=False, master=False
    ):
        self.params = params
        self.geometry = geometry
        self.state = state
        self.layout = manifold if isinstance(manifold, Reshaped) else None
        first = params[0]
        self.ndim = manifold.ndim
        self.point_shape = first.shape[first.ndim - self.ndim :]
        self.dtype, self.device = first.dtype, first.device
        self.rows = [p[(..., *(0,) * self.ndim)].numel() for p in params]
        self.plain = all(p.ndim == self.ndim for p in params)
        self.buffers: dict[str, Tensor] = {}
        self.storage = SharedStorage(self.params) if views and len(params) > 1 else None
        self.master = master and compute_dtype(self.dtype) != self.dtype
        self._out: list[Tensor] | None = None
        # a state of the first parameter, by which a bucket knows its own
        self._mark: tuple[str, Tensor] | None = None

    def stack(self, tensors: list[Tensor]) -> Tensor:
        """Gather tensors of the parameters into one batch, as stored."""
        if len(tensors) == 1:
            return tensors[0].detach().reshape(-1, *self.point_shape)
        if self.plain:
            return torch.stack(tensors)
        return torch.cat([t.reshape(-1, *self.point_shape) for t in tensors])

    def gather(self, tensors: list[Tensor]) -> Tensor:
        """Stack tensors in the layout and dtype that the geometry computes in.

        Raises ``RuntimeError`` where they are not what the bucket was made for.
        """
        if tensors[0].layout != torch.strided:
            raise RuntimeError(
                "sparse gradients are not supported on manifolds: "
                "use a dense gradient (sparse=False in the embedding)"
            )
        return self._prepare(self.stack(tensors))

    def points(self) -> Tensor:
        """All points in the layout and dtype that the geometry computes in.

        These may be the memory of the parameters: :meth:`scatter` ends a change.
        """
        x = None if self.storage is None else self.storage.read()
        x = self.stack(self.params) if x is None else x.view(-1, *self.point_shape)
        x = self._prepare(x)
        if not self.master:
            return x
        # where the parameter is not the rounded master, somebody has set it
        wide = self.bind("master", x.shape)
        same = wide.to(self.dtype) == x.to(self.dtype)
        same = same.flatten(1).all(1).view(-1, *(1,) * (x.ndim - 1))
        return torch.where(same, wide, x)

    def _prepare(self, x: Tensor) -> Tensor:
        if x.shape[1:] != self.point_shape or x.device != self.device:
            raise RuntimeError(
                f"expected points of shape {tuple(self.point_shape)} on {self.device}, "
                f"found {tuple(x.shape[1:])} on {x.device}"
            )
        x = x.to(compute_dtype(self.dtype))
        return x if self.layout is None else self.layout.to_base(x)

    def split(self, batch: Tensor) -> list[Tensor]:
        """Views of a batch, one for each parameter, of component shape."""
        if self.layout is not None and batch[0].numel() == self.point_shape.numel():
            batch = self.layout.from_base(batch)
        component = batch.shape[1:]
        if self.plain and len(self.params) == batch.shape[0]:
            return list(batch.unbind(0))
        parts = batch.split(self.rows)
        shapes = (p.shape[: p.ndim - self.ndim] for p in self.params)
        return [
            part.view(*shape, *component)
            for part, shape in zip(parts, shapes, strict=True)
        ]

    def scatter(self, x: Tensor, active: list[int] | None) -> None:
        """Write a batch of points back into the parameters."""
        if self.layout is not None:
            x = self.layout.from_base(x)
        if len(self.params) == 1:
            p = self.params[0]
            if torch.compiler.is_compiling() or x.data_ptr() != p.data_ptr():
                p.copy_(x.reshape(p.shape))
            return
        if self.storage is not None and self.storage.current:
            rows = None if active is None else self.row_index(active)
            self.storage.write(x, rows, active)
            return
        if self._out is None:
            buffer = torch.empty(
                sum(self.rows), *self.point_shape, dtype=self.dtype, device=self.device
            )
            parts = zip(buffer.split(self.rows), self.params, strict=True)
            self._out = [buffer, *(part.view(p.shape) for part, p in parts)]
        params, views = self.params, self._out[1:]
        if active is None:
            self._out[0].copy_(x)
        else:
            self._out[0][self.row_index(active)] = x.to(self.dtype)
            params, views = ([s[i] for i in active] for s in (params, views))
        torch._foreach_copy_(params, views)

    def row_index(self, active: list[int]) -> Tensor:
        """Rows of some parameters."""
        parts = torch.arange(sum(self.rows), device=self.device).split(self.rows)
        return torch.cat([parts[i] for i in active])

    @property
    def owners(self) -> Tensor:
        """Index of the parameter of every row."""
        index = torch.arange(len(self.rows), device=self.device)
        return index.repeat_interleave(torch.tensor(self.rows, device=self.device))

    def bind(self, name: str, shape, old: Callable | None = None) -> Tensor:
        """Return the stacked state ``name`` of ``shape``, made on first use.

        Values that parameters bring with them (from a state dict) are copied in, a
        second moment of the full size of its point reduced to its first entry.
        ``old(parameter state)`` may supply a value under another name.
        """
        buffer = self.buffers.get(name)
        if buffer is not None:
            return buffer
        dtype = compute_dtype(self.dtype)
        buffer = torch.zeros(shape, dtype=dtype, device=self.device)
        for p, view in zip(self.params, self.split(buffer), strict=True):
            state = self.state[p]
            value = state.get(name)
            if value is None and old is not None:
                value = old(p, state)
            if value is not None and value.numel() == view.numel():
                view.copy_(value.reshape(view.shape))
            elif value is not None:
                view.copy_(reduce_to(value, view.shape))
            state[name] = view
        self._remember(name, buffer)
        return buffer

    def bind_steps(self) -> Tensor:
        """Return the step counts, one for each parameter."""
        steps = self.buffers.get("step")
        if steps is None:
            steps = torch.zeros(len(self.params), device=self.device)
            for i, p in enumerate(self.params):
                state = self.state[p]
                # momentum without a counter: a checkpoint of geoopt's SGD
                started = "momentum_buffer" in state
                steps[i] = torch.as_tensor(state.get("step", float(started)))
                state["step"] = steps[i]
            self._remember("step", steps)
        return steps

    def _remember(self, name: str, buffer: Tensor) -> None:
        self.buffers[name] = buffer
        if self._mark is None:
            self._mark = name, self.state[self.params[0]][name]

    def intact(self) -> bool:
        """Tell whether the first parameter is still what the bucket was made for."""
        first = self.params[0]
        if first.dtype != self.dtype or first.device != self.device:
            return False
        if self._mark is None:
            return True
        name, view = self._mark
        return self.state[first].get(name) is view


def reduce_to(value: Tensor, shape) -> Tensor:
    """Drop the repeated entries of a second moment that was stored at full size.

    >>> reduce_to(torch.ones(5, 3, 2), (5, 1, 1)).shape
    torch.Size([5, 1, 1])
    """
    if value.ndim == len(shape):
        for dim, (have, want) in enumerate(zip(value.shape, shape, strict=True)):
            if want == 1 and have > 1:
                value = value.narrow(dim, 0, 1)
    return value


class Batch:
    """The part of a bucket that has gradients in this step.

    ``x`` may be the memory of the parameters.
    """

    def __init__(self, bucket: Bucket, egrad: Tensor, active: list[int] | None):
        self.bucket = bucket
        self.egrad = egrad
        self.active = active
        self.index: Tensor | None = None
        self.x = bucket.points()
        if active is not None:
            self.index = bucket.row_index(active)
            self.x = self.x[self.index]

    @classmethod
    def of(cls, bucket: Bucket) -> "Batch | None":
        """Gather the parameters that have a gradient; None if none has."""
        with DisableTorchFunctionSubclass():  # twice as fast for subclasses
            grads: list[Any] = [p.grad for p in bucket.params]
        if not any(map(is_, grads, repeat(None))):
            return cls(bucket, bucket.gather(grads), None)
        active = [i for i, g in enumerate(grads) if g is not None]
        if not active:
            return None
        return cls(bucket, bucket.gather([grads[i] for i in active]), active)

    def finish(self, y: Tensor) -> None:
        """Store the points that ``x`` has become."""
        if self.bucket.master:
            self.write("master", y)
        self.bucket.scatter(y, self.active)

    def read(self, name: str, component, old: Callable | None = None) -> Tensor:
        """Return the state ``name`` of the active rows, to be changed in place."""
        shape = (sum(self.bucket.rows), *component)
        buffer = self.bucket.bind(name, shape, old)
        return buffer if self.index is None else buffer[self.index]

    def write(self, name: str, value: Tensor) -> None:
        """Store the state ``name`` of the active rows."""
        buffer = self.bucket.buffers[name]
        if self.index is not None:
            buffer[self.index] = value
        elif value is not buffer:
            buffer.copy_(value)

    def advance(self) -> None:
        """Advance the step counts."""
        steps = self.bucket.bind_steps()
        if self.active is None:
            steps += 1
        else:
            steps[torch.tensor(self.active, device=steps.device)] += 1

    def steps(self) -> Tensor | float:
        """Step count of every active row, ``(B, 1, ..)``.

        A single parameter on the CPU has a number, which saves arithmetic on tensors.
        """
        bucket = self.bucket
        steps = bucket.bind_steps()
        if len(bucket.rows) == 1:
            if steps.device.type == "cpu" and not torch.compiler.is_compiling():
                return float(steps)
        else:
            if not bucket.plain:
                steps = steps[bucket.owners]
            if self.index is not None:
                steps = steps[self.index]
        steps = steps.to(compute_dtype(bucket.dtype))
        return steps.view(-1, *(1,) * bucket.geometry.manifold.ndim)
