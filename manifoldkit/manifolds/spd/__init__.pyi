from .common import SPD as SPD
