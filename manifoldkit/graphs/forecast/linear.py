"""One linear map over time, shared by all sensors: the simplest backbone."""

from torch import Tensor, nn


class SharedLinear(nn.Module):
    """Map each sensor's history to its horizon by one linear map; no graph.

    Parameters
    ----------
    history, horizon : int
        Steps in and out.

    Examples
    --------
    >>> import torch
    >>> SharedLinear(12, 4)(torch.randn(2, 12, 5, 3)).shape
    torch.Size([2, 4, 5])
    """

    def __init__(self, history: int, horizon: int):
        super().__init__()
        self.head = nn.Linear(history, horizon)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (B, history, N, C), the value first, to (B, horizon, N)."""
        return self.head(x[..., 0].transpose(1, 2)).transpose(1, 2)
