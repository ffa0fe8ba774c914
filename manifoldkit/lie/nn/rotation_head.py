"""A layer that ends a network in a rotation."""

import torch
from torch import Tensor, nn

from manifoldkit.lie import rotation


class RotationHead(nn.Module):
    """Linear layer followed by a rotation representation.

    Parameters
    ----------
    in_features : int
        Features of the input.
    rep : str, default="sixd"
        See :func:`manifoldkit.lie.rotation.dim`. The continuous ones ("sixd", "svd",
        "stereo") learn best.
    n : int, default=3
        Size of the rotations.
    device, dtype
        Where and in which precision the parameters are kept.

    Raises
    ------
    ValueError
        An unknown representation, or none for this n.

    Examples
    --------
    >>> head = RotationHead(16, "svd")
    >>> head(torch.randn(5, 16)).shape
    torch.Size([5, 3, 3])
    """

    def __init__(
        self,
        in_features: int,
        rep: str = "sixd",
        n: int = 3,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.in_features, self.rep, self.n = in_features, rep, n
        size = rotation.dim(rep, n)
        self.linear = nn.Linear(in_features, size, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small weights around the code of the identity."""
        nn.init.xavier_uniform_(self.linear.weight, gain=0.1)
        with torch.no_grad():
            bias = self.linear.bias
            eye = torch.eye(self.n, dtype=bias.dtype, device=bias.device)
            bias.copy_(rotation.encode(eye, self.rep))

    def forward(self, x: Tensor) -> Tensor:
        """Return rotations (..., n, n) of features (..., in_features)."""
        code = self.linear(x)
        with torch.autocast(x.device.type, enabled=False):
            return rotation.decode(code, self.rep, self.n)

    def extra_repr(self) -> str:
        """Show the representation."""
        return f"{self.in_features}, rep={self.rep!r}, n={self.n}"
