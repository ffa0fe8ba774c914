"""Lie groups: coordinates, decompositions and samples against the usual formulas."""

import math

import torch

from benchmarks.timing import ratio_row
from manifoldkit.lie import SO, GLPlus, polar, sym_exp, sym_log

COUNT = 10_000


def _matrices(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.linalg.matrix_exp(0.4 * torch.randn(COUNT, n, n, generator=g))


def _eigh_function(x, f):
    s, u = torch.linalg.eigh(x)
    return (u * f(s)[..., None, :]) @ u.mT


def _peer_coords(g):
    """Coordinates of GL+(2) as the reference code gets them: eigh of g g', twice."""
    p = _eigh_function(g @ g.mT, torch.sqrt)
    r = torch.linalg.inv(p) @ g
    y = _eigh_function(p, torch.log)
    theta = torch.remainder(torch.atan2(r[..., 1, 0], r[..., 0, 0]), 2 * math.pi)
    root = math.sqrt(2)
    return torch.stack([y[..., 0, 0], root * y[..., 0, 1], y[..., 1, 1], theta], -1)


def _svd_polar(g):
    u, s, vt = torch.linalg.svd(g)
    return (u * s[..., None, :]) @ u.mT, u @ vt


def _peer_sample(n, generator):
    """Samples of GL+(2) and inverses by eigh, matrix_exp and inv."""
    v = math.sqrt(0.1) * torch.randn(n, 3, generator=generator)
    off = v[:, 1] / math.sqrt(2)
    x = torch.stack([v[:, 0], off, off, v[:, 2]], -1).unflatten(-1, (2, 2))
    s = _eigh_function(x, torch.exp)
    theta = 2 * math.pi * torch.rand(n, generator=generator)
    a = torch.stack([0 * theta, -theta, theta, 0 * theta], -1).unflatten(-1, (2, 2))
    g = _eigh_function(s, torch.sqrt) @ torch.linalg.matrix_exp(a)
    return g, torch.linalg.inv(g)


def _peer_log(g):
    """Logarithm of diagonalizable matrices by a complex eigendecomposition."""
    s, v = torch.linalg.eig(g)
    return ((v * s.log()[..., None, :]) @ torch.linalg.inv(v)).real


def run():
    """Return the rows."""
    rows = []
    for n in (2, 3, 4, 8):
        g = _matrices(n)
        x = (g + g.mT) / 2
        target = "<= 0.08" if n == 2 else "<= 1.15"
        rows.append(
            ratio_row(
                f"symmetric exp, n = {n}",
                lambda x=x: sym_exp(x),
                "eigh, U e^s U'",
                lambda x=x: _eigh_function(x, torch.exp),
                target=target,
            )
        )
    p = _matrices(2) @ _matrices(2).mT
    rows.append(
        ratio_row(
            "symmetric log, n = 2",
            lambda: sym_log(p),
            "eigh, U log(s) U'",
            lambda: _eigh_function(p, torch.log),
            target="<= 0.08",
        )
    )
    g2 = _matrices(2)
    group = GLPlus(2)
    rows.append(
        ratio_row(
            "coordinates of GL+(2)",
            lambda: group.coords(g2),
            "polar by eigh of g g', log by eigh",
            lambda: _peer_coords(g2),
            target="<= 0.1",
        )
    )
    for n in (3, 4):
        g = _matrices(n)
        rows.append(
            ratio_row(
                f"polar decomposition, n = {n}",
                lambda g=g: polar(g),
                "SVD",
                lambda g=g: _svd_polar(g),
                target="<= 0.8",
            )
        )
    generator = torch.Generator().manual_seed(0)
    rows.append(
        ratio_row(
            "samples of GL+(2) and inverses",
            lambda: group.sample(COUNT, generator=generator),
            "eigh, matrix_exp, inv",
            lambda: _peer_sample(COUNT, generator),
            target="<= 0.1",
            note="ours with Haar weights",
        )
    )
    rows.append(
        ratio_row(
            "uniform rotations, n = 3",
            lambda: SO(3).sample(COUNT, generator=generator),
            "QR of a Gaussian matrix",
            lambda: torch.linalg.qr(torch.randn(COUNT, 3, 3, generator=generator)),
            note="the peer without fixing signs",
        )
    )
    rows.append(
        ratio_row(
            "group logarithm of GL+(2)",
            lambda: group.log(g2),
            "complex eig",
            lambda: _peer_log(g2),
        )
    )
    return rows
