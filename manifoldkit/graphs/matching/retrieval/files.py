"""A retriever on disk: settings as JSON, weights and corpus as safetensors."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from manifoldkit._faces.files import plain, read_content, read_tensors, write_files
from manifoldkit.graphs.matching.inputs import PlainGraph
from manifoldkit.graphs.matching.retrieval.corpus import GraphCorpus

_FORMAT = "manifoldkit.graphs.SubgraphRetriever"


def write_retriever(path: str | Path, retriever: Any) -> None:
    """Write ``path.json`` and ``path.safetensors``."""
    tensors, sizes = {}, {}
    for name in ("model_", "late_"):
        network = getattr(retriever, name, None)
        if network is None:
            continue
        for key, value in network.state_dict().items():
            tensors[f"{name}.{key}"] = value
        sizes[name] = network.input_dims
    content: dict[str, Any] = {
        "format": _FORMAT,
        "params": {k: plain(k, v) for k, v in retriever.get_params().items()},
        "input_dims": sizes,
        "history": getattr(retriever, "history_", []),
    }
    corpus = retriever.cascade_.corpus
    if isinstance(corpus, GraphCorpus):
        content["corpus"] = str(corpus.folder.resolve())
    else:
        edges = [torch.from_numpy(g.edges) for g in corpus]
        tensors["corpus.edges"] = torch.cat([torch.zeros(0, 2).long(), *edges])
        tensors["corpus.num_edges"] = torch.tensor([len(e) for e in edges]).long()
        counts = [g.num_nodes for g in corpus]
        tensors["corpus.num_nodes"] = torch.tensor(counts).long()
        for key in ("x", "edge_attr"):
            values = [getattr(g, key) for g in corpus]
            given = [value for value in values if value is not None]
            if given:
                tensors[f"corpus.{key}"] = torch.from_numpy(np.concatenate(given))
                there = torch.tensor([value is not None for value in values])
                tensors[f"corpus.{key}_given"] = there
    write_files(path, tensors, content)


def read_retriever(path: str | Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Read both files.

    Raises
    ------
    FileNotFoundError
        There is none.
    ValueError
        The file holds something else.
    """
    return read_content(path, _FORMAT), read_tensors(path)


def stored_corpus(content: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Any:
    """Return the corpus that was indexed."""
    if "corpus" in content:
        return GraphCorpus(content["corpus"])
    nodes = tensors["corpus.num_nodes"].tolist()
    lengths = {"x": nodes, "edge_attr": tensors["corpus.num_edges"].tolist()}
    edges = torch.split(tensors["corpus.edges"], lengths["edge_attr"])
    features: dict[str, list] = {}
    for key, counts in lengths.items():
        features[key] = [None] * len(nodes)
        if f"corpus.{key}" in tensors:
            there = tensors[f"corpus.{key}_given"].numpy().nonzero()[0].tolist()
            sizes = [counts[i] for i in there]
            parts = torch.split(tensors[f"corpus.{key}"], sizes)
            for i, part in zip(there, parts, strict=True):
                features[key][i] = part.numpy()
    rows = zip(nodes, edges, features["x"], features["edge_attr"], strict=True)
    return [PlainGraph(n, e.numpy(), x, attr) for n, e, x, attr in rows]
