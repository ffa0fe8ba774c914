"""Valid arguments for the public functions of graphs."""

import numpy as np
import torch

from function_cases.draws import adjacency, plus, rand, randn, relu

CASES = {
    "graphs.sinkhorn": lambda b, n: {"log_alpha": randn(*b, n, n)},
    "graphs.normalize_adjacency": lambda b, n: {"a": rand(n, n)},
    "graphs.gaussian_kernel_adjacency": lambda b, n: {"distance": rand(4, 4)},
    "graphs.semi_adaptive_adjacency": lambda b, n: {
        "a_dist": rand(4, 4),
        "e1": randn(6, 3),
        "e2": randn(6, 3),
    },
    "graphs.receptive_field": lambda b, n: {"adjacency": adjacency(4)},
    "graphs.layer_sensitivity": lambda b, n: {"model": relu, "x": randn(2, 4, 3)},
    "graphs.segment_tree_reduce": lambda b, n: {
        "x": randn(6, 3),
        "index": torch.tensor([0, 0, 1, 1, 1, 2]),
        "operator": plus,
    },
    "graphs.segment_tree_scan": lambda b, n: {
        "x": randn(6, 3),
        "index": torch.tensor([0, 0, 1, 1, 1, 2]),
        "operator": plus,
    },
    "graphs.commutativity_loss": lambda b, n: {
        "operator": plus,
        "a": randn(4, 3),
        "b": randn(4, 3),
    },
    "graphs.associativity_loss": lambda b, n: {
        "operator": plus,
        "a": randn(4, 3),
        "b": randn(4, 3),
        "c": randn(4, 3),
    },
    "graphs.identity_loss": lambda b, n: {
        "operator": plus,
        "a": randn(4, 3),
        "identity": torch.zeros(3, dtype=torch.float64),
    },
    "graphs.pairwise_ranking_loss": lambda b, n: {
        "scores": randn(6),
        "labels": torch.tensor([0, 1, 0, 1, 1, 0]),
    },
    "graphs.average_precision": lambda b, n: {
        "scores": randn(6).numpy(),
        "relevant": np.array([0, 1, 0, 1, 1, 0]),
    },
    "graphs.hits_at_k": lambda b, n: {
        "scores": randn(6).numpy(),
        "relevant": np.array([0, 1, 0, 1, 1, 0]),
    },
    "graphs.precision_at_k": lambda b, n: {
        "scores": randn(6).numpy(),
        "relevant": np.array([0, 1, 0, 1, 1, 0]),
    },
    "graphs.retrieval_scores": lambda b, n: {
        "scores": randn(2, 6).numpy(),
        "relation": np.array([[0, 1, 0, 1, 1, 0]] * 2),
    },
}
ELSEWHERE = {
    "graphs.evaluate_baselines",
    "graphs.register_aggregations",
}
STRICT = {}
NO_HALF = set()
DECIDES = set()
