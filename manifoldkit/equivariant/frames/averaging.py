"""Make any network equivariant by averaging it over frames of its input."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from manifoldkit._checks import (
    check_choice,
    check_count,
    check_integers,
    count,
    interval,
    optional,
)
from manifoldkit.equivariant.frames import builders as build
from manifoldkit.equivariant.frames.builders import pca_frame
from manifoldkit.equivariant.frames.calls import (
    Arguments,
    Outputs,
    fold,
    join,
    naming_dtypes,
)
from manifoldkit.equivariant.frames.learned import RadialAxes, gram_schmidt_frame
from manifoldkit.equivariant.frames.pairs import pair_frame
from manifoldkit.equivariant.frames.policies import draw_elements, settle_degenerate
from manifoldkit.equivariant.frames.ragged import GraphCopies
from manifoldkit.equivariant.frames.types import (
    FIXED,
    GRIDS,
    INVARIANTS,
    Frame,
    check_types,
    parse_group,
    without_unused,
)
from manifoldkit.linalg.checks import check_finite, check_floating, known_any

_FRAMES = ("pca", "pair", "pca-det", "pca-stochastic", "group", "learned")
_POLICIES = ("warn", "raise", "pair", "ignore")


class FrameAveraging(nn.Module):
    r"""Average a backbone over frames of its input, which makes it equivariant.

    .. math::
        \langle\phi\rangle(x) = \sum_{g \in F(x)} w_g\, \rho_2(g)\,
        \phi(\rho_1(g)^{-1} x), \qquad F(g x) = g F(x).

    Nothing is asked of the backbone, and where frames are well defined nothing is lost
    of what it can express. Frames do not depend on the order of the points, so a
    backbone that commutes with permutations keeps doing so.

    Parameters
    ----------
    backbone : nn.Module or callable
        Called with inputs of the same shapes, the frames folded into dimension 0.
    group : str or Tensor, default="SE(3)"
        ``"O(d)", "SO(d)", "E(d)", "SE(d)", "T(d)"``, ``"scale x"`` one of these; with
        ``frame="group"`` also ``"C4", "D4", "octahedral", "full-octahedral"`` or the
        matrices (m, d, d) of a finite group.
    in_types, out_types : str, e3nn.o3.Irreps, or tuple or dict of these
        ``"position"`` (R x + t), ``"vector"``, ``"pseudovector"`` (det(R) R x),
        ``"normal"`` (a vector up to sign; averages o o' and returns its first
        eigenvector), ``"matrix"``, ``"sym_matrix"``, ``"spd"``, ``"covariance"``
        (R M R'), ``"image"``, ``"volume"`` (finite groups), an Irreps string such as
        ``"2x0e+1x1o"``, and for what is invariant ``"scalar"``, ``"node_scalar"``,
        ``"edge_scalar"`` or None. Tuples follow the arguments, dicts name the entries
        of a dict, dataclass or torch-geometric ``Data``.
    frame : {"pca", "pair", "pca-det", "pca-stochastic", "group", "learned"} or Module
        Principal axes; a weighted frame for every pair, continuous and exact on
        symmetric clouds; principal axes with signs by third moments; one random
        element in training; group elements; axes from a network, which takes the
        points (B, n, d) to d - 1 equivariant vectors (d for O and E).
    frame_from : int, str or sequence of these, default=0
        The inputs that define the frame, all of their points together.
    mode : {"full", "stochastic"} or int, default="full"
        All elements; one random element in training; so many random ones. With
        ``frame="group"`` the whole batch has the same ones.
    detach_frame : bool, default=True
        Take frames for constants in differentiation. Gradients for parameters are
        exact either way; for gradients with respect to the input, such as forces, use
        ``False``.
    point_dim : int, default=-2
        The dimension of the points in the inputs of ``frame_from``.
    order : {"ascending", "descending"}
        Order of the eigenvalues.
    gap_tol : float, optional
        Relative gap below which axes are arbitrary, as for :func:`pca_frame`.
    on_degenerate : {"warn", "raise", "pair", "ignore"}
        What to do with clouds whose principal axes are arbitrary: ``"pair"`` gives
        them the weighted pair frame.
    chunk : int, optional
        Frames a call of the backbone, to bound memory.
    fold : {"batch", "loop"}
        All frames in one call, or one after another.
    invariant_args : sequence of str
        Keyword arguments that are repeated for every frame, such as neighbors or
        distances; ``"mask"`` hands the mask on.
    share_noise : bool, default=False
        Give every frame the same noise (dropout): one after another, from the same
        state of the generator.
    n_pairs : int, optional
        Number of drawn pairs, as for :func:`pair_frame`.
    validate : bool, default=True
        Raise for NaN and infinity in the points, in training too, where they would
        spoil running statistics for good. Without it they stay within their own cloud.

    Notes
    -----
    The backbone sees coordinates in the unit of the points: where meters and
    millimeters shall give the same, take ``"scale x"`` a group. Frames themselves do
    not depend on the unit.

    Works under ``torch.export``, ``torch.compile`` and ``torch.func`` if the backbone
    does; there values are not looked at, so that nothing is validated, nobody warned
    and no exception raised.

    In training mode, batch normalization sees all frames of a call at once; with
    ``chunk`` its statistics depend on the chunks.

    References
    ----------
    Puny et al., "Frame Averaging for Invariant and Equivariant Network Design",
    ICLR 2022; Duval et al., "FAENet", ICML 2023 (stochastic frames); Kaba et al.,
    "Equivariance with Learned Canonicalization Functions", ICML 2023.

    Examples
    --------
    >>> net = FrameAveraging(nn.Linear(3, 3), "SE(3)", out_types="position")
    >>> x = torch.randn(2, 10, 3, generator=torch.Generator().manual_seed(0)).double()
    >>> r = torch.tensor([[0., -1., 0.], [1., 0., 0.], [0., 0., 1.]]).double()
    >>> net = net.double()
    >>> bool(torch.allclose(net(x @ r.T + 5), net(x) @ r.T + 5))
    True
    """

    def __init__(
        self,
        backbone: Callable[..., Any],
        group: str | Tensor = "SE(3)",
        in_types: Any = ("position",),
        out_types: Any = "scalar",
        frame: str | nn.Module = "pca",
        frame_from: int | str | Sequence[int | str] = 0,
        mode: str | int = "full",
        detach_frame: bool = True,
        point_dim: int = -2,
        order: str = "ascending",
        gap_tol: float | None = None,
        on_degenerate: str = "warn",
        chunk: int | None = None,
        fold: str = "batch",
        invariant_args: Sequence[str] = (),
        share_noise: bool = False,
        n_pairs: int | None = None,
        validate: bool = True,
    ):
        super().__init__()
        if not callable(backbone):
            raise TypeError(
                f"backbone: expected a module or function, found {backbone!r}"
            )
        check_types(in_types, "in_types")
        check_types(out_types, "out_types")
        check_choice(on_degenerate, _POLICIES, "on_degenerate")
        check_choice(fold, ("batch", "loop"), "fold")
        check_choice(order, ("ascending", "descending"), "order")
        if not isinstance(frame, nn.Module):
            check_choice(frame, _FRAMES, "frame")
        if frame == "pca-stochastic":
            frame, mode = "pca", "stochastic" if mode == "full" else mode
        if mode not in ("full", "stochastic"):
            mode = check_count(mode, "mode ('full', 'stochastic' or a number)")
        optional(count())(chunk, "chunk")
        optional(count())(n_pairs, "n_pairs")
        optional(interval(0))(gap_tol, "gap_tol")
        check_integers(point_dim=point_dim)
        if point_dim > -2:
            raise ValueError(
                "point_dim: expected -2, or a smaller number for points that have more "
                f"than coordinates behind them, found {point_dim}"
            )
        self._check_group(group, frame, mode)
        self.moves = isinstance(group, str) and ("E(" in group or "T(" in group)
        self.group_name = group if isinstance(group, str) else "finite group"
        self.backbone, self.group = backbone, group
        by_name = frame == "group" and isinstance(group, str)
        # made once, and no buffer: lower precision would round them
        self._elements = build.finite_elements(self.group_name) if by_name else group
        self.in_types, self.out_types = in_types, out_types
        self.frame, self.frame_from, self.mode = frame, frame_from, mode
        if frame == "learned":
            spec = parse_group(self.group_name)
            d = spec.d or 3
            self.frame = RadialAxes(d if spec.mirrors else d - 1)
        self.detach_frame, self.point_dim, self.order = detach_frame, point_dim, order
        self.gap_tol, self.on_degenerate = gap_tol, on_degenerate
        self.chunk = 1 if fold == "loop" or share_noise else chunk
        names = [invariant_args] if isinstance(invariant_args, str) else invariant_args
        self.invariant_args: tuple[str, ...] = tuple(names)
        self.share_noise, self.n_pairs, self.validate = share_noise, n_pairs, validate

    @staticmethod
    def _check_group(group: Any, frame: str | nn.Module, mode: str | int) -> None:
        if isinstance(group, Tensor):
            build.check_elements(group)
            if frame != "group":
                raise ValueError("group: matrices of a finite group need frame='group'")
        elif frame == "group":
            if group not in build.FINITE_GROUPS:
                build.check_drawn(group, mode if isinstance(mode, int) else None)
        else:
            spec = parse_group(group)
            if spec.d and spec.rotates and frame == "pca" and mode == "full":
                build.sign_patterns(spec.d, not spec.mirrors)

    def forward(self, *inputs: Any, mask: Tensor | None = None, **kwargs: Any) -> Any:
        """Return the average of the backbone over the frames of the inputs.

        Parameters
        ----------
        *inputs : Tensor, dict, dataclass or torch_geometric.data.Data
            As typed by ``in_types``; without a batch dimension, so is the result.
        mask : Tensor of bool, shape (B, n), optional
            Valid points of the inputs that define the frame.
        **kwargs
            Handed to the backbone; those named in ``invariant_args`` are repeated.

        Raises
        ------
        TypeError, ValueError
            Inputs without points, of another dimension or integer points; a backbone
            that returns what cannot be averaged; a degenerate cloud with ``"raise"``.
        """
        if len(inputs) == 1 and hasattr(inputs[0], "is_node_attr"):
            graphs = GraphCopies(inputs[0], self.in_types)
            frame = self.frames_of(graphs.arguments, graphs.mask)

            def run_copies(part: Frame) -> Any:
                return graphs.by_item(
                    self.backbone(graphs.copies(part), **kwargs), part
                )

            return self.average(run_copies, frame, graphs.rows).result()
        arguments = Arguments(inputs, self.in_types)
        single = self._promote(arguments)
        if single and mask is not None:
            mask = mask[None]
        frame = self.frames_of(arguments, mask)
        repeated = set(self.invariant_args)
        extra = dict(kwargs)
        if single:
            for name in repeated & set(extra):
                if isinstance(extra[name], Tensor):
                    extra[name] = extra[name][None]
        if mask is not None and "mask" in repeated:
            extra["mask"] = mask
        self._check_together(arguments, frame)
        if mask is not None:
            self._hide_masked(arguments, mask, frame)

        def run(part: Frame) -> Any:
            values = {
                k: fold(v, arguments.types[k], part)
                for k, v in arguments.values.items()
            }
            more = {
                k: fold(v, FIXED, part) if k in repeated else v
                for k, v in extra.items()
            }
            return arguments.call(self.backbone, values, more)

        told = naming_dtypes(run, self.backbone, arguments.values)
        return self.average(told, frame).result(single)

    def frame_gap(self, *inputs: Any, mask: Tensor | None = None) -> Tensor:
        """Return the smallest relative gap of the frame of every input."""
        arguments = Arguments(inputs, self.in_types)
        single = self._promote(arguments)
        gap = self._build(
            arguments, mask[None] if single and mask is not None else mask
        )
        return gap.gap.squeeze(0) if single else gap.gap

    def average(
        self,
        run: Callable[[Frame], Any],
        frame: Frame,
        rows: Callable[[Any, Frame], Frame] | None = None,
    ) -> Outputs:
        """Average what ``run`` returns for parts of a frame.

        ``rows`` gives the frames of each output, see :meth:`Outputs.add`.
        """
        outputs = Outputs(self.out_types)
        every = torch.arange(frame.R.shape[1], device=frame.R.device)
        parts = every.split(self.chunk or max(len(every), 1))
        for number, index in enumerate(parts, 1):
            part = frame if len(index) == len(every) else frame.elements(index)
            if self.share_noise and number < len(parts):
                with torch.random.fork_rng():  # the next part draws the same
                    output = run(part)
            else:
                output = run(part)
            outputs.add(output, part, rows)
        return outputs

    def frames_of(self, arguments: Arguments, mask: Tensor | None) -> Frame:
        """Return the frames of the inputs by the policies of this module."""
        frame = self._build(arguments, mask)
        if self.on_degenerate != "ignore" and self.frame not in ("group", "pair"):
            frame = settle_degenerate(
                frame,
                self.on_degenerate,
                lambda: self._pair_frame(*self._points(arguments, mask)),
            )
        if self.mode == "full":
            return without_unused(frame) if self.frame == "pca-det" else frame
        if self.mode == "stochastic" and not self.training:
            return frame
        count = 1 if self.mode == "stochastic" else int(self.mode)
        return draw_elements(
            frame, count, together=self.frame == "group", weighted=self.frame == "pair"
        )

    def _promote(self, arguments: Arguments) -> bool:
        """Give inputs without a batch dimension one; tell whether that was needed."""
        key = self._keys(arguments)[0]
        x = arguments.values[key]
        if not isinstance(x, Tensor):
            raise TypeError(f"inputs: expected a tensor, found {type(x).__name__}")
        kind = arguments.types[key].kind
        if kind in GRIDS:
            return False
        if x.ndim < -self.point_dim:
            raise ValueError(
                f"inputs: expected points (..., n, d), found shape {tuple(x.shape)}"
            )
        single = x.ndim == -self.point_dim
        if single:
            for k, v in arguments.values.items():
                if isinstance(v, Tensor) and arguments.types[k].kind != "fixed":
                    arguments.values[k] = v[None]
        return single

    def _keys(self, arguments: Arguments) -> list[Any]:
        names = self.frame_from
        names = [names] if isinstance(names, (int, str)) else list(names)
        order = list(arguments.values)
        typed = [k for k in order if arguments.types[k].kind not in INVARIANTS]
        keys = []
        for name in names:
            if name in arguments.values:
                keys.append(name)
            elif isinstance(name, int) and name < len(typed):
                keys.append(typed[name])  # the name-th geometric entry of a dict
            else:
                raise ValueError(f"frame_from: no input {name!r} among {order}")
        return keys

    def _points(
        self, arguments: Arguments, mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None, dict[str, Any]]:
        """Return what defines the frame: points and their mask, vectors and theirs."""
        found: dict[str, list] = {"position": [], "vector": []}
        valid: dict[str, list] = {"position": [], "vector": []}
        for k in self._keys(arguments):
            x, kind = arguments.values[k], arguments.types[k].kind
            if kind not in found:
                raise ValueError(
                    f"frame_from: expected positions or vectors, found {kind!r}"
                )
            check_floating(x, f"inputs[{k!r}]")
            found[kind].append(x.flatten(1, -2))
            if mask is not None:
                valid[kind].append(self._spread_mask(mask, x).flatten(1))
            if self.validate:
                seen = found[kind][-1].detach()
                if mask is not None:
                    seen = torch.where(valid[kind][-1][..., None], seen, 0.0)
                if known_any(~seen.isfinite()):
                    check_finite(seen, f"inputs[{k!r}]")
        x, v = join(found["position"]), join(found["vector"])
        x_mask, v_mask = join(valid["position"]), join(valid["vector"])
        if x is None:
            if v is None:
                raise ValueError("frame_from: expected at least one input")
            if not self.moves:
                return v, v_mask, {}
            x = v[:, :0]  # vectors only: no origin
            x_mask = None if v_mask is None else v_mask[:, :0]
        return x, x_mask, {"vectors": v, "vectors_mask": v_mask}

    def _check_together(self, arguments: Arguments, frame: Frame) -> None:
        """Raise unless all that moves has the batch and the dimension of the frame."""
        b, d = frame.R.shape[0], frame.R.shape[-1]
        for k, x in arguments.values.items():
            kind = arguments.types[k].kind
            if kind in ("fixed", "edge_scalar", *GRIDS) or not isinstance(x, Tensor):
                continue
            if x.ndim and x.shape[0] != b:
                raise ValueError(
                    f"inputs[{k!r}]: expected a batch of {b}, found {tuple(x.shape)}"
                )
            if kind not in (*INVARIANTS, "irreps") and x.shape[-1] != d:
                raise ValueError(
                    f"inputs[{k!r}]: expected {d} coordinates, found {x.shape[-1]}"
                )

    def _hide_masked(self, arguments: Arguments, mask: Tensor, frame: Frame) -> None:
        """Put masked points into the origin of the frame, whatever they hold."""
        for k in self._keys(arguments):
            x = arguments.values[k]
            if arguments.types[k].kind in GRIDS:
                continue
            valid = self._spread_mask(mask, x)[..., None]
            instead = torch.zeros_like(x[..., :1])
            if arguments.types[k].kind == "position":
                origin = frame.t.to(x)
                instead = origin.reshape(x.shape[0], *[1] * (x.ndim - 2), x.shape[-1])
            arguments.values[k] = torch.where(valid, x, instead)

    def _spread_mask(self, mask: Tensor, x: Tensor) -> Tensor:
        dim = x.ndim + self.point_dim
        if tuple(mask.shape) != (x.shape[0], x.shape[dim]):
            raise ValueError(
                f"mask: expected shape {(x.shape[0], x.shape[dim])}, "
                f"found {tuple(mask.shape)}"
            )
        shape = [1] * (x.ndim - 1)
        shape[0], shape[dim] = mask.shape
        return mask.reshape(shape).expand(x.shape[:-1])

    def _build(self, arguments: Arguments, mask: Tensor | None) -> Frame:
        keys = self._keys(arguments)
        if arguments.types[keys[0]].kind in GRIDS:
            return self._element_frame(arguments.values[keys[0]], None, None)
        x, valid, more = self._points(arguments, mask)
        if self.frame == "group":
            return self._element_frame(x, x, valid)
        if isinstance(self.frame, nn.Module):
            return self._learned(self.frame, x, valid)
        if self.frame == "pair":
            return self._pair_frame(x, valid, more, self.n_pairs)
        others = (kind for k, kind in arguments.types.items() if k not in keys)
        draws = None
        if self.mode != "full" and x.shape[-1] > 8:
            draws = 1 if self.mode == "stochastic" else int(self.mode)
        return pca_frame(
            x,
            self.group_name,
            valid,
            order=self.order,
            gap_tol=self.gap_tol,
            detach=self.detach_frame,
            extra_vectors=any(kind.kind not in INVARIANTS for kind in others),
            signs="moment" if self.frame == "pca-det" else "all",
            draws=draws,
            **more,
        )

    def _pair_frame(
        self, x: Tensor, valid: Tensor | None, more: dict, n_pairs: int | None = None
    ) -> Frame:
        return pair_frame(
            x,
            self.group_name,
            valid,
            n_pairs=n_pairs,
            gap_tol=self.gap_tol,
            detach=self.detach_frame,
            **more,
        )

    def _learned(self, network: nn.Module, x: Tensor, valid: Tensor | None) -> Frame:
        spec, cloud, valid, _ = build.read_points(x, self.group_name, valid)
        m = build.moments_of(cloud, valid, spec, self.detach_frame)
        vectors = network(x) if valid is None else network(x, mask=valid)
        tol = build.gap_tolerance(x.dtype, self.gap_tol)
        # the axes are differentiated: that is how their network learns
        return gram_schmidt_frame(vectors, m, spec, tol, detach=False)

    def _element_frame(
        self, like: Tensor, x: Tensor | None, valid: Tensor | None
    ) -> Frame:
        d = 0 if x is None else x.shape[-1]
        draws = self.mode if isinstance(self.mode, int) else None
        group = self.group if self._elements is None else self._elements
        r = build.element_frame(like, group, draws, d)
        batch = like.shape[0]
        t = r.new_zeros(batch, r.shape[-1])
        if x is not None and self.moves:
            t = pca_frame(x, f"T({d})", valid, detach=self.detach_frame).t
        logs = r.new_full((batch, len(r)), 1.0 / len(r)).log()
        ones = r.new_ones(batch)
        r = r.expand(batch, *r.shape)
        return Frame(r, t, logs, ones, ones < 0, self.group_name)
