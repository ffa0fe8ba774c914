"""Low-rank adapters of linear layers with factors on a manifold, for fine-tuning."""

import math
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manifoldkit._checks import (
    check_choice,
    check_count,
    check_interval,
    check_positive,
)
from manifoldkit.linalg.checks import compute_dtype
from manifoldkit.linalg.frechet import full_precision
from manifoldkit.manifolds.parametrizations.charts import exp_diagonal, orthonormal

_MANIFOLDS = ("stiefel", "fixed_rank", None)


class AdapterFactors(NamedTuple):
    """The factors of an update ``u s v'``.

    Attributes
    ----------
    u : Tensor, shape (out_features, r)
    s : Tensor, shape (r, r)
    v : Tensor, shape (in_features, r)
    """

    u: Tensor
    s: Tensor
    v: Tensor


class LoRALinear(nn.Module):
    r"""Frozen linear layer with a trained update of low rank, on a manifold or free.

    .. math:: y = W x + b + \frac{\alpha}{r} (\Delta - \Delta_0)\, x, \qquad
       \Delta = U S V'

    ``manifold=None`` is plain LoRA [1]_: :math:`\Delta = BA`, B zero at first.
    ``"stiefel"``: U and V have orthonormal columns, S is any (r, r) matrix, the three
    factors of StelLA [2]_. ``"fixed_rank"``: :math:`\Delta` has rank r exactly, S is a
    triangle with positive diagonal; on this manifold [3]_ optimizes. On both the start
    :math:`\Delta_0 = UV'` is random and subtracted, so that all factors learn from the
    first step. U and V are polar factors of free matrices, as in :func:`parametrize`,
    so that any optimizer of torch trains them and weight decay does not bend them.

    Parameters
    ----------
    in_features, out_features : int
        Sizes of the layer.
    r : int, default=8
        Rank of the update, at most both sizes.
    alpha : float, default=16
        The update is scaled by ``alpha / r``.
    manifold : {"stiefel", "fixed_rank"}, optional
        Where the update lives.
    dropout : float, default=0
        Share of the inputs of the update that are dropped in training.
    bias : bool, default=True
        Whether the frozen layer has a bias.
    device, dtype
        Of all weights.

    Raises
    ------
    TypeError, ValueError
        An option outside its range.

    Notes
    -----
    ``weight`` and ``bias`` are frozen and never change, so :meth:`unmerge` restores the
    pretrained layer to the bit. Entries of U have size :math:`1 / \sqrt n`: at equal
    rates Adam turns U and V faster than it turns plain factors.

    References
    ----------
    .. [1] E. Hu et al., "LoRA: Low-rank adaptation of large language models", ICLR
       2022.
    .. [2] Z. Li, S. Sajadmanesh, J. Li, L. Lyu, "StelLA: Subspace learning in low-rank
       adaptation using Stiefel manifold", NeurIPS 2025, arXiv 2510.01938.
    .. [3] V. Bogachev et al., "LoRA meets Riemannion: Muon optimizer for
       parametrization-independent low-rank adapters", arXiv 2507.12142.

    Examples
    --------
    >>> layer = torch.nn.Linear(20, 10)
    >>> adapted = LoRALinear.from_linear(layer, r=4, manifold="stiefel")
    >>> x = torch.ones(3, 20)
    >>> torch.allclose(adapted(x), layer(x), atol=1e-6)
    True
    >>> sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    136
    """

    bias: nn.Parameter | None
    middle: nn.Parameter | None
    start: Tensor | None
    merged: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        r: int = 8,
        alpha: float = 16.0,
        manifold: str | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.in_features = check_count(in_features, "in_features")
        self.out_features = check_count(out_features, "out_features")
        self.r = check_count(r, "r")
        if r > min(in_features, out_features):
            raise ValueError(
                f"r: expected at most {min(in_features, out_features)}, the smaller "
                f"size of the layer, found {r}"
            )
        self.alpha = check_positive(alpha, "alpha")
        self.manifold = check_choice(manifold, _MANIFOLDS, "manifold")
        self.dropout = check_interval(dropout, "dropout", 0, 1, "[)")
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        frozen = nn.Linear(in_features, out_features, bias, **place)
        self.weight, self.bias = frozen.weight.requires_grad_(False), frozen.bias
        if self.bias is not None:
            self.bias.requires_grad_(False)
        self.left = nn.Parameter(torch.empty(out_features, r, **place))
        self.right = nn.Parameter(torch.empty(in_features, r, **place))
        middle = nn.Parameter(torch.empty(r, r, **place)) if manifold else None
        self.register_parameter("middle", middle)
        start = torch.empty(out_features + in_features, r, **place)
        self.register_buffer("start", start if manifold else None)
        self.register_buffer("merged", None, persistent=False)
        self.reset_parameters()

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        r: int = 8,
        alpha: float = 16.0,
        manifold: str | None = None,
        dropout: float = 0.0,
    ) -> Self:
        """Adapt a given layer; weight and bias are shared with it, not copied.

        Raises
        ------
        TypeError
            Not an ``nn.Linear``.

        Examples
        --------
        >>> LoRALinear.from_linear(torch.nn.Linear(4, 3), r=2)
        LoRALinear(in_features=4, out_features=3, r=2, alpha=16.0, manifold=None)
        """
        if not isinstance(linear, nn.Linear):
            raise TypeError(f"linear: expected an nn.Linear, found {linear!r}"[:200])
        weight, bias = linear.weight.detach(), linear.bias
        made = cls(
            linear.in_features,
            linear.out_features,
            *(r, alpha, manifold, dropout, bias is not None),
            device=weight.device,
            dtype=weight.dtype,
        )
        made.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            made.bias = nn.Parameter(bias.detach(), requires_grad=False)
        return made

    def reset_parameters(self) -> None:
        """Start the update again, at zero."""
        with torch.no_grad():
            if self.middle is None or self.start is None:
                nn.init.zeros_(self.left)
                nn.init.normal_(self.right, std=1 / math.sqrt(self.in_features))
            else:
                for factor in (self.left, self.right):
                    wide = factor.to(compute_dtype(factor.dtype)).normal_()
                    factor.copy_(orthonormal(wide))
                stiefel = self.manifold == "stiefel"
                (nn.init.eye_ if stiefel else nn.init.zeros_)(self.middle)  # S = I
                self.start.copy_(torch.cat([self.left, self.right]))
        self.unmerge()

    def factors(self) -> AdapterFactors:
        """Return U, S and V of the update; for plain LoRA S is the identity."""
        left, right, middle, dtype = self.left, self.right, self.middle, self.left.dtype
        if middle is None:
            eye = torch.eye(self.r, dtype=dtype, device=left.device)
            return AdapterFactors(left, eye, right)
        wide = compute_dtype(dtype)
        with full_precision(left):
            s = middle if self.manifold == "stiefel" else exp_diagonal(middle)
            u, v = (orthonormal(z.to(wide)) for z in (left, right))
        return AdapterFactors(u.to(dtype), s, v.to(dtype))

    def _start(self) -> tuple[Tensor, Tensor] | None:
        """Factors of the start, where the middle one is the identity."""
        if self.start is None:
            return None
        u, v = self.start.split((self.out_features, self.in_features))
        return u, v

    def delta(self) -> Tensor:
        """Return the update of the weight, ``alpha / r`` times the change of USV'."""
        u, s, v = self.factors()
        out = u @ s @ v.mT
        start = self._start()
        if start is not None:
            out = out - start[0] @ start[1].mT
        return self.alpha / self.r * out

    def forward(self, x: Tensor) -> Tensor:
        """Return the adapted layer's output, shape (..., out_features)."""
        if self.merged is not None:
            return F.linear(x, self.merged, self.bias)
        y = F.linear(x, self.weight, self.bias)
        z = F.dropout(x, self.dropout, self.training)
        u, s, v = self.factors()
        update = F.linear(F.linear(F.linear(z, v.mT), s), u)
        start = self._start()
        if start is not None:
            update = update - F.linear(F.linear(z, start[1].mT), start[0])
        return y + self.alpha / self.r * update

    # ------------------------------------------------------------ merging

    @torch.no_grad()
    def merge(self) -> Self:
        """Compute one weight for inference, until :meth:`unmerge` or ``train()``."""
        self.eval()
        self.merged = self.weight + self.delta()
        return self

    def unmerge(self) -> Self:
        """Return to frozen weight and update."""
        self.merged = None
        return self

    def train(self, mode: bool = True) -> Self:
        """Set the mode; training needs the update, so it unmerges."""
        if mode:
            self.unmerge()
        return super().train(mode)

    def _load_from_state_dict(self, *arguments, **named):
        self.unmerge()  # the merged weight is of the old values
        super()._load_from_state_dict(*arguments, **named)

    @torch.no_grad()
    def to_linear(self) -> nn.Linear:
        """Return a plain layer with the update in its weight."""
        out = nn.utils.skip_init(
            nn.Linear,
            self.in_features,
            self.out_features,
            bias=self.bias is not None,
            device=self.weight.device,
            dtype=self.weight.dtype,
        )
        out.weight.copy_(self.weight + self.delta())
        if self.bias is not None:
            out.bias.copy_(self.bias)
        return out

    def extra_repr(self) -> str:
        """Sizes and options."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"r={self.r}, alpha={self.alpha}, manifold={self.manifold!r}"
        )
