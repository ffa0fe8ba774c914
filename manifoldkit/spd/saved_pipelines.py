"""Fitted pipelines of SPD estimators as two files, read without executing anything.

``path.safetensors`` has the arrays, ``path.json`` all else. Only the classes of a fixed
table are written and read, each from its parameters and its fitted attributes.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import sklearn
import torch
from pyriemann.classification import FGDA, MDM
from pyriemann.estimation import Covariances
from pyriemann.tangentspace import TangentSpace
from sklearn.base import BaseEstimator
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from manifoldkit._faces.files import read_content, read_tensors, write_files
from manifoldkit.spd.alignment.aligner import DomainAligner
from manifoldkit.spd.augmented.selection import DelayEmbedding
from manifoldkit.spd.augmented.transformer import AugmentedCovariances
from manifoldkit.spd.estimators.mdm import GBWMDM
from manifoldkit.spd.estimators.tangent_space import GBWTangentSpace
from manifoldkit.spd.pyriemann_bridge import gbw_metric
from manifoldkit.spd.unit_free import UnitFreeFgMDM, UnitFreeMDM, UnitFreeTangentSpace

FORMAT = "manifoldkit.spd.pipeline"
CLASSES: dict[str, type[BaseEstimator]] = {
    cls.__name__: cls
    for cls in (
        *(Pipeline, AugmentedCovariances, DomainAligner, GBWMDM, GBWTangentSpace),
        *(UnitFreeTangentSpace, UnitFreeMDM, UnitFreeFgMDM, Covariances),
        *(TangentSpace, MDM, FGDA, LinearDiscriminantAnalysis, LogisticRegression),
        *(SVC, StandardScaler),
    )
}
_ROUTED = ("fit", "partial_fit", "transform")
_NAME = re.compile(r"(_[a-zA-Z0-9]\w*|[a-zA-Z]\w*_)")
_REQUEST = "_metadata_request"


def save_pipeline(pipeline: Any, path: str | Path) -> None:
    """Save a fitted pipeline as ``path.safetensors`` and ``path.json``.

    What :func:`make_acm_classifier` returns, and other pipelines of
    :class:`AugmentedCovariances`, :class:`DomainAligner`, :class:`GBWMDM`,
    :class:`GBWTangentSpace`, pyriemann's covariances, tangent space and nearest means,
    logistic regression, support vector machine and discriminant analysis. A search is
    saved as the pipeline that it chose. A cache (``memory``) is not saved.

    Parameters
    ----------
    pipeline : Pipeline, GridSearchCV or estimator
        Fitted.
    path : str or Path
        Without suffix.

    Raises
    ------
    TypeError
        A step, or a parameter such as a function or a generator, that cannot be written
        without pickling; it is named, and no file is touched.
    NotFittedError
        The pipeline is not fitted.
    MissingExtraError
        safetensors is not installed.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from manifoldkit.spd import make_acm_classifier
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.standard_normal((20, 2, 100)), np.repeat(["feet", "hands"], 10)
    >>> model = make_acm_classifier(align=True).fit(X, y)
    >>> path = tempfile.mkdtemp() + "/decoder"
    >>> save_pipeline(model, path)
    >>> bool((load_pipeline(path).predict(X) == model.predict(X)).all())
    True
    """
    if isinstance(pipeline, GridSearchCV):
        check_is_fitted(pipeline)
        pipeline = pipeline.best_estimator_
    check_is_fitted(pipeline)
    writer = _Writer()
    content = {
        "format": FORMAT,
        "scikit-learn": sklearn.__version__,
        "pipeline": writer.encode(pipeline, "pipeline"),
    }
    content["sha256"] = checksum(content, writer.tensors)
    write_files(path, writer.tensors, content)


def load_pipeline(path: str | Path) -> Pipeline:
    """Load what :func:`save_pipeline` saved.

    Nothing of the files is executed: classes and attributes come from fixed tables.

    Parameters
    ----------
    path : str or Path
        Without suffix.

    Returns
    -------
    Pipeline or estimator
        Fitted; it predicts what the saved one predicted.

    Raises
    ------
    FileNotFoundError
        A file is not there.
    ValueError
        The files were changed or do not belong together, or they hold something else.
    MissingExtraError
        safetensors is not installed.

    Warns
    -----
    UserWarning
        Another release of scikit-learn saved it.
    """
    content = read_content(path, FORMAT)
    try:
        tensors = read_tensors(path)
    except FileNotFoundError:
        raise
    except Exception as error:  # safetensors has its own error
        raise ValueError(f"{path}.safetensors cannot be read: {error}") from None
    told = content.pop("sha256", None)
    if told != checksum(content, tensors):
        raise ValueError(
            f"{path}: expected the files as they were saved, found another checksum; "
            "one of them was changed, or they do not belong together"
        )
    version = str(content.get("scikit-learn"))
    if version.split(".")[:2] != sklearn.__version__.split(".")[:2]:
        warnings.warn(
            f"{path}: saved with scikit-learn {version}, this is "
            f"{sklearn.__version__}; look whether it predicts the same",
            UserWarning,
            stacklevel=2,
        )
    try:
        model = _Reader(tensors).decode(content["pipeline"])
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{path}.json is not a pipeline: {error!r}") from error
    if not isinstance(model, BaseEstimator):
        raise ValueError(f"{path}.json is not a pipeline: found {type(model).__name__}")
    return cast(Pipeline, model)  # a single estimator has the same methods


def checksum(content: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """Checksum over what both files say."""
    text = json.dumps(content, sort_keys=True)
    total = hashlib.sha256(text.encode())
    for key in sorted(tensors):
        array = tensors[key].contiguous().numpy()
        total.update(f"{key} {array.dtype.str} {array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()


class _Writer:
    """Objects to JSON; arrays go to ``tensors``."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def encode(self, value: Any, name: str) -> Any:
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, np.ndarray):
            return self._array(value, name)
        if isinstance(value, DelayEmbedding):
            return {"embedding": self.encode(dict(vars(value)), name)}
        if isinstance(value, list | tuple):
            kind = "list" if isinstance(value, list) else "tuple"
            items = [self.encode(v, f"{name}[{i}]") for i, v in enumerate(value)]
            return {kind: items}
        if isinstance(value, dict):
            pairs = [
                [self.encode(k, name), self.encode(v, f"{name}[{k!r}]")]
                for k, v in value.items()
            ]
            return {"dict": pairs}
        if type(value) in CLASSES.values():
            return self._estimator(value, name)
        return self._part_of_a_metric(value, name)

    def _array(self, value: np.ndarray, name: str) -> dict[str, Any]:
        if value.dtype.kind in "US" or value.dtype == object:
            if not all(isinstance(v, str) for v in value.ravel().tolist()):
                raise TypeError(f"{name}: expected numbers or strings to save")
            return {"strings": value.tolist(), "dtype": value.dtype.str}
        if value.dtype.kind not in "biufc":
            raise TypeError(f"{name}: expected numbers, found dtype {value.dtype}")
        tensor = torch.from_numpy(np.array(value, order="C"))
        self.tensors[name] = (
            torch.view_as_real(tensor) if tensor.is_complex() else tensor
        )
        return {"array": name, "complex": tensor.is_complex()}

    def _part_of_a_metric(self, value: Any, name: str) -> dict[str, Any]:
        if callable(value) and hasattr(value, "power") and hasattr(value, "M"):
            for part, found in gbw_metric(value.M, value.power).items():
                if found == value:
                    M = self.encode(value.M, f"{name}.M")
                    return {"gbw": part, "M": M, "power": value.power}
        raise TypeError(
            f"{name}: cannot be saved without pickling, found "
            f"{type(value).__name__}; use joblib for files that only you read"
        )

    def _estimator(self, value: BaseEstimator, name: str) -> dict[str, Any]:
        parameters = value.get_params(deep=False)
        if isinstance(value, Pipeline):
            parameters["memory"] = None
        state = {
            key: self.encode(v, f"{name}.{key}")
            for key, v in vars(value).items()
            if key not in parameters and key != _REQUEST and _NAME.fullmatch(key)
        }
        entry = {
            "estimator": type(value).__name__,
            "params": {
                key: self.encode(v, f"{name}.{key}") for key, v in parameters.items()
            },
            "state": state,
        }
        if _REQUEST in vars(value):
            asked = value.get_metadata_routing()
            entry["requests"] = {m: dict(getattr(asked, m).requests) for m in _ROUTED}
        return entry


class _Reader:
    """What :class:`_Writer` wrote, from JSON and tensors."""

    def __init__(self, tensors: dict[str, Tensor]):
        self.tensors = tensors

    def decode(self, value: Any) -> Any:
        if not isinstance(value, dict):
            if isinstance(value, list):
                raise TypeError(f"unexpected list {value!r:.60}")
            return value
        kinds: dict[str, Callable[[dict], Any]] = {
            "array": self._array,
            "strings": lambda v: np.array(v["strings"], dtype=_text(v["dtype"])),
            "embedding": lambda v: DelayEmbedding(**self.decode(v["embedding"])),
            "list": lambda v: [self.decode(item) for item in v["list"]],
            "tuple": lambda v: tuple(self.decode(item) for item in v["tuple"]),
            "dict": lambda v: {self.decode(k): self.decode(x) for k, x in v["dict"]},
            "gbw": lambda v: gbw_metric(self.decode(v["M"]), v["power"])[v["gbw"]],
            "estimator": self._estimator,
        }
        kind = next(iter(value), None)
        if kind not in kinds:
            raise KeyError(f"unknown kind of value {kind!r}")
        return kinds[kind](value)

    def _array(self, value: dict[str, Any]) -> np.ndarray:
        tensor = self.tensors[value["array"]]
        if value["complex"]:
            tensor = torch.view_as_complex(tensor)
        return tensor.numpy()

    def _estimator(self, value: dict[str, Any]) -> BaseEstimator:
        if value["estimator"] not in CLASSES:
            raise KeyError(f"unknown estimator {value['estimator']!r}")
        cls = CLASSES[value["estimator"]]
        model = cls(**{k: self.decode(v) for k, v in value["params"].items()})
        for key, stored in value["state"].items():
            # only what a fit sets: neither methods nor anything of Python's own
            if not _NAME.fullmatch(key) or hasattr(cls, key) or key == _REQUEST:
                raise KeyError(f"unexpected attribute {key!r} of {cls.__name__}")
            vars(model)[key] = self.decode(stored)
        for method, asked in value.get("requests", {}).items():
            if method not in _ROUTED:
                raise KeyError(f"unexpected method {method!r}")
            with sklearn.config_context(enable_metadata_routing=True):
                getattr(model, f"set_{method}_request")(**asked)
        if isinstance(model, SVC):
            _check_support_vectors(model)
        return model


def _text(dtype: str) -> np.dtype:
    found = np.dtype(dtype)
    if found.kind not in "USO":
        raise TypeError(f"expected a dtype of text, found {dtype!r}")
    return found


def _check_support_vectors(model: Any) -> None:
    """Compare the sizes that libsvm, which is compiled, takes on trust."""
    state = vars(model)
    vectors, numbers = state["support_vectors_"], state["_n_support"]
    n, k = len(vectors), len(state["classes_"])
    pairs = k * (k - 1) // 2
    right = (
        isinstance(model.kernel, str)
        and vectors.ndim == 2
        and vectors.shape[1] == state["n_features_in_"]
        and state["support_"].shape == (n,)
        and numbers.shape == (k,)
        and (numbers >= 0).all()
        and numbers.sum() == n
        and state["dual_coef_"].shape == state["_dual_coef_"].shape == (k - 1, n)
        and state["intercept_"].shape == state["_intercept_"].shape == (pairs,)
        and all(state[key].shape in ((0,), (pairs,)) for key in ("_probA", "_probB"))
    )
    if not right:
        raise KeyError("support vectors, coefficients and classes do not fit together")
