"""How values of each type transform under a group element."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from manifoldkit.linalg.actions import act_on_irreps, names_irreps, turn_grid
from manifoldkit.linalg.checks import check_last, check_tensor
from manifoldkit.testing.groups import Element

_VECTORS = ("position", "vector", "covector", "pseudovector", "normal", "irreps")
_MATRICES = ("matrix", "sym_matrix", "spd", "covariance", "comatrix")
#: Types without anything linear: node and edge values, masks, whole-graph values.
_NODES = {"scalar": (), "node_scalar": (0,), "edge_scalar": (0, 1), "mask": (0,)}
_OTHERS = ("eigenvectors", "image", "volume", "time", "series", "edge_index", "fixed")
KINDS = (*_VECTORS, *_MATRICES, *_NODES, *_OTHERS)
#: The type of the gradient with respect to a value of a type.
DUAL = {
    "position": "covector",
    "vector": "covector",
    "covector": "vector",
    "normal": "covector",
    "eigenvectors": "eigencovectors",
    **dict.fromkeys(("matrix", "sym_matrix", "spd", "covariance"), "comatrix"),
    "comatrix": "matrix",
    "time": "scalar",
}


@dataclass(frozen=True)
class TypeSpec:
    """A type and the dimensions that the nodes of a permutation run along."""

    kind: str
    nodes: tuple[int, ...] | None = None
    irreps: Any = None

    def node_dims(self, x: Tensor, batch: bool) -> tuple[int, ...]:
        """Return the node dimensions: those named, else the first after the batch."""
        if self.nodes is not None:
            return self.nodes
        first = int(batch)
        if self.kind in _NODES:
            return tuple(first + i for i in _NODES[self.kind])
        free = x.ndim - first - (2 if self.kind in _MATRICES else 1)
        has_nodes = self.kind in _VECTORS or self.kind in _MATRICES
        return (first,) if has_nodes and free > 0 else ()

    def dual(self) -> "TypeSpec":
        """Return the type of the gradient with respect to a value of this type."""
        kind = DUAL.get(self.kind, self.kind)
        return TypeSpec(kind, self.nodes, self.irreps)


def parse_type(spec: Any) -> TypeSpec:
    """Read a type: a name, an Irreps string or object; ``"@"`` names node dimensions.

    >>> parse_type("position@1").nodes
    (1,)
    """
    if spec is None:
        return TypeSpec("fixed", ())
    if isinstance(spec, TypeSpec):
        return spec
    if hasattr(spec, "D_from_matrix"):
        return TypeSpec("irreps", None, spec)
    if not isinstance(spec, str):
        raise TypeError(f"types are strings, found {spec!r}")
    kind, at, dims = spec.partition("@")
    kind = kind.strip()
    nodes = tuple(int(i) for i in dims.split(",") if i.strip()) if at else None
    if names_irreps(kind):
        return TypeSpec("irreps", nodes, _irreps(kind))
    if kind not in KINDS:
        raise ValueError(
            f"unknown type {spec!r}: expected an Irreps string such as '1x0e+1x1o' or "
            f"one of {', '.join(KINDS)}"
        )
    return TypeSpec(kind, nodes)


@lru_cache(maxsize=64)
def _irreps(text: str):
    from e3nn.o3 import Irreps  # seconds to import, and seldom needed

    return Irreps(text)


def is_linear(spec: TypeSpec) -> bool:
    """Tell whether the last dimension of a value of this type is that of space."""
    return spec.kind in _MATRICES or spec.kind in (*_VECTORS[:-1], "eigenvectors")


def transform(
    element: Element, x: Tensor, kind: Any = "position", batch: bool = True
) -> Tensor:
    """Return what a value becomes under a group element.

    Parameters
    ----------
    element : Element
        The group element.
    x : Tensor
        A value; the last dimension is that of space for vectors, the last two for
        matrices.
    kind : str or e3nn.o3.Irreps, default="position"
        Its type: ``position`` (A x + t), ``vector`` (A x), ``pseudovector``
        (det(A) A x), ``covector`` (A^-T x), ``normal`` (a vector up to sign),
        ``matrix``, ``spd`` (A M A'), an Irreps string, ``scalar``, ``node_scalar``,
        ``edge_scalar``, ``mask``, ``edge_index``, ``image`` and ``volume`` (the last
        axes are the space), ``series`` (time is dimension -2), ``fixed``.
        ``"position@2"`` says which dimension holds the nodes; the default is the first
        after the batch.
    batch : bool, default=True
        Whether dimension 0 is a batch.

    Returns
    -------
    Tensor, shape of x

    Raises
    ------
    TypeError, ValueError
        No element, no tensor, a last dimension other than that of the element, an
        unknown type, or an Irreps type under a map that is not orthogonal.

    Examples
    --------
    >>> turn = Element("turn", matrix=-torch.eye(2, dtype=torch.float64))
    >>> transform(turn, torch.tensor([[1., 2.]]), "vector")
    tensor([[-1., -2.]])
    """
    spec = parse_type(kind)
    if not isinstance(element, Element):
        raise TypeError(f"element: expected an Element, found {element!r}")
    check_tensor(x, "x")
    spaced = spec.kind in ("position", "vector", "pseudovector", "covector", "normal")
    if spaced and element.matrix is not None and x.is_floating_point():
        check_last(x, (element.matrix.shape[-1],), "x")
    if element.identity or spec.kind == "fixed":
        return x
    if element.permutation is not None:
        x = _permute(element.permutation, x, spec, batch)
    if element.steps:
        x = _shift(element.steps, x, spec)
    if x.is_floating_point() and (
        element.matrix is not None or element.shift is not None
    ):
        dtype = x.dtype
        x = _act(element, x.double(), spec).to(dtype)
    return x


def _permute(order: Tensor, x: Tensor, spec: TypeSpec, batch: bool) -> Tensor:
    order = order.to(x.device)
    if spec.kind == "edge_index":
        return torch.argsort(order)[x]
    for dim in spec.node_dims(x, batch):
        x = x.index_select(dim, order)
    return x


def _shift(steps: int, x: Tensor, spec: TypeSpec) -> Tensor:
    if spec.kind == "series":
        return x.roll(steps, -2)
    return x + steps if spec.kind == "time" else x


def _act(element: Element, x: Tensor, spec: TypeSpec) -> Tensor:
    a = element.matrix
    if a is not None:
        a = a.to(x.device)
        x = _linear(a, x, spec)
    if element.shift is not None and spec.kind == "position":
        x = x + element.shift.to(x.device)
    return x


def _linear(a: Tensor, x: Tensor, spec: TypeSpec) -> Tensor:
    kind = spec.kind
    if kind in ("position", "vector", "normal", "eigenvectors"):
        return x @ a.T
    if kind == "pseudovector":
        return x @ a.T * torch.linalg.det(a).sign()
    if kind in ("covector", "eigencovectors"):
        return x @ a.inverse()
    if kind == "comatrix":
        inverse = a.inverse()
        return inverse.T @ x @ inverse
    if kind in _MATRICES:
        return a @ x @ a.T
    if kind == "irreps":
        if not torch.allclose(
            a @ a.T, torch.eye(len(a), dtype=a.dtype, device=a.device)
        ):
            raise ValueError(
                "Irreps types transform under rotations and reflections only"
            )
        from e3nn.o3 import wigner_3j

        lead = (1,) * max(x.ndim - 2, 0)
        return act_on_irreps(x, spec.irreps, a.expand(*lead, 3, 3), wigner_3j)
    if kind in ("image", "volume"):
        return turn_grid(x, a)
    return x
