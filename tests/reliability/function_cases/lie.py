"""Valid arguments for the public functions of lie and rotation and losses and haar."""

import torch

from function_cases.draws import G, gl, points, randn, rot, skew, spd_, sym, unit

CASES = {
    "lie.bch": lambda b, n: {"x": 0.1 * randn(*b, n, n), "y": 0.1 * randn(*b, n, n)},
    "lie.bracket": lambda b, n: {"x": randn(*b, n, n), "y": randn(*b, n, n)},
    "lie.iwasawa": lambda b, n: {"g": gl(b, n)},
    "lie.polar": lambda b, n: {"g": gl(b, n)},
    "lie.polar_log": lambda b, n: {"g": gl(b, n)},
    "lie.scale_split": lambda b, n: {"g": gl(b, n)},
    "lie.sym_exp": lambda b, n: {"x": sym(b, n)},
    "lie.sym_log": lambda b, n: {"x": spd_(b, n)},
    "lie.sym_sqrt": lambda b, n: {"x": spd_(b, n)},
    "lie.sym_inv_sqrt": lambda b, n: {"x": spd_(b, n)},
    "rotation.convert": lambda b, n: {
        "x": randn(*b, 4),
        "src": "quaternion",
        "dst": "sixd",
    },
    "rotation.decode": lambda b, n: {"x": randn(*b, 6)},
    "rotation.encode": lambda b, n: {"r": rot(b)},
    "rotation.decode_similarity": lambda b, n: {"x": randn(*b, 9)},
    "rotation.encode_similarity": lambda b, n: {
        "scale": torch.rand(b, generator=G, dtype=torch.float64) + 0.5,
        "r": rot(b),
        "t": randn(*b, 3),
    },
    "rotation.euler_to_matrix": lambda b, n: {"angles": randn(*b, 3)},
    "rotation.matrix_to_euler": lambda b, n: {"r": rot(b)},
    "rotation.matrix_to_quaternion": lambda b, n: {"r": rot(b)},
    "rotation.quaternion_to_matrix": lambda b, n: {"q": randn(*b, 4)},
    "rotation.matrix_to_rotation_5d": lambda b, n: {"r": rot(b)},
    "rotation.rotation_5d_to_matrix": lambda b, n: {"x": randn(*b, 5)},
    "rotation.matrix_to_rotation_6d": lambda b, n: {"r": rot(b)},
    "rotation.rotation_6d_to_matrix": lambda b, n: {"x": randn(*b, 6)},
    "rotation.matrix_to_rotvec": lambda b, n: {"r": rot(b)},
    "rotation.rotvec_to_matrix": lambda b, n: {"v": randn(*b, 3)},
    "rotation.left_jacobian": lambda b, n: {"v": randn(*b, 3)},
    "rotation.right_jacobian": lambda b, n: {"v": randn(*b, 3)},
    "rotation.geodesic_distance": lambda b, n: {"a": rot(b), "b": rot(b)},
    "rotation.slerp": lambda b, n: {"a": rot(b), "b": rot(b), "t": 0.3},
    "rotation.special_procrustes": lambda b, n: {"m": randn(*b, 3, 3)},
    "losses.alignment_loss": lambda b, n: {
        "a": rot(b),
        "b": rot(b),
        "points": points(b),
    },
    "losses.chordal_loss": lambda b, n: {"a": rot(b), "b": rot(b)},
    "losses.geodesic_loss": lambda b, n: {"a": rot(b), "b": rot(b)},
    "losses.log_cosh_loss": lambda b, n: {"a": rot(b), "b": rot(b)},
    "losses.quaternion_loss": lambda b, n: {"p": unit(*b, 4), "q": unit(*b, 4)},
    "losses.rotvec_loss": lambda b, n: {"a": rot(b), "b": rot(b)},
    "losses.chordal_mean": lambda b, n: {"r": rot((*b, 4))},
    "losses.karcher_mean": lambda b, n: {"r": rot((*b, 4))},
    "losses.register": lambda b, n: {"source": points(b), "target": points(b)},
    "haar.rotation_log_density": lambda b, n: {"a": 0.1 * skew(b, n)},
    "haar.stretch_log_density": lambda b, n: {"x": sym(b, n)},
}
ELSEWHERE = set()
STRICT = {
    "lie.iwasawa": {"validate": "raise"},
    "lie.polar": {"validate": "raise"},
    "lie.polar_log": {"validate": "raise"},
    "lie.scale_split": {"validate": "raise"},
    "lie.sym_exp": {},
    "lie.sym_log": {"validate": "raise"},
    "lie.sym_sqrt": {"validate": "raise"},
    "lie.sym_inv_sqrt": {"validate": "raise"},
    "rotation.matrix_to_rotation_5d": {},
}
NO_HALF = set()
DECIDES = {
    "lie.polar",
    "losses.register",
    "rotation.convert",
    "rotation.matrix_to_euler",
    "rotation.matrix_to_rotation_5d",
    "rotation.special_procrustes",
}
