"""Arrays are divided where that is possible and useful, and the mesh fits the devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from retfm_jax.config import MeshConfig
from retfm_jax.errors import UserError
from retfm_jax.runtime.mesh import (
    check_batch_size,
    make_mesh,
    partition_spec,
    place_batch,
    shardings,
)


@pytest.mark.parametrize(
    ("data", "fsdp", "shape"), [(-1, 1, (8, 1)), (-1, 2, (4, 2)), (2, -1, (2, 4)), (4, 2, (4, 2))]
)
def test_one_size_may_be_left_open(data, fsdp, shape):
    mesh = make_mesh(MeshConfig(data, fsdp))
    assert tuple(mesh.shape.values()) == shape


@pytest.mark.parametrize(("data", "fsdp"), [(3, -1), (4, 4), (-1, 16)])
def test_sizes_that_do_not_fit_are_refused(data, fsdp):
    with pytest.raises(UserError, match=f"data={data} fsdp={fsdp} does not fit 8 devices"):
        make_mesh(MeshConfig(data, fsdp))


@pytest.mark.parametrize(("data", "fsdp"), [(0, -1), (-2, -4)])
def test_sizes_that_no_mesh_has_are_refused(data, fsdp):
    with pytest.raises(UserError, match=f"data must be at least 1 or -1, not {data}"):
        MeshConfig(data, fsdp)


@pytest.mark.parametrize(
    ("path", "shape", "axis"),
    [
        ("visual/proj", (768, 512), 0),
        ("bert/embedding", (21129, 768), 1),  # an odd vocabulary: the next largest axis
        ("visual/conv", (3, 5, 7, 99), None),  # nothing divides
        ("visual/ln/scale", (768,), None),  # small
        ("log_scale", (), None),
        ("visual/blocks/mlp/kernel", (12, 768, 3072), 2),
        ("visual/blocks/qkv/kernel", (12, 768, 2304), 1),  # three maps stand in the last axis
        ("visual/blocks/qkv/bias", (12, 9216), None),
        ("visual/pooling/qkv/kernel", (768, 2304), 0),
        ("visual/blocks/ln/scale", (4096, 3), None),  # only the layer axis could be divided
        ("0/mu/visual/blocks/mlp/kernel", (12, 768, 3072), 2),
        ("carry/queue/image", (65536, 512), None),
    ],
)
def test_largest_divisible_axis_is_sharded(path, shape, axis):
    expected = () if axis is None else (None,) * axis + ("fsdp",)
    assert partition_spec(path, shape, fsdp=4) == PartitionSpec(*expected)
    assert partition_spec(path, shape, fsdp=1) == PartitionSpec()


def test_moments_lie_like_their_parameters():
    mesh = make_mesh(MeshConfig(4, 2))
    params = {"a": {"kernel": jax.ShapeDtypeStruct((128, 256), jnp.float32)}}
    ours = shardings({"params": params, "opt_state": [{"mu": params}]}, mesh)
    assert ours["params"] == ours["opt_state"][0]["mu"]
    assert ours["params"]["a"]["kernel"].shard_shape((128, 256)) == (128, 128)


def test_samples_keep_their_order_over_all_devices():
    mesh = make_mesh(MeshConfig(4, 2))
    array = np.arange(32).reshape(16, 2)
    placed = place_batch({"tokens": array}, mesh)["tokens"]
    np.testing.assert_array_equal(placed, array)
    assert {shard.data.shape for shard in placed.addressable_shards} == {(2, 2)}


def test_batch_divides_into_microbatches_and_devices():
    mesh = make_mesh(MeshConfig())
    check_batch_size(64, 4, mesh)
    with pytest.raises(UserError, match="take a multiple of 32"):
        check_batch_size(48, 4, mesh)
