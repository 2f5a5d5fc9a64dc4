"""Residual networks with bottlenecks: CLIP's modified one and torchvision's (v1.5).

He et al. 2016 (arXiv 1512.03385); Radford et al. 2021 (arXiv 2103.00020), section 2.4. They share
the bottleneck and its four stages, and differ in the stem, in how a stage halves its resolution
and in how the last feature map becomes a vector.
"""

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from retfm_jax.models.attention import attention
from retfm_jax.models.layers import Linear, Tower, count_layers, majority
from retfm_jax.models.taps import Taps, tapped
from retfm_jax.models.target import platform
from retfm_jax.ranges import Positive, Section

Names = tuple[tuple[str, str, str], ...]

#: A bottleneck's output is this many times as wide as its inside.
EXPANSION = 4

#: Feature maps of stage s are 2^(s + 1) times smaller than the image.
_STAGES = (1, 2, 3, 4)


@dataclasses.dataclass(frozen=True)
class ResNetConfig(Section):
    """Sizes of torchvision's network, which takes images of any size; the defaults are ResNet-50.

    Attributes:
      stages: bottlenecks of each of the four stages.
      width: inner width of the first stage; it doubles from stage to stage.
      norm_batch: samples that batch norms normalize together in training; None: the whole batch.
        The published runs on several GPUs normalized what one GPU held. A batch encoded in
        microbatches needs it, because none can know the statistics of the others.
    """

    kind: ClassVar[str] = "resnet"
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "ResNet-50": {},
        "ResNet-101": {"stages": (3, 4, 23, 3)},
        "ResNet-152": {"stages": (3, 8, 36, 3)},
    }

    stages: tuple[Positive, Positive, Positive, Positive] = (3, 4, 6, 3)
    width: Positive = 64
    norm_batch: Positive | None = None

    @property
    def features(self) -> int:
        """Width of the last feature map."""
        return 2 ** (len(_STAGES) - 1) * EXPANSION * self.width

    @property
    def map_levels(self) -> tuple[int, ...]:
        """Feature maps by default: 1 behind the stem, 2 to 5 behind the stages."""
        return (1, *(number + 1 for number in _STAGES))

    @property
    def map_widths(self) -> tuple[int, ...]:
        """Channels of the feature maps of `map_levels`."""
        return (self.width, *(2 ** (number - 1) * EXPANSION * self.width for number in _STAGES))


@dataclasses.dataclass(frozen=True)
class ClipResNetConfig(ResNetConfig):
    """Sizes of CLIP's network; the defaults are RN50.

    Attributes:
      image_size: height and width of the images, for which attention pooling learns positions.
    """

    kind: ClassVar[str] = "clip_resnet"
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "RN50": {},
        "RN101": {"stages": (3, 4, 23, 3)},
        "RN50x4": {"stages": (4, 6, 10, 6), "width": 80, "image_size": 288},
        "RN50x16": {"stages": (6, 8, 18, 8), "width": 96, "image_size": 384},
        "RN50x64": {"stages": (3, 15, 36, 10), "width": 128, "image_size": 448},
    }

    image_size: Positive = 224

    def __post_init__(self):
        super().__post_init__()
        if self.width % 2:
            raise ValueError(f"width {self.width} must be even: the stem begins with half of it")
        if self.image_size < 32 or self.image_size % 32:
            raise ValueError(f"image_size {self.image_size} is no multiple of 32")


#: So many channels leave most of a TPU's lanes empty, so that four pixels are laid side by side.
_FEW = 4


def _convolve(x: Array, kernel: Array, stride: int, padding: tuple[int, int]) -> Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=(padding, padding),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def convolve_blocks(
    x: Float[Array, "b h w i"], kernel: Float[Array, "k k i o"]
) -> Float[Array, "b oh ow o"]:
    """Convolves at stride 2 as a convolution at stride 1 of blocks of 2 x 2 pixels.

    Padded by p = k // 2 pixels, output j reads pixels 2j - p to 2j + p, which lie in p + 1 blocks
    of two. A block's four pixels become channels, and the kernel, with zeros for the pixels of
    those blocks that it does not reach, is rearranged alike: the sum has the same products.

    Args:
      x: images or feature maps of any size.
      kernel: of odd size.
    """
    b, h, w, channels = x.shape
    size, _, _, outputs = kernel.shape
    reach = size // 2
    before, taps = (reach + 1) // 2, reach + 1
    blocks = -(-h // 2), -(-w // 2)
    x = jnp.pad(x, ((0, 0), (0, 2 * blocks[0] - h), (0, 2 * blocks[1] - w), (0, 0)))
    x = x.reshape(b, blocks[0], 2, blocks[1], 2, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(b, *blocks, 4 * channels)
    front = 2 * before - reach
    around = (front, 2 * taps - size - front)
    kernel = jnp.pad(kernel, (around, around, (0, 0), (0, 0)))
    kernel = kernel.reshape(taps, 2, taps, 2, channels, outputs).transpose(0, 2, 1, 3, 4, 5)
    kernel = kernel.reshape(taps, taps, 4 * channels, outputs)
    return _convolve(x, kernel, 1, (before, reach // 2))


class Conv(nnx.Module):
    """A square convolution, padded to keep the resolution at stride 1.

    Args:
      inputs, outputs: channels.
      size: height and width of the kernel in pixels.
      stride: in pixels, along both axes.
      bias: whether there is one.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        *,
        stride: int = 1,
        bias: bool = False,
        rngs: nnx.Rngs,
    ):
        std = math.sqrt(2 / (outputs * size * size))  # He et al. 2015, by the outputs
        shape = (size, size, inputs, outputs)
        self.kernel = nnx.Param(std * jax.random.normal(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(outputs)) if bias else None
        self.stride = stride

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b oh ow o"]:
        kernel = self.kernel.astype(x.dtype)
        size, _, inputs, _ = kernel.shape
        if size > 3 and self.stride == 2 and inputs <= _FEW and platform() == "tpu":
            y = convolve_blocks(x, kernel)
        else:
            y = _convolve(x, kernel, self.stride, (size // 2, size // 2))
        return y if self.bias is None else y + self.bias.astype(x.dtype)


class Groups(NamedTuple):
    """Rows of a batch that are normalized together in training.

    Attributes:
      number: of groups; sample i belongs to group i modulo this. When a batch is split into
        microbatches by the sample's number modulo theirs, each then holds whole groups.
      views: rows that one sample has, side by side.
    """

    number: int
    views: int


def _groups(config: ResNetConfig, rows: int, views: int) -> Groups:
    samples = rows // views
    size = config.norm_batch or samples
    if samples % size:
        raise ValueError(f"{samples} samples do not divide into groups of norm_batch {size}")
    return Groups(samples // size, views)


_Activation = Float[Array, "s g v h w c"]
_Statistic = Float[Array, "1 g 1 1 1 c"]

#: Axes of an activation's values that are normalized together.
_TOGETHER = (0, 2, 3, 4)
#: A variance is at least so much of the mean square around the shift: about what is left of float32
#: when the one is computed from the other.
_LEAST = 2.0**-20


def _statistics(x: _Activation, shift: Float[Array, " c"]) -> tuple[_Statistic, _Statistic]:
    """Mean and biased variance of each group, float32.

    A float32 activation is read twice, the second time around its mean. A shorter type is read
    once, which a convolution does as it writes: the sums are of differences from a shift near the
    mean, and what rounding them loses is less than what the type itself has lost. With a shift that
    is hundreds of deviations away, as weights may bring along, the variance has few digits until
    the running mean has followed.

    Args:
      x: activation of any floating type.
      shift: expected mean of every channel.
    """

    def moment(values: Array) -> _Statistic:
        return jnp.mean(values, axis=_TOGETHER, keepdims=True)

    y = x.astype(jnp.float32)
    if x.dtype == jnp.float32:
        mean = moment(y)
        return mean, moment(jnp.square(y - mean))
    offset, square = moment(y - shift), moment(jnp.square(y - shift))
    return shift + offset, jnp.maximum(square - jnp.square(offset), _LEAST * square)


@jax.custom_vjp
def _normalize(
    x: _Activation, scale: Float[Array, " c"], bias: Float[Array, " c"], shift: Float[Array, " c"]
) -> tuple[_Activation, _Statistic, _Statistic]:
    """Normalizes each group by its own statistics, which are returned as constants.

    Its backward pass reads the activation and the gradient twice: for two sums, and to apply them.
    Differentiation of the sums themselves would read both once more.

    Args:
      x: activation.
      scale, bias: of every channel.
      shift: expected mean, see `_statistics`.

    Returns:
      the normalized activation in the type of `x`, the mean, and the biased variance.
    """
    return _normalize_forward(x, scale, bias, shift)[0]


def _normalize_forward(x, scale, bias, shift):
    mean, var = _statistics(x, shift)
    deviation = jax.lax.rsqrt(var + BatchNorm.eps)
    y = (x.astype(jnp.float32) - mean) * (deviation * scale) + bias
    return (y.astype(x.dtype), mean, var), (x, scale, mean, deviation)


def _normalize_backward(residuals, gradients):
    x, scale, mean, deviation = residuals
    given = gradients[0].astype(jnp.float32)
    centered = x.astype(jnp.float32) - mean
    plain = jnp.sum(given, axis=_TOGETHER, keepdims=True)
    weighted = jnp.sum(given * centered, axis=_TOGETHER, keepdims=True) * deviation
    values = x.size // mean.size
    # dx = scale / sigma (dy - mean(dy) - x^ mean(dy x^)), x^ the normalized activation
    dx = (given - plain / values - centered * (deviation * weighted / values)) * (deviation * scale)
    dscale, dbias = (jnp.sum(each, axis=(0, 1, 2, 3, 4)) for each in (weighted, plain))
    return dx.astype(x.dtype), dscale, dbias, jnp.zeros_like(scale)


_normalize.defvjp(_normalize_forward, _normalize_backward)


class BatchNorm(nnx.Module):
    """Batch normalization with PyTorch's running statistics, in float32 whatever the input.

    In training it normalizes by the mean and the biased variance of each group of the batch, over
    all devices where the batch is sharded, and moves the running statistics by a tenth towards the
    mean and the unbiased variance, averaged over the groups. In evaluation (without groups) it uses
    the running statistics.

    Args:
      width: channels.
      zero: whether the initial scale is 0 instead of 1.
    """

    momentum = 0.1
    eps = 1e-5

    def __init__(self, width: int, *, zero: bool = False):
        self.scale = nnx.Param(jnp.zeros(width) if zero else jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))
        self.mean = nnx.BatchStat(jnp.zeros(width))
        self.var = nnx.BatchStat(jnp.ones(width))
        self.count = nnx.BatchStat(jnp.zeros((), jnp.int32))

    def __call__(
        self, x: Float[Array, "b h w c"], *, groups: Groups | None
    ) -> Float[Array, "b h w c"]:
        if groups is None:
            factor = jax.lax.rsqrt(self.var[...] + self.eps) * self.scale[...]
            y = (x.astype(jnp.float32) - self.mean[...]) * factor + self.bias[...]
            return y.astype(x.dtype)
        # (b, h, w, c) -> (samples of a group, groups, views, h, w, c)
        grouped = x.reshape(-1, groups.number, groups.views, *x.shape[1:])
        shift = jax.lax.stop_gradient(self.mean[...])
        y, mean, var = _normalize(grouped, self.scale[...], self.bias[...], shift)
        self._update(mean, var, grouped.size // mean.size)
        return y.reshape(x.shape)

    def _update(self, mean: Float[Array, "... c"], var: Float[Array, "... c"], values: int) -> None:
        mean, var = jax.lax.stop_gradient(
            [statistic.reshape(-1, mean.shape[-1]).mean(0) for statistic in (mean, var)]
        )
        unbiased = var * (values / max(values - 1, 1))
        # Not `self.mean[...] += ...`, which makes flax look the whole trace through each time.
        self.mean.set_value(self.mean[...] + self.momentum * (mean - self.mean[...]))
        self.var.set_value(self.var[...] + self.momentum * (unbiased - self.var[...]))
        self.count.set_value(self.count[...] + 1)


def average_pool(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b oh ow c"]:
    """Averages `size` x `size` windows side by side; a remainder at the edge is left out.

    Args:
      x: feature maps, NHWC.
      size: height and width of a window in pixels of the map; 1 returns `x`.
    """
    if size == 1:
        return x
    b, h, w, c = x.shape
    x = x[:, : h // size * size, : w // size * size]
    return x.reshape(b, h // size, size, w // size, size, c).mean((2, 4))


class Bottleneck(nnx.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut.

    CLIP's (`pooled`) halves the resolution by average pooling before the last convolution and in
    the shortcut; torchvision's by the stride of the 3x3 convolution and of the shortcut's.

    Args:
      inputs: channels of the input.
      width: channels inside; the output has `EXPANSION` times as many.
      stride: factor by which the resolution shrinks, 1 or 2.
      pooled: whether it is CLIP's.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, inputs: int, width: int, *, stride: int, pooled: bool, rngs: nnx.Rngs):
        outputs = EXPANSION * width
        self.pool = stride if pooled else 1
        stride = 1 if pooled else stride
        self.conv1 = Conv(inputs, width, 1, rngs=rngs)
        self.bn1 = BatchNorm(width)
        self.conv2 = Conv(width, width, 3, stride=stride, rngs=rngs)
        self.bn2 = BatchNorm(width)
        self.conv3 = Conv(width, outputs, 1, rngs=rngs)
        # CLIP starts every residual branch at zero.
        self.bn3 = BatchNorm(outputs, zero=pooled)
        self.has_shortcut = inputs != outputs or stride * self.pool > 1
        if self.has_shortcut:
            self.shortcut_conv = Conv(inputs, outputs, 1, stride=stride, rngs=rngs)
            self.shortcut_bn = BatchNorm(outputs)

    def __call__(
        self, x: Float[Array, "b h w i"], *, groups: Groups | None
    ) -> Float[Array, "b oh ow o"]:
        y = jax.nn.relu(self.bn1(self.conv1(x), groups=groups))
        y = jax.nn.relu(self.bn2(self.conv2(y), groups=groups))
        y = self.bn3(self.conv3(average_pool(y, self.pool)), groups=groups)
        if self.has_shortcut:
            x = self.shortcut_bn(self.shortcut_conv(average_pool(x, self.pool)), groups=groups)
        return jax.nn.relu(x + y)


class Stage(nnx.Module):
    """Bottlenecks of one resolution; the first of them halves it (but in the first stage).

    Args:
      config: sizes of the network.
      number: of the stage, 1 to 4.
      pooled: see `Bottleneck`.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, config: ResNetConfig, number: int, *, pooled: bool, rngs: nnx.Rngs):
        width = config.width * 2 ** (number - 1)
        self.blocks = config.stages[number - 1]
        for index in range(self.blocks):
            first = index == 0
            inputs = (config.width if number == 1 else 2 * width) if first else EXPANSION * width
            stride = 2 if first and number > 1 else 1
            block = Bottleneck(inputs, width, stride=stride, pooled=pooled, rngs=rngs)
            setattr(self, f"block{index}", block)

    def __call__(
        self, x: Float[Array, "b h w i"], *, groups: Groups | None
    ) -> Float[Array, "b oh ow o"]:
        for index in range(self.blocks):
            x = getattr(self, f"block{index}")(x, groups=groups)
        return x


class AttentionPool(nnx.Module):
    """Attention from the mean of the feature map to all of its positions and to itself.

    Args:
      config: sizes of the network.
      embed_dim: width of the embedding.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, config: ClipResNetConfig, embed_dim: int, *, rngs: nnx.Rngs):
        width = config.features
        self.heads = width // 64
        std = width**-0.5
        grid = config.image_size // 32
        positions = std * jax.random.normal(rngs.params(), (grid**2 + 1, width))
        self.position_embedding = nnx.Param(positions)
        self.query = Linear(width, width, std=std, bias=True, rngs=rngs)
        self.key = Linear(width, width, std=std, bias=True, rngs=rngs)
        self.value = Linear(width, width, std=std, bias=True, rngs=rngs)
        self.out = Linear(width, embed_dim, std=std, bias=True, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b e"]:
        b, _, _, c = x.shape
        x = x.reshape(b, -1, c)
        x = jnp.concatenate([x.mean(1, keepdims=True), x], axis=1)
        x = x + self.position_embedding.astype(x.dtype)

        def heads(y):
            return y.reshape(b, -1, self.heads, c // self.heads)

        pooled = attention(heads(self.query(x[:, :1])), heads(self.key(x)), heads(self.value(x)))
        # Pooled features of different images are nearly alike: one long float32 sum would lose
        # what tells them apart, so that eight short ones are added. (b, 8, i) . (8, i, e)
        pooled = pooled.reshape(b, 8, c // 8).astype(jnp.float32)
        kernel = self.out.kernel.reshape(8, c // 8, -1)
        summed = jnp.einsum("bpi,pie->bpe", pooled, kernel).sum(1)
        return summed if self.out.bias is None else summed + self.out.bias[...]


class _ResidualTower(Tower):
    """What both networks have in common."""

    config: ResNetConfig
    dtype: Literal["float32", "bfloat16"]
    taps: Taps | None

    @abc.abstractmethod
    def _stem(self, x: Float[Array, "b h w 3"], groups: Groups | None) -> Float[Array, "b _h _w c"]:
        """The first feature map, of half the images' resolution."""

    @abc.abstractmethod
    def _halve(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w c"]:
        """Pools the first feature map into the first stage's input."""

    def maps(
        self,
        images: Float[Array, "b h w 3"],
        levels: Sequence[int] | None = None,
        *,
        keys: Key[Array, " b"] | None = None,
        train: bool = False,
        views: int = 1,
    ) -> tuple[Float[Array, "b _h _w _c"], ...]:
        """Computes feature maps: 1 behind the stem, 2 to 5 behind the stages.

        Args:
          images: normalized, NHWC float32, of any size.
          levels: their numbers; None: all five.
          keys: taken like other towers' and not used: nothing is random here.
          train: batch norms use and update the statistics of the batch.
          views: images that one sample has, side by side.

        Returns:
          the map of each level in the compute type; that of level k has 1 / 2^k of the images'
          resolution.

        Raises:
          ValueError: there is no such level, or the samples do not divide into groups of
            `norm_batch` in training.
        """
        levels = self.config.map_levels if levels is None else levels
        unknown = sorted(set(levels) - set(self.config.map_levels))
        if unknown:
            raise ValueError(f"levels {list(levels)} are none of {list(self.config.map_levels)}")
        groups = _groups(self.config, images.shape[0], views) if train else None
        found = {1: self._stem(images.astype(self.dtype), groups)}
        x = self._halve(found[1])
        for number in _STAGES:
            x = getattr(self, f"layer{number}")(x, groups=groups)
            found[number + 1] = x = tapped(self.taps, f"stage{number}", x)
        return tuple(found[level] for level in levels)

    def layers_above(self, path: str) -> int:
        """See `Tower.layers_above`; the layers are the four stages, the stem is before them."""
        part = path.partition("/")[0]
        if part.startswith("layer"):
            return len(_STAGES) + 1 - int(part.removeprefix("layer"))
        return 0 if part == "attnpool" else len(_STAGES) + 1


class ClipResNet(_ResidualTower):
    """CLIP's modified residual network: a stem of three convolutions, attention pooling.

    Args:
      config: sizes of the network.
      embed_dim: width of the embedding.
      dtype: compute type; parameters stay float32.
      rngs: streams of random numbers for the initial parameters.

    Attributes:
      taps: observe the feature maps "stage1" to "stage4"; None: nothing is looked at.
    """

    def __init__(
        self,
        config: ClipResNetConfig,
        embed_dim: int,
        *,
        dtype: Literal["float32", "bfloat16"] = "float32",
        rngs: nnx.Rngs,
    ):
        self.config, self.dtype, self.image_size = config, dtype, config.image_size
        self.taps: Taps | None = nnx.data(None)
        half = config.width // 2
        self.conv1 = Conv(3, half, 3, stride=2, rngs=rngs)
        self.bn1 = BatchNorm(half)
        self.conv2 = Conv(half, half, 3, rngs=rngs)
        self.bn2 = BatchNorm(half)
        self.conv3 = Conv(half, config.width, 3, rngs=rngs)
        self.bn3 = BatchNorm(config.width)
        for number in _STAGES:
            setattr(self, f"layer{number}", Stage(config, number, pooled=True, rngs=rngs))
        self.attnpool = AttentionPool(config, embed_dim, rngs=rngs)

    def __call__(
        self,
        images: Float[Array, "b h w 3"],
        *,
        keys: Key[Array, " b"] | None = None,
        train: bool = False,
        views: int = 1,
    ) -> tuple[Float[Array, "b e"], Float[Array, "b e"]]:
        """Embeds normalized images.

        Args:
          images: normalized, NHWC float32, height and width as configured.
          keys: taken like other towers' and not used: nothing is random here.
          train: batch norms use and update the statistics of the batch.
          views: images that one sample has, side by side.

        Returns:
          the embedding, not normalized, float32, twice: it is also what transfer learning uses.

        Raises:
          ValueError: the images have another size than configured, or the samples do not divide
            into groups of `norm_batch` in training.
        """
        size = self.image_size
        if images.shape[1:] != (size, size, 3):
            raise ValueError(
                f"the network takes images of {size} x {size} x 3, not {images.shape[1:]}"
            )
        (last,) = self.maps(images, (5,), train=train, views=views)
        embedding = self.attnpool(last)
        return embedding, embedding

    def _stem(self, x: Float[Array, "b h w 3"], groups: Groups | None) -> Float[Array, "b _h _w c"]:
        x = jax.nn.relu(self.bn1(self.conv1(x), groups=groups))
        x = jax.nn.relu(self.bn2(self.conv2(x), groups=groups))
        return jax.nn.relu(self.bn3(self.conv3(x), groups=groups))

    def _halve(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w c"]:
        return average_pool(x, 2)


class ResNet(_ResidualTower):
    """torchvision's residual network (v1.5) without its classifier.

    Args:
      config: sizes of the network.
      dtype: compute type; parameters stay float32.
      rngs: streams of random numbers for the initial parameters.

    Attributes:
      taps: observe the feature maps "stage1" to "stage4"; None: nothing is looked at.
    """

    def __init__(
        self,
        config: ResNetConfig,
        *,
        dtype: Literal["float32", "bfloat16"] = "float32",
        rngs: nnx.Rngs,
    ):
        self.config, self.dtype = config, dtype
        self.taps: Taps | None = nnx.data(None)
        self.conv1 = Conv(3, config.width, 7, stride=2, rngs=rngs)
        self.bn1 = BatchNorm(config.width)
        for number in _STAGES:
            setattr(self, f"layer{number}", Stage(config, number, pooled=False, rngs=rngs))

    def __call__(
        self,
        images: Float[Array, "b h w 3"],
        *,
        keys: Key[Array, " b"] | None = None,
        train: bool = False,
    ) -> Float[Array, "b d"]:
        """Computes the mean of the last feature map, (b, features) float32.

        Args:
          images: normalized, NHWC float32, of any size.
          keys: taken like other towers' and not used: nothing is random here.
          train: batch norms use and update the statistics of the batch.

        Raises:
          ValueError: the samples do not divide into groups of `norm_batch` in training.
        """
        (last,) = self.maps(images, (5,), train=train)
        return last.astype(jnp.float32).mean((1, 2))

    def _stem(self, x: Float[Array, "b h w 3"], groups: Groups | None) -> Float[Array, "b _h _w c"]:
        return jax.nn.relu(self.bn1(self.conv1(x), groups=groups))

    def _halve(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w c"]:
        return jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
        )


def norm_names(published: str, path: str) -> Names:
    """Rows of a batch norm's (published name, our path, transform).

    Args:
      published, path: of the norm.
    """
    return (
        (f"{published}.weight", f"{path}/scale", "copy"),
        (f"{published}.bias", f"{path}/bias", "copy"),
        (f"{published}.running_mean", f"{path}/mean", "copy"),
        (f"{published}.running_var", f"{path}/var", "copy"),
        (f"{published}.num_batches_tracked", f"{path}/count", "int64"),
    )


def _block_names(config: ResNetConfig) -> Names:
    rows = []
    for number in _STAGES:
        for index in range(config.stages[number - 1]):
            published, path = f"layer{number}.{index}", f"layer{number}/block{index}"
            for part in (1, 2, 3):
                conv = (f"{published}.conv{part}.weight", f"{path}/conv{part}/kernel", "conv")
                rows += [conv, *norm_names(f"{published}.bn{part}", f"{path}/bn{part}")]
            if index == 0:  # the only one whose input differs from its output
                theirs, ours = f"{published}.downsample.0.weight", f"{path}/shortcut_conv/kernel"
                rows.append((theirs, ours, "conv"))
                rows += norm_names(f"{published}.downsample.1", f"{path}/shortcut_bn")
    return tuple(rows)


def _stem_names(convolutions: int) -> Names:
    rows = []
    for part in range(1, convolutions + 1):
        rows.append((f"conv{part}.weight", f"conv{part}/kernel", "conv"))
        rows += norm_names(f"bn{part}", f"bn{part}")
    return tuple(rows)


def clip_names(config: ClipResNetConfig) -> Names:
    """Rows of (published name, our path, transform) of `ClipResNet`, relative to the tower.

    Args:
      config: sizes of the network, which decide how many rows there are.
    """
    projections = (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("c_proj", "out"))
    return (
        *_stem_names(3),
        *_block_names(config),
        ("attnpool.positional_embedding", "attnpool/position_embedding", "copy"),
        *(
            row
            for theirs, ours in projections
            for row in (
                (f"attnpool.{theirs}.weight", f"attnpool/{ours}/kernel", "linear"),
                (f"attnpool.{theirs}.bias", f"attnpool/{ours}/bias", "copy"),
            )
        ),
    )


def names(config: ResNetConfig) -> Names:
    """Rows of (published name, our path, transform) of `ResNet`, relative to the tower.

    Args:
      config: sizes of the network, which decide how many rows there are.
    """
    return (*_stem_names(1), *_block_names(config))


def infer_config(shapes: Mapping[str, tuple[int, ...]]) -> ResNetConfig:
    """Infers the sizes of `ResNet` from published tensors, by majority.

    Args:
      shapes: of the tower's tensors, by name relative to the tower.
    """
    width = majority(shapes, (("layer1.*.conv1.weight", 0), ("layer1.*.bn1.*", 0)), 64)
    first, second, third, fourth = (
        max(count_layers(shapes, f"layer{number}."), 1) for number in _STAGES
    )
    return ResNetConfig((first, second, third, fourth), width)


def infer_clip_config(shapes: Mapping[str, tuple[int, ...]]) -> ClipResNetConfig:
    """Infers the sizes of `ClipResNet` from published tensors; see `infer_config`.

    Args:
      shapes: of the tower's tensors, by name relative to the tower.
    """
    sizes = infer_config(shapes)
    positions = majority(shapes, (("attnpool.positional_embedding", 0),), 50) - 1
    grid = max(math.isqrt(max(positions, 0)), 1)
    return ClipResNetConfig(sizes.stages, sizes.width, image_size=32 * grid)
