"""Batched matrix mathematics with exact, stable derivatives: the ground floor."""

from manifoldkit.linalg.checks import check_spd, is_spd
from manifoldkit.linalg.orthogonal import Polar, polar, procrustes
from manifoldkit.linalg.solvers import solve_lyapunov
from manifoldkit.linalg.symmetric import (
    eigh,
    expm,
    invsqrtm,
    logm,
    powm,
    sqrtm,
    symmetrize,
    unvech,
    vech,
)

__all__ = [
    "Polar",
    "check_spd",
    "eigh",
    "expm",
    "invsqrtm",
    "is_spd",
    "logm",
    "polar",
    "powm",
    "procrustes",
    "solve_lyapunov",
    "sqrtm",
    "symmetrize",
    "unvech",
    "vech",
]
