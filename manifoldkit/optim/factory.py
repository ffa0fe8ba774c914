"""Build an optimizer for a model that mixes flat and curved parameters."""

from collections.abc import Iterable
from typing import Any, Unpack

import torch
from torch import Tensor

from manifoldkit._checks import check_choice
from manifoldkit.optim.adam import RiemannianAdam, RiemannianAdamW
from manifoldkit.optim.buckets import curved_manifold
from manifoldkit.optim.geometry import is_compact
from manifoldkit.optim.landing import POGO, LandingAdam, LandingSGD
from manifoldkit.optim.muon import StiefelMuon
from manifoldkit.optim.options import AllOptions
from manifoldkit.optim.sgd import RiemannianSGD

_CLASSES: dict[str, Any] = {
    "sgd": RiemannianSGD,
    "adam": RiemannianAdam,
    "adamw": RiemannianAdamW,
    "muon": StiefelMuon,
    "landing": LandingSGD,
    "landing_adam": LandingAdam,
    "pogo": POGO,
}

#: Kinds whose parameters may decay; a group's own decay holds for them.
_DECAYING = ("euclidean", "manifold")


def build_optimizer(
    model: torch.nn.Module | Iterable[Tensor] | Iterable[dict[str, Any]],
    name: str = "adamw",
    *,
    lr: float = 1e-3,
    manifold_lr: float = 1e-2,
    weight_decay: float = 0.0,
    **options: Unpack[AllOptions],
) -> torch.optim.Optimizer:
    """Return an optimizer with a parameter group for each kind of geometry.

    Flat parameters get ``lr``, those on manifolds ``manifold_lr``; weight decay is
    left out where it means nothing (spheres, Stiefel, rotations) and for parameters
    that a module names in a method ``no_weight_decay()``, as the SPD batch
    normalizations do.

    Parameters
    ----------
    model : Module, iterable of Tensor, or iterable of dict
        The parameters; frozen ones are left out. Parameter groups, as torch's
        optimizers and skorch (``optimizer=build_optimizer``) have them, are divided by
        geometry too: what a group sets itself, such as ``lr``, holds for all its
        parameters, but points of compact manifolds never decay.
    name : {"sgd", "adam", "adamw", "muon", "landing", "landing_adam", "pogo"}
        The optimizer's class.
    lr, manifold_lr : float
        Learning rates of flat parameters and of parameters on manifolds.
    weight_decay : float, default=0
        Decay of flat parameters and of those on manifolds that are not compact.
    **options
        Further options of the class.

    Returns
    -------
    torch.optim.Optimizer
        Groups are named "euclidean", "manifold" and "compact", those without decay
        beside one with it "euclidean, no decay" and "manifold, no decay"; empty ones
        are left out.

    Raises
    ------
    TypeError
        Unknown option.
    ValueError
        Unknown name, or no parameter to train.

    Examples
    --------
    >>> import geoopt
    >>> model = torch.nn.Linear(3, 2)
    >>> model.direction = geoopt.ManifoldParameter(
    ...     torch.tensor([0.6, 0.8]), manifold=geoopt.Sphere()
    ... )
    >>> optimizer = build_optimizer(model, "adamw", lr=1e-3, manifold_lr=0.1)
    >>> [(group["name"], group["lr"]) for group in optimizer.param_groups]
    [('euclidean', 0.001), ('compact', 0.1)]
    """
    check_choice(name, _CLASSES, "name")
    params = model.parameters() if isinstance(model, torch.nn.Module) else model
    settings = {
        "euclidean": {"lr": lr, "weight_decay": weight_decay},
        "euclidean, no decay": {"lr": lr, "weight_decay": 0.0},
        "manifold": {"lr": manifold_lr, "weight_decay": weight_decay},
        "manifold, no decay": {"lr": manifold_lr, "weight_decay": 0.0},
        "compact": {"lr": manifold_lr, "weight_decay": 0.0},
    }
    spared = _spared(model) if weight_decay else set()
    groups = []
    for own in _given_groups(params):
        kinds: dict[str, list[Tensor]] = {kind: [] for kind in settings}
        for p in own.pop("params"):
            if p.requires_grad:
                kind = _kind(curved_manifold(p))
                free = id(p) in spared and kind != "compact"
                kinds[f"{kind}, no decay" if free else kind].append(p)
        for kind, members in kinds.items():
            if members:
                group = {"params": members, "name": kind, **settings[kind], **own}
                if settings[kind]["weight_decay"] == 0 and kind not in _DECAYING:
                    group["weight_decay"] = 0.0
                groups.append(group)
    if not groups:
        raise ValueError("model: it has no parameter that requires a gradient")
    return _CLASSES[name](groups, lr=lr, weight_decay=weight_decay, **options)


def _given_groups(params: Iterable[Any]) -> list[dict[str, Any]]:
    """Parameter groups as a user gave them; one for plain parameters."""
    given = list(params)
    if not any(isinstance(entry, dict) for entry in given):
        return [{"params": given}]
    groups = []
    for group in given:
        if not isinstance(group, dict) or "params" not in group:
            raise TypeError(
                "model: expected parameters, or groups that are dicts with a key "
                f"'params', found {type(group).__name__} among them"
            )
        members = group["params"]
        members = [members] if isinstance(members, Tensor) else list(members)
        groups.append({**group, "params": members})
    return groups


def _spared(model: Any) -> set[int]:
    """Identities of the parameters that their modules want no decay for."""
    if not isinstance(model, torch.nn.Module):
        return set()
    found = set()
    for module in model.modules():
        names = getattr(module, "no_weight_decay", None)
        if callable(names):
            own = dict(module.named_parameters())
            found |= {id(own[name]) for name in names() if name in own}
    return found


def _kind(manifold) -> str:
    if manifold is None:
        return "euclidean"
    return "compact" if is_compact(manifold) else "manifold"
