"""What decoders of dense predictions are made of: convolutions, transposed ones, resizing."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from retfm_jax.models.resnet import BatchNorm, Conv, Groups, Names, norm_names


class ConvBlock(nnx.Module):
    """A 3x3 convolution with bias, a batch norm and ReLU.

    Args:
      inputs, outputs: channels.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.conv = Conv(inputs, outputs, 3, bias=True, rngs=rngs)
        self.bn = BatchNorm(outputs)

    def __call__(
        self, x: Float[Array, "b h w i"], *, groups: Groups | None
    ) -> Float[Array, "b h w o"]:
        """Runs the block.

        Args:
          x: feature maps, NHWC.
          groups: rows that the batch norm normalizes together; None: by its running statistics.
        """
        return jax.nn.relu(self.bn(self.conv(x), groups=groups))


class Upsample(nnx.Module):
    """A transposed convolution that doubles the resolution: 2x2, stride 2, with bias.

    Args:
      inputs, outputs: channels.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        std = math.sqrt(1 / inputs)  # each output pixel sees one input pixel
        kernel = std * jax.random.normal(rngs.params(), (2, 2, inputs, outputs))
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros(outputs))

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b _h _w o"]:
        b, h, w, _ = x.shape
        # Windows do not overlap: y[2 h + p, 2 w + q] = x[h, w] . kernel[p, q]
        y = jnp.einsum("bhwi,pqio->bhpwqo", x, self.kernel.astype(x.dtype))
        return y.reshape(b, 2 * h, 2 * w, -1) + self.bias.astype(x.dtype)


def resize_maps(x: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b _h _w c"]:
    """Resizes maps bilinearly with antialiasing; those of that size stay as they are.

    Args:
      x: maps, NHWC.
      size: height and width that are wanted.
    """
    if x.shape[1:3] == size:
        return x
    shape = (x.shape[0], *size, x.shape[-1])
    return jax.image.resize(x.astype(jnp.float32), shape, "bilinear").astype(x.dtype)


def block_names(conv: str, norm: str, path: str) -> Names:
    """Rows of a `ConvBlock`'s (published name, our path, transform).

    Args:
      conv, norm: published names of its convolution and its batch norm.
      path: of the block.
    """
    return (
        (f"{conv}.weight", f"{path}/conv/kernel", "conv"),
        (f"{conv}.bias", f"{path}/conv/bias", "copy"),
        *norm_names(norm, f"{path}/bn"),
    )


def upsample_names(published: str, path: str) -> Names:
    """Rows of an `Upsample`'s (published name, our path, transform).

    Args:
      published, path: of the layer.
    """
    return (
        (f"{published}.weight", f"{path}/kernel", "deconv"),
        (f"{published}.bias", f"{path}/bias", "copy"),
    )
