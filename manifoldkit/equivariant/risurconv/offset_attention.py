"""Offset attention among the points of a neighborhood, or among centers."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manifoldkit._checks import check_choice
from manifoldkit.equivariant.batch_norms import channel_norm

_EPS = 1e-9
ROWS = 1024  # tokens from which on the attention matrix is made in blocks of rows


class OffsetAttention(nn.Module):
    r"""Self-attention whose output is the offset from the attended value.

    With tokens :math:`h`, :math:`P = \operatorname{softmax}(h W_q (h W_k)^\top)` over
    keys, its columns then divided by their sums over queries,

    .. math:: r = P^\top (h W_v + b_v), \qquad
       h' = h + \operatorname{ReLU}(\operatorname{BN}((h - r) W_t + b_t)).

    It is evaluated as :math:`h W_t - (P^\top h)(W_v W_t)`, whose products are added
    where they are made.

    Parameters
    ----------
    channels : int
        Size of the tokens; queries and keys have a quarter of it.
    norm_axis : {"neighbors", "points"}
        "points" divides by sums over the second axis in front of the last two instead,
        as the released weights were trained; it mixes neighborhoods.
    """

    def __init__(self, channels: int, norm_axis: str = "neighbors"):
        super().__init__()
        check_choice(norm_axis, ("neighbors", "points"), "norm_axis")
        self.norm_axis = norm_axis
        self.query = nn.Linear(channels, channels // 4, bias=False)
        self.key = nn.Linear(channels, channels // 4, bias=False)
        self.value = nn.Linear(channels, channels)
        self.transform = nn.Linear(channels, channels)
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, h: Tensor) -> Tensor:
        """Refine tokens (..., n, channels)."""
        joint = torch.cat([self.query.weight, self.key.weight])
        query, key = F.linear(h, joint).chunk(2, -1)
        mixed, total = self._attend(query, key, h)
        w_t, channels = self.transform.weight, h.shape[-1]
        # rows first: adding in place to a view costs copies in the backward pass
        out = h.reshape(-1, channels) @ w_t.T
        offsets = torch.stack([-(w_t @ self.value.bias), self.transform.bias])
        terms = (
            (mixed.reshape(-1, channels), -(w_t @ self.value.weight).T),
            (F.pad(total.reshape(-1, 1), (0, 1), value=1.0), offsets),
        )
        for tokens, weight in terms:  # dtypes differ only under autocast
            out.addmm_(tokens.to(out.dtype), weight.to(out.dtype))
        return h + F.relu_(channel_norm(self.norm, out)).view(h.shape)

    def _attend(self, query: Tensor, key: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Columns' weighted means of the tokens, and the columns' sums after that."""
        if self.norm_axis == "points" and h.ndim > 3:
            p = (query @ key.mT).softmax(-1)
            p = p / (_EPS + p.sum(-3, keepdim=True))
            return p.mT @ h, p.sum(-2)[..., None]
        n, channels = h.shape[-2:]
        rows = max(1, ROWS * ROWS // n)
        if rows >= n:
            p = (query @ key.mT).softmax(-1)
            total = p.sum(-2, keepdim=True)
            scale = _EPS + total
            # divide whichever is smaller
            mixed = (p / scale).mT @ h if n < channels else (p.mT @ h) / scale.mT
            return mixed, (total / scale).mT
        mixed = torch.zeros_like(h)
        total = torch.zeros_like(h[..., :1])
        for q, tokens in zip(query.split(rows, -2), h.split(rows, -2), strict=True):
            p = (q @ key.mT).softmax(-1)
            mixed = mixed + p.mT @ tokens
            total = total + p.sum(-2)[..., None]
        scale = _EPS + total
        return mixed / scale, total / scale
