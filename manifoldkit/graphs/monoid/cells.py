"""Torch's recurrent cells, where ``torch.func`` looks on too."""

import torch
from torch import Tensor, nn

from manifoldkit.linalg.transforms import is_transformed


def gru_step(cell: nn.GRUCell, x: Tensor, state: Tensor) -> Tensor:
    """Return the state after one step; torch's kernel knows no ``vmap``.

    Examples
    --------
    >>> cell = nn.GRUCell(2, 3)
    >>> gru_step(cell, torch.zeros(5, 2), torch.zeros(5, 3)).shape
    torch.Size([5, 3])
    """
    if not is_transformed():
        return cell(x, state)
    from_input = nn.functional.linear(x, cell.weight_ih, cell.bias_ih).chunk(3, -1)
    from_hidden = nn.functional.linear(state, cell.weight_hh, cell.bias_hh).chunk(3, -1)
    reset, update = (torch.sigmoid(from_input[k] + from_hidden[k]) for k in (0, 1))
    new = torch.tanh(from_input[2] + reset * from_hidden[2])
    return new + update * (state - new)


def lstm_step(
    cell: nn.LSTMCell, x: Tensor, state: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return hidden and cell state after one step; torch's kernel knows no ``vmap``.

    Examples
    --------
    >>> cell, zeros = nn.LSTMCell(2, 3), torch.zeros(5, 3)
    >>> lstm_step(cell, torch.zeros(5, 2), (zeros, zeros))[0].shape
    torch.Size([5, 3])
    """
    if not is_transformed():
        return cell(x, state)
    hidden, memory = state
    gates = nn.functional.linear(x, cell.weight_ih, cell.bias_ih)
    gates = gates + nn.functional.linear(hidden, cell.weight_hh, cell.bias_hh)
    take, forget, new, show = gates.chunk(4, -1)
    memory = forget.sigmoid() * memory + take.sigmoid() * new.tanh()
    return show.sigmoid() * torch.tanh(memory), memory
