"""SPD networks with each normalization: MAMEM SSVEP and data of known condition.

The network is that of the code of Wang et al. (CVPR 2025) for MAMEM. Unlike there,
session 4 only chooses the epoch and session 5 only reports, weights on manifolds are
trained, and the optimizer is Adam: with SGD the scale of a normalization, a positive
number that is stepped in its logarithm, grows ever faster and some runs end in
infinity.
"""

import time
from typing import Any

import numpy as np
import torch
from scipy.signal import butter, sosfiltfilt
from torch import Tensor, nn

from manifoldkit.experiments.evaluation import (
    Columns,
    Run,
    Store,
    experiment,
    progress_bar,
)
from manifoldkit.experiments.result import Result, source
from manifoldkit.experiments.spd.folds import mamem_subjects, one_thread, over_subjects
from manifoldkit.experiments.spd.ill_conditioned import WHERE, score
from manifoldkit.experiments.training import batches, classification_loss, fit, seeded

NAME = "spd_networks"
TITLE = "SPD networks: Bures-Wasserstein batch normalization against its peers"
TASK = "MAMEM SSVEP, five classes"
NETWORKS: dict[str, dict[str, Any]] = {
    "no normalization": {"batchnorm": None},
    "AIRM, mean": {"batchnorm": "airm-mean"},
    "AIRM, mean and variance": {"batchnorm": "airm"},
    "BW": {"batchnorm": "bw"},
    "GBW, M fixed at the data's mean": {
        "batchnorm": "gbw",
        "learn_metric": False,
        "init_from_data": True,
    },
    "GBW, M learned": {"batchnorm": "gbw"},
    "GBW, M learned, power 0.5": {"batchnorm": "gbw", "power": 0.5},
}
# Per cent, MAMEM II, quoted by later papers with one protocol for all rows; the table
# of the GBWBN paper itself was not at hand.
PUBLISHED = {
    "EEGNet": "53.72 ± 7.23",
    "GrNet": "61.23 ± 3.56",
    "SCCNet": "62.11 ± 7.70",
    "SPDNet": "62.30 ± 3.12",
    "MAtt": "65.19 ± 3.14",
    "GDLNet": "65.52 ± 2.86",
    "GMSF-Net": "66.87 ± 1.46",
}


def _split(epochs: Any) -> tuple[int, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Sessions 1 to 3 to train, 4 to choose, 5 to report; labels as codes."""
    classes, codes = np.unique(epochs.y, return_inverse=True)
    parts = {
        "train": epochs.session <= 3,
        "choose": epochs.session == 4,
        "report": epochs.session == 5,
    }
    return len(classes), {k: (epochs.X[m], codes[m]) for k, m in parts.items()}


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Riemannian Adam for all parameters, the learning rate of LieBN's experiments."""
    from manifoldkit.optim import build_optimizer

    return build_optimizer(model, "adam", lr=5e-3, manifold_lr=5e-3)


def _figures(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Loss and accuracy."""
    scores = model(x)
    return {
        "loss": float(nn.functional.cross_entropy(scores, y)),
        "accuracy": float((scores.argmax(-1) == y).double().mean()),
    }


def train_network(
    epochs: Any, options: dict[str, Any], seed: int, n_epochs: int, device: str
) -> dict[str, Any]:
    """Train one network on one subject; report session 5 at the best epoch of 4."""
    from manifoldkit.spd import ConvSPDNet

    n_classes, arrays = _split(epochs)
    parts = {
        k: (torch.from_numpy(X).float().to(device), torch.from_numpy(y).to(device))
        for k, (X, y) in arrays.items()
    }
    x, y = parts["train"]
    settings = dict(options)
    start = settings.pop("init_from_data", False)
    with seeded(seed):
        model = ConvSPDNet(
            x.shape[1],
            n_classes,
            vectorize="flat",
            dtype=x.dtype,
            device=device,
            **settings,
        )
    if start:
        with torch.no_grad():
            model.spd.init_from_data(model.matrices(x))
    begin = time.perf_counter()
    log = fit(
        model,
        classification_loss,
        batches(x, y, batch_size=30),
        optimizer=_optimizer,
        epochs=n_epochs,
        validate=lambda m: _figures(m, *parts["choose"]),
        monitor="loss",
        patience=15,
        device=device,
        seed=seed,
        progress=False,
    )
    with torch.no_grad():
        report = _figures(model, *parts["report"])
    return {
        "accuracy": report["accuracy"],
        "validation": log.best["accuracy"],
        "epoch": log.best["epoch"],
        "epochs": len(log.epochs),
        "epoch_seconds": log.seconds / len(log.epochs),
        "seconds": time.perf_counter() - begin,
    }


def filter_bank_features(
    X: np.ndarray, sfreq: float, frequencies: list[float]
) -> list[np.ndarray]:
    """Return signals in narrow bands around each stimulus and its second harmonic."""
    bands = [k * f for f in frequencies for k in (1, 2)]
    filters = (
        butter(2, (f - 0.5, f + 0.5), "bandpass", fs=sfreq, output="sos") for f in bands
    )
    return [sosfiltfilt(sos, X, axis=-1) for sos in filters]


def score_classical(epochs: Any) -> dict[str, float]:
    """Score a filter-bank tangent space with C chosen on session 4, and ACM (8, 3)."""
    from pyriemann.estimation import Covariances
    from pyriemann.tangentspace import TangentSpace
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import SVC

    from manifoldkit.spd import make_acm_classifier

    _, parts = _split(epochs)
    (X, y), (X4, y4), (X5, y5) = parts.values()
    frequencies = sorted(float(name) for name in np.unique(epochs.y))
    features: list[list[np.ndarray]] = [[], [], []]
    with one_thread():
        filtered = [
            filter_bank_features(Z, epochs.sfreq, frequencies) for Z in (X, X4, X5)
        ]
        for bands in zip(*filtered, strict=True):
            space = make_pipeline(Covariances("oas"), TangentSpace()).fit(bands[0])
            for found, band in zip(features, bands, strict=True):
                found.append(space.transform(band))
        F, F4, F5 = (np.concatenate(part, axis=1) for part in features)
        models = [SVC(kernel="linear", C=c).fit(F, y) for c in (1e-3, 1e-2, 0.1, 1, 10)]
        best = max(models, key=lambda m: m.score(F4, y4))
        acm = make_acm_classifier(order=8, lag=3).fit(X, y)
        return {
            "filter-bank tangent space + SVM": float(best.score(F5, y5)),
            "ACM (order 8, lag 3) + tangent space + SVM": float(acm.score(X5, y5)),
        }


COLUMNS: Columns = {  # of the rows of MAMEM
    "pipeline": "{pipeline}",
    "accuracy": "{accuracy:.1%}",
    "95 % interval": "{low:.0%} - {high:.0%}",
    "spread": "{spread:.1%}",
}


def _protocol(quick: bool) -> str:
    return (
        "MAMEM: sessions 1-3 train, the epoch with the smallest loss on session 4 is "
        "kept, session 5 reports. Network of the published code in float32, Riemannian "
        f"Adam with learning rate 5e-3 (SGD there), at most {_epochs(quick)} epochs "
        "(200 there): scaled down to a small machine. Mean over subjects of the mean "
        "over seeds, Student's interval over subjects, not corrected for the number of "
        "comparisons; spread: standard deviation over subjects. Classical rows train "
        "on the same sessions. Simulated matrices: 300 train, 1000 test, mean over "
        "seeds; SPDNet 10 -> 10, Adam, 30 epochs, last one."
    )


@experiment(NAME, TITLE, COLUMNS)
def run(this: Run, *, device: str = "cpu") -> Result:
    """Train every network on every MAMEM subject here and on simulated matrices.

    Parameters
    ----------
    quick : bool, default=False
        One subject, three networks, few epochs.
    seed : int, default=0
        First of five seeds (of one, if quick).
    device : str, default="cpu"
        Where the networks of MAMEM are trained.
    """
    store, quick = this.store(), this.quick
    names = list(NETWORKS)
    names = [names[0], names[2], names[5]] if quick else names
    torch.set_num_threads(1)
    synthetic, data = _ill_conditioned(this, store, names)
    metrics, mamem = _mamem(this, store, names, device)
    return this.finish(
        metrics + synthetic,
        protocol=_protocol(quick),
        data=mamem | data,
        seeds=this.seeds(5),
        paper=[{"method": k, "MAMEM II": v} for k, v in PUBLISHED.items()],
        paper_note=(
            "per cent, mean and standard deviation, as quoted by later papers: "
            "sessions 1-3 train, 4 and 5 validate and test, 11 subjects; GBWBN's own "
            "figure for MAMEM was not at hand"
        ),
        remarks=remarks_on(metrics, synthetic, mamem),
    )


def _epochs(quick: bool) -> int:
    return 3 if quick else 40


def _mamem(
    this: Run, store: Store, names: list[str], device: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Train on the MAMEM subjects that are here; return rows and their origin."""
    recordings = mamem_subjects(1 if this.quick else None)
    if not recordings:
        this.missing("mamem", "Networks are trained on simulated matrices alone.")
        return [], {}
    seeds, n_epochs = this.seeds(5), _epochs(this.quick)
    nets: dict[str, dict] = {name: {} for name in names}
    classical = {}
    with progress_bar(this.console) as bar:
        total = len(recordings) * (1 + len(seeds) * len(names))
        row = bar.add_task("MAMEM", total=total)
        for s, epochs in recordings.items():
            classical[s] = store.get(f"U{s:03d} classical", score_classical, epochs)
            bar.advance(row)
        for k in seeds:  # seed by seed: an interrupted run is balanced
            for s, epochs in recordings.items():
                for name in names:
                    work = (epochs, NETWORKS[name], k, n_epochs, device)
                    key = f"U{s:03d} {name} seed {k}"
                    nets[name][s, k] = store.get(key, train_network, *work)
                    bar.advance(row)
    subjects = list(recordings)
    counts = [
        np.unique(e.y[e.session == 5], return_counts=True)[1]
        for e in recordings.values()
    ]
    n = [int(c.sum()) for c in counts]
    chance = float(np.mean([c.max() / c.sum() for c in counts]))
    shared = {"n": sum(n), "chance": chance, "subjects": subjects}
    metrics = []
    for name, found in nets.items():
        scores = np.array([[found[s, k]["accuracy"] for s in subjects] for k in seeds])
        seconds = [v["epoch_seconds"] for v in found.values()]
        more = {
            "validation": float(np.mean([v["validation"] for v in found.values()])),
            "epoch_seconds": float(np.median(seconds)),
        }
        metrics.append(_row(f"SPDNet, {name}", scores, n[0]) | more | shared)
    for name in classical[subjects[0]]:
        scores = np.array([[classical[s][name] for s in subjects]])
        metrics.append(_row(name, scores, n[0]) | shared)
    first = recordings[subjects[0]]
    told = ", ".join(f"U{s:03d}" for s in subjects)
    told = f"MAMEM SSVEP data set II, subjects {told}"
    return metrics, {TASK: source(told, first.citation, first.is_real)}


def _row(name: str, scores: np.ndarray, n: int) -> dict[str, Any]:
    """Return a row of the table from accuracies (n_seeds, n_subjects)."""
    subjects = scores.mean(0)
    spread, low, high = over_subjects(subjects, n)
    return {
        "task": TASK,
        "pipeline": name,
        "accuracy": float(subjects.mean()),
        "spread": spread,
        "low": max(low, 0.0),
        "high": min(high, 1.0),
        "per_subject": subjects.round(4).tolist(),
        "per_seed": scores.mean(1).round(4).tolist(),
    }


def _ill_conditioned(
    this: Run, store: Store, names: list[str]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Train on simulated matrices; return rows and their origin."""
    conditions = (1e2, 1e6) if this.quick else (1e2, 1e4, 1e6, 1e8)
    seeds, metrics = this.seeds(5), []
    with progress_bar(this.console) as bar:
        row = bar.add_task("simulated", total=len(WHERE) * len(names) * len(seeds))
        for where in WHERE:
            for name in names:
                pieces = []
                for k in seeds:
                    work = (NETWORKS[name], conditions, where, k, this.quick)
                    key = f"simulated {where} {name} seed {k}"
                    pieces.append(store.get(key, score, *work))
                    bar.advance(row)
                means = {
                    key: float(np.mean([p[key] for p in pieces])) for key in pieces[0]
                }
                metrics.append(_condition_row(where, f"SPDNet, {name}", "", means))
                if NETWORKS[name]["batchnorm"]:
                    label = f"SPDNet, {name}, batch statistics at test"
                    metrics.append(_condition_row(where, label, "batch ", means))
            label = "best possible (true model)"  # the same beside every network
            metrics.append(_condition_row(where, label, "oracle ", means))
    simulated = source(
        "Wishart matrices 10 x 10 of given condition, classes differ in "
        "the two largest or smallest variances, the other half of the variances jumps",
        "manifoldkit.experiments.spd.ill_conditioned",
    )
    return metrics, {"ill-conditioned matrices": simulated}


def _condition_row(
    where: str, name: str, kind: str, means: dict[str, float]
) -> dict[str, Any]:
    """Return the figures of one kind: "", "batch " or "oracle "."""
    figures = {k.removeprefix(kind): v for k, v in means.items() if k.startswith(kind)}
    return {"classes differ in the": f"{where} variances", "method": name} | {
        f"condition {k}": v for k, v in figures.items() if k[0].isdigit()
    }


def remarks_on(
    metrics: list[dict], synthetic: list[dict], data: dict[str, Any]
) -> list[str]:
    """Say what the numbers show, also where a normalization does not help."""
    remarks = []
    if not data:
        remarks.append("MAMEM was not on this machine and is left out.")
    base = next((r for r in metrics if "no normalization" in r["pipeline"]), None)
    for row in metrics:
        if base is None or row is base or not row["pipeline"].startswith("SPDNet"):
            continue
        gaps = 100 * (np.array(row["per_subject"]) - np.array(base["per_subject"]))
        if len(gaps) < 2:
            continue
        _, low, high = over_subjects(gaps, 1)
        verdict = "helps" if low > 0 else "HARMS" if high < 0 else "is not told apart"
        remarks.append(
            f"{row['pipeline']}: {gaps.mean():+.1f} points against no normalization "
            f"(95 % interval over subjects {low:+.1f} to {high:+.1f}): {verdict}."
        )
    for where in dict.fromkeys(r["classes differ in the"] for r in synthetic):
        rows = {
            r["method"]: r for r in synthetic if r["classes differ in the"] == where
        }
        conditions = [k for k in next(iter(rows.values())) if k.startswith("condition")]
        remarks += [_on_condition(where, key, rows) for key in conditions]
    return remarks


def _on_condition(where: str, key: str, rows: dict[str, dict]) -> str:
    """Say which network is best at a condition, and what running statistics cost."""
    late, none = ", batch statistics at test", "SPDNet, no normalization"
    names = [m for m in rows if m.startswith("SPDNet") and not m.endswith(late)]
    nets = {m: rows[m][key] for m in names}
    best = max(nets, key=lambda m: nets[m])
    stale = {m: rows[m + late][key] - nets[m] for m in names if m != none}
    worst = max(stale, key=lambda m: stale[m])
    return (
        f"Classes in the {where}, {key}: best {best} ({nets[best]:.1%}), without "
        f"normalization {nets[none]:.1%}, possible "
        f"{rows['best possible (true model)'][key]:.1%}. Running statistics cost "
        f"{worst} {100 * stale[worst]:.1f} points against those of the test batch."
    )
