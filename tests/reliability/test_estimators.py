"""Every public estimator obeys one list of laws."""

import copy
import dataclasses
import importlib
import inspect
import json
import pickle
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError

from manifoldkit import equivariant, graphs, manifolds, spd, statistics
from manifoldkit.datasets import make_point_clouds, make_subgraph_pairs, make_traffic

SURFACE = Path(__file__).resolve().parents[1] / "api_surface.json"
pytestmark = pytest.mark.filterwarnings(
    "ignore::manifoldkit.exceptions.ConvergenceWarning"
)


class Case(NamedTuple):
    """An estimator, what it is fitted on and what it is asked afterwards.

    ``apply`` are the arguments of ``method``; ``bad`` replaces the first of them, and
    of ``fit``, by something wrong.
    """

    make: object
    fit: tuple
    method: str
    apply: tuple
    bad: tuple
    setting: tuple = ("random_state", "nonsense")  # refused by fit
    measure: int = 1  # the power of the unit with which the data grow
    unit: int | None = 0  # and their answers


def _matrices():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((24, 3, 20))
    x[::2, 0] *= 3
    return x @ x.swapaxes(1, 2) / 20, np.array(["a", "b"] * 12)


def _signals():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, 3, 60))
    x[::2, 0] *= 3
    return x, np.array(["a", "b"] * 10)


def _tracks():
    rng = np.random.default_rng(0)
    start, speed = rng.standard_normal((2, 12, 3, 1, 2))
    return start + 0.1 * speed * np.arange(8)[:, None]


def _with_nan(x):
    x = np.array(x, float)
    x.reshape(-1)[0] = np.nan
    return x


def cases():
    matrices, y = _matrices()
    signals, labels = _signals()
    tracks = _tracks()
    clouds = make_point_clouds(8, 48, shapes=("mug", "table"), random_state=0)
    pairs = make_subgraph_pairs(6, 12, random_state=0)
    traffic = make_traffic(n_days=3, n_sensors=8, random_state=0)
    small = {"max_epochs": 1, "random_state": 0}
    wrong = (None, "nonsense", matrices[:, 0], matrices[:, :, :2], _with_nan(matrices))
    endless = np.where(np.isnan(_with_nan(signals)), np.inf, signals)
    epochs = (None, "nonsense", signals[0], signals[:0], endless)
    points = (None, "nonsense", clouds.X[..., :2], clouds.X[:0], _with_nan(clouds.X))
    return {
        "AugmentedCovariances": Case(
            lambda: spd.AugmentedCovariances(order=2, lag=2),
            (signals, labels),
            "transform",
            (signals,),
            epochs,
            ("order", 0),
            unit=2,
        ),
        "DomainAligner": Case(
            lambda: spd.DomainAligner(rescale=True),
            (matrices, y),
            "transform",
            (matrices,),
            wrong,
            ("unseen", "nonsense"),
        ),
        "GBWMDM": Case(
            spd.GBWMDM,
            (matrices, y),
            "predict_proba",
            (matrices,),
            wrong,
            ("power", "a"),
            measure=2,
        ),
        "GBWTangentSpace": Case(
            spd.GBWTangentSpace,
            (matrices, y),
            "transform",
            (matrices,),
            wrong,
            ("power", float("nan")),
            measure=2,
        ),
        "SPDNetClassifier": Case(
            lambda: spd.SPDNetClassifier((2,), **small),
            (matrices, y),
            "predict_proba",
            (matrices,),
            wrong,
            measure=2,
        ),
        "MotionForecaster": Case(
            lambda: equivariant.MotionForecaster(
                history=5, hidden=8, channels=4, n_layers=1, **small
            ),
            (tracks,),
            "predict",
            (tracks[:, :, :5],),
            (None, "nonsense", tracks[..., 0], tracks[:, :, :0], _with_nan(tracks)),
            unit=1,
        ),
        "PointCloudClassifier": Case(
            lambda: equivariant.PointCloudClassifier(
                "pointnet", model_options={"width": 0.05}, **small
            ),
            (clouds.X, np.array(["m", "t"])[clouds.y]),
            "predict_proba",
            (clouds.X,),
            points,
        ),
        "PointCloudSegmenter": Case(
            lambda: equivariant.PointCloudSegmenter(
                "pointnet", model_options={"width": 0.05}, **small
            ),
            (clouds.X, clouds.parts, clouds.y),
            "predict",
            (clouds.X, clouds.y),
            points,
        ),
        "SubgraphRetriever": Case(
            lambda: graphs.SubgraphRetriever(
                rounds=1, layers=1, steps_per_epoch=2, batch_size=8, **small
            ),
            (pairs.queries, pairs.corpus, pairs.relation),
            "relevance",
            (pairs.queries[:2],),
            (None, "nonsense", 3, [3], [(2, [(0, 5)])]),
            unit=None,
        ),
        "FrechetMean": Case(
            lambda: statistics.FrechetMean(manifolds.SPD()),
            (matrices, y),
            "transform",
            (matrices,),
            wrong,
            ("tol", -1.0),
        ),
        "TangentPCA": Case(
            lambda: statistics.TangentPCA(manifolds.SPD(), 2),
            (matrices, y),
            "transform",
            (matrices,),
            wrong,
            ("n_components", 0),
        ),
        "GeodesicRegression": Case(
            lambda: statistics.GeodesicRegression(manifolds.SPD()),
            (signals[:, :, 0], matrices[:20]),
            "predict",
            (signals[:, :, 0],),
            (None, "nonsense", signals, signals[:, :2, 0], _with_nan(signals[:, :, 0])),
            ("tol", 0.0),
        ),
        "ManifoldKMeans": Case(
            lambda: statistics.ManifoldKMeans(
                manifolds.SPD(), 2, n_init=2, random_state=0
            ),
            (matrices, y),
            "transform",
            (matrices,),
            wrong,
        ),
        "TrafficForecaster": Case(
            lambda: graphs.TrafficForecaster(
                horizon=3,
                virtual_nodes=1,
                backbone_options={"channels": (4, 2, 4), "out_channels": 8},
                **small,
            ),
            (traffic,),
            "predict",
            (traffic.values[:12], traffic.start),
            (None, "nonsense", traffic.values[0], traffic.values[:12, :2]),
            unit=1,
        ),
    }


CASES = cases()


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


_FITTED = {}


@pytest.fixture
def fitted(request, case):
    """One fit for all tests that only look."""
    key = request.node.callspec.params["case"]
    if key not in _FITTED:
        _FITTED[key] = case.make().fit(*case.fit)
    return _FITTED[key]


def answer(case, model):
    return np.asarray(getattr(model, case.method)(*case.apply))


def test_every_public_estimator_is_in_the_table():
    for module, names in json.loads(SURFACE.read_text()).items():
        for name in names:
            value = getattr(importlib.import_module(module), name)
            if inspect.isclass(value) and issubclass(value, BaseEstimator):
                assert name in CASES, f"{name}: add it to cases()"


def test_parameters_are_stored_as_given_and_cloned(case):
    model = case.make()
    parameters = model.get_params()
    twin = clone(model)
    assert twin is not model
    assert twin.get_params().keys() == parameters.keys()
    for key, value in parameters.items():
        assert getattr(model, key) is value
        model.set_params(**{key: value})
    with pytest.raises(ValueError, match="nonsense"):
        model.set_params(nonsense=1)
    assert not [key for key in vars(model) if key.endswith("_")]
    assert type(model).__name__ in repr(model)


def test_bad_settings_are_refused_by_fit_alone(case):
    key, value = case.setting
    model = case.make().set_params(**{key: value})
    with pytest.raises((ValueError, TypeError), match=f"{key}|RandomState") as error:
        model.fit(*case.fit)
    assert len(str(error.value).split()) > 3


def test_not_fitted(case):
    with pytest.raises(NotFittedError):
        answer(case, case.make())


def test_fitting_twice_gives_the_same(case, fitted):
    expected = answer(case, fitted)
    model = case.make()
    assert model.fit(*case.fit) is model
    np.testing.assert_array_equal(answer(case, model), expected)
    model.fit(*case.fit)
    np.testing.assert_array_equal(answer(case, model), expected)
    np.testing.assert_array_equal(answer(case, clone(model).fit(*case.fit)), expected)


def test_copies_and_pickles_answer_alike(case, fitted):
    expected = answer(case, fitted)
    assert np.isfinite(expected).all() or expected.dtype.kind not in "fc"
    for twin in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
        np.testing.assert_array_equal(answer(case, twin), expected)


def test_inputs_are_left_alone(case):
    before = pickle.dumps((case.fit, case.apply))
    model = case.make().fit(*case.fit)
    answer(case, model)
    assert pickle.dumps((case.fit, case.apply)) == before


def test_bad_input_is_refused_with_a_message(case, fitted):
    for wrong in case.bad:
        call = getattr(fitted, case.method)
        with pytest.raises((ValueError, TypeError)) as error:
            call(wrong, *case.apply[1:])
        assert len(str(error.value).split()) > 3
        assert "manifoldkit" in str(error.traceback[-1].path) or "sklearn" in str(
            error.traceback[-1].path
        )
        if isinstance(wrong, str) or wrong is None:
            with pytest.raises((ValueError, TypeError)):
                case.make().fit(wrong, *case.fit[1:])


def scaled(arguments, factor):
    """The same data in another unit."""
    first, *rest = arguments
    if isinstance(first, np.ndarray):
        return (factor * first, *rest)
    # readings of sensors with their roads
    return (dataclasses.replace(first, values=factor * first.values), *rest)


@pytest.mark.parametrize("factor", [1e-9, 1e-3, 1e9])
def test_the_unit_of_the_data_changes_no_answer(case, fitted, factor):
    if case.unit is None:
        pytest.skip("graphs have no unit")
    model = case.make().fit(*scaled(case.fit, factor**case.measure))
    found = getattr(model, case.method)(*scaled(case.apply, factor**case.measure))
    expected = answer(case, fitted)
    if expected.dtype.kind != "f":
        assert np.mean(found != expected) <= 0.01  # scores that are nearly equal
        return
    # networks train in single precision
    exact = type(model).__name__ in (
        "AugmentedCovariances",
        "GBWMDM",
        "GBWTangentSpace",
    )
    size = np.abs(expected).max()
    np.testing.assert_allclose(
        found / factor**case.unit,
        expected,
        rtol=0,
        atol=(1e-9 if exact else 1e-3) * size,
    )


def items(arguments, rows):
    """Some of the items that are asked about."""
    chosen = []
    for value in arguments:
        whole = [value[i] for i in rows]
        chosen.append(np.stack(whole) if isinstance(value, np.ndarray) else whole)
    return chosen


def test_company_changes_no_answer(case, fitted):
    """Each item is answered as if it were the only one."""
    arguments = case.apply
    if isinstance(fitted, graphs.TrafficForecaster):  # two windows
        values, start = arguments
        later = start + np.timedelta64(3, "h")
        arguments = (np.stack([values, 1.1 * values]), np.array([start, later]))
    call = getattr(fitted, case.method)
    together = np.asarray(call(*arguments))
    for row in (0, 1):
        alone = np.asarray(call(*items(arguments, [row])))
        if together.dtype.kind == "f":
            size = np.abs(together[row]).max()
            np.testing.assert_allclose(
                alone[0], together[row], rtol=0, atol=1e-5 * size
            )
        else:
            np.testing.assert_array_equal(alone[0], together[row])


def test_the_global_generators_are_not_touched(case):
    import torch

    np.random.seed(3)  # noqa: NPY002 (the global state is what is looked at)
    torch.manual_seed(3)
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    answer(case, case.make().fit(*case.fit))
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
