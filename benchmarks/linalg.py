"""Matrix functions against pyriemann, on torch tensors."""

import torch
from pyriemann.geometry.base import invsqrtm as peer_invsqrtm
from pyriemann.geometry.base import logm as peer_logm
from pyriemann.geometry.base import sqrtm as peer_sqrtm

from benchmarks.timing import ratio_row
from manifoldkit.linalg import invsqrtm, logm, solve_lyapunov, sqrtm


def _spd(batch, n, seed=0):
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(batch, n, 2 * n, dtype=torch.float64, generator=g)
    return a @ a.mT / (2 * n)


def _step(f, x):
    y = x.clone().requires_grad_()
    f(y).sum().backward()
    return y.grad


def run():
    """Return the rows."""
    rows = []
    pairs = {
        "sqrtm": (sqrtm, peer_sqrtm, ""),
        "invsqrtm": (invsqrtm, peer_invsqrtm, "full accuracy to condition 1e8"),
        "logm": (logm, peer_logm, "full accuracy to condition 1e8"),
    }
    for batch, n in ((10_000, 2), (100, 8), (100, 32), (30, 64)):
        x = _spd(batch, n)
        for name, (ours, peer, note) in pairs.items():
            case = f"{name}, {batch} x {n} x {n}"
            rows.append(
                ratio_row(
                    case,
                    lambda f=ours, x=x: f(x),
                    "pyriemann",
                    lambda f=peer, x=x: f(x),
                    note=note,
                )
            )
            rows.append(
                ratio_row(
                    case + ", with gradient",
                    lambda f=ours, x=x: _step(f, x),
                    "pyriemann (eigh autograd)",
                    lambda f=peer, x=x: _step(f, x),
                    note="exact at equal eigenvalues",
                )
            )
        rows.append(
            ratio_row(
                f"solve_lyapunov, {batch} x {n} x {n}",
                lambda x=x: solve_lyapunov(x, x),
                "one torch.linalg.eigh",
                lambda x=x: torch.linalg.eigh(x),
            )
        )
    return rows
