"""Every public function of tensors: no crash without a message, no silent NaN.

A table gives valid arguments for each; the arguments are then made wrong one by one.
Functions of tensors check shapes and dtypes always, values only where that is their
job or where the user asks (``validate=True``): a NaN that is put in may come out.
"""

import importlib
import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manifoldkit import equivariant, graphs, lie, linalg, manifolds, optim, spd, testing
from manifoldkit.equivariant import neighbors
from manifoldkit.lie import haar, losses, rotation

SURFACE = Path(__file__).resolve().parents[1] / "api_surface.json"
G = torch.Generator()


def randn(*shape):
    return torch.randn(*shape, generator=G, dtype=torch.float64)


def rand(*shape):
    return torch.rand(*shape, generator=G, dtype=torch.float64)


def sym(b, n):
    return linalg.symmetrize(randn(*b, n, n))


def spd_(b, n):
    x = randn(*b, n, 2 * n)
    return x @ x.mT / (2 * n) + 0.1 * torch.eye(n, dtype=torch.float64)


def gl(b, n):
    g = torch.eye(n, dtype=torch.float64) + 0.2 * randn(*b, n, n) / n
    return g


def rot(b, n=3):
    return rotation.random_rotation(*b, n=n, generator=G, dtype=torch.float64)


def unit(*shape):
    return torch.nn.functional.normalize(randn(*shape), dim=-1)


def adjacency(n):
    a = (rand(n, n) < 0.5).double()
    return ((a + a.T) > 0).double().fill_diagonal_(0)


def relu(x):
    return x.relu()


def plus(a, b):
    return a + b


def points(b, n=6):
    return randn(*b, n, 3)


# name: function of (batch shape, size) that returns valid keyword arguments; the
# batch is at most one axis where BATCH says so, and the size is at least two
ONE = ((), (1,), (3,))
CASES = {
    # linalg
    "linalg.sqrtm": lambda b, n: {"x": spd_(b, n)},
    "linalg.invsqrtm": lambda b, n: {"x": spd_(b, n)},
    "linalg.logm": lambda b, n: {"x": spd_(b, n)},
    "linalg.expm": lambda b, n: {"x": sym(b, n)},
    "linalg.powm": lambda b, n: {"x": spd_(b, n), "power": 0.3},
    "linalg.eigh": lambda b, n: {"x": sym(b, n)},
    "linalg.symmetrize": lambda b, n: {"x": randn(*b, n, n)},
    "linalg.vech": lambda b, n: {"x": sym(b, n)},
    "linalg.unvech": lambda b, n: {"v": randn(*b, n * (n + 1) // 2)},
    "linalg.check_spd": lambda b, n: {"x": spd_(b, n)},
    "linalg.is_spd": lambda b, n: {"x": spd_(b, n)},
    "linalg.polar": lambda b, n: {"g": gl(b, n)},
    "linalg.procrustes": lambda b, n: {"a": randn(*b, 5, n), "b": randn(*b, 5, n)},
    "linalg.solve_lyapunov": lambda b, n: {"a": spd_(b, n), "q": sym(b, n)},
    # lie
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
    "haar.rotation_log_density": lambda b, n: {"a": 0.1 * _skew(b, n)},
    "haar.stretch_log_density": lambda b, n: {"x": sym(b, n)},
    # manifolds and optimizers
    "manifolds.as_parameter": lambda b, n: {
        "tensor": randn(*b, n, n),
        "manifold": manifolds.Stiefel(),
    },
    "manifolds.manifold_of": lambda b, n: {"parameter": randn(*b, n)},
    "optim.karcher_mean": lambda b, n: {
        "manifold": manifolds.SPD(),
        "points": spd_((4, *b), n),
    },
    # SPD
    "spd.gbw_distance": lambda b, n: {"a": spd_(b, n), "b": spd_(b, n)},
    "spd.gbw_log": lambda b, n: {"base": spd_(b, n), "point": spd_(b, n)},
    "spd.gbw_exp": lambda b, n: {"base": spd_(b, n), "tangent": 0.1 * sym(b, n)},
    "spd.gbw_geodesic": lambda b, n: {"a": spd_(b, n), "b": spd_(b, n), "t": 0.3},
    "spd.gbw_mean": lambda b, n: {"x": spd_((*b, 4), n)},
    "spd.augmented_covariance": lambda b, n: {
        "x": randn(*b, n, 40),
        "order": 2,
        "lag": 2,
    },
    "spd.yule_walker": lambda b, n: {"x": randn(*b, n, 60), "order": 2},
    # equivariant
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
    # graphs
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
    "testing.transform": lambda b, n: {
        "element": testing.Element("turn", matrix=rot(())),
        "x": randn(2, 5, 3),
    },
}


def _skew(b, n):
    x = randn(*b, n, n)
    return x - x.mT


ROOMS = {
    "linalg": linalg,
    "lie": lie,
    "rotation": rotation,
    "losses": losses,
    "haar": haar,
    "manifolds": manifolds,
    "optim": optim,
    "spd": spd,
    "equivariant": equivariant,
    "neighbors": neighbors,
    "graphs": graphs,
    "testing": testing,
}
# public functions whose arguments are not tensors, each tested in its own file
ELSEWHERE = {
    "graphs": {"evaluate_baselines", "register_aggregations"},
    "linalg": {"frechet_derivative"},
    "manifolds": {"attach", "check_manifold"},
    "optim": {"build_optimizer", "clip_riemannian_grad_norm_", "to_pymanopt"},
    "spd": {
        *("convert_sync_batchnorm", "gbw_metric", "make_acm_classifier"),
        *("make_batchnorm", "make_gbw_kmeans", "select_delay_embedding"),
    },
    "equivariant": {"rotation_protocols"},
    "testing": {
        *("assert_equivariant", "check_equivariance", "random_general_linear"),
        *("random_orthogonal", "random_permutation", "random_rotation"),
    },
}
# Outside their domain (not definite, singular, not a rotation) the fast functions give
# NaN, as LAPACK does, and refuse it where these arguments ask for that.
STRICT = {
    "linalg.sqrtm": {"validate": True},
    "linalg.invsqrtm": {"validate": True},
    "linalg.logm": {"validate": True},
    "linalg.expm": {"validate": True},
    "linalg.powm": {"validate": True},
    "linalg.solve_lyapunov": {"validate": True},
    "lie.iwasawa": {"validate": "raise"},
    "lie.polar": {"validate": "raise"},
    "lie.polar_log": {"validate": "raise"},
    "lie.scale_split": {"validate": "raise"},
    "lie.sym_exp": {},
    "lie.sym_log": {"validate": "raise"},
    "lie.sym_sqrt": {"validate": "raise"},
    "lie.sym_inv_sqrt": {"validate": "raise"},
    "spd.gbw_distance": {"validate": True},
    "spd.gbw_log": {"validate": True},
    "spd.gbw_exp": {"validate": True},
    "spd.gbw_geodesic": {"validate": True},
    "spd.gbw_mean": {"validate": True},
    "rotation.matrix_to_rotation_5d": {},
    "optim.karcher_mean": {},
}


def function(name):
    room, function = name.split(".")
    return getattr(ROOMS[room], function)


def call(name, **arguments):
    return function(name)(**arguments)


def tensors(value):
    """All numbers of a result as tensors."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, np.ndarray):
        yield torch.from_numpy(np.ascontiguousarray(value))
    elif isinstance(value, float):
        yield torch.tensor(value)
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors(part)


def has_nan(value):
    return any(bool(t.isnan().any()) for t in tensors(value) if t.is_floating_point())


def assert_says(error, name, what):
    """A message of ours, which names an argument of the function and a value."""
    names = "|".join(map(re.escape, inspect.signature(function(name)).parameters))
    text = str(error)
    # scikit-learn's check_random_state, and calling what is not callable
    known = "RandomState|Seed must be|not callable"
    pattern = rf"(^|[\s,(])({names})(:|,|\[| is | of )|{known}"
    assert re.search(pattern, text), (what, text)


def of_tensor(x):
    """Wrong or odd values for an argument that is a tensor."""
    yield from [("a string", "nonsense"), ("an object", object()), ("None", None)]
    yield "ragged", [[1.0], [2.0, 3.0]]
    yield "scalar", x.new_ones(())
    yield "first axis gone", x[0]
    yield "last axis gone", x[..., 0]
    yield "two more axes", x[None, None]
    yield "longer", torch.cat([x, x[..., :1]], -1)
    yield "shorter", x[..., 1:]
    yield "flat and empty", x.reshape(-1)[:0]
    yield "no columns", x[..., :0]
    if x.ndim > 1:
        yield "one more row", torch.cat([x, x[..., :1, :]], -2)
        yield "no rows", x[..., :0, :]
    yield "whole numbers", x.long()
    yield "booleans", x.bool()
    yield "complex", x.to(torch.complex128)
    yield "NumPy", x.numpy()
    if x.is_floating_point():
        for value in (float("nan"), float("inf")):
            bad = x.clone()
            bad.view(-1)[0] = value
            yield str(value), bad
        yield "zeros", torch.zeros_like(x)
        yield "ones", torch.ones_like(x)
        yield "negative", -x
        yield "1e8 times", 1e8 * x
        yield "1e-8 times", 1e-8 * x
        yield "float32", x.float()
        yield "bfloat16", x.bfloat16()
    else:
        yield "negative", -x - 1
        yield "too large", x + 100
        yield "floats", x.double()


def variants(value):
    """Names and values to put in the place of a valid argument."""
    if isinstance(value, torch.Tensor):
        yield from of_tensor(value)
    elif isinstance(value, np.ndarray):
        for what, wrong in of_tensor(torch.from_numpy(value)):
            if what != "bfloat16":
                yield what, wrong.numpy() if isinstance(wrong, torch.Tensor) else wrong
    elif isinstance(value, int):
        yield from [("None", None), ("zero", 0), ("negative", -1), ("large", 1000)]
        yield from [("a fraction", 1.5), ("NaN", float("nan")), ("a string", "3")]
    elif isinstance(value, float):
        yield from [("None", None), ("NaN", float("nan")), ("a string", "3")]
    elif isinstance(value, str):
        yield from [("None", None), ("another", "nonsense"), ("a number", 3)]
    else:
        yield from [("None", None), ("a string", "nonsense"), ("an object", object())]


def public_functions():
    for module, names in json.loads(SURFACE.read_text()).items():
        room = module.removeprefix("manifoldkit.")
        if room not in ("manifoldkit", "datasets", "exceptions"):
            values = importlib.import_module(module)
            for name in names:
                if inspect.isfunction(getattr(values, name)):
                    yield room, name


def test_every_public_function_is_in_the_table():
    for room, name in public_functions():
        known = f"{room}.{name}" in CASES or name in ELSEWHERE.get(room, ())
        assert known, f"{room}.{name}: add it to CASES"


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=6, deadline=None, derandomize=True, database=None)
@given(
    batch=st.sampled_from([(), (1,), (3,), (0,), (2, 2), (2, 0)]),
    n=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
@pytest.mark.filterwarnings("ignore::manifoldkit.exceptions.ConvergenceWarning")
def test_valid_arguments_give_numbers(name, batch, n, seed):
    G.manual_seed(seed)
    arguments = CASES[name](batch, n)
    try:
        result = call(name, **arguments)
    except ValueError as error:  # sizes that the function does not take, and says so
        assert_says(error, name, (batch, n))
        assert n == 1 or 0 in batch or len(batch) > 1
    else:
        # as in torch, the mean of no losses is not a number
        assert not has_nan(result) or (name.startswith("losses.") and 0 in batch)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::manifoldkit.exceptions.ConvergenceWarning")
def test_wrong_arguments_are_named(name):
    G.manual_seed(0)
    valid = CASES[name]((3,), 3)
    for argument, value in valid.items():
        for what, wrong in variants(value):
            case = f"{argument}: {what}"
            try:
                result = call(name, **(valid | {argument: wrong}))
            except (ValueError, TypeError, NotImplementedError) as error:
                assert_says(error, name, case)
            except Exception as error:
                raise AssertionError(f"{case}: {type(error).__name__}") from error
            else:
                empty = 0 in getattr(wrong, "shape", ())
                allowed = what in ("nan", "inf", "NaN") or name in STRICT or empty
                assert allowed or not has_nan(result), case


@pytest.mark.parametrize("name", [name for name, strict in STRICT.items() if strict])
def test_what_is_outside_the_domain_is_refused_on_demand(name):
    G.manual_seed(0)
    valid = CASES[name]((3,), 3)
    argument = next(iter(valid))
    for what, wrong in of_tensor(valid[argument]):
        if what in ("nan", "inf", "zeros", "ones", "negative", "last axis gone"):
            try:
                result = call(name, **(valid | {argument: wrong}), **STRICT[name])
            except (ValueError, TypeError) as error:
                assert_says(error, name, what)
            else:
                assert not has_nan(result), what


# what refuses bfloat16, as its matrices are factored by LAPACK without a copy
NO_HALF = {"optim.karcher_mean"}
# whose result is discontinuous, or a decision, so that rounding may change it
DECIDES = {
    *("linalg.is_spd", "linalg.check_spd", "linalg.eigh", "manifolds.manifold_of"),
    *("equivariant.pca_frame", "equivariant.pair_frame", "equivariant.graph_frame"),
    *("equivariant.neighbor_graph", "equivariant.surface_order"),
    *("equivariant.surface_features", "equivariant.estimate_axes"),
    *("neighbors.knn", "neighbors.ball_query", "neighbors.estimate_axes"),
    *("neighbors.farthest_point_sample", "neighbors.three_interpolate"),
    *("rotation.matrix_to_euler", "rotation.special_procrustes", "lie.polar"),
    *("equivariant.rotate_clouds", "losses.register", "manifolds.as_parameter"),
    *("rotation.matrix_to_rotation_5d", "rotation.convert", "spd.yule_walker"),
    "optim.karcher_mean",
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_precision_matrix(name, dtype):
    """The result has the input's dtype and is right to its rounding."""
    G.manual_seed(1)
    exact = CASES[name]((3,), 3)
    narrow = {
        k: v.to(dtype) if isinstance(v, torch.Tensor) and v.is_floating_point() else v
        for k, v in exact.items()
    }
    if not any(isinstance(v, torch.Tensor) for v in narrow.values()):
        pytest.skip("takes NumPy arrays")
    if dtype is torch.bfloat16 and name in NO_HALF:
        with pytest.raises(TypeError, match="expected float32 or float64, found"):
            call(name, **narrow)
        return
    # the same rounded numbers in double, so that only the computation is compared
    wide = {
        k: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v
        for k, v in narrow.items()
    }
    G.manual_seed(2)
    found = list(tensors(call(name, **narrow)))
    G.manual_seed(2)
    expected = list(tensors(call(name, **wide)))
    assert len(found) == len(expected)
    floating = [
        (f, e)
        for f, e in zip(found, expected, strict=True)
        if f.is_floating_point() and f.shape == e.shape
    ]
    tolerance = 1e-4 if dtype is torch.float32 else 0.1
    for f, e in floating:
        assert not f.isnan().any()
        if name not in DECIDES and f.numel():
            size = max(1.0, float(e.abs().max()))
            assert float((f.double() - e).abs().max()) <= tolerance * size
