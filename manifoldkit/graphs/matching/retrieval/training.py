"""How the retriever's networks are trained: held-out queries, batches, loss."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from manifoldkit._faces.estimator import Deadline, seeded
from manifoldkit.graphs.matching.models.base import MatchingNetwork
from manifoldkit.graphs.matching.models.losses import pairwise_ranking_loss
from manifoldkit.graphs.matching.models.packed import PackedGraphs
from manifoldkit.graphs.matching.retrieval.metrics import retrieval_scores


def hold_out(
    queries: list, relation: np.ndarray, share: float, rng: np.random.RandomState
) -> tuple[tuple[list, np.ndarray], tuple[list, np.ndarray]]:
    """Split into (queries, relation) to train on and to validate with.

    A query counts in validation only if it has positives and negatives, so only such
    queries are put aside.

    Raises
    ------
    ValueError
        Too few queries.
    """
    usable = np.flatnonzero(relation.any(1) & ~relation.all(1))
    count = max(1, round(share * len(usable)))
    if count >= len(queries) or len(usable) < 2:
        raise ValueError(
            "early_stopping: expected more queries with positives and negatives, "
            f"found {len(usable)}; or give validation="
        )
    aside = np.zeros(len(queries), bool)
    aside[rng.permutation(usable)[:count]] = True
    train, held = (
        ([queries[i] for i in np.flatnonzero(part)], relation[part])
        for part in (~aside, aside)
    )
    return train, held


class StratifiedPairs:
    """Batches of pairs with the positives' share of the whole in every one of them.

    An epoch is a number of batches, not a pass over all pairs, of which there are many.
    Its draws come from torch's generator.

    Parameters
    ----------
    relation : ndarray, shape (n_queries, n_corpus)
        Nonzero where the corpus graph contains the query.
    batch_size, steps : int
        Pairs a batch, batches an epoch.

    Examples
    --------
    >>> batches = StratifiedPairs(np.eye(4), batch_size=8, steps=2)
    >>> [int(labels.sum()) for _, labels in batches]
    [2, 2]
    """

    def __init__(self, relation: np.ndarray, batch_size: int, steps: int):
        relation = np.asarray(relation) != 0
        self.positive, self.negative = np.argwhere(relation), np.argwhere(~relation)
        self.steps = steps
        self.n_positive = int(np.ceil(relation.mean() * batch_size))
        self.n_positive = min(max(self.n_positive, 1), batch_size - 1)
        self.n_negative = batch_size - self.n_positive

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        labels = torch.zeros(self.n_positive + self.n_negative)
        labels[: self.n_positive] = 1
        rng = np.random.default_rng(int(torch.randint(2**31, ())))
        positive = self._order(rng, self.positive, self.n_positive)
        negative = self._order(rng, self.negative, self.n_negative)
        for left, right in zip(positive, negative, strict=True):
            yield torch.from_numpy(np.concatenate([left, right])), labels

    def _order(self, rng: Any, pool: np.ndarray, count: int) -> list[np.ndarray]:
        """Go through the pool in random order, as often as it takes."""
        turns = -(-self.steps * count // len(pool))
        order = np.concatenate([rng.permutation(len(pool)) for _ in range(turns)])
        return list(pool[order[: self.steps * count]].reshape(self.steps, count, 2))


class PairModule(nn.Module):
    """A network together with the graphs that pairs of indices refer to."""

    def __init__(
        self, network: MatchingNetwork, queries: PackedGraphs, corpus: PackedGraphs
    ):
        super().__init__()
        self.network, self.queries, self.corpus = network, queries, corpus

    def forward(self, pairs: Tensor) -> Tensor:
        """Score pairs (B, 2) of a query and a corpus graph."""
        at = pairs.cpu().numpy()
        edges = self.network.kind == "edge"
        query = self.queries.batch(at[:, 0], edges)
        return self.network(query, self.corpus.batch(at[:, 1], edges))[0]


class RankingLoss(nn.Module):
    """The pairwise hinge as skorch's criterion."""

    def __init__(self, margin: float = 0.5):
        super().__init__()
        self.margin = margin

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the loss."""
        return pairwise_ranking_loss(scores, labels, self.margin)


def train(
    network: MatchingNetwork,
    queries: PackedGraphs,
    corpus: PackedGraphs,
    relation: np.ndarray,
    held: tuple[PackedGraphs, np.ndarray] | None,
    options: dict[str, Any],
    seed: int,
) -> list[dict]:
    """Train in place; return one row an epoch.

    Parameters
    ----------
    network : MatchingNetwork
    queries, corpus : PackedGraphs
        Graphs on the network's device.
    relation : ndarray of bool, shape (n_queries, n_corpus)
    held : (PackedGraphs, ndarray), optional
        Validation queries and their relation, for early stopping on MAP.
    options : dict
        ``lr``, ``weight_decay``, ``margin``, ``batch_size``, ``steps_per_epoch``,
        ``max_epochs``, ``patience``, ``max_seconds``, ``schedule``, ``clip``,
        ``verbose``, ``device``.
    seed : int

    Raises
    ------
    MissingExtraError
        skorch is not installed.
    """
    from manifoldkit._faces.training import given
    from manifoldkit._faces.training import train as train_face

    steps = options["steps_per_epoch"]
    pairs = StratifiedPairs(relation, options["batch_size"], steps)

    def measure(module: nn.Module) -> dict[str, float]:
        if held is None:
            return {}
        scores = network.score_matrix(held[0], corpus)
        return {"valid_map": retrieval_scores(scores.cpu().numpy(), held[1]).map}

    with seeded(seed, options["device"]):
        _, rows = train_face(
            PairModule(network, queries, corpus),
            RankingLoss(options["margin"]),
            pairs,
            optimizer=partial(torch.optim.Adam, weight_decay=options["weight_decay"]),
            lr=options["lr"],
            epochs=options["max_epochs"],
            loader={"iterator_train": given},
            schedule="one_cycle" if options["schedule"] else None,
            clip=options["clip"],
            patience=None if held is None else options["patience"],
            monitor="valid_map",
            higher_is_better=True,
            measure=measure,
            columns=("train_loss", "valid_map", "dur"),
            deadline=Deadline(options["max_seconds"]),
            device=options["device"],
            verbose=options["verbose"],
        )
    return rows
