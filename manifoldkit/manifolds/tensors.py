"""geoopt's tensors that know their manifold, with the types that geoopt leaves out.

At run time these are geoopt's own classes. A checker takes a class of an unannotated
package for ``Any``, and so would show nothing of a parameter that we return.
"""

from typing import TYPE_CHECKING

import geoopt
import torch
from torch import Tensor

if TYPE_CHECKING:

    class ManifoldTensor(geoopt.ManifoldTensor, torch.Tensor):
        """A tensor of points, with the attribute ``manifold``."""

        manifold: geoopt.Manifold

        def __init__(
            self,
            data: Tensor,
            *,
            manifold: geoopt.Manifold = ...,
            requires_grad: bool = False,
        ) -> None: ...

    class ManifoldParameter(geoopt.ManifoldParameter, torch.nn.Parameter):
        """A parameter of points, with the attribute ``manifold``."""

        manifold: geoopt.Manifold

        def __init__(
            self,
            data: Tensor | None = None,
            manifold: geoopt.Manifold | None = None,
            requires_grad: bool = True,
        ) -> None: ...

else:
    from geoopt import ManifoldParameter, ManifoldTensor

__all__ = ["ManifoldParameter", "ManifoldTensor"]
