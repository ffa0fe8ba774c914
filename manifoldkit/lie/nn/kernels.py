"""Kernels of group convolutions: where they are evaluated, and by which network."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from manifoldkit._checks import check_counts
from manifoldkit.lie.nn.siren import Siren

#: ``(in_features, out_features, out_scale)`` to a module on ``(..., in_features)``.
KernelFactory = Callable[[int, int, float], nn.Module]

WINDOWS = ("hard", "smooth", "none")


def kernel_grid(
    size: int,
    n: int = 2,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return the places of a kernel's pixels, shape ``(size ** n, n)``.

    Coordinates lie at ``(2 j + 1) / size - 1`` in each direction; the first coordinate
    runs along the last axis of an image (x along columns, y down the rows).

    Examples
    --------
    >>> kernel_grid(2)
    tensor([[-0.5000, -0.5000],
            [ 0.5000, -0.5000],
            [-0.5000,  0.5000],
            [ 0.5000,  0.5000]])
    """
    odd = torch.arange(1 - size, size, 2, device=device)  # symmetric to the last bit
    line = odd.to(dtype or torch.get_default_dtype()) / size
    axes = torch.meshgrid(*[line] * n, indexing="ij")
    return torch.stack(axes[::-1], -1).reshape(-1, n)


def window_values(points: Tensor, window: str) -> Tensor:
    """Weigh kernel values by the length of their *spatial* coordinates only.

    Parameters
    ----------
    points : Tensor, shape (..., n)
    window : str
        "hard" cuts at length 1, "smooth" is ``sigmoid(2 (1 - length))``, "none" is 1.

    Returns
    -------
    Tensor, shape (...)

    Examples
    --------
    >>> window_values(torch.tensor([[0.6, 0.8], [3.0, 4.0]]), "hard")
    tensor([1., 0.])
    """
    if window == "none":
        return torch.ones_like(points[..., 0])
    length = torch.linalg.vector_norm(points, dim=-1)
    if window == "hard":
        # a rotated corner may come out at 1 + rounding: it is in for all, or for none
        slack = 16 * torch.finfo(points.dtype).eps
        return (length <= 1 + slack).to(points.dtype)
    return torch.sigmoid(2 * (1 - length))


class FourierKernel(nn.Module):
    r"""Multilayer perceptron on random Fourier features of its input.

    The features are :math:`\cos(B z), \sin(B z)` with a fixed Gaussian matrix
    :math:`B` of standard deviation ``frequency``.

    Parameters
    ----------
    in_features, hidden, out_features : int
        Sizes; ``hidden`` is even.
    frequency : float, default=2.0
        The larger, the finer the functions.
    out_scale : float, optional
        Bound of the last layer's first weights.

    Raises
    ------
    ValueError
        Sizes that are not positive integers, or an odd ``hidden``.

    References
    ----------
    .. [1] Tancik et al., "Fourier features let networks learn high frequency functions
           in low dimensional domains", NeurIPS 2020.

    Examples
    --------
    >>> import torch
    >>> FourierKernel(6, 32, 4)(torch.zeros(5, 6)).shape
    torch.Size([5, 4])
    """

    directions: Tensor

    def __init__(
        self,
        in_features: int,
        hidden: int,
        out_features: int,
        *,
        frequency: float = 2.0,
        out_scale: float | None = None,
    ):
        super().__init__()
        check_counts(in_features=in_features, hidden=hidden, out_features=out_features)
        if hidden % 2:
            raise ValueError(f"hidden: expected an even number, found {hidden}")
        self.frequency = frequency
        self.out_scale = math.sqrt(6 / hidden) if out_scale is None else out_scale
        self.register_buffer("directions", torch.empty(in_features, hidden // 2))
        self.middle = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, out_features)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw directions and weights anew."""
        nn.init.normal_(self.directions, std=self.frequency)
        self.middle.reset_parameters()
        nn.init.uniform_(self.last.weight, -self.out_scale, self.out_scale)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        angle = x @ self.directions
        z = torch.cat([angle.cos(), angle.sin()], -1)
        return self.last(nn.functional.gelu(self.middle(z)))


class GaussianKernel(nn.Module):
    r"""Sum of Gaussian bumps with learned centers: a local basis on the coordinates.

    .. math:: k(z) = W \, \phi(z) + b, \quad
              \phi_j(z) = \exp(-|z - c_j|^2 / (2 \sigma^2)).

    Parameters
    ----------
    in_features, hidden, out_features : int
        Sizes; ``hidden`` is the number of bumps.
    width : float, default=0.5
        :math:`\sigma`, in units of the coordinates.
    out_scale : float, optional
        Bound of the first weights.

    Raises
    ------
    ValueError
        Sizes that are not positive integers.

    Examples
    --------
    >>> import torch
    >>> GaussianKernel(6, 32, 4)(torch.zeros(5, 6)).shape
    torch.Size([5, 4])
    """

    def __init__(
        self,
        in_features: int,
        hidden: int,
        out_features: int,
        *,
        width: float = 0.5,
        out_scale: float | None = None,
    ):
        super().__init__()
        check_counts(in_features=in_features, hidden=hidden, out_features=out_features)
        self.width = width
        self.out_scale = math.sqrt(6 / hidden) if out_scale is None else out_scale
        self.centers = nn.Parameter(torch.empty(hidden, in_features))
        self.last = nn.Linear(hidden, out_features)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw centers in ``[-1, 1]`` and weights anew."""
        nn.init.uniform_(self.centers, -1, 1)
        nn.init.uniform_(self.last.weight, -self.out_scale, self.out_scale)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        square = (x[..., None, :] - self.centers).square().sum(-1)
        return self.last(torch.exp(-square / (2 * self.width**2)))


def kernel_network(
    kernel: str | KernelFactory,
    in_features: int,
    out_features: int,
    fan_in: float,
    hidden: int,
    n_hidden: int,
    w0: float,
) -> nn.Module:
    """Build the network of a kernel whose values are summed over ``fan_in`` terms."""
    scale = math.sqrt(6 / hidden) / math.sqrt(fan_in)
    if callable(kernel):
        return kernel(in_features, out_features, scale)
    sizes = in_features, hidden, out_features
    if kernel == "siren":
        return Siren(*sizes, n_hidden=n_hidden, w0=w0, out_scale=scale)
    if kernel in ("fourier", "gaussian"):
        network = FourierKernel if kernel == "fourier" else GaussianKernel
        return network(*sizes, out_scale=scale)
    raise ValueError(
        "kernel: expected 'siren', 'fourier', 'gaussian' or a function "
        f"(in_features, out_features, out_scale) -> module, found {kernel!r}"
    )
