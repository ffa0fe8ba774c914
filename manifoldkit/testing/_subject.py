"""The function under test: its modules, inputs, outputs and noise."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from manifoldkit.testing.types import TypeSpec, is_linear, parse_type


def modules_of(fn: Any, extra: Iterable[nn.Module] = ()) -> list[nn.Module]:
    """Return the modules that a callable uses: itself, its owner, its closure."""
    found = list(extra)
    while isinstance(fn, functools.partial):
        fn = fn.func
    owner = getattr(fn, "__self__", None)
    cells = getattr(fn, "__closure__", None) or ()
    held = [cell.cell_contents for cell in cells]
    found += [m for m in (fn, owner, *held) if isinstance(m, nn.Module)]
    return list({id(m): m for m in found}.values())


@contextmanager
def borrowed(modules: list[nn.Module], mode: str) -> Iterator[None]:
    """Put modules in a mode and give them back exactly as they were."""
    parts = [part for module in modules for part in module.modules()]
    training = [part.training for part in parts]
    values = [
        (p, p.data)
        for part in parts
        for p in part._parameters.values()
        if p is not None
    ]
    buffers = [
        (part._buffers, name, b, b.clone())
        for part in parts
        for name, b in part._buffers.items()
        if b is not None
    ]
    try:
        for module in modules:
            module.train(mode == "train")
        yield
    finally:
        for part, flag in zip(parts, training, strict=True):
            part.training = flag
        for parameter, data in values:
            parameter.data = data
        for place, name, buffer, value in buffers:
            with torch.no_grad():
                place[name] = buffer.copy_(value)


def cast_modules(modules: list[nn.Module], dtype: torch.dtype) -> None:
    """Cast floating parameters and buffers; :func:`borrowed` undoes it."""
    for module in modules:
        for part in module.modules():
            for p in part._parameters.values():
                if p is not None and p.is_floating_point():
                    p.data = p.data.to(dtype)
            for name, b in part._buffers.items():
                if b is not None and b.is_floating_point():
                    part._buffers[name] = b.to(dtype)


def flatten_output(output: Any) -> dict[str, Tensor]:
    """Return the tensors of an output by name."""
    if isinstance(output, Tensor):
        return {"output": output}
    if isinstance(output, Mapping):
        return {str(k): v for k, v in output.items()}
    if is_dataclass(output) and not isinstance(output, type):
        return {f.name: getattr(output, f.name) for f in fields(output)}
    if hasattr(output, "_asdict"):
        return dict(output._asdict())
    if isinstance(output, (tuple, list)):
        return {f"output[{i}]": v for i, v in enumerate(output)}
    raise TypeError(
        "fn: expected a tensor, tuple, dict or dataclass, "
        f"found {type(output).__name__}"
    )


class Subject:
    """A function with named inputs and typed outputs, called with a fixed seed.

    Parameters
    ----------
    fn : callable
        The function under test.
    inputs : Tensor, tuple or dict
        Arguments; a dict is passed by keyword.
    in_types, out_types : type or tuple or dict of types
        Types of the inputs and outputs.
    batch : bool
        Whether dimension 0 is a batch.
    """

    def __init__(self, fn: Callable, inputs, in_types, out_types, batch: bool):
        self.fn, self.batch, self.out_types = fn, batch, out_types
        self.by_name = isinstance(inputs, Mapping)
        if isinstance(inputs, Tensor):
            inputs, in_types = (inputs,), (in_types,)
        self.names: list[Any] = list(inputs if self.by_name else range(len(inputs)))
        values = [inputs[k] for k in self.names]
        if self.by_name and isinstance(in_types, Mapping):
            in_types = [in_types.get(k) for k in self.names]
        elif isinstance(in_types, str):
            in_types = (in_types,)
        if len(in_types) != len(values):
            raise ValueError(
                f"in_types: expected one type for each of {len(values)} inputs, "
                f"found {len(in_types)}"
            )
        self.specs = [parse_type(t) for t in in_types]
        self.original = values
        self.values = [v.detach().double() if _floating(v) else v for v in values]

    def sizes(self) -> tuple[int | None, int | None, float]:
        """Return dimension, number of nodes and size of the data."""
        d = n = None
        size = 0.0
        for spec, x in zip(self.specs, self.values, strict=True):
            if not isinstance(x, Tensor):
                continue
            if d is None and is_linear(spec):
                d = x.shape[-1]
            dims = spec.node_dims(x, self.batch) if spec.kind != "edge_index" else ()
            if n is None and dims:
                n = x.shape[dims[0]]
            if spec.kind == "position" and x.numel():
                centered = x - x.flatten(0, -2).nanmean(0)
                size = max(size, float(centered.square().nanmean().sqrt()))
            if d is None and spec.kind == "irreps":
                d = 3
            if d is None and spec.kind in ("image", "volume"):
                d = 2 if spec.kind == "image" else 3
        return d, n, size or 1.0

    def cast(self, values: list, dtype: torch.dtype) -> list:
        """Return the values in a dtype, as fresh tensors."""
        return [v.to(dtype, copy=True) if _floating(v) else _fresh(v) for v in values]

    def __call__(self, values: list, seed: int | None = 0) -> dict[str, Tensor]:
        """Return the outputs by name."""
        if seed is not None:
            torch.manual_seed(seed)
        if self.by_name:
            output = self.fn(**dict(zip(self.names, values, strict=True)))
        else:
            output = self.fn(*values)
        return self._typed(flatten_output(output))

    def _typed(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        types = self.out_types
        if isinstance(types, Mapping):
            missing = [k for k in types if k not in found]
            if missing:
                raise ValueError(f"out_types: fn returned {list(found)}, not {missing}")
            pairs = {k: types[k] for k in types}
        else:
            listed = (
                list(types)
                if isinstance(types, (tuple, list))
                and not hasattr(types, "D_from_matrix")
                else [types]
            )
            if len(listed) != len(found):
                raise ValueError(
                    f"out_types: fn returned {len(found)} outputs ({list(found)}), "
                    f"found {len(listed)} types"
                )
            pairs = dict(zip(found, listed, strict=True))
        self.out_specs = {k: parse_type(t) for k, t in pairs.items() if t is not None}
        for k in self.out_specs:
            if not isinstance(found[k], Tensor):
                raise TypeError(
                    f"fn: expected a tensor as {k}, found {type(found[k]).__name__}"
                )
        return {k: found[k] for k in self.out_specs}


class GradientSubject(Subject):
    """The gradient of the scalar outputs of a subject, a function of its own."""

    def __init__(self, subject: Subject, scalars: list[str]):
        self.__dict__.update(subject.__dict__)
        self.subject, self.scalars = subject, scalars
        self.places = [
            i
            for i, (spec, v) in enumerate(zip(self.specs, self.values, strict=True))
            if _floating(v) and spec.kind not in ("fixed", "mask")
        ]
        self.out_specs: dict[str, TypeSpec] = {
            f"gradient of input {self.names[i]}": self.specs[i].dual()
            for i in self.places
        }

    def total(self, values: list, seed: int | None = 0) -> Tensor:
        """Return one number: the scalar outputs, features weighed differently."""
        outputs = self.subject(values, seed)
        total = values[self.places[0]].new_zeros(())
        for name in self.scalars:
            y = outputs[name]
            spec = self.subject.out_specs[name]
            free = y.ndim - 1 not in spec.node_dims(y, self.batch)
            if free and y.ndim > int(self.batch):
                y = y * torch.arange(1, y.shape[-1] + 1).to(y).cos()
            total = total + y.sum()
        return total

    def __call__(self, values: list, seed: int | None = 0) -> dict[str, Tensor]:
        """Return the gradient with respect to every floating input."""
        with torch.enable_grad():
            values = list(values)
            for i in self.places:
                values[i] = values[i].detach().requires_grad_()
            leaves = [values[i] for i in self.places]
            found = torch.autograd.grad(
                self.total(values, seed), leaves, allow_unused=True
            )
        grads = [
            torch.zeros_like(v) if g is None else g
            for v, g in zip(leaves, found, strict=True)
        ]
        return dict(zip(self.out_specs, grads, strict=True))


def _floating(v: Any) -> bool:
    return isinstance(v, Tensor) and v.is_floating_point()


def _fresh(v: Any) -> Any:
    return v.clone() if isinstance(v, Tensor) else v
