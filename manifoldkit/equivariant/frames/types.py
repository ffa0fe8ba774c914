"""Sets of frames, their groups, and how values move in and out of them."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manifoldkit.linalg.actions import act_on_irreps, names_irreps, turn_grid
from manifoldkit.linalg.checks import known_any

MATRICES = ("matrix", "sym_matrix", "spd", "covariance")
VECTORS = ("position", "vector", "pseudovector", "normal")
INVARIANTS = ("scalar", "node_scalar", "edge_scalar", "fixed")
GRIDS = ("image", "volume")
_GROUPS = "'O(d)', 'SO(d)', 'E(d)', 'SE(d)', 'T(d)', and 'scale x ...' of these"


class Frame(NamedTuple):
    """Frames of a batch of clouds: group elements with weights.

    Attributes
    ----------
    R : Tensor, shape (B, F, d, d)
        Orthogonal matrices with the frame vectors as columns; float64.
    t : Tensor, shape (B, d)
        Origins; canonical coordinates are ``(x - t) R``.
    log_weights : Tensor, shape (B, F)
        Logarithms of weights that sum to one; ``-inf`` for an unused place.
    gap : Tensor, shape (B,)
        Smallest relative distance of eigenvalues that matter; how well conditioned
        the frame is.
    degenerate : Tensor of bool, shape (B,)
        Whether the gap is below its tolerance, so that the frame is arbitrary.
    group : str
        The group.
    scale : Tensor, shape (B,), optional
        Unit of length, where the group holds scalings.
    padded : bool
        Whether weights may be zero.

    Examples
    --------
    Canonical coordinates do not change when the points are moved.

    >>> from manifoldkit.equivariant import pca_frame
    >>> x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).double()
    >>> frame, moved = pca_frame(x), pca_frame(x + 5)
    >>> z, same = (x - frame.t) @ frame.R, (x + 5 - moved.t) @ moved.R
    >>> z.shape, bool(torch.allclose(z, same))
    (torch.Size([4, 6, 3]), True)
    """

    R: Tensor
    t: Tensor
    log_weights: Tensor
    gap: Tensor
    degenerate: Tensor
    group: str
    scale: Tensor | None = None
    padded: bool = False

    def rows(self, index: Tensor) -> "Frame":
        """Return the frames of the given batch entries."""
        own = self._asdict().items()
        rows: dict[str, Any] = {k: v[index] for k, v in own if isinstance(v, Tensor)}
        return self._replace(**rows)

    def elements(self, index: Tensor) -> "Frame":
        """Return the frame with the elements of an index (k,) or (B, k) only."""
        if index.ndim == 1:
            return self._replace(
                R=self.R[:, index], log_weights=self.log_weights[:, index]
            )
        b = torch.arange(self.R.shape[0], device=self.R.device)[:, None]
        return self._replace(R=self.R[b, index], log_weights=self.log_weights[b, index])


def merge_frames(frame: Frame, other: Frame, flagged: Tensor) -> Frame:
    """Give the flagged entries another frame, padded to the larger size."""
    size = max(frame.R.shape[1], other.R.shape[1])
    a, b = _pad(frame, size), _pad(other, size)
    return a._replace(
        R=torch.where(flagged[:, None, None, None], b.R, a.R),
        log_weights=torch.where(flagged[:, None], b.log_weights, a.log_weights),
        gap=torch.where(flagged, b.gap, a.gap),
        degenerate=torch.where(flagged, b.degenerate, a.degenerate),
        padded=True,
    )


def _pad(frame: Frame, size: int) -> Frame:
    short = size - frame.R.shape[1]
    if not short:
        return frame
    more = frame.R[:, :1].expand(-1, short, -1, -1)
    logs = frame.log_weights.new_full((frame.R.shape[0], short), -torch.inf)
    return frame._replace(
        R=torch.cat([frame.R, more], 1),
        log_weights=torch.cat([frame.log_weights, logs], 1),
    )


def without_unused(frame: Frame) -> Frame:
    """Drop places that no entry of the batch uses: one frame, as a rule."""
    finite = frame.log_weights.isfinite()
    if known_any(finite) is None or not frame.log_weights.numel():
        return frame
    used = int(finite.sum(1).max())
    order = frame.log_weights.argsort(dim=1, descending=True, stable=True)
    return frame.elements(order[:, :used])


class GroupSpec(NamedTuple):
    """A Euclidean group: what it holds, and in which dimension."""

    name: str
    d: int | None
    rotates: bool
    mirrors: bool
    moves: bool
    scales: bool


def parse_group(name: str) -> GroupSpec:
    """Read the name of a Euclidean group.

    >>> parse_group("scale x SE(3)").scales
    True
    """
    if not isinstance(name, str):
        raise TypeError(f"group: expected a name, found {name!r}")
    parts = [part.strip() for part in re.split(r"\s+[x×]\s+", name.strip())]
    scales = "scale" in parts
    rest = [part for part in parts if part != "scale"]
    match = re.fullmatch(r"(O|SO|E|SE|T)\((\w+)\)", rest[0]) if len(rest) == 1 else None
    if match is None:
        raise ValueError(f"unknown group {name!r}: expected {_GROUPS}")
    base, size = match.groups()
    d = int(size) if size.isdigit() else None
    if d == 0 or (d == 1 and base in ("SO", "SE")):
        raise ValueError(f"group {name!r}: rotations need 2 dimensions; try 'O(1)'")
    return GroupSpec(
        name, d, base != "T", base in ("O", "E"), base in ("E", "SE", "T"), scales
    )


class ValueType(NamedTuple):
    """The type of an input or output."""

    kind: str
    irreps: Any = None


FIXED = ValueType("fixed")


def parse_type(spec: Any) -> ValueType:
    """Read a type: one of the names, ``None`` for what stays, or Irreps."""
    if spec is None:
        return FIXED
    if isinstance(spec, ValueType):
        return spec
    if hasattr(spec, "D_from_matrix"):
        return ValueType("irreps", spec)
    if isinstance(spec, str) and names_irreps(spec):
        from e3nn.o3 import Irreps  # seconds to import, and seldom needed

        return ValueType("irreps", Irreps(spec))
    known = (*INVARIANTS, *VECTORS, *MATRICES, *GRIDS)
    if not isinstance(spec, str) or spec not in known:
        raise ValueError(
            f"unknown type {spec!r}: expected an Irreps string such as '1x0e+1x1o' or "
            f"one of {', '.join(known)}"
        )
    return ValueType(spec)


def check_types(types: Any, name: str) -> None:
    """Raise unless ``types`` is a type, or a tuple, list or dict of types."""
    one = hasattr(types, "D_from_matrix") or isinstance(types, ValueType)
    listed: list[Any] = [types]
    if isinstance(types, Mapping):
        listed = list(types.values())
    elif isinstance(types, tuple | list) and not one:
        listed = list(types)
    for spec in listed:
        if isinstance(spec, str) and names_irreps(spec):
            continue  # read at the first call: e3nn takes seconds to import
        try:
            parse_type(spec)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None


def _spread(values: Tensor, ndim: int) -> Tensor:
    """Put ones between the batch dimensions of frames and the components."""
    lead, shape = values.shape[:2], values.shape[2:]
    return values.reshape(*lead, *[1] * (ndim - 2 - len(shape)), *shape)


def _cast(frame: Frame, x: Tensor) -> tuple[Tensor, Tensor]:
    wide = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    return x.to(wide), frame.R.to(wide)


def into_frame(x: Tensor, kind: ValueType, frame: Frame) -> Tensor:
    """Return values in every frame, shape (B, F, ...).

    Parameters
    ----------
    x : Tensor, shape (B, ...)
        Values; components of vectors last.
    kind : ValueType
        Their type.
    frame : Frame
        One set of frames for each of the B entries.
    """
    count = frame.R.shape[1]
    if kind.kind in INVARIANTS or not x.is_floating_point():
        return x.unsqueeze(1).expand(-1, count, *x.shape[1:])
    dtype = x.dtype
    if kind.kind in GRIDS:
        return _grids(x, frame.R[0].mT, count)
    if kind.kind == "position":  # centered in the precision of the frame
        x = x.to(frame.t.dtype) - _lead(frame.t, x.ndim)
        x = x.to(torch.promote_types(dtype, torch.float32))
    x, r = _cast(frame, x)
    if frame.scale is not None and kind.kind != "irreps":
        for _ in range(2 if kind.kind in MATRICES else 1):  # its square may overflow
            x = x / _lead(frame.scale.to(x)[:, None], x.ndim)
    x = x.unsqueeze(1)
    return _rotate(x, kind, r.mT).to(dtype)


def out_of_frame(o: Tensor, kind: ValueType, frame: Frame) -> Tensor:
    """Return outputs (B, F, ...) in the axes of the input.

    Positions stay relative to the origin of the frame: :func:`add_origin` is for
    their average.
    """
    if kind.kind in INVARIANTS or not o.is_floating_point():
        return o
    dtype = o.dtype
    if kind.kind in GRIDS:
        turned = [turn_grid(o[:, i], frame.R[0, i]) for i in range(o.shape[1])]
        return torch.stack(turned, 1)
    o, r = _cast(frame, o)
    o = _rotate(o, kind, r)
    if frame.scale is not None and kind.kind != "irreps":
        for _ in range(2 if kind.kind in MATRICES else 1):
            o = o * _lead(frame.scale.to(o)[:, None], o.ndim)
    return o.to(dtype)


def add_origin(mean: Tensor, t: Tensor) -> Tensor:
    """Return averaged positions (B, ..., d), their origins (B, d) added."""
    return (mean.to(t.dtype) + _lead(t, mean.ndim)).to(mean.dtype)


def _lead(values: Tensor, ndim: int) -> Tensor:
    """Reshape (B, d) to (B, 1, ..., 1, d)."""
    return values.reshape(values.shape[0], *[1] * (ndim - 2), values.shape[-1])


def _rotate(x: Tensor, kind: ValueType, r: Tensor) -> Tensor:
    """Apply the maps ``r``, shape (B, F, d, d), to values (B, F or 1, ...)."""
    if kind.kind == "irreps":
        from e3nn.o3 import wigner_3j

        spread = r.reshape(*r.shape[:2], *[1] * (x.ndim - 3), 3, 3)
        squeeze = x.ndim == 3  # one value an entry: give the product a row
        if squeeze:
            x = x.unsqueeze(-2)
            spread = r[:, :, None]
        y = act_on_irreps(x, kind.irreps, spread, wigner_3j)
        return y.squeeze(-2) if squeeze else y
    if kind.kind in MATRICES:
        r = _spread(r, x.ndim)
        return r @ x @ r.mT
    if kind.kind == "pseudovector":
        det = torch.linalg.det(r).sign()
        x = x * det.reshape(*det.shape, *[1] * (x.ndim - 2))
    flat = x.reshape(*x.shape[:2], math.prod(x.shape[2:-1]), x.shape[-1])
    y = flat @ r.mT
    return y.reshape(*y.shape[:2], *x.shape[2:])


def _grids(x: Tensor, inverse: Tensor, count: int) -> Tensor:
    return torch.stack([turn_grid(x, inverse[i]) for i in range(count)], 1)
