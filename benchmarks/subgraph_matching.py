"""Subgraph matching: the networks against their formulas as written."""

from functools import partial

import numpy as np
import torch

from benchmarks.literal.isonetpp import Literal
from benchmarks.memory import memory_row, peak_apart, resident_peak
from benchmarks.timing import compare
from manifoldkit.datasets import (
    fetch_subgraph_pairs,
    make_subgraph_pairs,
)
from manifoldkit.exceptions import DatasetNotFoundError
from manifoldkit.graphs import (
    GMNMatch,
    IsoNet,
    IsoNetPP,
    PackedGraphs,
    pairwise_ranking_loss,
)


def load_pairs():
    """AIDS if it is here, else generated pairs; and what to call them."""
    try:
        return fetch_subgraph_pairs("aids", download=False), "AIDS"
    except DatasetNotFoundError:
        return make_subgraph_pairs(75, 400, random_state=0), "generated"


def case(which, pairs, dtype=torch.float32, count=128):
    """The literal network, ours with the same weights, and pairs of indices."""
    torch.manual_seed(0)
    kind = "node" if which == "gmn" else which.rsplit("-", 1)[1]
    padded = max(n if kind == "node" else len(e) for n, e in pairs.corpus)
    literal = Literal(which, padded, dtype=dtype)
    cls = {"isonetpp": IsoNetPP, "isonet": IsoNet, "gmn": GMNMatch}[which.split("-")[0]]
    options = {"kind": kind, "padded_size": padded}
    exact = cls.from_upstream_state_dict(literal.state_dict(), **options)
    ours = cls.from_upstream_state_dict(literal.state_dict(), kind=kind, parity=False)
    rng = np.random.default_rng(0)
    sizes = len(pairs.queries), len(pairs.corpus)
    index = np.stack([rng.integers(size, size=count) for size in sizes], 1)
    return literal, exact, ours, index


def contestants(which, pairs):
    """Scores of 128 pairs by ours, ours in parity mode, and the formulas."""
    literal, exact, ours, index = case(which, pairs)
    left = [pairs.queries[i] for i in index[:, 0]]
    right = [pairs.corpus[j] for j in index[:, 1]]
    queries, corpus = PackedGraphs(pairs.queries), PackedGraphs(pairs.corpus)
    edges = ours.kind == "edge"

    def scores(model):
        query = queries.batch(index[:, 0], edges)
        return model(query, corpus.batch(index[:, 1], edges))[0]

    return {
        "ours": (ours, lambda: scores(ours)),
        "parity": (exact, lambda: scores(exact)),
        "peer": (literal, lambda: literal(left, right)),
    }


def infer(model, scores):
    """Score without gradients."""
    with torch.no_grad():
        return scores()


def step(model, scores):
    """Score, loss and gradients."""
    model.zero_grad()
    pairwise_ranking_loss(scores(), torch.arange(128) < 22).backward()


def largest_gap(which, pairs):
    """Largest difference of the parity mode in float64."""
    literal, exact, _, index = case(which, pairs, torch.float64, 32)
    left = [pairs.queries[i] for i in index[:, 0]]
    right = [pairs.corpus[j] for j in index[:, 1]]
    with torch.no_grad():
        return float(
            (literal(left, right) - exact.score_pairs(left, right)).abs().max()
        )


def network_rows(pairs, name):
    """Inference and training of 128 pairs."""
    rows = []
    for which in (
        "isonetpp-node",
        "isonetpp-edge",
        "isonet-node",
        "isonet-edge",
        "gmn",
    ):
        gap, found = largest_gap(which, pairs), contestants(which, pairs)
        for what, run, target in (
            ("inference", infer, "0.45"),
            ("training step", step, "0.67"),
        ):
            seconds = compare(
                {who: partial(run, *found[who]) for who in found}, repeats=7
            )
            rows.append(
                {
                    "case": f"{which}, 128 pairs of {name}, {what}",
                    "ours_s": seconds["ours"],
                    "peer": "formulas as written",
                    "peer_s": seconds["peer"],
                    "ratio": seconds["ours"] / seconds["peer"],
                    "target": target if "pp" in which else "",
                    "max_abs_diff": gap,
                    "note": f"parity mode {seconds['parity'] / seconds['peer']:.2g}, "
                    f"difference in float64 {gap:.0e}",
                }
            )
    return rows


def evaluation_rows(pairs, name, count=2):
    """Some queries against the whole corpus, as the published evaluation does it."""
    rows = []
    asked = pairs.part("test")[0][:count]
    for which in ("isonetpp-node", "isonetpp-edge"):
        literal, _, ours, _ = case(which, pairs)
        corpus = PackedGraphs(pairs.corpus)

        def published(literal=literal):
            every = [(q, c) for q in asked for c in pairs.corpus]
            with torch.no_grad():
                for _ in range(2):  # once for the whole, once query by query
                    for start in range(0, len(every), 128):
                        left, right = zip(*every[start : start + 128], strict=True)
                        literal(left, right)

        seconds = compare(
            {
                "ours": lambda ours=ours, corpus=corpus: ours.score_matrix(
                    asked, corpus
                ),
                "peer": published,
            },
            repeats=3,
        )
        rows.append(
            {
                "case": f"{which}, {count} queries, {len(corpus)} graphs of {name}",
                "ours_s": seconds["ours"],
                "peer": "formulas as written, every pair twice as published",
                "peer_s": seconds["peer"],
                "ratio": seconds["ours"] / seconds["peer"],
                "target": "0.25",
            }
        )
    return rows


def peak(who, which):
    """Peak memory of training steps beyond what was there before, in MB."""
    torch.set_num_threads(1)
    pairs, _ = load_pairs()
    literal, _, ours, index = case(which, pairs)
    queries, corpus = PackedGraphs(pairs.queries), PackedGraphs(pairs.corpus)

    def step(count):
        at = index[:count]
        if who == "literal":
            left = [pairs.queries[i] for i in at[:, 0]]
            scores = literal(left, [pairs.corpus[j] for j in at[:, 1]])
        else:
            edges = ours.kind == "edge"
            batches = queries.batch(at[:, 0], edges), corpus.batch(at[:, 1], edges)
            scores = ours(*batches)[0]
        scores.square().sum().backward()

    step(4)
    before = resident_peak()
    for _ in range(2):
        step(128)
    return (resident_peak() - before) / 1024


def memory_rows():
    """Peak of a training step, each in a process of its own."""
    rows = []
    for which in ("isonetpp-node", "isonetpp-edge"):
        ours, plain = (
            peak_apart("subgraph_matching", who, which) for who in ("ours", "literal")
        )
        case = f"{which}, 128 pairs, peak memory of a training step"
        rows.append(memory_row(case, ours, "formulas as written", plain, "1"))
    return rows


def run():
    """Return the rows."""
    pairs, name = load_pairs()
    return [
        *network_rows(pairs, name),
        *evaluation_rows(pairs, name),
        *memory_rows(),
    ]


if __name__ == "__main__":
    for row in run():
        print(row)
