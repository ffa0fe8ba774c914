"""A fitted :class:`~manifoldkit.spd.SPDNetClassifier` as two files, and back."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from manifoldkit._faces.files import plain, read_content, read_weights, write_files

_FORMAT = "manifoldkit.spd.SPDNetClassifier"
_COVARIANCE_STATE = ("order_", "lag_", "n_channels_", "n_times_")


def write_classifier(model: Any, path: str | Path) -> None:
    """Write the weights of a fitted classifier, and all else as JSON."""
    module = model.net_.module_
    content = {
        "format": _FORMAT,
        "params": {k: plain(k, v) for k, v in model.get_params().items()},
        "classes": model.classes_.tolist(),
        "classes_dtype": model.classes_.dtype.str,
        "n_channels": int(model.n_channels_),
        "n_in": int(module.n_in),
        "scale": model.scale_,
        "seed": model._seed,
        "dtype": str(next(module.parameters()).dtype).removeprefix("torch."),
        "history": model.history_,
    }
    if model.input == "signal":
        content["covariances"] = {
            k: int(getattr(model.covariances_, k)) for k in _COVARIANCE_STATE
        }
    write_files(path, module.state_dict(), content)


def read_classifier(kind: type, path: str | Path, device: str) -> Any:
    """Make a classifier of a class from what :func:`write_classifier` wrote."""
    content = read_content(path, _FORMAT)
    params = content["params"]
    if isinstance(params["class_weight"], list):  # labels that are not strings
        params["class_weight"] = dict(params["class_weight"])
    model = kind(**params | {"device": device})
    dtype = np.dtype(content["classes_dtype"])
    model.classes_ = np.array(content["classes"], dtype=dtype)
    model.n_channels_, model.scale_ = content["n_channels"], content["scale"]
    model._seed, model.history_ = content["seed"], content["history"]
    if model.input == "signal":
        model.covariances_ = model._make_covariances()
        for name, value in content["covariances"].items():
            setattr(model.covariances_, name, value)
    dtype = getattr(torch, content["dtype"])
    model.net_ = model._make_trainer(content["n_in"], dtype)
    with model._randomness():
        model.net_.initialize()
    read_weights(path, model.net_.module_, device)
    return model
