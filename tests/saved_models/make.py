"""Fit one small model of every scikit-learn face, save it, and store what it predicts.

``python tests/saved_models/make.py FOLDER`` writes ``NAME.json``, ``NAME.safetensors``
and ``NAME.npz`` (input and prediction). The folders here are named by the version that
wrote them; ``tests/reliability/test_saved_models.py`` loads every one of them.
"""

import sys
from pathlib import Path

import numpy as np

from manifoldkit import equivariant, graphs, spd
from manifoldkit.datasets import make_point_clouds, make_subgraph_pairs, make_traffic


def spd_data(seed=0):
    """Covariances of two classes, and the epochs that they come from."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((24, 4, 60))
    x[:12, 0] *= 3
    return x @ x.swapaxes(1, 2) / 60, x, np.repeat(["feet", "hands"], 12)


def tracks(seed=0):
    """Three agents that go straight on."""
    rng = np.random.default_rng(seed)
    start, speed = rng.standard_normal((2, 16, 3, 1, 2))
    return start + 0.1 * speed * np.arange(8)[:, None]


def faces():
    """Return, by name, a fitted model, its input, and how it predicts."""
    cov, epochs, y = spd_data()
    clouds = make_point_clouds(12, 48, shapes=("box", "torus"), random_state=0)
    parts = make_point_clouds(8, 48, shapes=("mug", "table"), random_state=0)
    traffic = make_traffic(n_days=4, n_sensors=8, random_state=0)
    pairs = make_subgraph_pairs(n_queries=6, n_corpus=12, random_state=0)
    small = {"max_epochs": 2, "random_state": 0}
    yield (
        "spdnet_covariance",
        spd.SPDNetClassifier(
            dims=(3,), class_weight={"feet": 1.0, "hands": 2.0}, **small
        ).fit(cov, y),
        cov,
        "predict_proba",
    )
    yield (
        "spdnet_signal",
        spd.SPDNetClassifier(
            input="signal", order=2, lag=2, dims=(4,), batchnorm="airm", **small
        ).fit(epochs, y),
        epochs,
        "predict_proba",
    )
    yield (
        "motion",
        equivariant.MotionForecaster(
            history=5, hidden=8, channels=4, n_layers=1, **small
        ).fit(tracks()),
        tracks(1),
        "predict",
    )
    yield "traffic_stgcn", graphs.TrafficForecaster(
        history=6, horizon=3, virtual_nodes=2, adjacency="semi",
        backbone_options={"channels": (4, 2, 4), "kernel": 2}, **small
    ).fit(traffic), traffic.values[:12].reshape(2, 6, 8), "predict_traffic"  # fmt: skip
    yield (
        "traffic_ridge",
        graphs.TrafficForecaster(
            "linear", history=6, horizon=3, residual="ridge", virtual_nodes=0, **small
        ).fit(traffic),
        traffic.values[:12].reshape(2, 6, 8),
        "predict_traffic",
    )
    options = {
        "risurconv": {"sizes": (24, 12, 8, 8), "n_blocks": 0,
                      "channels": (8, 8, 8, 16, 32)},
        "parot": {"n_patches": 12, "k_local": 8, "k_global": 8, "k_intra": 4,
                  "emb_dims": 32},
        "pointnet-frames": {"width": 0.05},
        "pointnet": {"width": 0.05},
    }  # fmt: skip
    for model in ("risurconv", "parot", "pointnet-frames", "pointnet"):
        yield (
            f"cloud_{model}",
            equivariant.PointCloudClassifier(
                model, model_options=options[model], **small
            ).fit(clouds.X, clouds.y),
            clouds.X,
            "predict_proba",
        )
    yield (
        "parts_pointnet",
        equivariant.PointCloudSegmenter(
            "pointnet", model_options={"width": 0.05}, **small
        ).fit(parts.X, parts.parts, category=parts.y),
        parts.X,
        "decision_parts",
    )
    yield "retriever", graphs.SubgraphRetriever(
        "isonetpp-node", late="isonet-node", layers=2, rounds=2, max_epochs=1,
        steps_per_epoch=2, batch_size=8, early_stopping=False, random_state=0,
    ).fit(pairs.queries, pairs.corpus, pairs.relation), None, "relevance"  # fmt: skip


def answer(model, x, how):
    """Predict as the names in :func:`faces` say."""
    if how == "predict_traffic":
        start = np.datetime64("2024-01-01T00:00")
        return model.predict(x, start + np.arange(2) * np.timedelta64(90, "m"))
    if how == "decision_parts":
        parts = make_point_clouds(8, 48, shapes=("mug", "table"), random_state=0)
        return model.decision_function(x, category=parts.y)
    if how == "relevance":
        pairs = make_subgraph_pairs(n_queries=6, n_corpus=12, random_state=0)
        return model.relevance(pairs.queries)
    return getattr(model, how)(x)


def main(folder):
    """Write all of them."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, model, x, how in faces():
        model.save(folder / name)
        arrays = {"answer": answer(model, x, how), "how": np.array(how)}
        if x is not None:
            arrays["x"] = x
        np.savez_compressed(folder / f"{name}.npz", **arrays)
        print(
            name, sum(p.stat().st_size for p in folder.glob(f"{name}.*")) // 1000, "kB"
        )


if __name__ == "__main__":
    main(sys.argv[1])
