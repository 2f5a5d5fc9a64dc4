"""BERT without its pooler, in PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retfm_jax.interop.parts.torch_layers import attend, heads_first


class BertBlock(nn.Module):
    """A post-norm transformer block with the exact GELU.

    Args:
      width, heads, hidden: of the tokens, of the attention, between the linear maps.
    """

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.ln_1 = nn.LayerNorm(width, eps=1e-12)
        self.fc = nn.Linear(width, hidden)
        self.proj = nn.Linear(hidden, width)
        self.ln_2 = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """Runs the block.

        Args:
          x: tokens (n, tokens, d).
          seen: which tokens may be seen, (n, tokens) bool.
        """
        maps = (self.query(x), self.key(x), self.value(x))
        query, key, value = (heads_first(y, self.heads) for y in maps)
        x = self.ln_1(x + self.out(attend(query, key, value, seen)))
        return self.ln_2(x + self.proj(F.gelu(self.fc(x))))


class Bert(nn.Module):
    """A text tower: token ids -> vectors, a mean over hidden states and over tokens.

    Args:
      vocab_size, positions, types: rows of the tables.
      width, layers, heads, hidden: of the blocks.
      states: whose mean is taken: 0 the embeddings', -1 the last layer's.
      pooling: "first" token, mean over "all" positions, or over the "text" without padding.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        positions: int,
        types: int,
        width: int,
        layers: int,
        heads: int,
        hidden: int,
        states: tuple[int, ...],
        pooling: str,
    ):
        super().__init__()
        self.states, self.pooling = states, pooling
        self.words = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(positions, width)
        self.types = nn.Embedding(types, width)
        self.ln = nn.LayerNorm(width, eps=1e-12)
        self.blocks = nn.ModuleList(BertBlock(width, heads, hidden) for _ in range(layers))

    def forward(self, tokens: Tensor) -> Tensor:
        """Reads texts.

        Args:
          tokens: ids (n, length), padded with 0.

        Returns:
          (n, d), not normalized.
        """
        seen = tokens != 0
        x = self.words(tokens) + self.positions.weight[: tokens.shape[1]] + self.types.weight[0]
        x = self.ln(x)
        found = [x]
        for block in self.blocks:
            x = block(x, seen)
            found.append(x)
        x = torch.stack([found[state] for state in self.states]).mean(0)
        if self.pooling == "first":
            return x[:, 0]
        if self.pooling == "all":
            return x.mean(1)
        weights = seen[..., None].to(x.dtype)
        return (x * weights).sum(1) / weights.sum(1).clamp(min=1)
