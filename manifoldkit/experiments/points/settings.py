"""Networks, settings and epochs of the point-cloud experiments."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manifoldkit.equivariant import PointCloudClassifier

#: a reduced RISurConv
SMALL = {"sizes": (256, 128, 64, 32), "neighbors": (8, 16, 16, 16), "n_blocks": 0}
#: the same with more neighbors
WIDE = {**SMALL, "neighbors": (16, 16, 32, 32)}
#: a reduced PaRot
PATCHES = {"n_patches": 64, "k_local": 32, "k_global": 32, "k_intra": 16}
PATCHES["emb_dims"] = 512
#: settings that the networks share
_SHARED = {"n_points": 512, "n_views": 6, "jitter": 0.005, "n_votes": 4}
_BENT = {"stretch": 0.25, "mirror": True}
# a network that is not invariant does not see mirror images
RECIPES: dict[str, dict[str, Any]] = {
    "risurconv": {**_SHARED, **_BENT},
    "parot": {**_SHARED, **_BENT},
    "pointnet": {**_SHARED, "stretch": 0.25},
}
_RISURCONV = {"model": "risurconv", "model_options": SMALL}
_POINTNET = {"model": "pointnet", "model_options": {"width": 0.5}}
_PAROT = {"model": "parot", "model_options": PATCHES}
#: name: (settings of the estimator, are mesh normals given, epochs, seeds)
CONTESTANTS: dict[str, tuple[dict[str, Any], bool, int, int]] = {
    "RISurConv, mesh normals": (_RISURCONV, True, 30, 6),
    "RISurConv, mesh normals, wider neighborhoods": (
        {**_RISURCONV, "model_options": WIDE},
        True,
        30,
        1,
    ),
    "RISurConv, estimated axes": (_RISURCONV, False, 30, 3),
    "RISurConv, mesh normals, further shapes": (_RISURCONV, True, 30, 3),
    "RISurConv, estimated axes, further shapes": (_RISURCONV, False, 30, 3),
    "PaRot, equivariant directions": (
        {**_PAROT, "model_options": {**PATCHES, "directions": "equivariant"}},
        False,
        60,
        3,
    ),
    # mirrored and stretched versions keep it from learning
    "PaRot, learned directions (published), one version of a cloud": (
        {**_PAROT, "n_views": 1, "n_votes": 1},
        False,
        25,
        1,
    ),
    "PointNet": (_POINTNET, False, 15, 3),
    "PointNet, trained about one axis": ({**_POINTNET, "rotation": "z"}, False, 15, 3),
    "PointNet, trained on rotations": ({**_POINTNET, "rotation": "so3"}, False, 15, 3),
}
#: contestants of a quick run
QUICK = ("RISurConv, mesh normals", "RISurConv, estimated axes", "PointNet")
#: contestants whose networks are also made to vote, so many together
TOGETHER = {
    "RISurConv, mesh normals": (3, 6),
    "RISurConv, estimated axes": (3,),
    "RISurConv, mesh normals, further shapes": (3,),
    "RISurConv, estimated axes, further shapes": (3,),
}
#: contestants that train on the rest of the training list as well, whose base classes
#: they learn but never answer
FURTHER_SHAPES = {name for name in CONTESTANTS if name.endswith("further shapes")}
#: contestants and seeds on the second set
MORE_CLASSES = {
    "RISurConv, mesh normals": 3,
    "RISurConv, estimated axes": 3,
    "PointNet": 3,
}


def make_estimator(
    name: str,
    seed: int,
    quick: bool = False,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
) -> "tuple[PointCloudClassifier, bool]":
    """Return the classifier of a row, and whether it is given normals."""
    from manifoldkit.equivariant import PointCloudClassifier

    settings, normals, epochs, _ = CONTESTANTS[name]
    model = PointCloudClassifier(
        **{**RECIPES[settings["model"]], **settings},
        max_epochs=3 if quick else epochs,
        checkpoint=checkpoint,
        device=device,
        random_state=seed,
    )
    return model, normals
