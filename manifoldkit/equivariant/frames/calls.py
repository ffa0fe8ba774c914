"""Inputs and outputs of any container, and one call of a backbone on folded frames."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from manifoldkit.equivariant.frames.types import (
    MATRICES,
    Frame,
    ValueType,
    add_origin,
    into_frame,
    out_of_frame,
    parse_type,
)


class Arguments:
    """The arguments of a call by name, with their types.

    Parameters
    ----------
    inputs : tuple
        Tensors, or one dict or dataclass of tensors.
    types : tuple or dict of types
        Types in the same order, or by name.
    """

    def __init__(self, inputs: tuple, types: Any):
        single = inputs[0] if len(inputs) == 1 else None
        self.like: Any = None
        if isinstance(single, Mapping):
            self.like, values = "dict", dict(single)
        elif is_dataclass(single) and not isinstance(single, type):
            self.like = single
            values = {f.name: getattr(single, f.name) for f in fields(single)}
        else:
            values = dict(enumerate(inputs))
        self.values: dict[Any, Any] = values
        self.types = self._read_types(types)

    def _read_types(self, types: Any) -> dict[Any, ValueType]:
        if isinstance(types, Mapping):
            unknown = [k for k in types if k not in self.values]
            if unknown:
                raise ValueError(
                    f"in_types: names {unknown}, found inputs {list(self.values)}"
                )
            return {k: parse_type(types.get(k)) for k in self.values}
        listed = types if isinstance(types, (tuple, list)) else (types,)
        if len(listed) != len(self.values):
            raise ValueError(
                f"in_types: expected one type for each of {len(self.values)} inputs, "
                f"found {len(listed)}"
            )
        return dict(zip(self.values, map(parse_type, listed), strict=True))

    def call(self, backbone, values: dict, extra: dict):
        """Call the backbone with values in the container of the arguments."""
        if self.like is None:
            return backbone(*values.values(), **extra)
        if self.like == "dict":
            return backbone(values, **extra)
        return backbone(replace(self.like, **values), **extra)


def fold(x: Any, kind: ValueType, frame: Frame) -> Any:
    """Return a value in every frame with the frames folded into the batch."""
    if not isinstance(x, Tensor) or not x.ndim or len(x) != len(frame.R):
        return x
    return into_frame(x, kind, frame).flatten(0, 1)


def weighted_sum(values: Tensor, frame: Frame) -> Tensor:
    """Return the sum over frames of values (B, F, ...) with the frame's weights."""
    w = frame.log_weights.exp().to(values)
    if frame.padded:  # what the backbone makes of an unused place does not matter
        unused = (w == 0).reshape(*w.shape, *[1] * (values.ndim - 2))
        values = values.masked_fill(unused, 0.0)
    flat = values.flatten(2) if values.ndim > 2 else values[..., None]
    return (w[:, None] @ flat).reshape(len(w), *values.shape[2:])


class Outputs:
    """The outputs of a backbone, their types, and their running average."""

    def __init__(self, types: Any):
        self.types = types
        self.sums: dict[Any, Tensor] = {}
        self.origins: dict[Any, Tensor] = {}
        self.kinds: dict[Any, ValueType] = {}
        self.like: Any = None

    def _named(self, output: Any) -> dict[Any, Any]:
        if isinstance(output, Tensor):
            return {"output": output}
        if isinstance(output, Mapping):
            return dict(output)
        if is_dataclass(output) and not isinstance(output, type):
            return {f.name: getattr(output, f.name) for f in fields(output)}
        if isinstance(output, (tuple, list)):
            return dict(enumerate(output))
        raise TypeError(
            "backbone: expected it to return a tensor, tuple, dict or dataclass, found "
            f"{type(output).__name__}"
        )

    def _typed(self, named: dict[Any, Any]) -> dict[Any, ValueType]:
        types = self.types
        if isinstance(types, Mapping):
            if set(types) != set(named):
                raise ValueError(
                    f"out_types: expected types for {list(named)}, found {list(types)}"
                )
            return {k: parse_type(types[k]) for k in named}
        listed = types if isinstance(types, (tuple, list)) else (types,)
        if hasattr(types, "D_from_matrix"):
            listed = (types,)
        if len(listed) != len(named):
            raise ValueError(
                f"out_types: the backbone returned {len(named)} outputs, found "
                f"{len(listed)} types"
            )
        return dict(zip(named, map(parse_type, listed), strict=True))

    def add(self, output: Any, frame: Frame, rows: Any = None) -> None:
        """Add the outputs of some frames; ``rows`` gives the frames of each output.

        Raises
        ------
        TypeError, ValueError
            The backbone returned something that cannot be averaged.
        """
        self.like = output
        named = self._named(output)
        self.kinds = self._typed(named)
        for key, o in named.items():
            kind = self.kinds[key]
            own = frame if rows is None else rows(o, frame)
            self._check(key, o, kind, own)
            count = own.R.shape[1]
            back = out_of_frame(o.reshape(len(own.R), count, *o.shape[1:]), kind, own)
            if kind.kind == "normal":
                back = back[..., :, None] * back[..., None, :]
            total = weighted_sum(back, own)
            self.origins[key] = own.t
            self.sums[key] = total if key not in self.sums else self.sums[key] + total

    def _check(self, key: Any, o: Any, kind: ValueType, frame: Frame) -> None:
        if not isinstance(o, Tensor):
            raise TypeError(
                f"backbone: expected a tensor as output {key!r}, "
                f"found {type(o).__name__}"
            )
        if not o.is_floating_point():
            raise TypeError(
                f"backbone: output {key!r} is {o.dtype}, which cannot be averaged"
            )
        items, d = frame.R.shape[0] * frame.R.shape[1], frame.R.shape[-1]
        if o.ndim == 0 or len(o) != items:
            raise ValueError(
                f"backbone: expected {items} items in output {key!r} (frames are "
                f"folded into the batch), found shape {tuple(o.shape)}"
            )
        if kind.kind in ("position", "vector", "pseudovector", "normal", *MATRICES):
            tail = (d, d) if kind.kind in MATRICES else (d,)
            if tuple(o.shape[-len(tail) :]) != tail or o.ndim <= len(tail):
                raise ValueError(
                    f"backbone: expected {kind.kind} output {key!r} of shape "
                    f"(..., {', '.join(map(str, tail))}), found {tuple(o.shape)}"
                )

    def result(self, squeeze: bool = False) -> Any:
        """Return the averages in the container of the backbone."""
        found = {}
        for key, total in self.sums.items():
            if self.kinds[key].kind == "normal":
                from manifoldkit.linalg.eigensystem import safe_eigh

                total = safe_eigh(total, 1e-6)[1][..., -1]
            if self.kinds[key].kind == "position":
                total = add_origin(total, self.origins[key])
            found[key] = total.squeeze(0) if squeeze else total
        like = self.like
        if isinstance(like, Tensor):
            return found["output"]
        if isinstance(like, Mapping):
            return found
        if is_dataclass(like) and not isinstance(like, type):
            return replace(like, **found)
        if hasattr(like, "_make"):
            return like._make(found.values())
        return type(like)(found.values())
