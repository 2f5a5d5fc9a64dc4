"""Model FLOPs: those of pencil and paper, and of the program that training differentiates."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from retfm_jax.config import load_config
from retfm_jax.methods.retclip import RetClip, RetClipConfig
from retfm_jax.methods.vilref import Vilref, VilrefConfig
from retfm_jax.models import bert, resnet, vit
from retfm_jax.runtime import chips
from retfm_jax.training import flops
from retfm_jax.training.flops import count_flops, peak_flops, training_flops
from retfm_jax.training.optimizers import Partition

_BERT = bert.BertConfig(vocab_size=32, width=32, layers=2, heads=2, mlp_width=64, positions=8)
_VIT = vit.ViTConfig(image_size=16, patch_size=8, width=32, layers=2, heads=2)


def _shape(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def _transformer(width, layers, tokens, mlp=4):
    """Multiply-adds: q, k, v, out, MLP; and the two products of attention."""
    return layers * (tokens * (4 + 2 * mlp) * width**2 + 2 * tokens**2 * width)


def _network(method):
    return jax.eval_shape(method.init, jax.random.key(0))


def _patients(size, rows, length):
    image = _shape(rows, size, size, 3)
    tokens = _shape(rows, length, dtype=jnp.int32)
    return {"image_left": image, "image_right": image, "tokens": tokens}


def test_retclip_vit_b16_is_that_of_pencil_and_paper():
    method = RetClip(load_config("retclip_vit_b16").model)
    params, state = _network(method)
    image = 196 * 3 * 16 * 16 * 768 + _transformer(768, 12, 197) + 768 * 512
    text = _transformer(768, 12, 100) + 3 * (768 * 768 + 768 * 512)
    heads = 2 * 512 * 512 + 1024 * 512
    loss = 3 * 2 * 8 * 512  # of 8 candidates: three levels, two directions
    forward = 2 * (2 * image + text + heads + loss)
    batch = _patients(224, 8, 100)
    counted = count_flops(lambda p, s, b: method.loss(p, s, b)[0], params, state, batch)
    assert counted == 8 * forward
    assert forward == pytest.approx(88e9, rel=0.01)
    no_gradient_to_images = 2 * 2 * 196 * 3 * 16 * 16 * 768
    trained = training_flops(method, params, state, batch)
    assert trained == 8 * (3 * forward - no_gradient_to_images)
    assert trained / 8 == pytest.approx(264e9, rel=0.01)


def test_resnet_50_has_its_published_size():
    def features(images):
        return resnet.ResNet(resnet.ResNetConfig(), rngs=nnx.Rngs(0))(images)

    # 4.09 G multiply-adds without the classifier, as torchvision's table has it.
    counted = count_flops(features, _shape(1, 224, 224, 3))
    assert counted / 2 == pytest.approx(4.087e9, rel=1e-3)


@pytest.mark.parametrize("fixed", [(), ("visual",), ("bert", "visual/blocks")])
def test_training_counts_what_differentiation_makes(fixed):
    """Against the products in the differentiated program, which holds no rematerialization."""
    config = RetClipConfig(image=_VIT, text=_BERT, embed_dim=16)
    _equal_to_gradient(RetClip(config), _patients(16, 4, 8), fixed)


def test_momentum_encoders_and_queues_count_forward_only():
    config = VilrefConfig(image=_VIT, text=_BERT, embed_dim=16, num_labels=3, queue_size=8)
    batch = {
        "image": _shape(4, 16, 16, 3),
        "tokens": _shape(4, 8, dtype=jnp.int32),
        "labels": _shape(4, 3),
    }
    _equal_to_gradient(Vilref(config), batch, ())


def _equal_to_gradient(method, batch, fixed):
    params, state = _network(method)
    partition = Partition(fixed)

    def gradient(params, state, batch, key):
        trainable, rest = partition.split(params)

        def loss(trainable):
            merged = partition.merge(trainable, rest)
            return method.loss(merged, state, batch, key, train=True)[0]

        return jax.value_and_grad(loss)(trainable)

    expected = count_flops(gradient, params, state, batch, jax.random.key(0))
    assert training_flops(method, params, state, batch, fixed) == expected


def test_rematerialization_is_no_model_flops():
    images = _patients(16, 4, 8)
    counts = set()
    for remat in ("none", "dots", "named", "full"):
        image = vit.ViTConfig(image_size=16, patch_size=8, width=32, layers=2, heads=2, remat=remat)
        method = RetClip(RetClipConfig(image=image, text=_BERT, embed_dim=16))
        counts.add(training_flops(method, *_network(method), images))
    assert len(counts) == 1


def test_control_flow():
    square = _shape(4, 4)
    once = 2 * 4**3

    def looped(x):
        x = jax.lax.fori_loop(0, 5, lambda _, y: y @ x, x)  # 5
        x = jax.lax.cond(x.sum() > 0, lambda y: y @ y @ y, lambda y: y @ y, x)  # 2
        x = jax.lax.while_loop(lambda y: (y @ y).sum() < 9, lambda y: y @ y, x)  # once each
        return jax.jit(jax.checkpoint(jax.vmap(lambda row: row @ x)))(x)  # 1

    assert count_flops(looped, square) == (5 + 2 + 2 + 1) * once


def _of_scan():
    """Constants, two carried arrays of which the second learns from the first, slices, results."""

    def body(carry, row, constant):
        first, second = carry
        return (first @ constant, second + first @ row), (row @ constant, first[0])

    def scanned(x, rows):
        return jax.lax.scan(lambda c, row: body(c, row, x), (x, jnp.zeros_like(x)), rows)

    return scanned, (_shape(4, 4), _shape(7, 4, 4)), 7 * 3


def _of_scan_without_slices():
    return (
        lambda x: jax.lax.scan(lambda c, _: (c @ x, None), x, None, length=6)[0],
        (_shape(4, 4),),
        6,
    )


def _of_nested_scans():
    def inner(x):
        return jax.lax.scan(lambda c, _: (c @ x, c), x, None, length=3)[0]

    return (
        lambda x: jax.lax.scan(lambda c, _: (inner(c), ()), x, None, length=5)[0],
        (_shape(4, 4),),
        15,
    )


def _of_custom_gradient():
    @jax.custom_vjp
    def square(x):
        return x @ x

    square.defvjp(lambda x: (x @ x, x), lambda x, g: (g @ x.T,))
    return jax.jit(square), (_shape(4, 4),), 1


def _of_one_device():
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.PartitionSpec("rows")
    each = jax.shard_map(lambda x: x @ x.T @ x, mesh=mesh, in_specs=rows, out_specs=rows)
    return each, (_shape(32, 4),), 8 * 2


def _of_a_switch():
    branches = [lambda x: x, lambda x: x @ x, lambda x: x @ x @ x]
    return lambda i, x: jax.lax.switch(i, branches, x), (_shape(dtype=jnp.int32), _shape(4, 4)), 2


@pytest.mark.parametrize(
    "case",
    [
        _of_scan,
        _of_scan_without_slices,
        _of_nested_scans,
        _of_custom_gradient,
        _of_one_device,
        _of_a_switch,
    ],
)
def test_programs_within_programs(case):
    function, arguments, products = case()
    assert count_flops(function, *arguments) == products * 2 * 4**3


def test_a_counter_that_fails_says_so_and_ends_nothing(monkeypatch, capsys):
    def fails(*_):
        raise KeyError("num_consts")

    monkeypatch.setattr(flops, "_count", fails)
    method = RetClip(RetClipConfig(image=_VIT, text=_BERT, embed_dim=16))
    assert training_flops(method, *_network(method), _patients(16, 4, 8)) is None
    assert flops.count_program(jax.jit(lambda x: x @ x).trace(_shape(4, 4))) is None
    said = capsys.readouterr().err
    assert said.count("warning: FLOPs cannot be counted") == 2
    assert "KeyError: 'num_consts'" in said


def test_convolutions_by_groups_and_stride():
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=2,
        )  # fmt: skip

    counted = count_flops(convolve, _shape(3, 8, 8, 4), _shape(3, 3, 2, 6))
    assert counted == 2 * (3 * 4 * 4 * 6) * (3 * 3 * 2)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("NVIDIA A100-SXM4-40GB", "a100_40gb"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100_pcie"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("Tesla T4", "t4"),
        ("cpu", None),
    ],
)
def test_chips_are_known_by_what_jax_calls_them(kind, name):
    chip = chips.find(kind)
    assert (chip and chip.name) == name
    assert chip is None or chips.named(name) is chip


def test_peaks():
    assert peak_flops("TPU v5 lite", "bfloat16") == 197e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "float32") == 156e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "float8") is None
    assert peak_flops("cpu", "float32") is None
