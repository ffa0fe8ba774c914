"""How far the exponential map of a manifold is one to one."""

import math

from geoopt.manifolds.base import Manifold

from manifoldkit.manifolds import (
    GLPlus,
    Grassmann,
    Product,
    SpecialOrthogonal,
    Sphere,
    Stiefel,
)


def injectivity_radius(space: Manifold) -> float:
    """Radius of the balls in which logarithms are unique, half of it for means.

    Infinite where there is none, or none that is known.

    Examples
    --------
    >>> from manifoldkit.manifolds import SPD
    >>> round(injectivity_radius(Sphere(2.0)), 4), injectivity_radius(SPD())
    (6.2832, inf)
    """
    if isinstance(space, Sphere):  # and Oblique
        return math.pi * space.radius
    if isinstance(space, SpecialOrthogonal):
        return math.pi * (1 if space.scale == "angle" else math.sqrt(2))
    if isinstance(space, GLPlus):
        return math.pi * math.sqrt(2)
    if isinstance(space, Grassmann):
        return math.pi / 2
    if isinstance(space, Stiefel):
        return 0.89 * math.pi
    if isinstance(space, Product):
        return min(map(injectivity_radius, space.factors))
    return math.inf
