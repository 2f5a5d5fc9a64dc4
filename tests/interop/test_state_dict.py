"""Published tensors in and out: containers, variants, and every way to be wrong."""

import pickle
import zipfile

import numpy as np
import pytest
import torch
from golden_files import Golden, assert_same_bits

import retfm_jax
from retfm_jax.errors import UserError
from retfm_jax.interop.state_dict import resize_positions
from retfm_jax.interop.weights import read_tensors, write_tensors


@pytest.fixture(scope="module")
def published():
    return Golden("retclip_vit.npz")["state"]


def _model(tensors):
    return retfm_jax.from_torch(tensors, "retclip", text_num_heads=4)


@pytest.fixture(scope="module")
def model(published):
    return _model(published)


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.safetensors"])
@pytest.mark.parametrize("container", ["checkpoint", "state_dict"])
def test_files_round_trip(tmp_path, published, model, name, container):
    path = tmp_path / name
    write_tensors(path, retfm_jax.to_torch(model), container=container)
    assert_same_bits(retfm_jax.to_torch(_model(read_tensors(path))), published)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_checkpoint_container_is_the_published_one(tmp_path, published, model):
    write_tensors(tmp_path / "w.pt", retfm_jax.to_torch(model))
    loaded = torch.load(tmp_path / "w.pt", weights_only=True)
    assert {"epoch", "step", "name", "state_dict"} <= set(loaded)
    assert set(loaded["state_dict"]) == {f"module.{name}" for name in published}


def test_torch_tensors_prefix_and_pooler(published):
    tensors = {f"module.{name}": torch.from_numpy(value) for name, value in published.items()}
    tensors["module.bert.pooler.dense.weight"] = torch.zeros(48, 48)
    tensors["module.bert.pooler.dense.bias"] = torch.zeros(48)
    assert_same_bits(retfm_jax.to_torch(_model(tensors)), published)


def test_flash_attention_variant(published):
    tensors = {}
    for name, value in published.items():
        if ".attn.in_proj_" in name:
            tensors[name.replace("in_proj_", "Wqkv.")] = value
        elif ".attention.self.query." in name:
            parts = [name.replace("query", part) for part in ("query", "key", "value")]
            fused = np.concatenate([published[part] for part in parts])
            tensors[name.replace("query", "Wqkv")] = fused
        elif ".attention.self." not in name:
            tensors[name] = value
    assert_same_bits(retfm_jax.to_torch(_model(tensors)), published)


def test_every_wrong_tensor_is_named_in_one_error(published):
    tensors = dict(published)
    del tensors["visual.proj"]
    tensors["visual.ln_pre.weight"] = np.zeros(5, np.float32)
    tensors["visual.extra"] = np.zeros(2, np.float32)
    with pytest.raises(UserError) as error:
        _model(tensors)
    text = str(error.value)
    assert "missing visual.proj" in text
    assert "extra visual.extra" in text
    assert "misshaped visual.ln_pre.weight: (5,) where (128,) is expected" in text


@pytest.mark.parametrize("dropped", ["visual.conv1.weight", "bert.embeddings.LayerNorm.bias"])
def test_a_missing_tensor_does_not_hide_the_sizes(published, dropped):
    tensors = {name: value for name, value in published.items() if name != dropped}
    with pytest.raises(UserError, match=f"missing {dropped}"):
        _model(tensors)


class _Payload:
    def __reduce__(self):
        return (print, ("executed",))


def test_code_in_a_pt_is_refused(tmp_path, capsys):
    path = tmp_path / "evil.pt"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "x": _Payload()}, path)
    with pytest.raises(UserError, match="refused"):
        read_tensors(path)
    path.write_bytes(pickle.dumps(_Payload()))
    with pytest.raises(UserError, match="refused"):
        read_tensors(path)
    assert "executed" not in capsys.readouterr().out


def test_damaged_and_foreign_files(tmp_path, model):
    path = tmp_path / "w.pt"
    write_tensors(path, retfm_jax.to_torch(model))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"w\.pt is refused: it is damaged"):
        read_tensors(path)
    other = tmp_path / "w.safetensors"
    other.write_bytes(b"\x10" * 40)
    with pytest.raises(UserError, match="not a readable safetensors"):
        read_tensors(other)
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(UserError, match="are read from"):
        read_tensors(tmp_path / "w.zip")
    with pytest.raises(UserError, match="does not exist"):
        read_tensors(tmp_path / "nothing.pt")
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="holds no state dict"):
        read_tensors(path)


@pytest.mark.parametrize(("old", "new"), [(7, 14), (14, 7), (4, 9), (5, 5)])
def test_positions_are_resized_as_published(old, new):
    rng = np.random.default_rng(0)
    positions = rng.normal(size=(1 + old * old, 6)).astype(np.float32)
    grid = torch.from_numpy(positions[1:].reshape(1, old, old, 6)).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(
        grid, size=(new, new), mode="bicubic", align_corners=True
    )
    expected = expected.permute(0, 2, 3, 1).reshape(new * new, 6).numpy()
    resized = resize_positions(positions, 1 + new * new)
    np.testing.assert_array_equal(resized[0], positions[0])
    np.testing.assert_allclose(resized[1:], expected, atol=1e-5)


def test_no_square_grid_is_refused():
    with pytest.raises(UserError, match="square"):
        resize_positions(np.zeros((8, 3), np.float32), 17)
