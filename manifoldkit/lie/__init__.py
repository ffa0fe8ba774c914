"""Matrix Lie groups: rotations, decompositions, Haar measures, group convolutions."""

from manifoldkit._lazy import lazy_names

_EXPORTS: dict[str, tuple[str, ...]] = {
    "decompositions": (
        "iwasawa",
        "polar",
        "polar_log",
        "scale_split",
        "sym_exp",
        "sym_inv_sqrt",
        "sym_log",
        "sym_sqrt",
    ),
    "groups": ("SL", "SO", "Affine", "GLPlus", "SPDSpace", "Scale", "bch", "bracket"),
}
_MODULES: tuple[str, ...] = ("haar", "losses", "nn", "rotation")

__getattr__, __dir__, __all__ = lazy_names(__name__, _EXPORTS, _MODULES)
