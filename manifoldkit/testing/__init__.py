"""Equivariance checks for any callable, and random elements of groups."""

from manifoldkit._lazy import lazy_names

_EXPORTS: dict[str, tuple[str, ...]] = {
    "equivariance": ("assert_equivariant", "check_equivariance"),
    "groups": (
        "Element",
        "random_general_linear",
        "random_orthogonal",
        "random_permutation",
        "random_rotation",
    ),
    "report": ("EquivarianceReport",),
    "types": ("transform",),
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _EXPORTS)
