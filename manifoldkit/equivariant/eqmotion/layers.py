"""The blocks of EqMotion: interaction reasoning, equivariant layers, modal heads.

Every first linear map of a concatenation [h_i, h_j, d_ij] is factored into
A h_i + B h_j + C d_ij, so that only the last term is computed for pairs; maps of the
same input are stacked into one product.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manifoldkit.equivariant.eqmotion.pairs import Pairs


def mlp(n_in: int, n_hidden: int, n_out: int, **factory: Any) -> nn.Sequential:
    """Linear, SiLU, linear; the caller adds the last activation."""
    return nn.Sequential(
        nn.Linear(n_in, n_hidden, **factory),
        nn.SiLU(),
        nn.Linear(n_hidden, n_out, **factory),
    )


def masked_mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over agents and channels of (..., B, N, C), kept as (..., B, 1, 1)."""
    if mask is None:
        return x.mean((-2, -1), keepdim=True)
    weight = mask[..., None].to(x.dtype)
    count = weight.sum((-2, -1), keepdim=True).clamp_min(1) * x.shape[-1]
    return (x * weight).sum((-2, -1), keepdim=True) / count


def rectify(q: Tensor, k: Tensor, dim: int, eps: float = 1e-4) -> Tensor:
    """Remove from vectors q their part against k: q - min(<q, k>, 0) k / (|k|^2 + eps).

    The equivariant non-linearity of vector neurons: q stays where it agrees with k.
    """
    against = (q * k).sum(dim, keepdim=True).clamp_max(0)
    return q - against / ((k * k).sum(dim, keepdim=True) + eps) * k


def _stacked(*shape: int, fan_in: int, **factory: Any) -> nn.Parameter:
    """A parameter with PyTorch's default initialization of linear layers."""
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(*shape, **factory).uniform_(-bound, bound))


class _SiLULinear(torch.autograd.Function):
    """Linear map of silu(x) that keeps x alone and computes silu(x) again backward."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(F.silu(x), weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.save_for_forward(*inputs[:2])

    @staticmethod
    def jvp(
        ctx: Any, of_x: Tensor | None, of_weight: Tensor | None, of_bias: Tensor | None
    ) -> Tensor:
        x, weight = ctx.saved_tensors
        change = x.new_zeros(*x.shape[:-1], len(weight))
        if of_x is not None:
            change = change + F.linear(_silu_backward(of_x, x), weight)
        if of_weight is not None:
            change = change + F.linear(F.silu(x), of_weight)
        return change if of_bias is None else change + of_bias

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        of_weight = rows.T @ F.silu(x).flatten(0, -2)
        return _silu_backward(grad @ weight, x), of_weight, rows.sum(0)


def _silu_backward(grad: Tensor, x: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return torch.ops.aten.silu_backward(grad, x)  # one pass, but not derivable
    s = torch.sigmoid(x)
    return grad * (s * (1 + x * (1 - s)))


def silu_linear(x: Tensor, linear: nn.Module) -> Tensor:
    """``linear(silu(x))`` with less memory: features of pairs are what fills it."""
    return _SiLULinear.apply(x, linear.weight, linear.bias)


class _SharedSiLU(torch.autograd.Function):
    """share * silu(x) that keeps x alone: one tensor of pairs less an expert."""

    generate_vmap_rule = True

    @staticmethod
    def forward(share: Tensor, x: Tensor) -> Tensor:
        return F.silu(x).mul_(share)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx: Any, of_share: Tensor | None, of_x: Tensor | None) -> Tensor:
        share, x = ctx.saved_tensors
        change = torch.zeros_like(x)
        if of_share is not None:
            change = change + of_share * F.silu(x)
        return change if of_x is None else change + share * _silu_backward(of_x, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        share, x = ctx.saved_tensors
        of_share = None
        if ctx.needs_input_grad[0]:
            of_share = (grad * F.silu(x)).sum(-1, keepdim=True)
        return of_share, _silu_backward(grad * share, x)


class PairLinear(nn.Linear):
    """Linear map of [h_i, h_j, d_ij] for all pairs, in factored form.

    Its weight is that of the plain map, ``n_out`` by ``2 hidden + n_pair``.
    """

    def __init__(self, hidden: int, n_pair: int, n_out: int, **factory: Any):
        super().__init__(2 * hidden + n_pair, n_out, **factory)
        self.hidden = hidden

    def split(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights of h_i, h_j and d_ij."""
        n = self.hidden
        weight = self.weight
        return weight[:, :n], weight[:, n : 2 * n], weight[:, 2 * n :]

    def forward(  # type: ignore[override]
        self, h: Tensor, pair: Tensor, pairs: Pairs
    ) -> Tensor:
        """Features (B, N, H) and pair features to pair features."""
        receiver, sender, feature = self.split()
        return pairs.spread(
            F.linear(h, receiver, self.bias),
            F.linear(h, sender),
            F.linear(pair, feature),
        )


class InteractionReasoning(nn.Module):
    """Infer the category of each pair from invariant features (step 7 of the method).

    Parameters
    ----------
    hidden, channels, n_categories : int
        H, C and K.
    activation : bool
        SiLU on the logits, as the authors have it (logits are then above -0.28).
    """

    def __init__(
        self,
        hidden: int,
        channels: int,
        n_categories: int,
        activation: bool = True,
        **factory: Any,
    ):
        super().__init__()
        self.activation = activation
        self.distance = mlp(2 * channels, hidden, 2 * channels, **factory)
        self.edge = PairLinear(hidden, 2 * channels, hidden, **factory)
        self.edge_out = nn.Linear(hidden, hidden, **factory)
        self.node = mlp(2 * hidden, hidden, hidden, **factory)
        self.logit = PairLinear(hidden, 2 * channels, hidden, **factory)
        self.logit_out = nn.Linear(hidden, n_categories, **factory)

    def forward(self, h: Tensor, features: Tensor, pairs: Pairs) -> Tensor:
        """Return logits of pairs from h (B, N, H) and features (D, B, N, 2C)."""
        relation = F.silu(self.distance(pairs.distance(features)))
        edge = F.silu(silu_linear(self.edge(h, relation, pairs), self.edge_out))
        node = torch.cat([h, pairs.sum(edge)], -1)
        node = F.silu(self.node(node))
        logits = silu_linear(self.logit(node, relation, pairs), self.logit_out)
        return F.silu(logits) if self.activation else logits


class InteractionLayer(nn.Module):
    """One layer: geometric features G and pattern features h (step 8).

    Parameters
    ----------
    hidden, channels : int
        H and C.
    n_active : int
        Number of categories with an expert.
    update_pattern : bool
        Compute messages and the new h; the last layer does not need them.
    """

    def __init__(
        self,
        hidden: int,
        channels: int,
        n_active: int,
        update_pattern: bool = True,
        **factory: Any,
    ):
        super().__init__()
        self.hidden, self.channels = hidden, channels
        self.n_active, self.update_pattern = n_active, update_pattern
        blocks = n_active + update_pattern
        self.attention = nn.Linear(hidden, channels, **factory)
        # the rows: experts 0 .. n_active - 1, then the message
        self.pair = PairLinear(hidden, channels, blocks * hidden, **factory)
        self.experts = nn.ModuleList(
            nn.Linear(hidden, channels, **factory) for _ in range(n_active)
        )
        self.factor = mlp(channels, channels, channels, **factory)
        self.velocity = nn.Linear(channels, channels, bias=False, **factory)
        # the rows: Q, then K
        self.rectifier = nn.Linear(channels, 2 * channels, bias=False, **factory)
        if update_pattern:
            self.message = nn.Linear(hidden, hidden, **factory)
            self.node = mlp(2 * hidden, hidden, hidden, **factory)

    def forward(
        self,
        h: Tensor,
        x: Tensor,
        velocity: Tensor,
        category: Tensor,
        pairs: Pairs,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Return new h (B, N, H) and G (D, B, N, C)."""
        mean = masked_mean(x, mask)
        new = x + F.silu(self.attention(h)) * (x - mean) + self.velocity(velocity)
        message = h.new_zeros(h.shape)
        if not pairs.empty:
            first = self.pair(h, pairs.distance(x), pairs)
            parts = first.split(self.hidden, -1)
            mixture = _SharedSiLU.apply(
                category[..., :1], silu_linear(parts[0], self.experts[0])
            )
            for k in range(1, self.n_active):
                expert = silu_linear(parts[k], self.experts[k])
                mixture = mixture + _SharedSiLU.apply(category[..., k : k + 1], expert)
            weight = silu_linear(self.factor[0](mixture), self.factor[2])
            new = new + pairs.pull(F.silu(weight), x)
            if self.update_pattern:
                message = pairs.sum(F.silu(silu_linear(parts[-1], self.message)))
        mean = masked_mean(new, mask)
        q, k = self.rectifier(new - mean).split(self.channels, -1)
        new = rectify(q, k, dim=0) + mean
        if self.update_pattern:
            h = h + self.node(torch.cat([h, message], -1))
        return h, new


class ModalHeads(nn.Module):
    """Parallel last layers with an output map each: one forecast a mode.

    All modes see the same h, G and distances, so their maps are stacked along a first
    axis and applied together; there are no messages, since nothing follows.
    """

    def __init__(
        self,
        n_modes: int,
        hidden: int,
        channels: int,
        n_active: int,
        n_out: int,
        **factory: Any,
    ):
        super().__init__()
        m, e, h, c = n_modes, n_modes * n_active, hidden, channels
        self.n_modes, self.n_active, self.hidden = n_modes, n_active, hidden
        self.channels, self.n_out = channels, n_out

        def make(*shape: int, fan_in: int) -> nn.Parameter:
            return _stacked(*shape, fan_in=fan_in, **factory)

        self.attention = make(m, h, c, fan_in=h)
        self.attention_bias = make(m, 1, c, fan_in=h)
        self.pair = make(e, 2 * h + c, h, fan_in=2 * h + c)
        self.pair_bias = make(e, 1, h, fan_in=2 * h + c)
        self.expert = make(e, h, c, fan_in=h)
        self.expert_bias = make(e, 1, c, fan_in=h)
        self.factor = make(m, c, c, fan_in=c)
        self.factor_bias = make(m, 1, c, fan_in=c)
        self.factor_out = make(m, c, c, fan_in=c)
        self.factor_out_bias = make(m, 1, c, fan_in=c)
        self.velocity = make(m, c, c, fan_in=c)
        self.rectifier = make(m, c, 2 * c, fan_in=c)
        self.out = make(m, c, n_out, fan_in=c)

    def reset_parameters(self) -> None:
        """Draw all maps anew, as PyTorch draws those of linear layers."""
        fan_in = {
            "attention": self.hidden,
            "pair": 2 * self.hidden + self.channels,
            "expert": self.hidden,
        }
        with torch.no_grad():
            for name, value in self.named_parameters():
                fan = fan_in.get(name.removesuffix("_bias"), self.channels)
                value.uniform_(-1 / math.sqrt(fan), 1 / math.sqrt(fan))

    def forward(
        self,
        h: Tensor,
        x: Tensor,
        velocity: Tensor,
        category: Tensor,
        pairs: Pairs,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Return outputs (M, D, B, N, T_out) and G (M, D, B, N, C)."""
        rows = h.flatten(0, -2)
        mean = masked_mean(x, mask)
        gain = F.silu(_stack(rows, self.attention, self.attention_bias))
        gain = gain.view(self.n_modes, 1, *h.shape[:-1], self.channels)
        injected = _stack(velocity.flatten(0, -2), self.velocity)
        new = x + gain * (x - mean) + injected.view(self.n_modes, *x.shape)
        if not pairs.empty:
            weight = self._edge_weights(h, pairs.distance(x), category, pairs)
            new = new + pairs.pull(weight, x)
        mean = masked_mean(new, mask)
        rotated = torch.bmm((new - mean).flatten(1, -2), self.rectifier)
        rotated = rotated.view(*new.shape[:-1], 2 * self.channels)
        q, k = rotated.split(self.channels, -1)
        centered = rectify(q, k, dim=1)
        new = centered + mean
        mean = masked_mean(new, mask)
        y = torch.bmm((new - mean).flatten(1, -2), self.out)
        return y.view(*new.shape[:-1], self.n_out) + mean, new

    def _edge_weights(
        self, h: Tensor, distance: Tensor, category: Tensor, pairs: Pairs
    ) -> Tensor:
        """w_ij of every mode, (M, *pairs, C)."""
        rows, n = h.flatten(0, -2), self.hidden
        experts = self.pair.shape[0]
        receiver = _stack(rows, self.pair[:, :n], self.pair_bias)
        sender = _stack(rows, self.pair[:, n : 2 * n])
        feature = _stack(distance.flatten(0, -2), self.pair[:, 2 * n :])
        edges = distance.shape[:-1]
        first = pairs.spread(
            receiver.view(experts, *h.shape[:-1], n),
            sender.view(experts, *h.shape[:-1], n),
            feature.view(experts, *edges, n),
        )
        first = F.silu(first).flatten(1, -2)
        expert = F.silu(torch.baddbmm(self.expert_bias, first, self.expert))
        share = category[..., : self.n_active].flatten(0, -2).T[..., None]
        mixture = (expert.unflatten(0, (-1, self.n_active)) * share).sum(1)
        factor = F.silu(torch.baddbmm(self.factor_bias, mixture, self.factor))
        factor = torch.baddbmm(self.factor_out_bias, factor, self.factor_out)
        return F.silu(factor).view(self.n_modes, *edges, self.channels)


def _stack(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a stack of maps (S, F, G) to the same rows (R, F): (S, R, G)."""
    rows = rows.expand(weight.shape[0], *rows.shape)
    if bias is None:
        return torch.bmm(rows, weight)
    return torch.baddbmm(bias, rows, weight)
