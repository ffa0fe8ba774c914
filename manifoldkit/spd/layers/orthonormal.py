"""The numbers of layers: their dtype, their draws, and orthonormal columns."""

import torch
from torch import Tensor, nn

#: Largest entry of |W'W - I| of weights that an optimizer keeps on the manifold; the
#: landing method, which only stays near it, keeps the norm of W'W - I below 0.5.
_NEAR = 0.6
#: Training calls from one look at the weights to the next.
_EVERY = 8


def check_weight(weight: Tensor) -> torch.dtype:
    """Return the dtype of a layer's own numbers, float32 or float64, else raise."""
    if weight.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            "weight: expected parameters in float32 or float64 (inputs may have half "
            f"precision, points of a manifold not), found {weight.dtype}"
        )
    return weight.dtype


def redraw(
    layer: nn.Linear | nn.Conv1d, generator: torch.Generator | None = None
) -> None:
    """Draw new weights of a flat layer as torch does, from a generator."""
    if generator is None:
        layer.reset_parameters()
        return
    nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=generator)
    if layer.bias is not None:
        bound = layer.weight[0].numel() ** -0.5
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)


class Reflections(nn.Module):
    r"""Orthonormal columns as a product of Householder reflections.

    :math:`W = \prod_i (I - 2 v_i v_i' / \lVert v_i\rVert^2)\, E`, where :math:`v_i` has
    zeros above a one at i and free numbers below it: orthonormal to rounding whatever
    the numbers are, without a singular place, and at the first columns of I (up to
    signs) where they have decayed to zero.

    Parameters
    ----------
    value : Tensor, shape (..., n, m)
        Orthonormal columns to begin with.
    """

    signs: Tensor

    def __init__(self, value: Tensor):
        super().__init__()
        self.raw = nn.Parameter(torch.empty_like(value))
        self.register_buffer("signs", torch.ones_like(value[..., :1, :]))
        self.assign(value)

    @torch.no_grad()
    def assign(self, value: Tensor) -> None:
        """Take orthonormal columns."""
        triangle, tau = torch.geqrf(value)
        self.raw.copy_(triangle.tril(-1))
        signs = triangle.diagonal(dim1=-2, dim2=-1).sign()
        # the last reflection of a square matrix has no numbers, and is none
        self.signs.copy_(torch.where(tau == 0, -signs, signs)[..., None, :])

    def forward(self) -> Tensor:
        """Orthonormal columns, shape (..., n, m)."""
        free = self.raw.tril(-1)
        tau = 2 / (1 + free.square().sum(-2))
        return torch.linalg.householder_product(free, tau) * self.signs


def due_for_a_look(calls: int) -> bool:
    """Whether the weights are looked at in a training call.

    >>> [k for k in range(20) if due_for_a_look(k)]
    [7, 15]
    """
    return calls % _EVERY == _EVERY - 1


def distance_to_orthonormal(weight: Tensor) -> float | None:
    """Largest entry of |W'W - I|, None where it is that of an optimizer that knows.

    >>> distance_to_orthonormal(torch.eye(3)), distance_to_orthonormal(2 * torch.eye(3))
    (None, 3.0)
    """
    with torch.no_grad():
        gram = weight.mT @ weight
        gram.diagonal(dim1=-2, dim2=-1).sub_(1)
        far = float(gram.abs().amax())
    return None if far <= _NEAR else far
