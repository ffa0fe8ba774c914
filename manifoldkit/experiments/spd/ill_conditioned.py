"""SPD matrices of known truth and condition, and SPDNets with each normalization.

Covariances of ten variables with eigenvalues log-spaced from 1 to 1 / condition in a
random basis: Wishart samples of 30 degrees of freedom. Two classes differ by a factor
in the variance of two directions; half of the other directions carry no information but
a variance that jumps from sample to sample. The informative directions are the largest
ones or the smallest ones. The best any classifier can do is known: the likelihood ratio
of the informative variances.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from manifoldkit.experiments.training import batches, classification_loss, fit, seeded
from manifoldkit.optim import build_optimizer
from manifoldkit.spd import SPDNet

N, DEGREES, RATIO, JUMPS = 10, 30, 1.8, 1.5
WHERE = ("largest", "smallest")


def simulate(
    n_matrices: int, condition: float, where: str, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return matrices, labels and the log likelihood ratio of the true model.

    Parameters
    ----------
    n_matrices : int
        Half of them in each class.
    condition : float
        Ratio of the largest to the smallest true eigenvalue.
    where : {"largest", "smallest"}
        Directions in which the classes differ; the variance of the half of the
        directions at the other end jumps by a factor ``exp(1.5 z)``, z standard normal.
    seed : int
        The basis is drawn from it too.

    Examples
    --------
    >>> X, y, ratio = simulate(400, 1e4, "largest", seed=0)
    >>> X.shape, bool(0.9 < ((ratio > 0) == y).mean() < 1)
    ((400, 10, 10), True)
    """
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((N, N)))[0]
    variance = condition ** -np.linspace(0, 1, N)
    y = rng.permutation(np.arange(n_matrices) % 2)
    first = [0, 1] if where == "largest" else [N - 2, N - 1]
    other = slice(N // 2, N) if where == "largest" else slice(0, N // 2)
    variances = np.tile(variance, (n_matrices, 1))
    variances[:, first] *= np.where(y, RATIO**0.5, RATIO**-0.5)[:, None]
    jumps = rng.standard_normal(variances[:, other].shape)
    variances[:, other] *= np.exp(JUMPS * jumps)
    z = rng.standard_normal((n_matrices, N, DEGREES)) * variances[:, :, None] ** 0.5
    informative = (z[:, first] ** 2).sum(-1) / variance[first]
    # log density ratio of scaled chi-squared variables, equal weights of both classes
    ratio = (informative * (RATIO**0.5 - RATIO**-0.5) / 2).sum(1)
    ratio -= len(first) * DEGREES * np.log(RATIO) / 2
    z = basis @ z
    return z @ z.transpose(0, 2, 1) / DEGREES, y, ratio


@torch.no_grad()
def _accuracy(model: torch.nn.Module, x: Tensor, target: Tensor) -> float:
    return float((model(x).argmax(-1) == target).double().mean())


def score(
    options: dict, conditions: Iterable[float], where: str, seed: int, quick: bool
) -> dict[str, float]:
    """Return the test accuracy of one network and of the oracle, by condition.

    The keys are the condition, "batch" and the condition for normalization by the
    statistics of the test matrices, and "oracle" and the condition.
    """
    n_train, n_test, epochs = (100, 200, 5) if quick else (300, 1000, 30)
    scores = {}
    for condition in conditions:
        X, y, ratio = simulate(n_train + n_test, condition, where, seed)
        x, target = torch.from_numpy(X), torch.from_numpy(y)
        settings = dict(options)
        start = settings.pop("init_from_data", False)
        generator = torch.Generator().manual_seed(seed)
        with seeded(seed):
            model = SPDNet(
                N, (N,), 2, threshold=1e-12, dtype=x.dtype, generator=generator,
                **settings,
            )  # fmt: skip
        if start:
            model.init_from_data(x[:n_train])
        fit(
            model,
            classification_loss,
            batches(x[:n_train], target[:n_train], batch_size=50),
            optimizer=lambda m: build_optimizer(m, "adam", lr=1e-2, manifold_lr=1e-2),
            epochs=epochs,
            seed=seed,
            progress=False,
        )
        scores[f"{condition:.0e}"] = _accuracy(model, x[n_train:], target[n_train:])
        model.train()  # the statistics of the test batch in place of the running ones
        scores[f"batch {condition:.0e}"] = _accuracy(
            model, x[n_train:], target[n_train:]
        )
        scores[f"oracle {condition:.0e}"] = float(
            ((ratio[n_train:] > 0) == y[n_train:]).mean()
        )
    return scores
