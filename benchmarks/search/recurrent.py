"""Recurrent layers in plain tensor operations, which can be vectorised over lanes (PyTorch's own can't)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GRU(nn.Module):
    """A gated recurrent unit, as ``torch.nn.GRU`` computes it: ``(batch, length, inputs)`` to
    ``(batch, length, width)``."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.into, self.across = nn.Linear(inputs, 3 * width), nn.Linear(width, 3 * width)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), self.width)
        states = []
        for step in self.into(x).unbind(1):
            reset, update, new = step.chunk(3, 1)
            from_reset, from_update, from_new = self.across(state).chunk(3, 1)
            keep = torch.sigmoid(update + from_update)
            candidate = torch.tanh(new + torch.sigmoid(reset + from_reset) * from_new)
            state = candidate + keep * (state - candidate)
            states.append(state)
        return torch.stack(states, 1)


class LSTM(nn.Module):
    """Long short-term memory, as ``torch.nn.LSTM`` computes it: ``(batch, length, inputs)`` to
    ``(batch, length, width)``."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.into, self.across = nn.Linear(inputs, 4 * width), nn.Linear(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        state = memory = x.new_zeros(len(x), self.width)
        states = []
        for step in self.into(x).unbind(1):
            write, keep, new, show = (step + self.across(state)).chunk(4, 1)
            memory = torch.sigmoid(keep) * memory + torch.sigmoid(write) * torch.tanh(new)
            state = torch.sigmoid(show) * torch.tanh(memory)
            states.append(state)
        return torch.stack(states, 1)
