"""The symmetrized GRU cell with its own backward.

With ``g(x, h)`` a GRU cell (torch's gate order: reset, update, new), computes
``(g(a, b) + g(b, a)) / 2``: one cell on the stacked inputs ``[a; b]`` and states
``[b; a]``, whose two halves are averaged.
"""

import torch
from torch import Tensor


def symmetric_gru(
    a: Tensor,
    b: Tensor,
    w_input: Tensor,
    w_hidden: Tensor,
    b_input: Tensor,
    b_hidden: Tensor,
) -> Tensor:
    """Return ``(g(a, b) + g(b, a)) / 2`` by plain, differentiable operations."""
    x, h = torch.cat([a, b]), torch.cat([b, a])
    size = x.shape[-1]
    from_input = torch.addmm(b_input, x, w_input.t())
    from_hidden = torch.addmm(b_hidden, h, w_hidden.t())
    reset, update = torch.sigmoid(
        from_input[:, : 2 * size] + from_hidden[:, : 2 * size]
    ).split(size, -1)
    inner = from_hidden[:, 2 * size :]
    new = torch.tanh(from_input[:, 2 * size :] + reset * inner)
    out = new + update * (h - new)
    return (out[: len(a)] + out[len(a) :]) / 2


class SymmetricGRU(torch.autograd.Function):
    """:func:`symmetric_gru` with a hand-written backward.

    Keeps the stacked arguments and, unless ``recompute``, the gates; with
    ``recompute`` the gates are computed again in the backward pass: a third of the
    memory for one matrix product more. A gradient of the gradient goes through the
    plain form.
    """

    @staticmethod
    def forward(ctx, a, b, w_input, w_hidden, b_input, b_hidden, recompute):
        """Return the new state of both orders, averaged."""
        x, h = torch.cat([a, b]), torch.cat([b, a])
        gates = _gates(x, h, w_input, w_hidden, b_input, b_hidden)
        new, update = gates[0], gates[2]
        saved = () if recompute else gates
        ctx.save_for_backward(a, b, w_input, w_hidden, b_input, b_hidden, x, *saved)
        out = torch.lerp(new, h, update)
        half = len(a)
        return out[:half].add_(out[half:]).mul_(0.5)

    @staticmethod
    def backward(ctx, grad):
        """Return the derivative by both states and by all weights."""
        a, b, w_input, w_hidden, b_input, b_hidden, x, *gates = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody differentiates this backward
            return (*_differentiable_backward(ctx, grad), None)
        size, half = a.shape[-1], len(a)
        h = torch.cat([b, a])
        if not gates:
            gates = _gates(x, h, w_input, w_hidden, b_input, b_hidden)
        new, reset, update, inner = gates
        upstream = torch.cat([grad, grad]).mul_(0.5)
        d = x.new_empty(len(x), 3 * size)  # at the reset, update and new gates' sums
        d_reset, d_update, d_new = d.split(size, -1)
        d_h = upstream * update
        torch.sub(upstream, d_h, out=d_new)
        torch.ops.aten.tanh_backward.grad_input(d_new, new, grad_input=d_new)
        d_inner = d_new * reset
        torch.mul(d_new, inner, out=d_reset)
        torch.ops.aten.sigmoid_backward.grad_input(d_reset, reset, grad_input=d_reset)
        torch.sub(h, new, out=d_update).mul_(upstream)
        torch.ops.aten.sigmoid_backward.grad_input(
            d_update, update, grad_input=d_update
        )
        d_gates = d[:, : 2 * size]
        d_h.addmm_(d_gates, w_hidden[: 2 * size]).addmm_(d_inner, w_hidden[2 * size :])
        d_x = d @ w_input
        d_x[:half] += d_h[half:]
        d_x[half:] += d_h[:half]
        sums = d.sum(0)
        return (
            d_x[:half],
            d_x[half:],
            d.t() @ x,
            torch.cat([d_gates.t() @ h, d_inner.t() @ h]),
            sums,
            torch.cat([sums[: 2 * size], d_inner.sum(0)]),
            None,
        )


def _differentiable_backward(ctx, grad):
    inputs = ctx.saved_tensors[:6]
    needs = ctx.needs_input_grad[:6]
    wanted = [t for t, need in zip(inputs, needs, strict=True) if need]
    value = symmetric_gru(*inputs)
    found = iter(torch.autograd.grad(value, wanted, grad, create_graph=True))
    return [next(found) if need else None for need in needs]


def _gates(x, h, w_input, w_hidden, b_input, b_hidden):
    """Return new value, reset and update gate, and the hidden part of the new value."""
    from_input, from_hidden = w_input.t().chunk(3, 1), w_hidden.t().chunk(3, 1)
    bias = (b_input + b_hidden).chunk(3)
    reset, update = (
        torch.addmm(bias[k], x, from_input[k]).addmm_(h, from_hidden[k]).sigmoid_()
        for k in (0, 1)
    )
    inner = torch.addmm(b_hidden.chunk(3)[2], h, from_hidden[2])
    new = torch.addmm(b_input.chunk(3)[2], x, from_input[2])
    return new.addcmul_(reset, inner).tanh_(), reset, update, inner
