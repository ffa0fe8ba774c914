"""Networks, settings and epochs of the point-cloud experiments."""

_SMALL = {"sizes": (256, 128, 64, 32), "neighbors": (8, 16, 16, 16), "n_blocks": 0}
#: a reduced PaRot
PATCHES = {
    "n_patches": 64,
    "k_local": 32,
    "k_global": 32,
    "k_intra": 16,
    "emb_dims": 512,
}
#: settings that the networks share; chosen by :data:`ABLATION`
RECIPE = {
    "n_points": 512,
    "n_views": 6,
    "jitter": 0.005,
    "stretch": 0.25,
    "mirror": True,
    "n_votes": 4,
}
_UPRIGHT = {"mirror": False}  # a network that is not invariant does not see mirrors
#: name: (settings of the estimator, are mesh normals given, epochs, seeds)
CONTESTANTS: dict[str, tuple[dict, bool, int, int]] = {
    "RISurConv, mesh normals": (
        {"model": "risurconv", "model_options": _SMALL},
        True,
        30,
        3,
    ),
    "RISurConv, estimated axes": (
        {"model": "risurconv", "model_options": _SMALL},
        False,
        30,
        3,
    ),
    "PaRot, equivariant directions": (
        {"model": "parot", "model_options": {**PATCHES, "directions": "equivariant"}},
        False,
        40,
        3,
    ),
    "PaRot, learned directions (published)": (
        {"model": "parot", "model_options": PATCHES},
        False,
        40,
        1,
    ),
    "RISurConv, mesh normals with signs (published)": (
        {"model": "risurconv", "model_options": {**_SMALL, "unsigned_normals": False}},
        True,
        30,
        1,
    ),
    "PointNet": ({"model": "pointnet", "model_options": {"width": 0.5}}, False, 15, 3),
    "PointNet, trained on turns about one axis": (
        {"model": "pointnet", "model_options": {"width": 0.5}, "rotation": "z"},
        False,
        15,
        1,
    ),
    "PointNet, trained on rotations": (
        {"model": "pointnet", "model_options": {"width": 0.5}, "rotation": "so3"},
        False,
        15,
        1,
    ),
    "PointNet in four frames": (
        {"model": "pointnet-frames", "model_options": {"width": 0.25}},
        False,
        10,
        1,
    ),
}
#: contestants and seeds on the second set
MORE_CLASSES = {
    "RISurConv, mesh normals": 3,
    "RISurConv, estimated axes": 1,
    "PointNet": 1,
}
_SIGNED = {**_SMALL, "unsigned_normals": False}
_BASE: dict = {"model": "risurconv", "n_points": 512, "model_options": _SIGNED}
_VIEWS: dict = {**_BASE, "n_views": 6, "jitter": 0.005}
_BENT: dict = {**_VIEWS, "stretch": 0.25, "mirror": True}
#: RISurConv with mesh normals, one thing after another; 30 epochs
ABLATION: dict[str, dict] = {
    "one view": _BASE,
    "six views with noise": _VIEWS,
    "and stretched, mirrored": _BENT,
    "and normals without sign": {**_BENT, "model_options": _SMALL},
    "and one block on centres as tokens": {
        **_BENT,
        "model_options": {**_SMALL, "head": "tokens", "n_blocks": 1},
    },
}


def make_estimator(
    name: str, seed: int, quick: bool = False, device: str = "cpu", checkpoint=None
):
    """Return the classifier of a row, and whether it is given normals."""
    from manifoldkit.equivariant import PointCloudClassifier

    settings, normals, epochs, _ = CONTESTANTS[name]
    plain = _UPRIGHT if settings["model"] == "pointnet" else {}
    model = PointCloudClassifier(
        **{**RECIPE, **plain, **settings},
        max_epochs=3 if quick else epochs,
        checkpoint=checkpoint,
        device=device,
        random_state=seed,
    )
    return model, normals
