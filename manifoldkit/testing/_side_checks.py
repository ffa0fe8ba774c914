"""What must hold besides equivariance: no side effects, samples and padding apart."""

import torch
from torch import Tensor, nn

from manifoldkit.testing._subject import GradientSubject, Subject
from manifoldkit.testing.report import Check

_SPD = ("spd", "covariance")


def perturbed(subject: Subject, values: list, seed: int, size: float = 0.1) -> list:
    """Return the inputs moved in a direction that no element of a group moves them."""
    g = torch.Generator().manual_seed(seed + 17)
    moved = []
    for spec, v in zip(subject.specs, values, strict=True):
        if not isinstance(v, Tensor) or not v.is_floating_point() or not v.numel():
            moved.append(v)
            continue
        noise = torch.randn(v.shape, generator=g, dtype=torch.float64).to(v)
        if spec.kind in _SPD:
            a = torch.eye(v.shape[-1]).to(v) + size * noise
            moved.append(a @ v @ a.mT)
            continue
        if spec.kind == "sym_matrix":
            noise = (noise + noise.mT) / 2
        if spec.kind == "edge_scalar":
            dims = spec.node_dims(v, subject.batch)
            if torch.equal(v, v.transpose(*dims)):  # an undirected graph stays one
                noise = (noise + noise.transpose(*dims)) / 2
        centered = v - v.flatten(0, -2).nanmean(0) if v.ndim > 1 else v
        rms = float(centered.double().square().nanmean().sqrt())
        moved.append(v + size * (rms or 1.0) * noise)
    return moved


def all_checks(run, modules: list[nn.Module]) -> list[Check]:
    """Return the side checks that apply to the function and its inputs."""
    found = [_unmodified(run, modules), _outputs(run)]
    if run.noisy:
        return found
    for check in (_batch(run), _padding(run)):
        if check is not None:
            found.append(check)
    return found


def _verdict(name: str, wrong: str) -> Check:
    return Check(name, "FAIL" if wrong else "PASS", wrong)


def _unmodified(run, modules) -> Check:
    """Call on copies and look at the copies, the flags and the parameters after it."""
    subject = run.subject
    given = subject.cast(subject.values, run.dtype)
    before = [v.clone() if isinstance(v, Tensor) else v for v in given]
    flags = [m.training for module in modules for m in module.modules()]
    weights = [p.detach().clone() for module in modules for p in module.parameters()]
    with torch.no_grad():
        subject(given, run.settings.seed)
    wrong = [
        f"input {name} was modified"
        for name, a, b in zip(subject.names, before, given, strict=True)
        if isinstance(a, Tensor) and not torch.equal(a.nan_to_num(), b.nan_to_num())
    ]
    if flags != [m.training for module in modules for m in module.modules()]:
        wrong.append("a training flag was changed")
    after = [p for module in modules for p in module.parameters()]
    if not all(torch.equal(a, b) for a, b in zip(weights, after, strict=True)):
        wrong.append("a parameter was changed")
    return _verdict("no side effects", "; ".join(wrong))


def _outputs(run) -> Check:
    wrong = [
        f"{k} has dtype {str(y.dtype).removeprefix('torch.')} "
        f"for {str(run.dtype).removeprefix('torch.')} inputs"
        for k, y in run.y.items()
        if y.is_floating_point() and y.dtype != run.dtype
    ]
    return _verdict("dtype kept", "; ".join(wrong))


def _close(run, name: str, a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    eps = torch.finfo(run.dtype).eps
    peak = float(a.abs().max()) if a.numel() else 0.0
    limit = 512 * eps / run.gap * max(run.scale[name], peak)
    return not a.numel() or float((a.double() - b.double()).abs().max()) <= limit


def _batch_size(subject: Subject) -> int:
    for spec, v in zip(subject.specs, subject.values, strict=True):
        if (
            isinstance(v, Tensor)
            and v.ndim
            and spec.kind not in ("fixed", "edge_index")
        ):
            return v.shape[0]
    return 0


def _batch(run) -> Check | None:
    """Compare samples alone with samples in the batch."""
    subject = run.subject
    size = _batch_size(subject)
    if not subject.batch or size < 2 or run.settings.mode == "train":
        return None  # batch statistics are those of the batch
    if any(spec.kind == "edge_index" for spec in subject.specs):
        return None  # the graph belongs to the whole batch
    wrong = []
    for b in (0, size - 1):
        alone = [
            v[b : b + 1]
            if isinstance(v, Tensor)
            and v.ndim
            and v.shape[0] == size
            and spec.kind != "fixed"
            else v
            for spec, v in zip(subject.specs, run.values, strict=True)
        ]
        got = run.call(alone)
        for k, y in run.y.items():
            if (
                y.ndim
                and y.shape[0] == size
                and not _close(run, k, y[b : b + 1], got[k])
            ):
                wrong.append(f"{k} of sample {b} depends on the rest of the batch")
    return _verdict("batch independence", "; ".join(wrong))


def _padding(run) -> Check | None:
    """Put garbage and NaN into masked nodes; nothing valid may change."""
    subject = run.subject
    places = [i for i, s in enumerate(subject.specs) if s.kind == "mask"]
    if not places or not isinstance(run.values[places[0]], Tensor):
        return None
    mask = run.values[places[0]].clone()
    if mask.all() and mask.shape[-1] > 1:
        mask[..., -1] = False
    values = list(run.values)
    values[places[0]] = mask
    results = []
    for garbage in (0.0, 1e30, float("nan")):
        trial = [
            _fill(v, mask, spec, subject.batch, garbage)
            for spec, v in zip(subject.specs, values, strict=True)
        ]
        results.append(run.call(trial))
    wrong = []
    for k, clean in results[0].items():
        for dirty, what in zip(results[1:], ("garbage", "NaN"), strict=True):
            kept = clean, dirty[k]
            if subject.out_specs[k].node_dims(clean, subject.batch):
                kept = tuple(
                    _fill(y, mask, subject.out_specs[k], subject.batch, 0.0)
                    for y in kept
                )
            if not _close(run, k, *kept):
                wrong.append(f"{k} depends on {what} in masked nodes")
    return _verdict("padding independence", "; ".join(wrong))


def _fill(v, mask: Tensor, spec, batch: bool, value: float):
    """Overwrite masked nodes of a value along every dimension of nodes."""
    if not isinstance(v, Tensor) or not v.is_floating_point() or spec.kind == "mask":
        return v
    for dim in spec.node_dims(v, batch):
        shape = [1] * v.ndim
        shape[dim] = mask.shape[-1]
        if batch:
            shape[0] = mask.shape[0]
        v = torch.where(mask.reshape(shape), v, torch.full_like(v, value))
    return v


def gradient_is_right(subject: GradientSubject, values: list, seed: int):
    """Compare the gradient along a random direction with a central difference."""
    g = torch.Generator().manual_seed(seed + 29)
    grads = list(subject(subject.cast(values, torch.float64), seed).values())
    if not all(bool(grad.isfinite().all()) for grad in grads):
        return "NONFINITE", "the gradient has NaN or infinity"
    ups, downs, slope, size = list(values), list(values), 0.0, 0.0
    for i, grad in zip(subject.places, grads, strict=True):
        v = values[i].double()
        u = torch.randn(v.shape, generator=g, dtype=torch.float64).to(v.device)
        if subject.specs[i].kind in (*_SPD, "sym_matrix"):
            u = (u + u.mT) / 2
        step = 1e-6 * float(v.square().nanmean().sqrt() or 1.0)
        ups[i], downs[i] = v + step * u, v - step * u
        slope += float((grad * u).sum()) * step
        size += float(grad.norm() * u.norm()) * step
    with torch.no_grad():
        change = subject.total(subject.cast(ups, torch.float64), seed) - subject.total(
            subject.cast(downs, torch.float64), seed
        )
    level = float(
        subject.total(subject.cast(values, torch.float64), seed).detach().abs()
    )
    error = abs(float(change) / 2 - slope)
    # differences are exact to their truncation and to the rounding of the value
    limit = 1e-4 * size + 1e-13 * level
    if error <= limit:
        return "PASS", ""
    return (
        "FAIL",
        f"directional derivative {slope:.3e}, difference {float(change) / 2:.3e}",
    )
