"""A network with sine activations: smooth kernels on a group."""

import itertools
import math

import torch
from torch import Tensor, nn

from manifoldkit._checks import check_count, check_counts, check_positive


class Siren(nn.Module):
    r"""Multilayer perceptron with sine activations.

    A hidden layer is :math:`z \mapsto \sin(\omega_0 (W z + b))`, the last one linear;
    so the network is smooth in its input with derivatives of all orders, which is what
    the kernel of a convolution over a Lie group should be.

    Parameters
    ----------
    in_features, hidden, out_features : int
        Sizes.
    n_hidden : int, default=2
        Hidden layers after the first one (the first maps the input to ``hidden``).
    w0 : float, default=10.0
        Frequency: the larger, the finer the functions that are reached at first.
    out_scale : float, optional
        The last layer starts uniform in ``[-out_scale, out_scale]``; default
        ``sqrt(6 / hidden) / w0``. The convolutions pass a value that keeps the variance
        of their output.

    Raises
    ------
    ValueError
        Sizes that are not positive integers, or a frequency that is not positive.

    References
    ----------
    .. [1] Sitzmann, Martel, Bergman, Lindell, Wetzstein, "Implicit neural
           representations with periodic activation functions", NeurIPS 2020.

    Examples
    --------
    >>> import torch
    >>> from manifoldkit.lie.nn import Siren
    >>> Siren(2, 16, 3)(torch.zeros(5, 2)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        in_features: int,
        hidden: int,
        out_features: int,
        *,
        n_hidden: int = 2,
        w0: float = 10.0,
        out_scale: float | None = None,
    ):
        super().__init__()
        check_counts(in_features=in_features, hidden=hidden, out_features=out_features)
        check_count(n_hidden, "n_hidden", 0)
        sizes = [in_features, *[hidden] * (n_hidden + 1), out_features]
        self.layers = nn.ModuleList(
            nn.Linear(a, b) for a, b in itertools.pairwise(sizes)
        )
        self.w0 = check_positive(w0, "w0")
        self.out_scale = math.sqrt(6 / hidden) / w0 if out_scale is None else out_scale
        self.reset_parameters()

    def _linear_layers(self) -> list[nn.Linear]:
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def reset_parameters(self) -> None:
        """Draw the weights anew: uniform, bounds as in the reference, biases zero."""
        *hidden, last = self._linear_layers()
        for i, layer in enumerate(hidden):
            d = layer.in_features
            bound = 1 / d if i == 0 else math.sqrt(6 / d) / self.w0
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.zeros_(layer.bias)
        nn.init.uniform_(last.weight, -self.out_scale, self.out_scale)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        *hidden, last = self._linear_layers()
        for layer in hidden:
            x = torch.sin(self.w0 * layer(x))
        return last(x)

    def extra_repr(self) -> str:
        """Return the frequency."""
        return f"w0={self.w0:g}"
