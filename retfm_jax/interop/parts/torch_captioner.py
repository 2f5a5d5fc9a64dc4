"""R2Gen's transformer in PyTorch, as `models.caption` has it, and its search for words."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retfm_jax.interop.parts.torch_layers import heads_first

#: Keys and values (n, heads, tokens, w).
Pairs = tuple[Tensor, Tensor]


class ReportNorm(nn.Module):
    """`weight (x - mean) / (std + 1e-6) + bias` with the unbiased standard deviation.

    Args:
      width: of the last axis.
    """

    def __init__(self, width: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalizes.

        Args:
          x: tokens (..., width).
        """
        x = (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6)
        return self.weight * x + self.bias


class ReportAttention(nn.Module):
    """Multi-head attention with four linear maps.

    Args:
      width, heads: of the tokens, of the attention.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def pairs(self, x: Tensor) -> Pairs:
        """Computes the keys and the values of tokens, (n, heads, tokens, w) each.

        Args:
          x: tokens (n, tokens, width).
        """
        return heads_first(self.key(x), self.heads), heads_first(self.value(x), self.heads)

    def forward(self, x: Tensor, pairs: Pairs, causal: bool = False) -> Tensor:
        """Attends.

        Args:
          x: tokens that ask (n, tokens, width).
          pairs: see `pairs`; of one sample, they are those of all.
          causal: whether a token sees those up to itself alone.
        """
        key, value = (each.expand(x.shape[0], -1, -1, -1) for each in pairs)
        query = heads_first(self.query(x), self.heads)
        found = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        return self.out(found.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Linear map, ReLU, linear map.

    Args:
      width, hidden: of the tokens, between the linear maps.
    """

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc, self.proj = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Computes it.

        Args:
          x: tokens (n, tokens, width).
        """
        return self.proj(torch.relu(self.fc(x)))


class PatchBlock(nn.Module):
    """Attention among patches, and a feed-forward part.

    Args:
      width, heads, hidden: of the tokens, of the attention, between the linear maps.
    """

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.ln_1, self.ln_2 = ReportNorm(width), ReportNorm(width)
        self.attention, self.mlp = ReportAttention(width, heads), FeedForward(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Runs the block.

        Args:
          x: patches (1, m, width).
        """
        y = self.ln_1(x)
        x = x + self.attention(y, self.attention.pairs(y))
        return x + self.mlp(self.ln_2(x))


class WordBlock(nn.Module):
    """Attention among words and to the patches, and a feed-forward part.

    Args:
      width, heads, hidden: of the tokens, of the attention, between the linear maps.
    """

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.ln_1, self.ln_2, self.ln_3 = (ReportNorm(width) for _ in range(3))
        self.attention, self.source = ReportAttention(width, heads), ReportAttention(width, heads)
        self.mlp = FeedForward(width, hidden)

    def forward(self, x: Tensor, memory: Pairs, before: Pairs | None) -> tuple[Tensor, Pairs]:
        """Runs the block.

        Args:
          x: words (beams, n, width).
          memory: of the patches.
          before: of the words before these, behind which stands one word alone; None: there are
            none.

        Returns:
          the words, and keys and values of all up to them.
        """
        y = self.ln_1(x)
        pairs = self.attention.pairs(y)
        if before is not None:
            key, value = (torch.cat(both, dim=2) for both in zip(before, pairs, strict=True))
            pairs = key, value
        x = x + self.attention(y, pairs, causal=before is None)
        x = x + self.source(self.ln_2(x), memory)
        return x + self.mlp(self.ln_3(x)), pairs


class BlockStack(nn.Module):
    """Blocks, and the norm behind them.

    Args:
      blocks: one behind the other.
      width: of the tokens.
    """

    def __init__(self, blocks: Sequence[nn.Module], width: int):
        super().__init__()
        self.blocks, self.norm = nn.ModuleList(blocks), ReportNorm(width)


class Captioner(nn.Module):
    """Transformer that writes the report of a case from features of its photographs' patches.

    Args:
      features: width of these.
      vocabulary: number of ids; 0 begins and ends a report.
      width, hidden, layers, heads: of the tokens, between the linear maps, of the encoder and of
        the decoder, of the attention.
      positions: words of a report at most.
      places: how many photographs of a case are told apart, whose patches are all attended to;
        None: their mean is.
    """

    def __init__(
        self,
        *,
        features: int,
        vocabulary: int,
        width: int,
        hidden: int,
        layers: int,
        heads: int,
        positions: int,
        places: int | None,
    ):
        super().__init__()
        form = (width, heads, hidden)
        self.places = nn.Parameter(torch.zeros(places, features)) if places else None
        self.embed = nn.Linear(features, width)
        self.encoder = BlockStack([PatchBlock(*form) for _ in range(layers)], width)
        self.words = nn.Parameter(torch.zeros(vocabulary, width))
        self.positions = nn.Parameter(torch.zeros(positions, width), requires_grad=False)
        self.decoder = BlockStack([WordBlock(*form) for _ in range(layers)], width)
        self.logit = nn.Linear(width, vocabulary)

    def encode(self, patches: Tensor, places: Tensor) -> list[Pairs]:
        """Computes what words attend to, the keys and values of patches by layer.

        Args:
          patches: features of the photographs of one case, (photographs, m, features).
          places: at which these stand in the case, from 0.
        """
        if self.places is None:
            x = patches.mean(0, keepdim=True)
        else:
            x = (patches + self.places[places][:, None]).flatten(0, 1)[None]
        x = torch.relu(self.embed(x))
        for block in self.encoder.blocks:
            x = block(x)
        x = self.encoder.norm(x)
        blocks: Any = self.decoder.blocks
        return [block.source.pairs(x) for block in blocks]

    def forward(
        self, words: Tensor, memory: Sequence[Pairs], before: Sequence[Pairs] | None = None
    ) -> tuple[Tensor, list[Pairs]]:
        """Computes ln p of the word after each word, (beams, n, vocabulary).

        Args:
          words: ids (beams, n), 0 at the beginning of the report.
          memory: see `encode`.
          before: what this gave for the words before, behind which stands one word alone; None: the
            report begins here.

        Returns:
          ln p, and the keys and values of all words so far, by layer.
        """
        start = 0 if before is None else before[0][0].shape[2]
        x = self.words[words] * self.words.shape[1] ** 0.5
        x = x + self.positions[start : start + words.shape[1]]
        found = []
        for number, block in enumerate(self.decoder.blocks):
            x, pairs = block(x, memory[number], None if before is None else before[number])
            found.append(pairs)
        return torch.log_softmax(self.logit(self.decoder.norm(x)), dim=-1), found

    @torch.inference_mode()
    def read(self, patches: np.ndarray, places: Sequence[int], words: np.ndarray) -> np.ndarray:
        """Computes ln p of the word after each word of a report, (n, vocabulary) float32.

        Args:
          patches, places: see `encode`.
          words: ids (n,), the first one 0.
        """
        device = self.words.device
        memory = self.encode(torch.from_numpy(patches).to(device), torch.tensor(places))
        ids = torch.from_numpy(np.asarray(words, np.int64)).to(device)
        return self(ids[None], memory)[0][0].float().cpu().numpy()

    @torch.inference_mode()
    def write(
        self,
        patches: np.ndarray,
        places: Sequence[int],
        beams: int,
        length: int,
        length_penalty: float,
    ) -> tuple[list[int], float]:
        """Finds the likeliest report by beam search; one beam is greedy.

        Each step keeps the `beams` best sums of ln p over all beams and words. A beam whose word is
        0, and at the last step every beam, is a report and goes no further.

        Args:
          patches, places: see `encode`.
          beams: reports that are followed side by side.
          length: words of the report at most.
          length_penalty: alpha; sums are divided by the number of words, the end among them, to the
            power of alpha.

        Returns:
          ids of the words, and where the report has come to its end a 0; and its score.
        """
        device = self.words.device
        memory = self.encode(torch.from_numpy(patches).to(device), torch.tensor(places))
        reports = torch.zeros(1, 1, dtype=torch.long, device=device)
        sums, pairs = torch.zeros(1, device=device), None
        best, score = [], -float("inf")
        for count in range(1, length + 1):
            added, pairs = self(reports[:, -1:], memory, pairs)
            sums, chosen = (sums[:, None] + added[:, 0]).flatten().topk(beams)
            parents, last = chosen // added.shape[-1], chosen % added.shape[-1]
            reports = torch.cat([reports[parents], last[:, None]], dim=1)
            ended = (last == 0) | (count == length)
            for row in ended.nonzero()[:, 0]:
                reached = float(sums[row] / count**length_penalty)
                if reached > score:
                    best, score = reports[row, 1:].tolist(), reached
            if ended.all():
                break
            parents, sums, reports = parents[~ended], sums[~ended], reports[~ended]
            pairs = [(key[parents], value[parents]) for key, value in pairs]
        return best, score
