"""Matrix Lie groups: GL+(n), SL(n), SO(n), the space SPD(n), scales, affine maps."""

from manifoldkit.lie.groups.affine import Affine, Scale
from manifoldkit.lie.groups.algebra import bch, bracket
from manifoldkit.lie.groups.base import MatrixGroup
from manifoldkit.lie.groups.linear import SL, GLPlus
from manifoldkit.lie.groups.orthogonal import SO
from manifoldkit.lie.groups.spd_space import SPDSpace

__all__ = [
    "SL",
    "SO",
    "Affine",
    "GLPlus",
    "MatrixGroup",
    "SPDSpace",
    "Scale",
    "bch",
    "bracket",
]
