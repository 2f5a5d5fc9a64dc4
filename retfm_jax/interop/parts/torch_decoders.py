"""Decoders of feature maps in PyTorch: FLAIR's U-Net and UNETR's head."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retfm_jax.interop.parts.resizing import linear_weights


def resized(x: Tensor, height: int, width: int) -> Tensor:
    """Resizes maps bilinearly with antialiasing; those of that size stay as they are.

    Args:
      x: (n, c, h, w).
      height, width: that are wanted.
    """
    if x.shape[2:] == (height, width):
        return x
    rows, columns = (
        torch.from_numpy(linear_weights(old, new)).to(x)
        for old, new in ((x.shape[2], height), (x.shape[3], width))
    )
    return rows @ x @ columns.T


class ConvBlock(nn.Module):
    """A 3x3 convolution with bias, a batch norm and ReLU.

    Args:
      inputs, outputs: channels.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Runs the block.

        Args:
          x: feature maps (n, c, h, w).
        """
        return torch.relu(self.bn(self.conv(x)))


class Pair(nn.Module):
    """Two blocks, one behind the other.

    Args:
      inputs, outputs: channels.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.block1 = ConvBlock(inputs, outputs)
        self.block2 = ConvBlock(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Runs them.

        Args:
          x: feature maps (n, c, h, w).
        """
        return self.block2(self.block1(x))


class Upsample(nn.Module):
    """A transposed convolution that doubles the resolution: 2x2, stride 2, with bias.

    Args:
      inputs, outputs: channels.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, 2, 2))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Runs it.

        Args:
          x: feature maps (n, c, h, w).
        """
        return F.conv_transpose2d(x, self.weight.transpose(0, 1), self.bias, stride=2)


class UpStep(nn.Module):
    """Doubles the resolution, halves the channels, and adds a finer map.

    Args:
      inputs: channels of the coarser map.
      skip: channels of the finer map.
    """

    def __init__(self, inputs: int, skip: int):
        super().__init__()
        outputs = inputs // 2
        self.upsample = Upsample(inputs, outputs)
        self.block1 = ConvBlock(outputs + skip, outputs)
        self.block2 = ConvBlock(outputs, outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Runs the step.

        Args:
          x: the coarser map (n, c, h, w).
          skip: the finer map, whose size the output has.
        """
        x = resized(self.upsample(x), skip.shape[2], skip.shape[3])
        return self.block2(self.block1(torch.cat([x, skip], dim=1)))


class Unet(nn.Module):
    """FLAIR's decoder for residual networks: five maps and the image -> logits of every pixel.

    Args:
      widths: channels of the maps, the finest first.
      inside: channels between the two blocks of the bridge.
      outputs: logits of a pixel.
    """

    def __init__(self, *, widths: Sequence[int], inside: int, outputs: int):
        super().__init__()
        width = widths[-1]
        self.bridge1 = ConvBlock(width, inside)
        self.bridge2 = ConvBlock(inside, width)
        for number, skip in enumerate((*widths[-2::-1], 3), 1):
            setattr(self, f"up{number}", UpStep(width, skip))
            width //= 2
        self.head = nn.Conv2d(width, outputs, 1)

    def forward(self, maps: Sequence[Tensor], images: Tensor) -> Tensor:
        """Computes logits (n, outputs, h, w).

        Args:
          maps: of the tower, the finest first, (n, c, rows, columns) each.
          images: what they are of, normalized, (n, 3, h, w) float32.
        """
        x = self.bridge2(self.bridge1(maps[-1]))
        for number, skip in enumerate((*maps[-2::-1], images), 1):
            x = getattr(self, f"up{number}")(x, skip)
        return self.head(x)


class Lift(nn.Module):
    """Doubles the resolution of a map several times, a block behind each.

    Args:
      inputs, outputs: channels.
      times: how often.
    """

    def __init__(self, inputs: int, outputs: int, times: int):
        super().__init__()
        self.times = times
        for number in range(1, times + 1):
            width = inputs if number == 1 else outputs
            setattr(self, f"up{number}", Upsample(width, outputs))
            setattr(self, f"block{number}", ConvBlock(outputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Runs it.

        Args:
          x: feature maps (n, c, h, w).
        """
        for number in range(1, self.times + 1):
            x = getattr(self, f"block{number}")(getattr(self, f"up{number}")(x))
        return x


class UnetrHead(nn.Module):
    """UNETR's head for vision transformers: four maps and the image -> logits of every pixel.

    Args:
      width: channels of the maps.
      channels: at half of the image's resolution.
      outputs: logits of a pixel.
    """

    def __init__(self, *, width: int, channels: int, outputs: int):
        super().__init__()
        inputs = width
        for number, here in enumerate((4 * channels, 2 * channels, channels, channels // 2), 1):
            setattr(self, f"d{number}", Upsample(inputs, here))
            setattr(self, f"s{number}", Pair(3, here) if number == 4 else Lift(width, here, number))
            setattr(self, f"c{number}", Pair(2 * here, here))
            inputs = here
        self.cls = nn.Conv2d(inputs, outputs, 1)

    def forward(self, maps: Sequence[Tensor], images: Tensor) -> Tensor:
        """Computes logits (n, outputs, h, w).

        Args:
          maps: four of the tower, the first block's first, (n, c, rows, columns) each.
          images: what they are of, normalized, (n, 3, h, w) float32.
        """
        height, width = images.shape[2], images.shape[3]
        rows, columns = max(1, round(height / 16)), max(1, round(width / 16))
        first, second, third, x = (resized(each, rows, columns) for each in maps)
        fine = resized(images, 16 * rows, 16 * columns)
        for number, skip in enumerate((third, second, first, fine), 1):
            x, other = getattr(self, f"d{number}")(x), getattr(self, f"s{number}")(skip)
            x = getattr(self, f"c{number}")(torch.cat([x, other], dim=1))
        return resized(self.cls(x), height, width)
