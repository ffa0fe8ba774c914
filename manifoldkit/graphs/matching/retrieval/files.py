"""The corpus of a retriever as tensors, and back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from manifoldkit.graphs.matching.inputs import PlainGraph
from manifoldkit.graphs.matching.retrieval.corpus import GraphCorpus
from manifoldkit.graphs.matching.retrieval.records import record_of, with_record


def corpus_tensors(
    corpus: Sequence[PlainGraph],
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return a corpus in memory as a few long tensors, and its labels as JSON."""
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
            widths = sorted({value.shape[1] for value in given})
            if len(widths) > 1:
                raise ValueError(
                    f"corpus: expected {key} of one width to save, found {widths}"
                )
            tensors[f"corpus.{key}"] = torch.from_numpy(np.concatenate(given))
            there = torch.tensor([value is not None for value in values])
            tensors[f"corpus.{key}_given"] = there
    records = [record_of(g, f"corpus[{i}]") for i, g in enumerate(corpus)]
    if any(record is not None for record in records):
        return tensors, {"corpus_details": records}
    return tensors, {}


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
    graphs = [PlainGraph(n, e.numpy(), x, attr) for n, e, x, attr in rows]
    records = content.get("corpus_details", [None] * len(graphs))
    return [with_record(*pair) for pair in zip(graphs, records, strict=True)]
