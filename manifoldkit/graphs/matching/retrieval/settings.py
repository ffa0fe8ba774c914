"""What a retriever may be set to: checks of settings and relations, and its networks.

The estimator's own file reads as the stages of a search; what its options mean for the
networks is here.
"""

from typing import Any

import numpy as np

from manifoldkit._checks import count, interval, one_of, optional, positive
from manifoldkit._faces.estimator import TRAINING, seeded
from manifoldkit.graphs.matching.models.base import MatchingNetwork
from manifoldkit.graphs.matching.models.isonet import GMNMatch, IsoNet
from manifoldkit.graphs.matching.models.isonetpp import IsoNetPP

_MODELS = ("isonetpp-node", "isonetpp-edge", "isonet-node", "isonet-edge", "gmn")
_LATE = ("isonet-node", "isonet-edge")
_VERIFY = ("top", "all")


#: What a retriever may be set to; its filter and its solver check their own settings.
SETTINGS = TRAINING | {
    "model": one_of(*_MODELS, None),
    "late": one_of(*_LATE, None),
    "verify": one_of(*_VERIFY, None),
    **dict.fromkeys(("keep", "rounds", "layers", "steps_per_epoch"), count()),
    "batch_size": count(2),  # a batch holds a positive and a negative
    "clip": positive,
    "margin": positive,
    "max_seconds": optional(interval(0)),
}


def check_relation(
    relation: Any, rows: int, columns: int, name: str = "relation"
) -> np.ndarray:
    """Return a relation of zeros and ones as booleans.

    Parameters
    ----------
    relation : array-like, shape (rows, columns)
    rows, columns : int
        Numbers of queries and of corpus graphs.
    name : str
        What messages call it.

    Raises
    ------
    ValueError
        Another shape, or other values.

    Examples
    --------
    >>> check_relation([[1, 0]], 1, 2).tolist()
    [[True, False]]
    """
    table = np.asarray(relation.cpu() if hasattr(relation, "cpu") else relation)
    if table.shape != (rows, columns):
        raise ValueError(
            f"{name}: expected shape (n_queries, n_corpus) = ({rows}, {columns}), "
            f"found {table.shape}"
        )
    if not np.isin(table, (0, 1)).all():
        odd = table[~np.isin(table, (0, 1))].flat[0]
        raise ValueError(f"{name}: expected zeros and ones for every pair, found {odd}")
    return table == 1


def make_network(
    retriever: Any, kind: str, node_dim: int, edge_dim: int, seed: int
) -> MatchingNetwork:
    """Return a network by name, with the weights of a seed, on the retriever's device.

    Parameters
    ----------
    retriever : SubgraphRetriever
        Its ``layers``, ``rounds``, ``semantics`` and ``device`` are taken.
    kind : str
        Such as "isonetpp-node".
    node_dim, edge_dim : int
        Features of the graphs.
    seed : int
    """
    family, _, of = kind.partition("-")
    options: dict[str, Any] = {
        "layers": retriever.layers,
        "node_dim": node_dim,
        "edge_dim": edge_dim,
    }
    with seeded(seed, retriever.device):
        network: MatchingNetwork
        if family == "gmn":
            network = GMNMatch(**options)
        elif family == "isonet":
            network = IsoNet(of, semantics=retriever.semantics, **options)
        else:
            options |= {"rounds": retriever.rounds, "semantics": retriever.semantics}
            network = IsoNetPP(of, **options)
    return network.to(retriever.device)
