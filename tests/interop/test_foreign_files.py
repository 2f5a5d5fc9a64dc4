"""Weight files as others write them: read for their tensors, or refused in one message."""

import argparse
import collections
import contextlib
import io
import json
import logging
import pathlib
import pickle
import struct
import zipfile

import jax
import numpy as np
import pytest
import torch
from golden_files import Golden, assert_same_bits

import retfm_jax
from retfm_jax.errors import UserError
from retfm_jax.interop.layouts import from_chinese_clip, plain_names, to_chinese_clip
from retfm_jax.interop.pickles import DamagedPickle, _Machine
from retfm_jax.interop.weights import read_tensors, write_tensors
from retfm_jax.trees import nonfinite_leaves


@pytest.fixture(scope="module")
def published():
    return Golden("retclip_vit.npz")["state"]


@pytest.fixture(scope="module")
def tensors(published):
    return {name: torch.from_numpy(np.array(value)) for name, value in published.items()}


@pytest.fixture
def file(tmp_path):
    """Saves an object and reads it back as tensors."""

    def read(value, name="w.pt", **options):
        torch.save(value, tmp_path / name, **options)
        return read_tensors(tmp_path / name)

    return read


def assert_published(found, published):
    model = retfm_jax.from_torch(found, "retclip", text_num_heads=4)
    assert_same_bits(retfm_jax.to_torch(model), published)


def renamed(tensors, prefix):
    return {prefix + name: value for name, value in tensors.items()}


@pytest.mark.parametrize(
    "prefix",
    [
        "module.", "module.module.", "_orig_mod.", "model.", "module._orig_mod.model.",
        "model.module.", "_forward_module.", "_fsdp_wrapped_module.module.", "net.", "retclip.",
        "lit_module.model.",
    ],
)  # fmt: skip
def test_what_wrappers_put_before_names_goes(prefix, published):
    assert_published(renamed(published, prefix), published)


def test_what_compilation_and_sharding_put_into_names_goes():
    names = ["visual._orig_mod.proj", "module.visual._fsdp_wrapped_module.ln_post.weight"]
    assert list(plain_names(names, "w").values()) == ["visual.proj", "visual.ln_post.weight"]


def test_names_of_a_network_are_no_wrappers():
    names = ["vision_model.model.conv1.weight", "vision_model.model.bn1.bias"]
    assert list(plain_names(names, "w").values()) == names
    assert plain_names(["module.logit_scale"], "w") == {"module.logit_scale": "logit_scale"}


def test_two_networks_under_one_name_are_refused(published):
    both = renamed(published, "module.") | renamed(published, "model.")
    with pytest.raises(UserError, match=r"module\.\S+ and model\.\S+, which are both"):
        retfm_jax.from_torch(both, "retclip")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda sd: {"state_dict": sd, "epoch": 3, "optimizer": {"state": {0: dict(sd)}}},
        lambda sd: {"model": sd, "args": argparse.Namespace(lr=1e-4, out=pathlib.Path("x"))},
        lambda sd: {"model_state_dict": sd, "best": np.float64(0.8), "seen": np.int64(3)},
        lambda sd: {"teacher": renamed(sd, "backbone."), "student": renamed(sd, "backbone.")},
        lambda sd: {"state_dict": renamed(sd, "model."), "state_dict_ema": sd},
        lambda sd: {"module": sd, "mp_world_size": 1},
        lambda sd: {"epoch": 1, "ema": {"decay": 0.9, "module": sd}},
        lambda sd: {"checkpoint": {"network": {"weights": sd}}},
        lambda sd: {"model": sd, "rng": torch.get_rng_state(), "np_rng": np.random.get_state()},
        lambda sd: {"model": sd, "history": collections.defaultdict(list, a=[1.0])},
        lambda sd: {"best_accuracy": torch.tensor(0.5), "model": sd},
        lambda sd: sd | {"epoch": 4, "note": "a bare state dict with a number in it"},
        lambda sd: collections.OrderedDict(sd),
        lambda sd: {name: value.numpy() for name, value in sd.items()},
        lambda sd: {name: torch.nn.Parameter(value, False) for name, value in sd.items()},
    ],
)  # fmt: skip
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_state_dicts_are_found_by_content(file, tensors, published, wrap, legacy):
    found = file(wrap(dict(tensors)), "w.ckpt", _use_new_zipfile_serialization=not legacy)
    assert_published(found, published)


def test_what_is_passed_over_and_chosen_is_said(file, tensors, caplog):
    with caplog.at_level(logging.WARNING):
        file(dict(tensors) | {"epoch": 4})
        file({"student": dict(tensors), "teacher": tensors})
    assert "passed over 1 entries that are no tensors: epoch" in caplog.text
    assert "teacher is read, not student" in caplog.text


def test_values_of_optimizers_are_no_network(file, tensors, published):
    linear = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(linear.parameters())
    linear(torch.ones(3)).sum().backward()
    optimizer.step()
    content = {"optimizer": optimizer.state_dict(), "state_dict": tensors, "scaler": {"scale": 2.0}}
    assert_published(file(content), published)


def test_views_types_and_shared_storages_are_read_as_torch_reads_them(file):
    base = torch.arange(24.0).reshape(4, 6)
    saved = {
        "x.transposed": base.T,
        "x.part": base[1:, 2:5],
        "x.column": base[:, 1],
        "x.tied": base,
        "x.none": torch.zeros(0, 3),
        "x.scalar": torch.tensor(2.5),
        "x.half": torch.randn(3).half(),
        "x.bfloat": torch.randn(5).bfloat16(),
        "x.double": torch.randn(2).double(),
        "x.long": torch.tensor([2**40, -1]),
        "x.bool": torch.tensor([True, False]),
        "x.byte": torch.arange(3).to(torch.uint8),
        "x.short": torch.tensor([-7], dtype=torch.int16),
    }
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        for name, value in file(saved, **options).items():
            want = saved[name]
            np.testing.assert_array_equal(value.astype(np.float64), want.double().numpy())
            assert value.dtype.name == str(want.dtype).removeprefix("torch.")


def test_a_torchscript_archive_is_read_as_tensors_only(tmp_path):
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 3).half()
            self.register_buffer("size", torch.tensor(224))
            self.scale = torch.nn.Parameter(torch.ones(()))
            self.layers = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU())

        def forward(self, x):
            return self.layers(x) * self.scale

    block = Block()
    torch.jit.script(block).save(str(tmp_path / "ViT-B-16.pt"))
    found = read_tensors(tmp_path / "ViT-B-16.pt")
    assert found.keys() == block.state_dict().keys()
    for name, want in block.state_dict().items():
        np.testing.assert_array_equal(found[name], want.numpy())


class _Payload:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"state_dict": {"a.b": torch.ones(1)}, "x": _Payload()}, "entry x holds"),
        ({"deep": [1, {"er": (2, _Payload())}]}, "entry deep.1.er.1 holds"),
        ({"args": argparse.Namespace(hook=_Payload())}, "entry args.hook holds"),
        ({"model": torch.nn.Linear(1, 1)}, "entry model holds torch.nn.modules.linear.Linear"),
        (torch.nn.Linear(1, 1), "it holds torch.nn.modules.linear.Linear"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_what_only_code_could_make_is_refused_by_its_entry(file, capsys, value, named, legacy):
    with pytest.raises(UserError, match="is refused") as error:
        file(value, _use_new_zipfile_serialization=not legacy)
    assert named in str(error.value)
    assert "weights_only" not in str(error.value)
    assert str(error.value).isprintable()
    assert "executed" not in capsys.readouterr().out


def test_a_tensor_alone_is_no_state_dict(file):
    with pytest.raises(UserError, match="no state dict, but one tensor without a name"):
        file(torch.ones(2))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: torch.eye(3).to_sparse(), "sparse"),
        (lambda: torch.eye(3).to_sparse_csr(), "sparse"),
        (lambda: torch.ones(3, device="meta"), "meta"),
        (lambda: torch.ones(3).to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (lambda: torch.ones(3, dtype=torch.complex64), "complex64"),
        (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "quantized"),
    ],
)
def test_tensors_without_usable_values_are_named(file, make, why):
    with pytest.raises(UserError, match=rf"visual\.odd \(.*{why}"):
        file({"visual.odd": make(), "visual.good": torch.ones(2)})
    with pytest.raises(UserError, match=rf"visual\.odd \(.*{why}"):
        retfm_jax.from_torch({"visual.odd": make()}, "retclip")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"w\.pt is empty \(0 bytes\)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 9\n", "git lfs pull"),
        (b"<!DOCTYPE html>\n<html><body>404</body></html>", "is a page"),
        (b"\n<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is a page"),
        (b'{"error": "gated model"}', "is a JSON file"),
        (b"\x1f\x8b\x08\x00rest", "compressed archive"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x93NUMPY\x01\x00", "NumPy array"),
        (b"GGUF\x03\x00", "GGUF"),
        (b"\0" * 300, "is no weight file, or is damaged|not a readable safetensors"),
        (b"weights", "is no weight file, but a text"),
        (b"Access to model x/y is restricted.\r\n", "is no weight file, but a text"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html>", "is a page"),
        (b"<!-- saved from url -->\n<html>", "is a page"),
        (b"\x28\xb5\x2f\xfd" + b"\0" * 9, "compressed archive"),
        (b"\x89PNG\r\n\x1a\n\0\0", r"begins with b'.x89PNG"),
        (b"\x82\xa6params" + b"\0" * 9, r"begins with b'.x82.xa6params"),
        (b"\x80\x02", "damaged or cut short"),
        (b"PK\x03\x04", "damaged or cut short"),
        (struct.pack("<Q", 1 << 60) + b'{"a"', "not a readable safetensors"),
        (struct.pack("<Q", 2) + b"{}", "holds no tensor"),
        (pickle.dumps([1, 2]), "holds no state dict, but list"),
        (pickle.dumps({}), "no tensor is in it"),
        (pickle.dumps({"a": {"b": {"c": 1}}}), "no tensor is in it"),
        (pickle.dumps("\x1b[31m"), "holds no state dict, but str"),
        (b"\x80\x04" + b"\x8c\x00" + b"r\xff\xff\xff\x7f" + b".", "no state dict, but str"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 50) + b".", "damaged or cut short"),
        (b"\x80\x02" + b"]" * 3 + b"a.", "holds no state dict, but list"),
        (b"\x80\x02" + b")\x85" + b"\x85" * 50_000 + b".", "holds no state dict, but tuple"),
    ],
)
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_what_is_no_weight_file_is_named(tmp_path, content, message, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message.replace("w\\.pt", name)) as error:
        read_tensors(tmp_path / name)
    assert name in str(error.value)
    assert str(error.value).isprintable()


def test_paths_that_are_no_files(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"neither model\.safetensors nor pytorch_model\.bin$"):
        read_tensors(tmp_path / "folder")
    (tmp_path / "folder" / "step3.ckpt").write_bytes(b"")
    with pytest.raises(UserError, match=r"give one of its files: step3\.ckpt"):
        read_tensors(tmp_path / "folder")
    for name, message in (
        ("absent.pt", "does not exist"),
        ("nul\0byte.pt", "is no path: it holds a NUL character"),
    ):
        with pytest.raises(UserError, match=message):
            read_tensors(tmp_path / name)


def archive_of(tmp_path, change):
    """A file of torch.save whose zip entries are written again, changed."""
    buffer = io.BytesIO()
    torch.save({"visual.a": torch.ones(1000), "visual.b": torch.zeros(3)}, buffer)
    path = tmp_path / "changed.pt"
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            name, data, kind = change(info.filename, old.read(info), zipfile.ZIP_STORED)
            if data is not None:
                new.writestr(name, data, kind)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n, d, k: (n, None if n.endswith("data/0") else d, k), "data/0 is missing"),
        (lambda n, d, k: (n, d[:7] if n.endswith("data/0") else d, k), "has 7 bytes, not 4000"),
        (lambda n, d, k: (n, None if n.endswith("data.pkl") else d, k), "none of PyTorch's"),
        (lambda n, d, k: (n, d[:40] if n.endswith("data.pkl") else d, k), "damaged or cut short"),
        (
            lambda n, d, k: (n, d, zipfile.ZIP_DEFLATED if n.endswith("data/0") else k),
            "data/0 is compressed",
        ),
        (
            lambda n, d, k: (
                (n, d + b"\0" * (300 << 20), 8) if n.endswith("data.pkl") else (n, d, k)
            ),
            "bytes, which no weight file needs",
        ),
        (
            # BININT2 1000, a size, becomes 65535.
            lambda n, d, k: (n, d.replace(b"M\xe8\x03", b"M\xff\xff"), k),
            "its tensors have 262,152 bytes, the file",
        ),
    ],
)
def test_archives_whose_entries_disagree_are_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        read_tensors(archive_of(tmp_path, change))


def test_a_tensor_repeated_without_end_is_refused_before_it_is_made(tmp_path):
    torch.save({"visual.a": torch.ones(1).expand(1 << 20, 1 << 20)}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="its tensors have 4,398,046,511,104 bytes"):
        read_tensors(tmp_path / "w.pt")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_file_cut_anywhere_or_with_flipped_bits_gives_one_message(tmp_path, legacy):
    buffer = io.BytesIO()
    torch.save(
        {"model": {"visual.a": torch.randn(40), "x": torch.ones(3).half()}, "n": np.float64(2)},
        buffer,
        _use_new_zipfile_serialization=not legacy,
    )
    whole, path = buffer.getvalue(), tmp_path / "w.pt"
    rng = np.random.default_rng(0)
    for number in range(300):
        damaged = bytearray(whole)
        if number % 3 == 0:
            damaged = damaged[: rng.integers(len(whole))]
        else:
            for position in rng.integers(len(whole), size=1 + number % 5):
                damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(UserError):
            read_tensors(path)


def test_instructions_that_have_no_place_are_refused():
    for program in (b"\x80\x02\x82\x01.", b"\x80\x02K\x01K\x02R.", b"\x80\x02K\x01Q."):
        with pytest.raises(DamagedPickle):
            _Machine(io.BytesIO(program), len(program)).run()


def _string(text):
    return b"X" + struct.pack("<I", len(text)) + text


@pytest.mark.parametrize(
    "made",
    [
        # A text of a million letters, encoded ten thousand times.
        b"c_codecs\nencode\nq\x01" + _string(b"a" * 1_000_000) + b"q\x02" + _string(b"latin1")
        + b"q\x03](" + b"h\x01h\x02h\x03\x86R" * 10_000,
        # The same behind the name of a function of torch.
        b"c_codecs\nencode\nq\x01" + _string(b"a" * 1_000_000) + b"q\x02" + _string(b"latin1")
        + b"q\x03](" + b"ctorch._tensor\n_rebuild_from_type_v2\n(h\x01Nh\x02h\x03\x86NtR" * 9,
        # A mapping, and a list as a size, copied again and again.
        b"ccollections\nOrderedDict\nq\x01}q\x02("
        + b"".join(b"J" + struct.pack("<i", index) + b"N" for index in range(20_000))
        + b"uq\x03](" + b"h\x01h\x03\x85R" * 10_000,
        b"ctorch\nSize\nq\x01](" + b"K\x01" * 50_000 + b"eq\x03](" + b"h\x01h\x03\x85R" * 10_000,
    ],
    ids=["text", "wrapped", "mapping", "size"],
)  # fmt: skip
def test_values_copied_without_end_are_refused_before_they_fill_the_memory(tmp_path, made):
    (tmp_path / "w.pt").write_bytes(b"\x80\x02" + made + b"e.")
    with pytest.raises(UserError, match=r"bytes than the file|rebuild_from_type_v2"):
        read_tensors(tmp_path / "w.pt")


def test_one_array_under_many_names_is_not_copied_for_each(tmp_path):
    values = np.zeros(100_000, ">f8").tobytes()

    class Same:
        def __reduce__(self):
            state = (1, (100_000,), np.dtype(">f8"), False, values)
            return np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), state

    (tmp_path / "w.pt").write_bytes(pickle.dumps({f"a{index}": Same() for index in range(99)}, 4))
    with pytest.raises(UserError, match="its tensors have 79,200,000 bytes"):
        read_tensors(tmp_path / "w.pt")


def test_sharded_networks(tmp_path, published):
    names = list(published)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, members in parts.items():
        write_tensors(tmp_path / shard, {name: published[name] for name in members})
    index = tmp_path / "model.safetensors.index.json"
    weight_map = {name: shard for shard, members in parts.items() for name in members}
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    for path in (index, tmp_path):
        assert_published(read_tensors(path), published)
    (tmp_path / "b.safetensors").rename(tmp_path / "c.safetensors")
    with pytest.raises(UserError, match=r"1 are not there: b\.safetensors"):
        read_tensors(index)
    for name, message in (
        ("../outside.safetensors", "outside of its folder"),
        ("x/../../outside.safetensors", "outside of its folder"),
        ("..\\outside.safetensors", "outside of its folder"),
        (str(tmp_path / "a.safetensors"), "outside of its folder"),
        ("C:\\a.safetensors", "outside of its folder"),
        ("gs://bucket/a.safetensors", "outside of its folder"),
        ("model.safetensors.index.json", "which is an index"),
        ("", "1 are not there"),
        ("nul\0byte", r"not there: nul\\x00byte\."),
        ("\ud800", "1 are not there"),
        ("a" * 999, "1 are not there"),
        ("loop", "not there: loop"),
    ):
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        if name == "loop":
            (tmp_path / "loop").symlink_to("loop")
        with pytest.raises(UserError, match=message) as error:
            read_tensors(index)
        assert str(error.value).isprintable()
    for content in ("[]", "{}", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}'):
        index.write_text(content)
        with pytest.raises(UserError, match="no weight_map"):
            read_tensors(index)


def test_shards_may_be_links_as_in_the_cache_of_hugging_face(tmp_path, published):
    (tmp_path / "snapshot").mkdir()
    write_tensors(tmp_path / "blob.safetensors", published)
    (tmp_path / "blob.safetensors").rename(tmp_path / "4d7a")
    (tmp_path / "snapshot/a.safetensors").symlink_to("../4d7a")
    weight_map = json.dumps({"weight_map": dict.fromkeys(published, "a.safetensors")})
    (tmp_path / "5e8b").write_text(weight_map)
    (tmp_path / "snapshot/model.safetensors.index.json").symlink_to("../5e8b")
    assert_published(read_tensors(tmp_path / "snapshot"), published)


def test_a_tensor_in_two_shards_is_the_same_in_both(tmp_path, published):
    names = list(published)
    write_tensors(tmp_path / "a.safetensors", published)
    index = tmp_path / "model.safetensors.index.json"
    weight_map = dict.fromkeys(names, "a.safetensors") | {names[0]: "b.safetensors"}
    index.write_text(json.dumps({"weight_map": weight_map}))
    write_tensors(tmp_path / "b.safetensors", {names[0]: published[names[0]]})
    assert_published(read_tensors(index), published)
    write_tensors(tmp_path / "b.safetensors", {names[0]: published[names[0]] + 1})
    with pytest.raises(UserError, match="with different values: they come from two downloads"):
        read_tensors(index)


def test_bfloat16_in_safetensors(tmp_path):
    from safetensors.torch import save_file

    want = torch.randn(3, 4).bfloat16()
    save_file({"visual.a": want, "visual.b": torch.ones(2)}, tmp_path / "w.safetensors")
    np.testing.assert_array_equal(
        read_tensors(tmp_path / "w.safetensors")["visual.a"].astype(np.float32),
        want.float().numpy(),
    )


def test_chinese_clip_goes_to_transformers_names_and_back():
    tensors = Golden("vilref_vit.npz")["state"]
    there = to_chinese_clip(tensors)
    assert_same_bits(from_chinese_clip(there), tensors)
    there |= {
        "text_model.pooler.dense.weight": np.zeros((2, 2), np.float32),
        "vision_model.embeddings.position_ids": np.arange(5)[None],
        "text_model.embeddings.position_ids": np.arange(5)[None],
    }
    model = retfm_jax.from_torch(there, "vilref", text_num_heads=4)
    assert_same_bits(retfm_jax.to_torch(model), tensors)
    del there["vision_model.encoder.layers.0.self_attn.q_proj.weight"]
    with pytest.raises(UserError, match=r"missing visual\.transformer\.resblocks\.0\.attn"):
        retfm_jax.from_torch(there, "vilref", text_num_heads=4)


def _vit(prefix=""):
    names = {
        "cls_token": (1, 1, 16), "pos_embed": (1, 5, 16), "patch_embed.proj.weight": (16, 3, 8, 8),
        "patch_embed.proj.bias": (16,), "blocks.0.attn.qkv.weight": (48, 16), "norm.weight": (16,),
    }  # fmt: skip
    return {prefix + name: np.zeros(shape, np.float32) for name, shape in names.items()}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (_vit(), "a timm vision transformer .RETFound"),
        (_vit("backbone."), "a timm vision transformer .RETFound"),
        (_vit() | {"decoder_embed.weight": np.zeros(2)}, "a timm vision transformer .RETFound"),
        ({"input_adapters.bscan.proj.weight": np.zeros(2), "encoder.0.a": np.zeros(2)}, "MIRAGE"),
        ({"embeddings.cls_token": np.zeros(2)}, "a vision transformer of transformers"),
        (
            {"conv1.weight": np.zeros((64, 3, 7, 7)), "fc.weight": np.zeros((1000, 2048))},
            "a residual network of torchvision.*config.init.image",
        ),
        (
            {"embeddings.word_embeddings.weight": np.zeros((9, 8))},
            "a BERT, a text tower alone.*config.init.text",
        ),
        (
            {"visual.proj": np.zeros((4, 4)), "token_embedding.weight": np.zeros((9, 4))},
            "OpenAI's CLIP.*config.init.image",
        ),
        (
            {
                "vision_model.embeddings.class_embedding": np.zeros(4),
                "text_model.embeddings.token_embedding.weight": np.zeros((9, 4)),
            },
            "CLIPModel.*config.init.image",
        ),
        (
            {"vision_model.model.conv1.weight": np.zeros(2), "text_model.model.a": np.zeros(2)},
            "method keepfit",
        ),
        (
            {
                "visual.a": np.zeros(2), "bert.b": np.zeros(2),
                "left_feature_mapping.weight": np.zeros((2, 2)),
            },
            "method retclip",
        ),
    ],
)  # fmt: skip
def test_other_networks_are_recognized_by_their_names(names, message):
    with pytest.raises(UserError, match=f"(?s)By its names it is .*{message}"):
        retfm_jax.from_torch(names, "vilref")


@pytest.mark.parametrize("method", ["retclip", "vilref", "keepfit"])
@pytest.mark.parametrize(
    "tensors",
    [
        {"a": np.ones(1)},
        {"visual.conv1.weight": np.zeros((0, 3, 0, 0))},
        {"visual.class_embedding": np.zeros(0), "bert.embeddings.LayerNorm.weight": np.zeros(0)},
        {"visual.class_embedding": np.zeros(7), "visual.positional_embedding": np.zeros((9, 7))},
        {"bert.encoder.layer.99999999999.output.dense.bias": np.zeros(4)},
        {"visual.transformer.resblocks.999999999.ln_1.bias": np.zeros(4)},
        {"visual.transformer.resblocks.².ln_1.bias": np.zeros(4)},
        {"bert.encoder.layer.0.attention.self.Wqkv.weight": np.zeros((4, 4))},
        {"bert.encoder.layer.0.attention.self.qkv.weight": np.zeros(())},
        {"bert.embeddings.LayerNorm.weight": np.zeros(65)},
        {"layer1.0.conv1.weight": np.zeros(3)},
        {"visual.layer1.99999999.bn1.weight": np.zeros(3)},
        {"text_model.model.embeddings.LayerNorm.weight": np.zeros(3)},
        {"vision_model.encoder.layers.0.self_attn.q_proj.weight": np.zeros(3)},
        {name: np.ones(()) for name in ("cls_token", "norm_pre.weight", "patch_embed.proj.weight")},
    ],
)  # fmt: skip
def test_sizes_that_make_no_network_give_one_message(method, tensors):
    with pytest.raises(UserError, match=f"does not fit a {method} network"):
        retfm_jax.from_torch(tensors, method)


def test_timm_names_of_clips_image_tower(published):
    from retfm_jax.interop.state_dict import normalize

    tower = {name: value for name, value in published.items() if name.startswith("visual.")}
    block, layers = "visual.transformer.resblocks.", {}
    for name, value in tower.items():
        for ours, theirs in (
            (block, "blocks."), (".ln_1", ".norm1"), (".ln_2", ".norm2"), (".c_fc", ".fc1"),
            (".c_proj", ".fc2"), (".attn.in_proj_", ".attn.qkv."), (".attn.out_proj", ".attn.proj"),
            ("visual.ln_pre", "norm_pre"), ("visual.ln_post", "norm"),
            ("visual.conv1", "patch_embed.proj"), ("visual.class_embedding", "cls_token"),
            ("visual.positional_embedding", "pos_embed"), ("visual.proj", "head.weight"),
        ):  # fmt: skip
            name = name.replace(ours, theirs)
        value = value[None, None] if name == "cls_token" else value
        value = value[None] if name == "pos_embed" else value
        layers[name] = value.T if name == "head.weight" else value
    assert_same_bits(normalize(layers), tower)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named(tmp_path, published, bad):
    broken = {name: value.copy() for name, value in published.items()}
    broken["visual.ln_post.weight"][0] = bad
    broken["bert.embeddings.LayerNorm.bias"][:2] = bad
    for give in (
        broken,
        {name: torch.from_numpy(value).double() for name, value in broken.items()},
    ):
        with pytest.raises(UserError, match="not finite") as error:
            retfm_jax.from_torch(give, "retclip", text_num_heads=4)
        assert "visual.ln_post.weight (1)" in str(error.value)
        assert "bert.embeddings.LayerNorm.bias (2)" in str(error.value)
    with pytest.raises(UserError, match=r"visual\.ln_post\.weight \(1\)"):
        write_tensors(tmp_path / "w.safetensors", broken)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.bool_])
def test_whole_numbers_are_no_weights(published, dtype):
    """Quantized files keep their scales elsewhere: their numbers alone are another network."""
    name = "visual.conv1.weight"
    with pytest.raises(UserError, match=rf"{np.dtype(dtype)} {name}: .*quantized"):
        retfm_jax.from_torch(
            dict(published) | {name: published[name].astype(dtype)}, "retclip", text_num_heads=4
        )


def test_what_float32_cannot_hold_is_not_finite(published):
    large = dict(published) | {"logit_scale": np.float64(1e300)}
    with pytest.raises(UserError, match=r"logit_scale \(1\)"):
        retfm_jax.from_torch(large, "retclip", text_num_heads=4)


def test_a_model_that_went_astray_is_neither_saved_nor_loaded(tmp_path, published, monkeypatch):
    model = retfm_jax.from_torch(published, "retclip", text_num_heads=4)
    model.params["log_scale"]["left"] = jax.numpy.asarray(np.nan, np.float32)
    with pytest.raises(UserError, match=r"log_scale/left \(1\)"):
        model.save(tmp_path / "saved")
    assert not list(tmp_path.iterdir())
    # As version 0.1 wrote it.
    monkeypatch.setattr("retfm_jax.runtime.checkpoints.refuse_nonfinite", lambda *_: None)
    model.save(tmp_path / "saved")
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"saved has values that are not finite.*log_scale/left"):
        retfm_jax.load(tmp_path / "saved")


def test_leaves_are_counted_on_either_side(monkeypatch):
    tree = {"a": np.array([1, np.nan, np.inf], np.float32), "b": {"c": np.arange(3)}}
    assert nonfinite_leaves(tree) == {"a": 2}
    assert nonfinite_leaves(jax.tree.map(jax.numpy.asarray, tree)) == {"a": 2}
    monkeypatch.setattr("retfm_jax.trees.at_hand", lambda leaves: None)
    assert nonfinite_leaves(jax.tree.map(jax.numpy.asarray, tree)) == {"a": 2}
    assert nonfinite_leaves({"key": jax.random.key(0), "none": np.zeros((0, 2))}) == {}
