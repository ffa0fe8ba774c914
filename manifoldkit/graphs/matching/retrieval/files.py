"""The corpus of a retriever as tensors, and back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from manifoldkit.graphs.matching.inputs import PlainGraph
from manifoldkit.graphs.matching.retrieval.corpus import GraphCorpus


def corpus_tensors(corpus: Sequence[PlainGraph]) -> dict[str, torch.Tensor]:
    """Return a corpus in memory as a few long tensors."""
    edges = [torch.from_numpy(g.edges) for g in corpus]
    tensors = {
        "corpus.edges": torch.cat([torch.zeros(0, 2).long(), *edges]),
        "corpus.num_edges": torch.tensor([len(e) for e in edges]).long(),
        "corpus.num_nodes": torch.tensor([g.num_nodes for g in corpus]).long(),
    }
    for key in ("x", "edge_attr"):
        values = [getattr(g, key) for g in corpus]
        given = [value for value in values if value is not None]
        if given:
            tensors[f"corpus.{key}"] = torch.from_numpy(np.concatenate(given))
            there = torch.tensor([value is not None for value in values])
            tensors[f"corpus.{key}_given"] = there
    return tensors


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
