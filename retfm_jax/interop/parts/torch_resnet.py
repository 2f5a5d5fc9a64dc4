"""Residual networks in PyTorch: torchvision's (v1.5) and CLIP's."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from retfm_jax.interop.parts.torch_layers import attend, heads_first


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut.

    Args:
      inputs, width: channels of the input and inside; the output has four times as many.
      stride: factor by which the resolution shrinks.
      pooled: whether it shrinks by average pooling, as in CLIP, else by the stride.
    """

    def __init__(self, inputs: int, width: int, stride: int, pooled: bool):
        super().__init__()
        outputs, step = 4 * width, 1 if pooled else stride
        self.pool = nn.AvgPool2d(stride) if pooled and stride > 1 else nn.Identity()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=step, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = inputs != outputs or stride > 1
        if self.shortcut:
            self.shortcut_conv = nn.Conv2d(inputs, outputs, 1, stride=step, bias=False)
            self.shortcut_bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Runs the block.

        Args:
          x: feature maps (n, c, h, w).
        """
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.pool(torch.relu(self.bn2(self.conv2(y))))
        y = self.bn3(self.conv3(y))
        if self.shortcut:
            x = self.shortcut_bn(self.shortcut_conv(self.pool(x)))
        return torch.relu(x + y)


def stage(number: int, blocks: int, width: int, pooled: bool) -> nn.Sequential:
    """Makes the bottlenecks of one resolution.

    Args:
      number: of the stage, 1 to 4.
      blocks: how many.
      width: inner width of the first stage.
      pooled: see `Bottleneck`.
    """
    inner = width * 2 ** (number - 1)
    first = width if number == 1 else 2 * inner
    return nn.Sequential(
        Bottleneck(first, inner, 1 if number == 1 else 2, pooled),
        *(Bottleneck(4 * inner, inner, 1, pooled) for _ in range(blocks - 1)),
    )


def each_of(stages: Sequence[nn.Module], x: Tensor) -> list[Tensor]:
    """Runs modules one behind the other, and returns what each gives.

    Args:
      stages: the modules.
      x: input of the first.
    """
    found = []
    for each in stages:
        x = each(x)
        found.append(x)
    return found


class ResNet(nn.Module):
    """torchvision's residual network without its classifier: normalized images -> features, twice.

    Args:
      stages: bottlenecks of each stage.
      width: inner width of the first stage.
    """

    def __init__(self, *, stages: tuple[int, ...], width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            stage(number, blocks, width, False) for number, blocks in enumerate(stages, 1)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the mean of the last feature map.

        Args:
          images: normalized, (n, 3, h, w) float32.

        Returns:
          the features (n, d), twice: there is no projection.
        """
        (x,) = self.maps(images, (5,))
        features = x.mean((2, 3))
        return features, features

    def maps(self, images: Tensor, levels: Sequence[int]) -> list[Tensor]:
        """Computes feature maps (n, c, rows, columns): 1 behind the stem, 2 to 5 behind the stages.

        Args:
          images: normalized, (n, 3, h, w) float32.
          levels: their numbers.
        """
        first = torch.relu(self.bn1(self.conv1(images)))
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        found = [first, *each_of(stages, self.maxpool(first))]
        return [found[level - 1] for level in levels]


class AttentionPool(nn.Module):
    """Attention from the mean of the feature map to all of its positions and to itself.

    Args:
      tokens: positions of the map, and one.
      width: channels of the map.
      outputs: width of the embedding.
    """

    def __init__(self, tokens: int, width: int, outputs: int):
        super().__init__()
        self.heads = width // 64
        self.position_embedding = nn.Parameter(torch.zeros(tokens, width))
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Pools a feature map.

        Args:
          x: (n, c, h, w).

        Returns:
          the embedding (n, outputs).
        """
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True), x], dim=1) + self.position_embedding
        query, key, value = self.query(x[:, :1]), self.key(x), self.value(x)
        pooled = attend(*(heads_first(each, self.heads) for each in (query, key, value)))
        return self.out(pooled[:, 0])


class ClipResNet(nn.Module):
    """CLIP's modified residual network: normalized images -> embedding, twice.

    Args:
      stages: bottlenecks of each stage.
      width: inner width of the first stage.
      image_size: height and width of the images, in pixels.
      embed_dim: width of the embedding; None: there are feature maps alone.
    """

    def __init__(
        self, *, stages: tuple[int, ...], width: int, image_size: int, embed_dim: int | None
    ):
        super().__init__()
        half = width // 2
        self.conv1 = nn.Conv2d(3, half, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.pool = nn.AvgPool2d(2)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            stage(number, blocks, width, True) for number, blocks in enumerate(stages, 1)
        )
        tokens = (image_size // 32) ** 2 + 1
        self.attnpool = AttentionPool(tokens, 32 * width, embed_dim) if embed_dim else None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Embeds images.

        Args:
          images: normalized, (n, 3, h, w) float32.

        Returns:
          the embedding (n, e), not normalized, twice: there are no features before it.
        """
        assert self.attnpool is not None
        (x,) = self.maps(images, (5,))
        embedding = self.attnpool(x)
        return embedding, embedding

    def maps(self, images: Tensor, levels: Sequence[int]) -> list[Tensor]:
        """Computes feature maps; see `ResNet.maps`.

        Args:
          images: normalized, (n, 3, h, w) float32.
          levels: their numbers.
        """
        x = torch.relu(self.bn1(self.conv1(images)))
        x = torch.relu(self.bn2(self.conv2(x)))
        first = torch.relu(self.bn3(self.conv3(x)))
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        found = [first, *each_of(stages, self.pool(first))]
        return [found[level - 1] for level in levels]
