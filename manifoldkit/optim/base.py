"""What the optimizers share: options, grouping, and the order of a step.

A step of one batch of points x with momentum m:

1. gradient in coordinates (plus the pull of an ``"l2"`` decay), clipped;
2. the direction d and the new m from the optimizer's own formula;
3. decoupled decay along the geodesic to the origin;
4. x moves along d and m follows; every ``stabilize`` steps both are projected.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from manifoldkit.linalg.checks import must_not_look
from manifoldkit.optim.buckets import (
    Batch,
    Bucket,
    base_of,
    curved_manifold,
    sort_out,
)
from manifoldkit.optim.fused import geometry_of
from manifoldkit.optim.geometry import is_compact
from manifoldkit.optim.options import (
    COMMON,
    check_norm,
    check_options,
    check_parameter,
)


@dataclass
class _Plan:
    """How one parameter group is stepped."""

    group: dict
    size: int
    euclidean: list[Tensor]
    buckets: list[Bucket]
    engine: Any


@dataclass
class Job:
    """One batch on its way through a step."""

    batch: Batch
    geometry: Any
    x: Tensor
    frame: Any
    gradient: Tensor
    bad: Tensor | None = None
    before: dict[str, Tensor] = field(default_factory=dict)


class RiemannianOptimizer(torch.optim.Optimizer):
    """Base of the optimizers; see :class:`RiemannianAdam` for the options."""

    #: largest deviation of a parameter from its manifold; None goes by the dtype
    _point_tolerance: float | None = None

    #: what ``decay_mode=None`` means
    _default_decay_mode = "l2"
    #: torch's optimizer for the Euclidean parameters, and the options it is handed
    _engine_class: type[torch.optim.Optimizer]
    _engine_names: tuple[str, ...] = ()
    #: options of a subclass beside its parent's
    _extra: Mapping[str, Any] = {}

    def __init__(self, params: ParamsT, own: dict, options: Mapping[str, Any]):
        options, own = dict(options), {**own, **self._extra}
        if options.pop("differentiable", False):
            raise ValueError("differentiable: steps on manifolds cannot be recorded")
        self.grad_clip = options.pop("grad_clip", None)
        if self.grad_clip is not None:
            check_norm(self.grad_clip, "grad_clip")
        mode = options.pop("decay_mode", None) or self._default_decay_mode
        known = {*COMMON, *own}
        if unknown := set(options) - known:
            raise TypeError(
                f"{type(self).__name__}: unknown options {sorted(unknown)}; "
                f"it takes {sorted(known | {'grad_clip'})}"
            )
        defaults = {**COMMON, "decay_mode": mode, **options, **own}
        check_options(defaults, defaults)
        self.plans: list[_Plan] = []
        super().__init__(params, defaults)

    # ------------------------------------------------------------ groups and state

    def add_param_group(self, param_group: dict) -> None:
        """Add a group; its points must lie on their manifolds."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        index = len(self.param_groups) - 1
        try:
            check_options(group, self.defaults)
            for i, p in enumerate(group["params"]):
                check_parameter(
                    p, f"params[{i}] of group {index}", self._point_tolerance
                )
            self.plans.append(self._make_plan(group))
        except Exception:
            del self.param_groups[-1]
            raise

    def __getstate__(self):
        return {**super().__getstate__(), "grad_clip": self.grad_clip}

    def __setstate__(self, state):
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)
        self._regroup()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of this class, of geoopt's, or (Euclidean) of torch's."""
        super().load_state_dict(state_dict)
        saved = [i for g in state_dict["param_groups"] for i in g["params"]]
        params = [p for g in self.param_groups for p in g["params"]]
        for index, p in zip(saved, params, strict=True):
            if (
                p.dtype in (torch.float16, torch.bfloat16)
                and curved_manifold(p) is not None
            ):
                # moments of half precision points are float32: undo torch's cast
                for name, value in state_dict["state"].get(index, {}).items():
                    if isinstance(value, Tensor) and name != "step":
                        self.state[p][name] = value.to(p.device)
        self._regroup()

    def _regroup(self) -> None:
        for state in self.state.values():
            step = state.get("step")
            if step is not None and not isinstance(step, Tensor):
                state["step"] = torch.tensor(float(step))
        self.plans = [self._make_plan(group) for group in self.param_groups]

    def _make_plan(self, group: dict) -> _Plan:
        together = group["foreach"] is not False
        euclidean, batches = sort_out(group["params"], together)
        buckets = []
        for manifold, params in batches:
            self._check_manifold(manifold, group)
            geometry = self._geometry(base_of(manifold), group)
            buckets.append(
                Bucket(
                    params,
                    geometry,
                    self.state,
                    manifold,
                    views=group["views"],
                    master=group["master_points"],
                )
            )
        engine = None
        if euclidean:
            engine = self._engine_class(euclidean, **self._engine_options(group))
            engine.state = self.state
        return _Plan(group, len(group["params"]), euclidean, buckets, engine)

    def _check_manifold(self, manifold, group: dict) -> None:
        decays = group["weight_decay"] and group["decay_mode"] != "none"
        if decays and is_compact(manifold):
            warnings.warn(
                f"weight_decay does nothing on the compact manifold {manifold}: put "
                "its parameters into a group without weight_decay, as "
                "manifoldkit.optim.build_optimizer does",
                UserWarning,
                stacklevel=5,
            )

    def _current_plans(self) -> list[_Plan]:
        plans, groups = self.plans, self.param_groups
        if torch.compiler.is_compiling():  # the graph's guards watch the parameters
            return plans
        same = len(plans) == len(groups) and all(
            plan.group is group
            and plan.size == len(group["params"])
            and all(bucket.intact() for bucket in plan.buckets)
            for plan, group in zip(plans, groups, strict=True)
        )
        if not same:
            self._regroup()
        return self.plans

    # ------------------------------------------------------------ the step

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do one step.

        Parameters
        ----------
        closure : callable, optional
            Computes the loss and the gradients; called with gradients enabled.

        Returns
        -------
        The closure's value, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        try:
            work = self._collect()
        except RuntimeError:
            # some of the grouped parameters changed shape or device meanwhile
            self._regroup()
            work = self._collect()
        self._refuse_nonfinite()
        jobs = [
            (plan, [self._linearize(plan.group, b) for b in batches], active)
            for plan, batches, active in work
        ]
        factor = self._clip_factor(jobs)
        for plan, batch_jobs, active in jobs:
            group = plan.group
            group["n_steps"] = group.get("n_steps", 0) + 1
            for job in batch_jobs:
                self._advance(group, job, factor)
            if active:
                self._step_euclidean(plan, active, factor)
        return loss

    def _collect(self):
        """Gather the points and gradients of every group."""
        work = []
        for plan in self._current_plans():
            found = (Batch.of(bucket) for bucket in plan.buckets)
            batches = [batch for batch in found if batch is not None]
            active = [p for p in plan.euclidean if p.grad is not None]
            work.append((plan, batches, active))
        return work

    def _refuse_nonfinite(self) -> None:
        """Raise, before anything moves, where the group asks for it."""
        for i, group in enumerate(self.param_groups):
            if group["nonfinite"] != "raise":
                continue
            for j, p in enumerate(group["params"]):
                if p.grad is not None and not bool(torch.isfinite(p.grad).all()):
                    raise RuntimeError(
                        f"the gradient of params[{j}] of group {i} (shape "
                        f"{tuple(p.shape)}) is not finite; nothing was stepped"
                    )

    def _linearize(self, group: dict, batch: Batch) -> Job:
        """Compute the gradient's coordinates."""
        geometry, x, egrad = batch.bucket.geometry, batch.x, batch.egrad
        bad = None
        decays = group["weight_decay"] and group["decay_mode"] != "none"
        if decays or not geometry.isolates_rows:
            x, egrad, bad = _without_bad_rows(x, egrad)
        if group["maximize"]:
            egrad = -egrad
        frame = geometry.frame(x)
        gradient = geometry.gradient(x, frame, egrad)
        if group["weight_decay"] and group["decay_mode"] == "l2":
            pull = geometry.decay_gradient(x, frame)
            if pull is not None:
                gradient = gradient + group["weight_decay"] * pull
        return Job(batch, geometry, x, frame, gradient, bad)

    def _clip_factor(self, jobs) -> Tensor | None:
        """Return the factor that brings the gradient's length to ``grad_clip``.

        What is not finite spoils its own point only, and so has no length here.
        """
        if self.grad_clip is None:
            return None
        found = []
        for _, batch_jobs, active in jobs:
            for job in batch_jobs:
                length = job.geometry.lengths(job.x, job.frame, job.gradient).flatten()
                finite = _rows(torch.isfinite(job.gradient)).flatten()
                found.append(torch.where(finite, length, 0.0))
            norms = torch._foreach_norm([p.grad for p in active]) if active else ()
            for p, norm in zip(active, norms, strict=True):
                finite = torch.isfinite(p.grad).all()
                found.append(torch.where(finite, norm, 0.0)[None])
        if not found:
            return None
        device = found[0].device
        lengths = torch.cat([length.to(device, torch.float64) for length in found])
        return (self.grad_clip / (torch.linalg.vector_norm(lengths) + 1e-6)).clamp_max(
            1
        )

    def _advance(self, group: dict, job: Job, factor: Tensor | None) -> None:
        """Step one batch."""
        batch, geometry = job.batch, job.geometry
        if factor is not None:
            job.gradient = job.gradient * factor.to(job.gradient)
        if group["nonfinite"] == "skip":
            buffers = batch.bucket.buffers
            job.before = {name: b.clone() for name, b in buffers.items()}
            batch.x = batch.x.clone()  # the step may change x itself
        x, frame = job.x, job.frame
        d, name, m = self._direction(group, job)
        if group["weight_decay"] and group["decay_mode"] == "decoupled":
            rate = group["lr"] * group["weight_decay"]
            y = None if is_compact(geometry.manifold) else geometry.decay(x, rate)
            if y is not None:
                d = geometry.follow(x, y, d)
                m = None if m is None else geometry.follow(x, y, m)
                x, frame = y, geometry.frame(y)
        y, m = self._move(group, job, x, frame, d, m)
        if group["stabilize"] and group["n_steps"] % group["stabilize"] == 0:
            y, m = geometry.stabilize(y, m)
        if m is not None:
            batch.write(name, m)
        if job.bad is not None:
            y = torch.where(job.bad, torch.nan, y)
        if group["nonfinite"] == "skip":
            y = _restore_bad_rows(job, y)
        batch.finish(y)

    def _move(self, group: dict, job: Job, x, frame, d, m):
        """Move the points along d; a retraction, unless a subclass knows better.

        x and d may be changed: nobody reads them afterwards.
        """
        return job.geometry.move(x, frame, d, m)

    def _momentum(self, job: Job, name: str) -> tuple[str, Tensor]:
        """Return the stored first moment and the name it is stored under.

        Coordinates of a moving frame have a name of their own, since the plain name
        holds tangent vectors, as in geoopt's state dicts; those are converted.
        """
        geometry, component = job.geometry, job.gradient.shape[1:]
        if not geometry.framed:
            return name, job.batch.read(name, component)

        def convert(p, state):
            if name not in state:
                return None
            v, x = (job.batch.bucket.gather([t]) for t in (state.pop(name), p))
            return geometry.encode(x, geometry.frame(x), v)

        framed = f"{name}_frame"
        return framed, job.batch.read(framed, component, convert)

    @torch.no_grad()
    def stabilize(self) -> None:
        """Put every point on its manifold, and its momentum into the tangent space."""
        for plan in self._current_plans():
            for bucket in plan.buckets:
                self._stabilize_bucket(bucket)

    @staticmethod
    def _stabilize_bucket(bucket: Bucket) -> None:
        x = bucket.points()
        names = [n for n in ("exp_avg", "momentum_buffer") if n in bucket.buffers]
        m = bucket.buffers[names[0]] if names else None
        y, moved = bucket.geometry.stabilize(x, m)
        if m is not None and moved is not None:
            m.copy_(moved)
        bucket.scatter(y, None)

    # ------------------------------------------------------------ for subclasses

    def _direction(self, group: dict, job: Job) -> tuple[Tensor, str, Tensor | None]:
        """Return the step's coordinates, and the momentum that shall follow."""
        raise NotImplementedError

    def _geometry(self, manifold, group: dict):
        """Choose how the points of a manifold move."""
        return geometry_of(manifold, group["retraction"], group["transport"])

    # ------------------------------------------------------------ Euclidean part

    def _engine_options(self, group: dict) -> dict:
        return {
            "lr": group["lr"],
            "weight_decay": (
                group["weight_decay"] if group["decay_mode"] == "l2" else 0.0
            ),
            **{k: group[k] for k in ("maximize", "foreach", "fused")},
            **{k: group[k] for k in self._engine_names},
        }

    def _step_euclidean(self, plan: _Plan, active: list[Tensor], factor) -> None:
        group, engine = plan.group, plan.engine
        if group["nonfinite"] == "skip":
            grads: list[Any] = [p.grad for p in active]
            finite = torch.stack([torch.isfinite(g).all() for g in grads])
            active = [p for p, ok in zip(active, finite.tolist(), strict=True) if ok]
        if group["weight_decay"] and group["decay_mode"] == "decoupled":
            torch._foreach_mul_(active, 1 - group["lr"] * group["weight_decay"])
        engine.param_groups[0].update(self._engine_options(group), params=active)
        if factor is None:
            engine.step()
            return
        grads = [p.grad for p in active]
        try:
            for p, g in zip(active, grads, strict=True):
                p.grad = g * factor.to(g)
            engine.step()
        finally:
            for p, g in zip(active, grads, strict=True):
                p.grad = g


def _rows(mask: Tensor) -> Tensor:
    """Reduce a mask over points to (B, 1, ..)."""
    dims = tuple(range(1, mask.ndim))
    return mask.all(dims, keepdim=True) if dims else mask


def _without_bad_rows(x: Tensor, egrad: Tensor):
    """Put a good point with zero gradient where something is not finite.

    Decompositions raise for a whole batch when one member is NaN; the shape of the
    batch is kept, so that the other rows come out the same to the last bit.
    """
    bad = ~_rows(torch.isfinite(x) & torch.isfinite(egrad))
    if not must_not_look(x) and not bool(bad.any()):
        return x, egrad, None
    point = ~_rows(torch.isfinite(x))
    # by selection, as reading the index of the first good row would synchronize
    good = (~point).flatten().to(torch.uint8).argmax(0, keepdim=True)
    x = torch.where(point, x.index_select(0, good), x)
    return x, torch.where(bad, 0.0, egrad), bad


def _restore_bad_rows(job: Job, y: Tensor) -> Tensor:
    """Take back the step, with all state, of rows that are not finite."""
    bucket, index = job.batch.bucket, job.batch.index
    rows = {name: b for name, b in bucket.buffers.items() if name != "step"}
    ok = _rows(torch.isfinite(y))
    for value in rows.values():
        value = value if index is None else value[index]
        finite = _rows(torch.isfinite(value))
        ok = ok & finite.view(ok.shape)
    kept = torch.ones(sum(bucket.rows), dtype=torch.bool, device=y.device)
    kept[slice(None) if index is None else index] = ok.flatten()
    for name, value in rows.items():
        before = job.before.get(name, torch.zeros((), device=y.device))
        mask = kept.view(-1, *(1,) * (value.ndim - 1))
        value.copy_(torch.where(mask, value, before))
    if "step" in bucket.buffers:
        steps = bucket.buffers["step"]
        before = job.before.get("step", steps - 1)
        moved = torch.stack([part.any() for part in kept.split(bucket.rows)])
        steps.copy_(torch.where(moved, steps, before))
    return torch.where(ok, y, job.batch.x)
