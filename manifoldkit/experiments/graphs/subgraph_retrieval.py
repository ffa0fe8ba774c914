"""Subgraph retrieval on five sets of molecules: networks beside filter and solver.

Every network is chosen by validation MAP and tested once. What an exact solver does
with the same task stands in the same table.
"""

import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from manifoldkit.experiments.evaluation import Columns, Run, Store, experiment
from manifoldkit.experiments.result import Result, source

NAME = "subgraph_retrieval"
TITLE = "Subgraph retrieval on molecules: IsoNet++, late interaction, exact search"
SETS = ("aids", "mutag", "ptc_fm", "ptc_fr", "ptc_mm")
SIMULATED = "simulated pairs"
VALIDATION_QUERIES = 20
_NODE, _EDGE, _LATE = "IsoNet++ node", "IsoNet++ edge", "IsoNet edge (late)"

# steps of 128 pairs and the largest learning rate
RECIPES: dict[str, dict[str, Any]] = {
    _NODE: {"model": "node", "steps": 400, "lr": 5e-3},
    _EDGE: {"model": "edge", "steps": 250, "lr": 5e-3},
    _LATE: {"model": "late", "steps": 400, "lr": 5e-3},
}
ABLATION = ((1, 3), (1, 5), (3, 3))
LONG = {
    "model": "node",
    "steps": 6000,
    "lr": 1e-2,
    "weight_decay": 0.0,
    "per_epoch": 600,
    "validation": 45,
}
EARLY = {"model": "node", "steps": 350, "lr": 1e-3, "schedule": False}

PAPER = [
    {"method": name, **dict(zip(SETS, row, strict=True))}
    for name, row in {
        _NODE: (0.825, 0.851, 0.888, 0.855, 0.838),
        _EDGE: (0.847, 0.858, 0.902, 0.875, 0.902),
        _LATE: (0.690, 0.706, 0.783, 0.722, 0.753),
        "GMN-match": (0.622, 0.710, 0.730, 0.662, 0.655),
    }.items()
]


def load(names: Iterable[str], quick: bool) -> tuple[dict[str, Any], list[str]]:
    """Return the pairs of the sets that are here, by name, and what is missing."""
    from manifoldkit.datasets import fetch_subgraph_pairs
    from manifoldkit.exceptions import DatasetNotFoundError

    found, missing = {}, []
    for name in names:
        try:
            pairs = fetch_subgraph_pairs(name, download=not quick)
        except DatasetNotFoundError:
            missing.append(name)
        else:
            found[name] = shrink(pairs) if quick else pairs
    return found, missing


def simulated_pairs() -> dict[str, Any]:
    """Return what stands in for the published sets, under its own name."""
    from manifoldkit.datasets import make_subgraph_pairs

    return {SIMULATED: make_subgraph_pairs(30, 60, random_state=0)}


def shrink(pairs: Any) -> Any:
    """Keep a few queries of every split and the first 100 graphs."""
    kept = [np.flatnonzero(pairs.split == s)[:12] for s in ("train", "val", "test")]
    at = np.concatenate(kept)
    return pairs._replace(
        queries=[pairs.queries[i] for i in at],
        corpus=pairs.corpus[:100],
        relation=pairs.relation[at, :100],
        split=pairs.split[at],
    )


def build(recipe: dict[str, Any], seed: int) -> Any:
    """Return the network of a recipe with the weights of a seed."""
    from manifoldkit.experiments.training import seeded
    from manifoldkit.graphs import IsoNet, IsoNetPP

    with seeded(seed):
        if recipe["model"] == "late":
            return IsoNet("edge")
        return IsoNetPP(
            recipe["model"], recipe.get("rounds", 3), recipe.get("layers", 5)
        )


def train(
    pairs: Any,
    recipe: dict[str, Any],
    *,
    seed: int,
    device: str,
    quick: bool,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Train, choose by validation MAP, and test; go on from a checkpoint in a folder.

    Returns
    -------
    dict
        Test MAP and HITS@20, the validation curve, seconds of training, and processor
        time of training and validation.
    """
    from manifoldkit.experiments.training import fit
    from manifoldkit.graphs import PackedGraphs, pairwise_ranking_loss, retrieval_scores
    from manifoldkit.graphs.matching.retrieval.training import (
        PairModule,
        StratifiedPairs,
    )

    queries, related = pairs.part("train")
    corpus = PackedGraphs(pairs.corpus, device=device)
    packed = PackedGraphs(queries, device=device)
    model = PairModule(build(recipe, seed).to(device), packed, corpus)
    steps = 4 if quick else recipe["steps"]
    per_epoch = max(1, min(steps // 2, recipe.get("per_epoch", 350)))
    epochs = steps // per_epoch
    log = fit(
        model,
        lambda m, batch: pairwise_ranking_loss(m(batch[0]), batch[1]),
        StratifiedPairs(related, 128, per_epoch),
        **_descent(recipe, epochs * per_epoch),
        epochs=epochs,
        validate=_validation(pairs, corpus, recipe),
        monitor="map",
        mode="max",
        clip=1.0,
        device=device,
        out=folder,
        resume=folder is not None,
        seed=seed,
    )
    asked, relation = pairs.part("test")
    scores = model.network.score_matrix(asked, corpus).cpu().numpy()
    found = retrieval_scores(scores, relation)
    return {
        "map": found.map,
        "hits": found.hits,
        "best_step": log.best["epoch"] * per_epoch,
        "steps": epochs * per_epoch,
        "curve": [(row["epoch"] * per_epoch, row.get("map")) for row in log.epochs],
        "seconds": log.seconds,
        "processor_seconds": total_time(log.epochs),
    }


def _descent(recipe: dict[str, Any], steps: int) -> dict[str, Any]:
    """Return optimizer and schedule of a recipe, as :func:`fit` takes them."""
    decay = recipe.get("weight_decay", 5e-4)
    chosen: dict[str, Any] = {
        "optimizer": lambda m: torch.optim.Adam(
            m.parameters(), lr=recipe["lr"], weight_decay=decay
        ),
        "scheduler_interval": "step",
    }
    if recipe.get("schedule", True):
        one_cycle = torch.optim.lr_scheduler.OneCycleLR
        settings = {"max_lr": recipe["lr"], "total_steps": steps + 1}
        chosen["scheduler"] = partial(one_cycle, **settings)
    return chosen


def _validation(
    pairs: Any, corpus: Any, recipe: dict[str, Any]
) -> Callable[[Any], dict[str, float]]:
    """Return the MAP on some validation queries, with the clock of the training."""
    from manifoldkit.graphs import retrieval_scores

    count = recipe.get("validation", VALIDATION_QUERIES)
    held, truth = (part[:count] for part in pairs.part("val"))
    part, begin = time.time(), time.process_time()  # of a run that may be resumed

    def validate(module: Any) -> dict[str, float]:
        scores = module.network.score_matrix(held, corpus)
        found = retrieval_scores(scores.cpu().numpy(), truth)
        spent = time.process_time() - begin
        return {"map": found.map, "part": part, "processor": spent}

    return validate


def total_time(rows: list[dict[str, Any]]) -> float:
    """Add up the processor time of the parts of a run that was resumed."""
    return sum({row["part"]: row["processor"] for row in rows}.values())


def time_networks(pairs: Any) -> dict[str, float]:
    """Return the processor time of 10 000 pairs, by network (weights do not matter)."""
    asked, spent = pairs.part("test")[0][:3], {}
    for label, recipe in RECIPES.items():
        network = build(recipe, 0)
        network.score_matrix(asked[:1], pairs.corpus[:50])
        begin = time.process_time()
        network.score_matrix(asked, pairs.corpus)
        count = len(asked) * len(pairs.corpus)
        spent[label] = (time.process_time() - begin) / count * 1e4
    return spent


def without_training(pairs: Any) -> dict[str, list[dict[str, Any]]]:
    """Rank by motif counts alone, and by filter and exact solver; return the rows."""
    from manifoldkit.graphs import CountFilter, SubgraphRetriever, retrieval_scores

    asked, relation = pairs.part("test")
    counts = CountFilter("motif6").fit(pairs.corpus)
    begin = time.process_time()
    scores = np.stack([counts.slack(query) for query in asked])
    by_counts = time.process_time() - begin
    rejected = ~counts.admits_all(asked)
    ranked = retrieval_scores(scores, relation)
    solver = SubgraphRetriever(model=None, verify="all").index(pairs.corpus)
    begin = time.process_time()
    exact = solver.evaluate(asked, relation)
    by_solver = time.process_time() - begin

    def row(method: str, found: Any, seconds: float) -> dict[str, Any]:
        per_10k = seconds / relation.size * 1e4
        figures = {"map": found.map, "hits": found.hits, "seconds_10k": per_10k}
        return {"method": method, **figures}

    wrongly = {
        "rejected": float(rejected[~relation].mean()),
        "false_rejections": int((rejected & relation).sum()),
    }
    return {
        "rows": [
            row("motif counts (no training)", ranked, by_counts) | wrongly,
            row("filter + exact solver", exact, by_solver),
        ]
    }


COLUMNS: Columns = {
    "set": "{set}",
    "method": "{method}",
    "MAP": "{map:.3f}",
    "HITS@20": "{hits:.3f}",
    "s / 10 000 pairs": "{seconds_10k:.2f}",
}


@experiment(NAME, TITLE, COLUMNS)
def run(
    this: Run,
    *,
    device: str = "cpu",
    sets: Iterable[str] = SETS,
    seeds: int = 3,
    long: bool = True,
) -> Result:
    """Train on every set, rank its test queries, and search exactly.

    Parameters
    ----------
    quick : bool, default=False
        AIDS only, one seed, four steps.
    seed : int, default=0
        First seed of weights and batches.
    sets : sequence of str
        Which sets. Those that are not on this machine and cannot be downloaded are
        left out; simulated pairs stand in where none is left.
    seeds : int, default=3
        Trainings of every network on every set.
    long : bool, default=True
        Also train the node network on AIDS fifteen times as long.
    """
    store, chosen, names = this.store(), this.seeds(seeds), list(sets)
    data, absent = load(names[:1] if this.quick else names, this.quick)
    if absent:
        instead = "They are left out" if data else "Simulated pairs stand in"
        this.missing("subgraph_pairs", f"Missing: {', '.join(absent)}. {instead}.")
    real = bool(data)
    data = data or simulated_pairs()
    names = list(data)
    work = _Trainings(this, store, device, data)
    runs: dict[tuple[str, str], list[dict]] = {}
    plain: dict[str, list[dict]] = {}
    # seed by seed: an early end is still a table
    for s in chosen:
        for name in names:
            for label, recipe in RECIPES.items():
                piece = work.piece(name, label, recipe, s)
                runs.setdefault((name, label), []).append(piece)
        if s == this.seed:
            for name in names:
                key, pairs = f"{name}: no training", work.pairs[name]
                plain[name] = store.get(key, without_training, pairs)["rows"]
            speed = store.get("time", time_networks, work.pairs[names[0]])
            extra = work.extras(names[0], long and not this.quick)
    metrics: list[dict[str, Any]] = []
    for name in names:
        for label in RECIPES:
            row = _row(name, label, runs[name, label])
            metrics.append(row | {"seconds_10k": speed[label]})
        metrics += [{"set": name, **row} for row in plain[name]]
    metrics += extra
    cited = "Ramachandran et al. 2024; TUDatasets"
    return this.finish(
        metrics,
        protocol=_protocol(len(chosen), names[0], data[names[0]]),
        data={
            name: source("published large split", cited, is_real=True)
            if real
            else source("make_subgraph_pairs: random molecules and their fragments")
            for name in names
        },
        seeds=chosen,
        paper=PAPER,
        paper_note=(
            "test MAP of the paper's tables, after up to 1000 epochs of about 1100 "
            "steps; ours stop after less than one epoch, the long one after five, so "
            "they are not comparable"
        ),
        remarks=remarks_on(metrics),
    )


def _protocol(n_seeds: int, first: str, pairs: Any) -> str:
    counts = {split: len(pairs.part(split)[0]) for split in ("train", "val", "test")}
    held = min(VALIDATION_QUERIES, counts["val"])
    return (
        f"{counts['test']} test queries rank {len(pairs.corpus)} corpus graphs; MAP "
        "with ties shared, HITS@20 the share of positives above the 20th negative. "
        f"Training on {counts['train']} queries, Adam, "
        "weight decay 5e-4, batches of 128 pairs with 17 % positives, one-cycle "
        f"learning rate; the state with the best MAP on {held} "
        "validation queries (two or more looks) is tested once. One recipe for all "
        f"sets. spread: standard deviation over seeds ({n_seeds}; one of the rows on "
        f"{first} alone). The long training has a largest rate of {LONG['lr']}, no "
        f"weight decay and validates on all {LONG['validation']} queries. seconds_10k: "
        "processor time of 10 000 pairs, on the first set."
    )


class _Trainings(NamedTuple):
    """The trainings of a run, by set."""

    this: Run
    store: Store
    device: str
    pairs: dict[str, Any]

    def piece(self, name: str, label: str, recipe: dict, seed: int) -> dict:
        """Train one network on one set, or take what is stored; say how good it is."""
        this, key = self.this, f"{name}: {label}, seed {seed}"
        folder = f"{name}-{label}-{seed}".replace(" ", "_")
        row = self.store.get(
            key,
            train,
            self.pairs[name],
            recipe,
            seed=seed,
            device=self.device,
            quick=this.quick,
            folder=this.out / "checkpoints" / folder if this.resume else None,
        )
        this.say(f"{key}: MAP {row['map']:.3f}")
        return row

    def extras(self, name: str, long: bool) -> list[dict[str, Any]]:
        """The early gate, rounds by layers, and the long training, on one set."""
        recipes = {"350 steps at 1e-3": EARLY}
        for rounds, layers in () if self.this.quick else ABLATION:
            recipe = RECIPES[_NODE] | {"rounds": rounds, "layers": layers}
            recipes[f"{rounds} rounds of {layers} layers"] = recipe
        if long:
            recipes[f"{LONG['steps']} steps"] = LONG
        labels = {f"{_NODE}, {what}": recipe for what, recipe in recipes.items()}
        return [
            _row(name, label, [self.piece(name, label, recipe, self.this.seed)])
            for label, recipe in labels.items()
        ]


def _rows(pairs: Any) -> dict:
    return {"rows": without_training(pairs)}


def _row(name: str, label: str, runs: list[dict]) -> dict[str, Any]:
    maps = [run["map"] for run in runs]
    spent = [r["processor_seconds"] for r in runs if "processor_seconds" in r]
    return {
        "set": name,
        "method": label,
        "map": float(np.mean(maps)),
        "spread": float(np.std(maps, ddof=1)) if len(maps) > 1 else "",
        "hits": float(np.mean([run["hits"] for run in runs])),
        "steps": runs[0]["steps"],
        "train_seconds": float(np.mean([run["seconds"] for run in runs])),
        "processor_seconds": float(np.mean(spent)) if spent else "",
        "seconds_10k": "",
        "maps": maps,
        "curve": runs[0]["curve"],
    }


def remarks_on(metrics: list[dict]) -> list[str]:
    """Say what the numbers say."""
    remarks = []
    exact = [row for row in metrics if row["method"] == "filter + exact solver"]
    nets = [row for row in metrics if "steps" in row]
    if exact and nets:
        slow = max(row["seconds_10k"] for row in exact)
        fast = min(row["seconds_10k"] for row in nets if row["seconds_10k"] != "")
        worst, best = min(r["map"] for r in exact), max(r["map"] for r in nets)
        remarks.append(
            f"Filter and exact solver: MAP of at least {worst:.3f} in at most "
            f"{slow:.2f} s for 10 000 pairs; the best network here has {best:.3f}, "
            f"the fastest takes {fast:.2f} s. On graphs of this size nothing has to be "
            "learned."
        )
    for row in nets:
        if row["set"] != SETS[0]:  # the targets are for AIDS
            continue
        if "350 steps" in row["method"]:
            verdict = "reached" if row["map"] >= 0.37 else "missed"
            remarks.append(
                f"{row['set']}: MAP {row['map']:.3f} after {row['steps']} steps at "
                f"1e-3 (target 0.37 after 350: {verdict})."
            )
        elif row["method"].endswith("steps"):
            verdict = "reached" if row["map"] >= 0.55 else "missed"
            minutes = row["processor_seconds"] / 60
            remarks.append(
                f"{row['set']}: MAP {row['map']:.3f} after {row['steps']} steps, "
                f"{minutes:.0f} minutes of processor time on one core, validation "
                f"included (target 0.55 in 30 minutes: {verdict})."
            )
    return remarks
