"""Checks of what a constructor or a parameter group is given."""

from typing import Any, TypedDict

import torch
from torch import Tensor

from manifoldkit._checks import check_choice, check_count, check_interval, is_number
from manifoldkit.exceptions import NotOnManifoldError
from manifoldkit.optim.buckets import curved_manifold
from manifoldkit.optim.geometry import point_tolerance


class CommonOptions(TypedDict, total=False):
    """Options of every optimizer; :class:`RiemannianAdam` says what they do."""

    decay_mode: str | None
    maximize: bool
    foreach: bool | None
    fused: bool | None
    capturable: bool
    differentiable: bool
    stabilize: int | None
    retraction: str | None
    transport: str
    nonfinite: str
    grad_clip: float | None
    views: bool
    master_points: bool


class SGDOptions(CommonOptions, total=False):
    """Options of :class:`RiemannianSGD` that others pass on to it."""

    dampening: float
    nesterov: bool


class AdamOptions(CommonOptions, total=False):
    """Options of :class:`RiemannianAdam` that others pass on to it."""

    betas: tuple[float, float]
    eps: float
    amsgrad: bool
    moment: str


class AllOptions(AdamOptions, total=False):
    """Options of all optimizers."""

    dampening: float
    nesterov: bool
    momentum: float
    attraction: float
    eps_safe: float | None
    normal_step: str
    lmo: str
    ns_steps: int
    dual_steps: int


#: their values in a parameter group
COMMON: dict[str, Any] = {
    "lr": 1e-2,
    "weight_decay": 0.0,
    "decay_mode": "l2",
    "maximize": False,
    "foreach": None,
    "fused": None,
    "capturable": False,
    "stabilize": None,
    "retraction": None,
    "transport": "auto",
    "nonfinite": "propagate",
    "views": True,
    "master_points": False,
}

#: keys that schedulers and torch itself put into parameter groups
_BOOKKEEPING = {"params", "param_names", "name", "initial_lr", "n_steps", "swa_lr"}

_CHOICES = {
    "decay_mode": ("l2", "decoupled", "none"),
    "moment": ("point", "coordinate", "factored"),
    "nonfinite": ("propagate", "skip", "raise"),
    "transport": ("auto", "project", "none"),
    "lmo": ("project", "dual"),
    "normal_step": ("attraction", "pogo"),
}

_NON_NEGATIVE = ("lr", "weight_decay", "eps", "momentum", "attraction")


def check_options(group: dict, known: dict) -> None:
    """Raise for an unknown option or a bad value.

    Raises
    ------
    TypeError
        An option that the optimizer does not have.
    ValueError
        A value out of range.
    """
    unknown = set(group) - set(known) - _BOOKKEEPING
    if unknown:
        raise TypeError(
            f"param group: unknown options {sorted(unknown)}; "
            f"the optimizer takes {sorted(known)}"
        )
    for name in filter(group.__contains__, _NON_NEGATIVE):
        value = group[name]
        if not isinstance(value, Tensor):
            check_interval(value, name, 0)
        elif value.numel() != 1:
            raise ValueError(
                f"{name}: expected one number, found a tensor of shape "
                f"{tuple(value.shape)}"
            )
    if "betas" in group and len(group["betas"]) != 2:
        raise ValueError(f"betas: expected two numbers, found {group['betas']!r}")
    for i, beta in enumerate(group.get("betas", ())):
        check_interval(beta, f"betas[{i}]", 0, 1, "[)")
    for name, allowed in _CHOICES.items():
        if name in group:
            check_choice(group[name], allowed, name)
    for name in ("views", "master_points"):
        if not isinstance(group.get(name, True), bool):
            raise ValueError(f"{name}: expected True or False, found {group[name]!r}")
    if group.get("stabilize") is not None:
        check_count(group["stabilize"], "stabilize")
    if group.get("moment") == "factored" and group.get("amsgrad"):
        raise ValueError('amsgrad: not with moment="factored", which has no entries')
    if group.get("nesterov") and (not group["momentum"] or group["dampening"]):
        raise ValueError(
            "nesterov: needs momentum > 0 and dampening = 0, found momentum "
            f"{group['momentum']!r} and dampening {group['dampening']!r}"
        )


def check_norm(value: Any, name: str) -> None:
    """Raise unless ``value`` is a positive number; infinity is one."""
    if not is_number(value) or not value > 0:
        raise ValueError(f"{name}: expected a positive number, found {value!r}")


def check_parameter(p: Tensor, name: str, tol: float | None = None) -> None:
    """Raise unless an optimizer can step the parameter.

    Raises
    ------
    NotImplementedError
        Complex numbers on a manifold.
    TypeError
        Integers.
    NotOnManifoldError
        A point that is not on its manifold; a ``ValueError``.
    """
    manifold = curved_manifold(p)
    if manifold is None:
        return
    if p.is_complex():
        raise NotImplementedError(
            f"{name}: complex points are not supported, found {p.dtype} on {manifold}"
        )
    if not p.is_floating_point():
        raise TypeError(f"{name}: expected floating-point numbers, found {p.dtype}")
    tol = point_tolerance(p.dtype) if tol is None else tol
    point = p.detach().as_subclass(Tensor)
    if p.dtype in (torch.float16, torch.bfloat16):
        point = point.float()
    if p.numel() == 0:
        return
    ok, reason = manifold.check_point_on_manifold(
        point, atol=tol, rtol=tol, explain=True
    )
    if not ok:
        raise NotOnManifoldError(
            f"{name}: a tensor of shape {tuple(p.shape)} is not on {manifold}: "
            f"{reason}; project it first (manifoldkit.manifolds.as_parameter)"
        )
