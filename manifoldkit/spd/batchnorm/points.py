"""Constrained values computed from unconstrained parameters."""

import torch
from torch import Tensor, nn


class FreePoint(nn.Module):
    """A constrained value computed from an unconstrained parameter."""

    def __init__(self, value: Tensor):
        super().__init__()
        self.raw = nn.Parameter(torch.empty_like(value))
        self.assign(value)

    def assign(self, value: Tensor) -> None:
        """Take a value that satisfies the constraint."""
        raise NotImplementedError


class CholeskyPoint(FreePoint):
    """SPD matrices L L' by an unconstrained L: softplus on its diagonal."""

    @torch.no_grad()
    def assign(self, value: Tensor) -> None:
        """Take the value of SPD matrices."""
        lower = torch.linalg.cholesky(value)
        diagonal = lower.diagonal(dim1=-2, dim2=-1)
        self.raw.copy_(lower.tril(-1) + torch.diag_embed(_inverse_softplus(diagonal)))

    def forward(self) -> Tensor:
        """SPD matrices."""
        diagonal = nn.functional.softplus(self.raw.diagonal(dim1=-2, dim2=-1))
        lower = self.raw.tril(-1) + torch.diag_embed(diagonal)
        return lower @ lower.mT


class SoftplusPoint(FreePoint):
    """Positive numbers by an unconstrained one."""

    @torch.no_grad()
    def assign(self, value: Tensor) -> None:
        """Take positive values."""
        self.raw.copy_(_inverse_softplus(value))

    def forward(self) -> Tensor:
        """Positive numbers."""
        return nn.functional.softplus(self.raw)


def _inverse_softplus(x: Tensor) -> Tensor:
    return x + torch.log(-torch.expm1(-x))
