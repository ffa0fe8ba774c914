r"""Rotations that bring the class means of domains onto those of one of them.

.. math:: \min_Q \sum_c d(T_c, Q S_c Q^\top), \qquad Q^\top Q = I

S are the class means of a domain, T those of the target. The minimization is that of
``pyriemann.transfer.TLRotate`` (Rodrigues et al. 2018).
"""

import numpy as np
from pyriemann.transfer import TLRotate, encode_domains

from manifoldkit.spd.alignment.domains import Domain, rows_of
from manifoldkit.spd.pyriemann_bridge import geometry_of


def find_rotations(
    X: np.ndarray,
    y: np.ndarray,
    names: list[Domain],
    weights: np.ndarray,
    target: Domain,
    metric: str,
) -> dict[Domain, np.ndarray]:
    """Return the rotation of each domain; of the target it is the identity.

    Parameters
    ----------
    X : ndarray, shape (n_matrices, n, n)
        Recentered matrices.
    y, names, weights
        Class, domain and positive weight of each.
    target : str, int or None
        Domain whose class means the others meet; None: the means of all domains'.
    metric : {"euclid", "riemann"}
        What is minimized between class means.

    Raises
    ------
    ValueError
        Unknown target, or a domain without matrices of some class.
    """
    groups = dict(rows_of(names))
    codes = np.unique(y, return_inverse=True)[1]
    _check_classes(y, groups)
    numbers = {name: i for i, name in enumerate(groups)}
    domain = np.array([numbers[name] for name in names])
    if target is None:
        means = _pooled_means(X, codes, groups, weights)
        X = np.concatenate([X, means])
        codes = np.concatenate([codes, np.arange(len(means))])
        domain = np.concatenate([domain, np.full(len(means), len(groups))])
        weights = np.concatenate([weights, np.ones(len(means))])
        aim = len(groups)
    elif target in numbers:
        aim = numbers[target]
    else:
        raise ValueError(
            f"target: expected one of the domains {list(groups)}, found {target!r}"
        )
    n = X.shape[-1]
    rotations: dict[Domain, np.ndarray] = {name: np.eye(n) for name in groups}
    if n == 1 or len(np.unique(domain)) == 1:
        return rotations
    # numbers of equal width sort as text as they do as numbers
    labels = np.array([f"{code:09d}" for code in codes])
    places = np.array([f"{place:09d}" for place in domain])
    _, encoded = encode_domains(X, labels, places)
    model = TLRotate(target_domain=f"{aim:09d}", metric=metric)
    model.fit(X, encoded, sample_weight=weights)
    for name, place in numbers.items():
        if place != aim:
            rotations[name] = model.rotations_[f"{place:09d}"]
    return rotations


def _check_classes(y: np.ndarray, groups: dict[Domain, np.ndarray]) -> None:
    classes = np.unique(y)
    for name, rows in groups.items():
        lacking = np.setdiff1d(classes, y[rows])
        if len(lacking):
            raise ValueError(
                "rotate: expected matrices of every class in every domain, found none "
                f"of class {lacking.tolist()[0]!r} in domain {name!r}"
            )


def _pooled_means(
    X: np.ndarray, codes: np.ndarray, groups: dict[Domain, np.ndarray], weights
) -> np.ndarray:
    """Return the means over domains of their class means, every domain alike."""
    mean = geometry_of("riemann").mean
    pooled = []
    for code in range(codes.max() + 1):
        own = [rows[codes[rows] == code] for rows in groups.values()]
        of_domains = [mean(X[rows], sample_weight=weights[rows]) for rows in own]
        pooled.append(mean(np.stack(of_domains)))
    return np.stack(pooled)
