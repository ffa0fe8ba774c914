"""Every generator of data: wrong arguments are refused by name, seeds decide all."""

import pickle
import re

import numpy as np
import pytest

from manifoldkit import datasets

CASES = {
    "make_motor_imagery_eeg": {
        **{"n_epochs": 8, "n_channels": 4, "n_times": 64, "sfreq": 160.0},
        **{"snr": 0.0, "random_state": 0},
    },
    "make_transfer_eeg": {
        **{"n_subjects": 2, "n_epochs": 4, "n_channels": 3, "n_times": 64},
        **{"mixing": "general", "strength": 1.0, "snr": 0.0, "random_state": 0},
    },
    "make_point_clouds": {
        **{"n_clouds": 3, "n_points": 16, "noise": 0.0, "random_state": 0}
    },
    "make_set_tasks": {
        **{"task": "second_minimum", "n_sets": 4, "sizes": (2, 5), "bits": 8},
        "random_state": 0,
    },
    "make_graph_tasks": {"n_graphs": 2, "n_nodes": (15, 16), "random_state": 0},
    "make_molecule_graphs": {
        **{"n_graphs": 2, "nodes": (14, 16), "rings": 1.5, "random_state": 0}
    },
    "make_subgraph_pairs": {"n_queries": 4, "n_corpus": 6, "random_state": 0},
    "make_traffic": {
        **{"n_sensors": 8, "n_days": 2, "step_minutes": 15, "missing": 0.0},
        "random_state": 0,
    },
    "make_n_body": {"n_traj": 1, "n_agents": 3, "seed": 1},
    "simulate_particles": {
        **{"kind": "springs", "n_traj": 1, "n_agents": 3, "steps": 400},
        **{"every": 100, "seed": 1},
    },
    "load_digits_covariances": {"digits": (3, 8), "n_per_class": 3, "ridge": 1e-3},
    "make_affine_digits": {
        **{"X": np.full((2, 28, 28), 9, np.uint8), "y": np.array([1, 2])},
        **{"rotation": 20.0, "translation": 6.0, "random_state": 0},
    },
}
NAN, INF = float("nan"), float("inf")
LEGAL = [("n_traj", 0), ("digits", (5, 2))]


def wrong(value):
    if isinstance(value, int):
        return [-1, 0, 1.5, NAN, "x", [1]]
    if isinstance(value, float):
        return [NAN, INF, "x", [1]]
    if isinstance(value, str):
        return ["nonsense", 3, None]
    if isinstance(value, tuple):
        return [(5, 2), (-1, 2), (1.5, 2.5), "x", None, (2, "a")]
    return ["x", 3, value[:0], value.astype(float) + NAN]


def outcome(make, arguments):
    """Return the message of the error, if there is one."""
    try:
        make(**arguments)
    except (ValueError, TypeError) as error:
        return str(error)
    return None


def test_every_generator_is_in_the_table():
    for name in datasets.__all__:
        if name.startswith(("make_", "simulate_")):
            assert name in CASES, f"{name}: add it to CASES"


@pytest.mark.parametrize("name", CASES)
def test_wrong_arguments_are_named(name):
    make = getattr(datasets, name)
    for argument, value in CASES[name].items():
        for bad in wrong(value):
            case = f"{argument} = {str(bad)[:40]!r}"
            # seeds are left to NumPy and scikit-learn, and they say so
            seed = argument in ("random_state", "seed")
            message = outcome(make, CASES[name] | {argument: bad})
            if message is None:
                assert seed or (argument, bad) in LEGAL, f"{case} is taken"
            else:
                names = "|".join(CASES[name])
                assert seed or re.search(rf"\b({names})\b", message), (case, message)


@pytest.mark.parametrize("name", CASES)
def test_the_seed_decides(name):
    make = getattr(datasets, name)
    np.random.seed(0)  # noqa: NPY002 (the global state is not to matter)
    first = pickle.dumps(make(**CASES[name]))
    np.random.seed(1)  # noqa: NPY002
    assert pickle.dumps(make(**CASES[name])) == first
