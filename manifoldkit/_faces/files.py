"""A fitted estimator as two files, of which nothing is pickled.

``path.safetensors`` has the weights, ``path.json`` all else.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from manifoldkit.exceptions import MissingExtraError


def _safetensors():
    try:
        import safetensors.torch
    except ImportError:
        raise MissingExtraError("saving a network", "safetensors", "train") from None
    return safetensors.torch


def _file(path: str | Path, suffix: str) -> Path:
    path = Path(path)
    return path.with_name(path.name + suffix)


def write_files(path: str | Path, tensors: Mapping[str, Tensor], content: dict) -> None:
    """Write tensors as safetensors and the content as JSON."""
    text = json.dumps(content, indent=2)  # before anything is written: it may refuse
    state = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    _safetensors().save_file(state, str(_file(path, ".safetensors")))
    _file(path, ".json").write_text(text + "\n", encoding="utf-8")


def read_content(path: str | Path, kind: str) -> dict[str, Any]:
    """Read the JSON half.

    Raises
    ------
    FileNotFoundError
        There is none.
    ValueError
        The file holds something else.
    """
    file = _file(path, ".json")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    if not isinstance(content, dict) or content.get("format") != kind:
        raise ValueError(f"{file} does not hold a {kind}")
    return content


def read_tensors(path: str | Path, device: str = "cpu") -> dict[str, Tensor]:
    """Read the safetensors half."""
    return _safetensors().load_file(str(_file(path, ".safetensors")), device)


def labels_content(classes: np.ndarray) -> dict[str, Any]:
    """Return the labels of a classifier as JSON holds them."""
    return {"classes": classes.tolist(), "classes_dtype": classes.dtype.str}


def stored_labels(content: Mapping[str, Any]) -> np.ndarray:
    """Invert :func:`labels_content`.

    >>> stored_labels(labels_content(np.array(["feet", "hands"])))
    array(['feet', 'hands'], dtype='<U5')
    """
    return np.array(content["classes"], dtype=np.dtype(content["classes_dtype"]))


def plain(name: str, value):
    """Return a parameter as JSON holds it.

    Dictionaries whose keys are not strings become lists of pairs.

    Raises
    ------
    TypeError
        It does not.

    Examples
    --------
    >>> plain("dims", (np.int64(6), 4)), plain("class_weight", {0: 1.0})
    ([6, 4], [[0, 1.0]])
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {k: plain(name, v) for k, v in value.items()}
        return [[plain(name, k), plain(name, v)] for k, v in value.items()]
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(name, v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name}: expected a plain value to save, found {value!r}")
