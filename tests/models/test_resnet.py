"""Both residual networks against an independent PyTorch implementation, in and out of training."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from torch.nn import functional

from retfm_jax.models import resnet

SMALL = resnet.ResNetConfig(stages=(1, 2, 1, 1), width=4)
SMALL_CLIP = resnet.ClipResNetConfig(stages=(1, 2, 1, 1), width=4, image_size=64)
EMBED_DIM = 12

#: How each transform of a name table turns our array into a published tensor.
OUTWARD = {
    "copy": lambda x: x,
    "linear": lambda x: x.T,
    "conv": lambda x: x.transpose(3, 2, 0, 1),
    "int64": lambda x: x.astype(np.int64),
}


class TorchBottleneck(torch.nn.Module):
    """The textbook bottleneck, with torchvision's stride or CLIP's pooling."""

    def __init__(self, inputs: int, width: int, stride: int, pooled: bool):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(width)
        conv_stride = 1 if pooled else stride
        self.conv2 = torch.nn.Conv2d(width, width, 3, conv_stride, padding=1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(width)
        self.conv3 = torch.nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = torch.nn.BatchNorm2d(4 * width)
        pool = torch.nn.AvgPool2d(stride if pooled else 1)
        self.pool = pool
        self.downsample = None
        if stride > 1 or inputs != 4 * width:
            self.downsample = torch.nn.ModuleDict(
                {
                    "0": torch.nn.Conv2d(inputs, 4 * width, 1, conv_stride, bias=False),
                    "1": torch.nn.BatchNorm2d(4 * width),
                }
            )

    def forward(self, x):
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        y = self.bn3(self.conv3(self.pool(y)))
        if self.downsample is not None:
            x = self.downsample["1"](self.downsample["0"](self.pool(x)))
        return (x + y).relu()


class TorchAttentionPool(torch.nn.Module):
    """CLIP's attention pooling with PyTorch's own attention."""

    def __init__(self, positions: int, width: int, embed_dim: int):
        super().__init__()
        self.positional_embedding = torch.nn.Parameter(torch.empty(positions + 1, width))
        self.q_proj, self.k_proj, self.v_proj = (torch.nn.Linear(width, width) for _ in range(3))
        self.c_proj = torch.nn.Linear(width, embed_dim)

    def forward(self, x):
        x = x.flatten(2).mT
        x = torch.cat([x.mean(1, keepdim=True), x], 1) + self.positional_embedding

        def heads(y):
            return y.unflatten(2, (-1, 64)).transpose(1, 2)

        y = functional.scaled_dot_product_attention(
            heads(self.q_proj(x[:, :1])), heads(self.k_proj(x)), heads(self.v_proj(x))
        )
        return self.c_proj(y.transpose(1, 2).flatten(1))


class TorchResNet(torch.nn.Module):
    """Either network, by the names of its published tensors."""

    def __init__(self, config: resnet.ResNetConfig, embed_dim: int):
        super().__init__()
        width = config.width
        self.pooled = pooled = isinstance(config, resnet.ClipResNetConfig)
        stem = [(3, width // 2, 3), (width // 2, width // 2, 3), (width // 2, width, 3)]
        for number, (inputs, outputs, size) in enumerate(stem if pooled else [(3, width, 7)], 1):
            stride = 2 if number == 1 else 1
            conv = torch.nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
            setattr(self, f"conv{number}", conv)
            setattr(self, f"bn{number}", torch.nn.BatchNorm2d(outputs))
        self.stem = 3 if pooled else 1
        inputs = width
        for number, blocks in enumerate(config.stages, 1):
            inner = width * 2 ** (number - 1)
            stage = torch.nn.Sequential()
            for block in range(blocks):
                stride = 2 if block == 0 and number > 1 else 1
                stage.append(TorchBottleneck(inputs, inner, stride, pooled))
                inputs = 4 * inner
            setattr(self, f"layer{number}", stage)
        if pooled:
            self.attnpool = TorchAttentionPool((config.image_size // 32) ** 2, inputs, embed_dim)

    def forward(self, x):
        for number in range(1, self.stem + 1):
            x = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(x)).relu()
        x = functional.avg_pool2d(x, 2) if self.pooled else functional.max_pool2d(x, 3, 2, 1)
        for number in (1, 2, 3, 4):
            x = getattr(self, f"layer{number}")(x)
        return self.attnpool(x) if self.pooled else x.mean((2, 3))


def build(config: resnet.ResNetConfig) -> nnx.Module:
    rngs = nnx.Rngs(0)
    if isinstance(config, resnet.ClipResNetConfig):
        return resnet.ClipResNet(config, EMBED_DIM, rngs=rngs)
    return resnet.ResNet(config, rngs=rngs)


def names(config: resnet.ResNetConfig) -> resnet.Names:
    clip = isinstance(config, resnet.ClipResNetConfig)
    return resnet.clip_names(config) if clip else resnet.names(config)


def variables(module: nnx.Module) -> dict[str, nnx.Variable]:
    return {"/".join(path): value for path, value in nnx.to_flat_state(nnx.state(module))}


def randomized(config: resnet.ResNetConfig) -> nnx.Module:
    """A network in which every tensor, statistics included, has a value of its own."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: build(config)))
    rng = np.random.default_rng(0)

    def draw(path: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
        if path[-1] == "count":
            return np.int32(7)
        if path[-1] in ("scale", "var"):
            return rng.uniform(0.5, 1.5, shape).astype(np.float32)
        std = np.sqrt(2 / np.prod(shape[:-1])) if path[-1] == "kernel" else 0.1
        return (std * rng.normal(size=shape)).astype(np.float32)

    for path, variable in nnx.to_flat_state(state):
        variable.set_value(jnp.asarray(draw(path, variable.shape)))
    return nnx.merge(graphdef, state)


def tensors(config: resnet.ResNetConfig, module: nnx.Module) -> dict[str, torch.Tensor]:
    ours = variables(module)
    return {
        published: torch.from_numpy(np.array(OUTWARD[transform](np.asarray(ours[path][...]))))
        for published, path, transform in names(config)
    }


def torch_twin(config: resnet.ResNetConfig, module: nnx.Module) -> TorchResNet:
    """The PyTorch network with the same tensors; `strict` proves that the tables are complete."""
    twin = TorchResNet(config, EMBED_DIM)
    twin.load_state_dict(tensors(config, module), strict=True)
    return twin


@functools.partial(jax.jit, static_argnums=(0, 3))
def apply(
    graphdef: nnx.GraphDef, state: nnx.State, images: jax.Array, train: bool
) -> tuple[jax.Array, nnx.State]:
    """The embedding, and the parameters and statistics after it."""
    module = nnx.merge(graphdef, state)
    output = module(images, train=train)
    output = output[0] if isinstance(output, tuple) else output
    return output, nnx.state(module)


def run(module: nnx.Module, images: np.ndarray, *, train: bool = False) -> jax.Array:
    return apply(*nnx.split(module), jnp.asarray(images), train)[0]


def relative_error(ours, theirs: torch.Tensor) -> float:
    theirs = theirs.detach().numpy()
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def photographs(config: resnet.ResNetConfig, batch: int = 3) -> np.ndarray:
    # torchvision's network also takes sizes that do not halve evenly.
    size = getattr(config, "image_size", 75)
    return np.random.default_rng(1).normal(size=(batch, size, size, 3)).astype(np.float32)


@pytest.mark.parametrize("config", [SMALL, SMALL_CLIP], ids=["torchvision", "clip"])
def test_evaluation_equals_pytorch(config):
    module, images = randomized(config), photographs(config)
    twin = torch_twin(config, module).eval()
    expected = twin(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    assert relative_error(run(module, images), expected) < 2e-5


@pytest.mark.parametrize("config", [SMALL, SMALL_CLIP], ids=["torchvision", "clip"])
def test_training_equals_pytorch_in_output_statistics_and_gradient(config):
    module, images = randomized(config), photographs(config, batch=6)
    twin = torch_twin(config, module).train()
    expected = twin(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    target = np.random.default_rng(2).normal(size=expected.shape).astype(np.float32)
    (expected * torch.from_numpy(target)).sum().backward()
    graphdef, state = nnx.split(module)

    def loss(state):
        output, new_state = apply(graphdef, state, jnp.asarray(images), True)
        return jnp.sum(output * target), (output, new_state)

    gradient, (output, new_state) = jax.jit(jax.grad(loss, has_aux=True, allow_int=True))(state)
    assert relative_error(output, expected) < 2e-5
    ours = tensors(config, nnx.merge(graphdef, new_state))
    for name, value in twin.state_dict().items():
        assert relative_error(ours[name], value.float()) < 2e-5, name
    ours = {"/".join(path): value[...] for path, value in nnx.to_flat_state(gradient)}
    gradients = {
        published: OUTWARD[transform](np.asarray(ours[path]))
        for published, path, transform in names(config)
        if transform != "int64"
    }
    for name, parameter in twin.named_parameters():
        if name == "attnpool.k_proj.bias":  # zero by mathematics
            continue
        assert relative_error(gradients[name], parameter.grad) < 2e-4, name


def test_resnet50_at_full_width_equals_pytorch():
    config = resnet.ResNetConfig()
    module = randomized(config)
    images = np.random.default_rng(1).normal(size=(1, 96, 96, 3)).astype(np.float32)
    twin = torch_twin(config, module).eval()
    with torch.no_grad():
        expected = twin(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    assert relative_error(run(module, images), expected) < 2e-5


def test_statistics_of_a_sharded_batch_are_those_of_the_global_batch():
    module, images = randomized(SMALL_CLIP), jnp.asarray(photographs(SMALL_CLIP, batch=8))
    graphdef, state = nnx.split(module)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
    for one, eight in zip(
        jax.tree.leaves(apply(graphdef, state, images, True)),
        jax.tree.leaves(apply(graphdef, state, sharded, True)),
        strict=True,
    ):
        np.testing.assert_allclose(one, eight, rtol=2e-4, atol=1e-5)


def test_groups_are_normalized_as_if_each_were_alone():
    """Two groups of four samples, of which each has two views."""
    grouped = dataclasses.replace(SMALL_CLIP, norm_batch=2)
    state = nnx.state(randomized(SMALL_CLIP))
    images = jnp.asarray(photographs(SMALL_CLIP, batch=8))

    @functools.partial(jax.jit, static_argnums=(0, 2))
    def train(config, images, views):
        module = nnx.merge(nnx.graphdef(build(config)), state, copy=True)
        return module(images, train=True, views=views)[0], nnx.state(module, nnx.BatchStat)

    together, statistics = train(grouped, images, 2)
    groups = [np.flatnonzero(np.arange(8) // 2 % 2 == group) for group in (0, 1)]
    alone = [train(SMALL_CLIP, images[rows], 1) for rows in groups]
    for rows, (output, _) in zip(groups, alone, strict=True):
        np.testing.assert_allclose(together[rows], output, atol=1e-5)
    for ours, *theirs in zip(
        jax.tree.leaves(statistics), *(jax.tree.leaves(s) for _, s in alone), strict=True
    ):
        np.testing.assert_allclose(ours, np.mean(theirs, axis=0), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="3 samples do not divide into groups of norm_batch 2"):
        train(grouped, images[:3], 1)


@pytest.mark.parametrize(
    ("size", "height", "width"), [(7, 32, 32), (7, 33, 18), (5, 9, 7), (3, 8, 9)]
)
def test_a_convolution_of_blocks_equals_the_strided_one(size, height, width):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, height, width, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(size, size, 3, 5)), jnp.float32)

    def both(function):
        y, back = jax.vjp(function, x, kernel)
        return y, *back(jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

    plain = both(lambda x, kernel: resnet._convolve(x, kernel, 2, (size // 2, size // 2)))
    for ours, theirs in zip(both(resnet.convolve_blocks), plain, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * float(jnp.abs(theirs).max()))


@pytest.mark.parametrize("target", ["tpu", "cpu"])
def test_a_tower_s_stem_convolves_blocks_on_a_tpu(target, monkeypatch):
    monkeypatch.setattr(resnet, "platform", lambda: target)
    graphdef, state = nnx.split(nnx.eval_shape(lambda: build(SMALL)))
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    program = str(jax.make_jaxpr(lambda s, x: nnx.merge(graphdef, s)(x))(state, images))
    assert ("4,4,12,4" in program) == (target == "tpu")
    assert "7,7,3,4" in program  # as it is stored


def _error(found: jax.Array, expected: np.ndarray) -> float:
    return float(np.abs(np.asarray(found, np.float64).ravel() / expected - 1).max())


@pytest.mark.parametrize(
    ("dtype", "mean", "shift", "tolerance"),
    [
        ("float32", 1000.0, 0.0, 1e-5),
        ("bfloat16", 10.0, 10.1, 1e-5),
        ("bfloat16", 10.0, 0.0, 1e-4),  # the first step of a network without weights
        ("bfloat16", 0.0, 100.0, 1e-2),
    ],
)
def test_statistics_equal_those_in_double_precision(dtype, mean, shift, tolerance):
    """Standard deviations are 1, so that means are in units of them."""
    values = mean + np.random.default_rng(0).normal(size=(8, 1, 1, 40, 40, 3))
    x = jnp.asarray(values, dtype)
    exact = np.asarray(x, np.float64)
    ours = jax.jit(resnet._statistics)(x, jnp.full(3, shift, jnp.float32))
    assert _error(ours[1], exact.var((0, 1, 2, 3, 4))) < tolerance
    mean = exact.mean((0, 1, 2, 3, 4))
    np.testing.assert_allclose(np.ravel(ours[0]), mean, rtol=1e-5, atol=1e-5 * abs(shift) + 1e-6)


def test_sums_around_zero_lose_less_than_bfloat16_has_lost():
    values = 200 + np.random.default_rng(0).normal(size=(8, 1, 1, 40, 40, 3))
    x = jnp.asarray(values, "bfloat16")
    _, var = jax.jit(resnet._statistics)(x, jnp.zeros(3))
    axes = (0, 1, 2, 3, 4)
    rounded = np.asarray(x, np.float64).var(axes)
    assert _error(var, rounded) < _error(rounded, values.var(axes))


def test_a_shift_from_another_world_leaves_a_finite_deviation():
    values = np.random.default_rng(0).normal(size=(8, 1, 1, 40, 40, 3))
    _, var = jax.jit(resnet._statistics)(jnp.asarray(values, "bfloat16"), jnp.full(3, 1e3))
    assert 0.25 < float(var.min()) <= float(var.max()) < 4
    same = jnp.full((2, 1, 1, 4, 4, 3), 7, "bfloat16")  # a channel that never changes
    assert float(jax.jit(resnet._statistics)(same, jnp.full(3, 7.0))[1].max()) == 0


def test_the_norm_s_gradient_is_that_of_its_formula():
    rng = np.random.default_rng(0)
    x = jnp.asarray(3 + rng.normal(size=(4, 2, 2, 5, 5, 3)), jnp.float32)  # two groups, two views
    target = jnp.asarray(rng.normal(size=x.shape), jnp.float32)
    scale, bias = (jnp.asarray(rng.normal(size=3), jnp.float32) for _ in range(2))

    def formula(x, scale, bias):
        mean = x.mean((0, 2, 3, 4), keepdims=True)
        var = jnp.square(x - mean).mean((0, 2, 3, 4), keepdims=True)
        return (x - mean) / jnp.sqrt(var + resnet.BatchNorm.eps) * scale + bias

    def ours(x, scale, bias):
        return resnet._normalize(x, scale, bias, jnp.zeros(3))[0]

    @functools.partial(jax.jit, static_argnums=0)
    def gradient(norm, x, *rest):
        # Not linear in the output, so that what comes back depends on it.
        return jax.grad(lambda *a: jnp.sum(jnp.tanh(norm(*a)) * target), (0, 1, 2))(x, *rest)

    expected = gradient(formula, x, scale, bias)
    for found, wanted in zip(gradient(ours, x, scale, bias), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    short = gradient(ours, x.astype("bfloat16"), scale, bias)
    assert short[0].dtype == jnp.bfloat16
    for found, wanted in zip(short, expected, strict=True):
        np.testing.assert_allclose(found.astype("float32"), wanted, rtol=0.1, atol=0.05)


def test_bfloat16_computes_convolutions_and_leaves_the_rest_in_float32():
    # By shapes alone: CPUs emulate bfloat16 convolutions, slowly.
    def network():
        return resnet.ClipResNet(SMALL_CLIP, EMBED_DIM, dtype="bfloat16", rngs=nnx.Rngs(0))

    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    graphdef, state = nnx.split(nnx.eval_shape(network))
    embedding, new_state = jax.eval_shape(lambda s, x: apply(graphdef, s, x, True), state, images)
    assert embedding.dtype == jnp.float32
    assert {leaf.dtype.name for leaf in jax.tree.leaves(new_state)} == {"float32", "int32"}
    program = str(jax.make_jaxpr(lambda s, x: apply(graphdef, s, x, True))(state, images))
    convolutions = [line for line in program.splitlines() if "conv_general_dilated[" in line]
    assert convolutions
    assert all(":bf16[" in line for line in convolutions)


@pytest.mark.parametrize("config", [SMALL, resnet.ResNetConfig()])
def test_sizes_are_read_off_the_published_shapes(config):
    shapes = {name: tuple(x.shape) for name, x in TorchResNet(config, 8).state_dict().items()}
    assert resnet.infer_config(shapes) == config


@pytest.mark.parametrize(
    "config", [SMALL_CLIP, resnet.ClipResNetConfig(**resnet.ClipResNetConfig.sizes["RN50x4"])]
)
def test_clip_sizes_are_read_off_the_published_shapes(config):
    shapes = {name: tuple(x.shape) for name, x in TorchResNet(config, 8).state_dict().items()}
    assert resnet.infer_clip_config(shapes) == config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stages": (1, 0, 1, 1)}, "stages must be at least 1, not 0"),
        ({"stages": (1, 1, 1)}, "stages needs 4 values, not 3"),
        ({"image_size": 200}, "multiple of 32"),
        ({"width": 7}, "must be even"),
    ],
)
@pytest.mark.wrong_arguments
def test_impossible_sizes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        resnet.ClipResNetConfig(**arguments)
