"""A character-level GPT with post-layer normalisation, where warm-up really matters, on English text.

The text is the language reference that CPython carries in ``pydoc_data.topics``: about 465,000 characters.

    python examples/char_gpt.py
    autowarmup tune examples/char_gpt.py:task --steps 240
"""

from __future__ import annotations

from collections.abc import Iterable
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
from torch import nn

CONTEXT = 64


class Block(nn.Module):
    """A transformer block; the norm comes after each residual sum (post-norm) or before each branch (pre-norm)."""

    def __init__(self, width: int, heads: int, post_norm: bool) -> None:
        super().__init__()
        self.heads, self.post_norm = heads, post_norm
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.project(mixed.transpose(1, 2).reshape(batch, length, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.post_norm:
            x = self.norm1(x + self.attend(x))
            return self.norm2(x + self.mlp(x))
        x = x + self.attend(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """Characters in, the next character's logits out: ``(batch, length)`` to ``(batch, symbols, length)``."""

    def __init__(self, symbols: int, width: int = 32, layers: int = 8, heads: int = 2, post_norm: bool = True):
        super().__init__()
        self.embed, self.position = nn.Embedding(symbols, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.Sequential(*(Block(width, heads, post_norm) for _ in range(layers)))
        self.norm = nn.Identity() if post_norm else nn.LayerNorm(width)
        self.head = nn.Linear(width, symbols)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens) + self.position.weight[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(x))).transpose(1, 2)


def corpus() -> tuple[np.ndarray, int]:
    """The text as symbol numbers, and how many symbols there are."""
    text = "\n".join(topics[name] for name in sorted(topics))
    symbols = sorted(set(text))
    number = {symbol: i for i, symbol in enumerate(symbols)}
    return np.array([number[symbol] for symbol in text], dtype=np.int64), len(symbols)


class Windows(torch.utils.data.Dataset):
    """Windows of the text, ``stride`` characters apart: ``CONTEXT`` characters and the same shifted by one."""

    def __init__(self, text: np.ndarray, stride: int) -> None:
        self.text, self.stride = torch.from_numpy(text), stride

    def __len__(self) -> int:
        return (len(self.text) - CONTEXT - 1) // self.stride

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        window = self.text[index * self.stride : index * self.stride + CONTEXT + 1]
        return window[:-1], window[1:]


def optimizer(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW as small language models are usually trained: rate 1e-3, beta2 0.95."""
    return torch.optim.AdamW(params, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)


def task(post_norm: bool = True) -> dict[str, Any]:
    """What ``autotune`` takes. The last tenth of the text validates."""
    text, symbols = corpus()
    cut = len(text) * 9 // 10
    return {
        "model_fn": lambda: GPT(symbols, post_norm=post_norm),
        "data": (Windows(text[:cut], stride=7), Windows(text[cut:], stride=500)),
        "optimizer": optimizer,
        "batch_size": 8,
    }


if __name__ == "__main__":
    from autowarmup import autotune

    print(autotune(**task(), total_steps=240, study="studies/char-gpt").summary())
