"""Networks that respect rotations: frames, motion forecasting, point clouds."""

from manifoldkit._lazy import lazy_names

_EXPORTS: dict[str, tuple[str, ...]] = {}
_MODULES: tuple[str, ...] = ()

__getattr__, __dir__, __all__ = lazy_names(__name__, _EXPORTS, _MODULES)
