"""Valid arguments for the public functions of equivariant and neighbors."""

import numpy as np
import torch

from function_cases.draws import adjacency, points, rand, randn, rot, unit

CASES = {
    "equivariant.pca_frame": lambda b, n: {"x": points((3,))},
    "equivariant.pair_frame": lambda b, n: {"x": points((3,))},
    "equivariant.graph_frame": lambda b, n: {"adjacency": adjacency(4)},
    "equivariant.ade": lambda b, n: {
        "pred": randn(2, 3, 4, 2),
        "target": randn(2, 3, 4, 2),
    },
    "equivariant.fde": lambda b, n: {
        "pred": randn(2, 3, 4, 2),
        "target": randn(2, 3, 4, 2),
    },
    "equivariant.min_ade": lambda b, n: {
        "pred": randn(2, 3, 5, 4, 2),
        "target": randn(2, 3, 4, 2),
    },
    "equivariant.min_fde": lambda b, n: {
        "pred": randn(2, 3, 5, 4, 2),
        "target": randn(2, 3, 4, 2),
    },
    "equivariant.edge_accuracy": lambda b, n: {
        "category": rand(2, 4, 4, 2),
        "edges": (rand(2, 4, 4) < 0.5).long(),
    },
    "equivariant.neighbor_graph": lambda b, n: {"x": randn(2, 5, 4, 2), "k": 2},
    "equivariant.orientation": lambda b, n: {"directions": randn(*b, 2, 3)},
    "equivariant.relative_pose": lambda b, n: {
        "a_i": rot(b),
        "a_j": rot(b),
        "offset": randn(*b, 3),
    },
    "equivariant.scale_pose": lambda b, n: {
        "local": rot(b),
        "whole": rot(b),
        "center": randn(*b, 3),
    },
    "equivariant.surface_order": lambda b, n: {
        "offsets": randn(*b, 5, 3),
        "normal": unit(*b, 3),
    },
    "equivariant.surface_features": lambda b, n: {
        "center": randn(*b, 3),
        "neighbors": randn(*b, 5, 3),
        "center_normal": unit(*b, 3),
        "neighbor_normals": unit(*b, 5, 3),
    },
    "equivariant.estimate_axes": lambda b, n: {"x": points((2,), 8), "k": 4},
    "equivariant.part_iou": lambda b, n: {
        "y_true": np.array([[0, 0, 1, 1]]),
        "y_pred": np.array([[0, 1, 1, 1]]),
        "category": np.array([0]),
        "parts": {0: [0, 1]},
    },
    "equivariant.rotate_clouds": lambda b, n: {
        "X": points((2,)).numpy(),
        "rotation": "so3",
        "random_state": 0,
    },
    "neighbors.knn": lambda b, n: {
        "query": points((2,), 4),
        "ref": points((2,)),
        "k": 3,
    },
    "neighbors.ball_query": lambda b, n: {
        "query": points((2,), 4),
        "ref": points((2,)),
        "radius": 1.0,
        "k": 3,
    },
    "neighbors.farthest_point_sample": lambda b, n: {"x": points((2,)), "m": 3},
    "neighbors.group": lambda b, n: {
        "x": points((2,)),
        "index": torch.zeros(2, 4, 3, dtype=torch.long),
    },
    "neighbors.three_interpolate": lambda b, n: {
        "query": points((2,), 4),
        "ref": points((2,)),
        "features": randn(2, 6, 5),
    },
    "neighbors.estimate_axes": lambda b, n: {"x": points((2,), 8), "k": 4},
    "neighbors.pad_clouds": lambda b, n: {
        "x": points(()),
        "batch": torch.tensor([0, 0, 1, 1, 1, 2]),
    },
}
ELSEWHERE = {
    "equivariant.rotation_protocols",
}
STRICT = {}
NO_HALF = set()
DECIDES = {
    "equivariant.estimate_axes",
    "equivariant.graph_frame",
    "equivariant.neighbor_graph",
    "equivariant.pair_frame",
    "equivariant.pca_frame",
    "equivariant.rotate_clouds",
    "equivariant.surface_features",
    "equivariant.surface_order",
    "neighbors.ball_query",
    "neighbors.estimate_axes",
    "neighbors.farthest_point_sample",
    "neighbors.knn",
    "neighbors.three_interpolate",
}
