"""Generalized Bures-Wasserstein distances and means against pyriemann and eigh."""

import warnings

import torch
from pyriemann.geometry.distance import distance_wasserstein
from pyriemann.geometry.mean import mean_wasserstein

from benchmarks.timing import compare, row
from manifoldkit.linalg import sqrtm
from manifoldkit.spd import gbw_distance, gbw_mean

DISTANCES = ((200, 8, 5), (200, 22, 4), (100, 64, 4))
MEANS = ((100, 8, 1e2, 15), (100, 22, 1e2, 12), (100, 22, 1e5, 25), (200, 32, 1e3, 12))


def _spd(batch, n, condition, seed=0):
    """Random eigenvectors, eigenvalues log-uniform between the two extremes."""
    g = torch.Generator().manual_seed(seed)
    options = {"dtype": torch.float64, "generator": g}
    q, _ = torch.linalg.qr(torch.randn(batch, n, n, **options))
    exponent = torch.rand(batch, n, **options)
    exponent[:, 0], exponent[:, -1] = 0, 1
    x = (q * condition ** -exponent[:, None, :]) @ q.mT
    return (x + x.mT) / 2


def _residual(mean, x):
    """|mean T_i - I|_F / sqrt(n), the stationarity of a mean."""
    mean = torch.as_tensor(mean)
    n = len(mean)
    factor = torch.linalg.cholesky(mean)
    root = sqrtm(factor.mT @ x @ factor).mean(0)
    half = torch.linalg.solve_triangular(factor.mT, root, upper=True)
    total = torch.linalg.solve_triangular(factor.mT, half.mT, upper=True)
    return float((total - torch.eye(n, dtype=x.dtype)).norm()) / n**0.5


def _distance_rows():
    rows = []
    for count, n, k in DISTANCES:
        x, centers = _spd(count, n, 1e3), _spd(k, n, 1e3, 1)
        x_np, centers_np = x.numpy(), centers.numpy()
        t = compare(
            {
                "ours": lambda x=x, c=centers: gbw_distance(x[:, None], c),
                "eigh": lambda x=x: torch.linalg.eigh(x),
                "peer": lambda x=x_np, c=centers_np: [
                    distance_wasserstein(x, center) for center in c
                ],
            }
        )
        case = f"distances, {count} matrices {n} x {n}, {k} centers"
        rows.append(row(case, t["ours"], f"{k} batched eigh", k * t["eigh"], "< 1"))
        rows.append(
            row(case, t["ours"], "pyriemann distance_wasserstein", t["peer"], "< 1")
        )
    return rows


def _mean_rows():
    rows = []
    for count, n, condition, multiple in MEANS:
        x = _spd(count, n, condition)
        x_np = x.numpy()
        with warnings.catch_warnings():
            # pyriemann's cap of 50 steps is below what condition 1e5 needs
            warnings.simplefilter("ignore")
            accuracy = _residual(mean_wasserstein(x_np), x)
            # not more accurate than the peer's default stop makes its answer
            tol = max(accuracy, 1e-12)
            ours = _residual(gbw_mean(x, tol=tol), x)
            t = compare(
                {
                    "ours": lambda x=x, tol=tol: gbw_mean(x, tol=tol),
                    "tight": lambda x=x: gbw_mean(x),
                    "eigh": lambda x=x: torch.linalg.eigh(x),
                    "numpy": lambda x=x_np: mean_wasserstein(x),
                    "torch": lambda x=x: mean_wasserstein(x),
                },
                repeats=5,
            )
        case = f"mean, {count} matrices {n} x {n}, condition {condition:.0e}"
        note = f"residual {ours:.0e}, peer {accuracy:.0e}"
        for kind in ("numpy", "torch"):
            peer = f"pyriemann mean_wasserstein, {kind}"
            rows.append(row(case, t["ours"], peer, t[kind], "<= 0.6", note))
        rows.append(
            row(
                case + ", tol 1e-10",
                t["tight"],
                "one batched eigh",
                t["eigh"],
                f"<= {multiple}",
                f"residual {_residual(gbw_mean(x), x):.0e}",
            )
        )
    return rows


def run():
    """Return the rows."""
    return _distance_rows() + _mean_rows()
