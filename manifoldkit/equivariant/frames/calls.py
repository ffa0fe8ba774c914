"""Inputs and outputs of any container, and one call of a backbone on folded frames."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from manifoldkit.equivariant.frames.types import (
    MATRICES,
    Frame,
    ValueType,
    add_origin,
    into_frame,
    out_of_frame,
    parse_type,
)


def is_record(value: Any) -> bool:
    """Whether a value holds others by name: a mapping, or an object of a dataclass."""
    data = is_dataclass(value) and not isinstance(value, type)
    return data or isinstance(value, Mapping)


def unpack(value: Any) -> dict[Any, Any] | None:
    """Return the values of a container by name or place, None for what is none."""
    if isinstance(value, Mapping):
        return dict(value)
    if is_record(value):
        return {f.name: getattr(value, f.name) for f in fields(value)}
    return dict(enumerate(value)) if isinstance(value, (tuple, list)) else None


def repack(like: Any, values: dict[Any, Any]) -> Any:
    """Return values in a container of the same kind."""
    if isinstance(like, Mapping):
        return values
    if is_record(like):
        return replace(like, **values)
    if hasattr(like, "_make"):
        return like._make(values.values())
    return type(like)(values.values())


def read_types(types: Any, names: Iterable[Any], name: str) -> dict[Any, ValueType]:
    """Return the type of each value, from types in the same order or by name."""
    names = list(names)
    if isinstance(types, Mapping):
        unknown = [k for k in types if k not in names]
        if unknown:
            raise ValueError(f"{name}: names {unknown}, found values {names}")
        return {k: parse_type(types.get(k)) for k in names}
    one = hasattr(types, "D_from_matrix") or not isinstance(types, (tuple, list))
    listed = (types,) if one else types
    if len(listed) != len(names):
        raise ValueError(
            f"{name}: expected one type for each of {len(names)} values, "
            f"found {len(listed)}"
        )
    return dict(zip(names, map(parse_type, listed), strict=True))


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
        self.like = inputs[0] if len(inputs) == 1 and is_record(inputs[0]) else None
        given = inputs if self.like is None else self.like
        self.values: dict[Any, Any] = unpack(given) or {}
        self.types = read_types(types, self.values, "in_types")

    def call(
        self, backbone: Callable[..., Any], values: dict[Any, Any], extra: dict
    ) -> Any:
        """Call the backbone with values in the container of the arguments."""
        if self.like is None:
            return backbone(*values.values(), **extra)
        return backbone(repack(self.like, values), **extra)


def fold(x: Any, kind: ValueType, frame: Frame) -> Any:
    """Return a value in every frame with the frames folded into the batch."""
    if not isinstance(x, Tensor) or not x.ndim or x.shape[0] != frame.R.shape[0]:
        return x
    return into_frame(x, kind, frame).flatten(0, 1)


def join(parts: list[Tensor]) -> Tensor | None:
    """Return all points of a kind, if there are inputs of that kind."""
    if not parts:
        return None
    for part in parts[1:]:
        if len(part) != len(parts[0]):
            raise ValueError(
                f"frame_from: expected batches of equal size, found {len(parts[0])} "
                f"and {len(part)}"
            )
    return torch.cat(parts, 1)


def naming_dtypes(
    run: Callable[[Frame], Any], backbone: Any, values: dict[Any, Any]
) -> Callable[[Frame], Any]:
    """Say so where a backbone fails because its parameters have another dtype."""
    if not isinstance(backbone, nn.Module) or torch.compiler.is_compiling():
        return run
    tensors = (v for v in values.values() if isinstance(v, Tensor))
    given = {v.dtype for v in tensors if v.is_floating_point()}
    own = {p.dtype for p in backbone.parameters() if p.is_floating_point()}
    if not own or given <= own:
        return run

    def named(frame: Frame) -> Any:
        try:
            return run(frame)
        except RuntimeError as error:
            texts = [
                " and ".join(sorted(str(d).removeprefix("torch.") for d in kinds))
                for kinds in (own, given)
            ]
            raise TypeError(
                f"inputs: expected {texts[0]}, as the parameters of the backbone are, "
                f"found {texts[1]} ({error})"
            ) from error

    return named


def weighted_sum(values: Tensor, frame: Frame) -> Tensor:
    """Return the sum over frames of values (B, F, ...) with the frame's weights."""
    w = frame.log_weights.exp().to(values)
    if frame.padded:  # what the backbone makes of an unused place does not matter
        unused = (w == 0).reshape(*w.shape, *[1] * (values.ndim - 2))
        values = values.masked_fill(unused, 0.0)
    flat = values.flatten(2) if values.ndim > 2 else values[..., None]
    return (w[:, None] @ flat).reshape(w.shape[0], *values.shape[2:])


class Outputs:
    """The outputs of a backbone, their types, and their running average."""

    def __init__(self, types: Any):
        self.types = types
        self.sums: dict[Any, Tensor] = {}
        self.origins: dict[Any, Tensor] = {}
        self.kinds: dict[Any, ValueType] = {}
        self.like: Any = None

    def add(self, output: Any, frame: Frame, rows: Callable | None = None) -> None:
        """Add the outputs of some frames; ``rows`` gives the frames of each output.

        Raises
        ------
        TypeError, ValueError
            The backbone returned something that cannot be averaged.
        """
        self.like = output
        named = {"output": output} if isinstance(output, Tensor) else unpack(output)
        if named is None:
            raise TypeError(
                "backbone: expected it to return a tensor, tuple, dict or dataclass, "
                f"found {type(output).__name__}"
            )
        if isinstance(self.types, Mapping) and set(self.types) != set(named):
            raise ValueError(
                f"out_types: expected types for {list(named)}, found {list(self.types)}"
            )
        self.kinds = read_types(self.types, named, "out_types")
        for key, o in named.items():
            kind = self.kinds[key]
            own = frame if rows is None else rows(o, frame)
            self._check(key, o, kind, own)
            count = own.R.shape[1]
            back = out_of_frame(
                o.reshape(own.R.shape[0], count, *o.shape[1:]), kind, own
            )
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
        if o.ndim == 0 or o.shape[0] != items:
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
        if isinstance(self.like, Tensor):
            return found["output"]
        return repack(self.like, found)
