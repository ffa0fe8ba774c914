"""A forecaster on disk: settings as JSON, weights, graph and scaler as safetensors."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manifoldkit._faces.files import plain, read_content, read_tensors, write_files

_FORMAT = "manifoldkit.graphs.TrafficForecaster"


def write_forecaster(path: str | Path, forecaster: Any) -> None:
    """Write ``path.json`` and ``path.safetensors``."""
    state = forecaster.net_.module_.state_dict()
    tensors = {f"network.{k}": v for k, v in state.items()}
    coo = forecaster._graph.to_sparse_coo().coalesce()
    tensors |= {"graph.index": coo.indices(), "graph.weight": coo.values()}
    scaler = forecaster.scaler_.arrays()
    tensors |= {k: torch.from_numpy(v) for k, v in scaler.items()}
    params = forecaster.get_params(deep=False)
    profile = forecaster.scaler_.profile_
    if isinstance(params["random_state"], np.random.RandomState):
        params["random_state"] = None
    content = {
        "format": _FORMAT,
        "params": {k: plain(k, v) for k, v in params.items()},
        "n_sensors": forecaster.n_sensors_,
        "step_minutes": forecaster.step_minutes_,
        "dtype": forecaster.dtype_,
        "sparse": forecaster.adjacency_.is_sparse,
        "profile_split": profile is not None and profile.split_,
        "history": forecaster.history_,
    }
    write_files(path, tensors, content)


def read_forecaster(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read both files; parameters that were tuples are tuples again.

    Raises
    ------
    FileNotFoundError
        There is none.
    ValueError
        The file holds something else.
    """
    content, tensors = read_content(path, _FORMAT), read_tensors(path)
    params = content["params"]
    for name in ("backbone_options", "split"):
        params[name] = _tuples(params[name])
    return content, tensors


def stored_graph(content: dict[str, Any], tensors: dict[str, Tensor]) -> Tensor:
    """Return the road graph, sparse if it was given so."""
    n = content["n_sensors"]
    graph = torch.sparse_coo_tensor(
        tensors["graph.index"], tensors["graph.weight"], (n, n), check_invariants=True
    )
    return graph if content["sparse"] else graph.to_dense()


def _tuples(value):
    """JSON knows lists only; sequences among the parameters were tuples."""
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(value) if isinstance(value, list) else value
