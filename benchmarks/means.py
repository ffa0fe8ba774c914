"""Affine-invariant means against pyriemann's, in time, accuracy and memory."""

import warnings

import torch
from pyriemann.geometry.mean import mean_riemann

from benchmarks.gbw import _spd
from benchmarks.memory import memory_row, peak_apart, resident_peak
from benchmarks.timing import compare, row
from manifoldkit.manifolds import SPD
from manifoldkit.optim import karcher_mean

# matrices, channels, condition
CASES = (
    (10, 8, 1e2),
    (1000, 8, 1e2),
    (1000, 8, 1e7),
    (10, 22, 1e2),
    (500, 22, 1e2),
    (500, 22, 1e7),
    (100, 64, 1e2),
    (100, 64, 1e7),
)
PEER = "pyriemann mean_riemann"


def _ours(x):
    return karcher_mean(SPD("airm"), x).mean


def _peer(x):
    with warnings.catch_warnings():
        # 50 steps are few for condition 1e7
        warnings.simplefilter("ignore")
        return torch.as_tensor(mean_riemann(x.numpy()))


def _gradient(mean, x):
    """Length of the gradient, which is zero at the mean."""
    manifold, x = SPD("airm"), x.double()
    mean = mean.double()
    return float(manifold.norm(mean, manifold.logmap(mean.expand_as(x), x).mean(0)))


def _time_row(count, n, condition, dtype):
    x = _spd(count, n, condition).to(dtype)
    t = compare({"ours": lambda: _ours(x), "peer": lambda: _peer(x)}, repeats=5)
    bits = "float32" if dtype == torch.float32 else "float64"
    case = f"mean, {count} matrices {n} x {n}, condition {condition:.0e}, {bits}"
    note = f"gradient {_gradient(_ours(x), x):.0e}, peer {_gradient(_peer(x), x):.0e}"
    return row(case, t["ours"], PEER, t["peer"], "<= 1", note)


def peak(name, count, n):
    """Return how much the resident peak grows while a mean is computed, in MB."""
    x = _spd(200, n, 1e2).repeat(count // 200, 1, 1)
    mean = {"ours": _ours, "peer": _peer}[name]
    mean(x[:200])  # what the libraries themselves take
    before = resident_peak()
    mean(x)
    return (resident_peak() - before) / 1024


def run():
    """Return the rows."""
    rows = [_time_row(*case, torch.float64) for case in CASES]
    rows += [_time_row(500, 22, c, torch.float32) for c in (1e2, 1e5)]
    peaks = [peak_apart("means", name, 20_000, 22) for name in ("ours", "peer")]
    case = "memory of a mean beside its input, 20,000 matrices 22 x 22"
    return [*rows, memory_row(case, peaks[0], PEER, peaks[1], "<= 1")]
