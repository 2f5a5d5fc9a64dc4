"""Every container in which a tower comes, and its twins: with code in it, cut, of wrong sizes."""

import argparse
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from golden_files import Golden
from safetensors.numpy import save_file

from retfm_jax import cli

STATE = {
    name.removeprefix("state/"): value
    for name, value in Golden("timm_towers.npz")["plain"].items()
    if name.startswith("state/")
}


class Payload:
    """Writes a file when a pickle makes it."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def tensors(state):
    return {name: torch.from_numpy(np.array(value)) for name, value in state.items()}


def pickled(wrap, **options):
    """A file of torch.save whose content `wrap` makes of the tensors and of something beside."""

    def write(folder, state, beside):
        torch.save(wrap(tensors(state), beside), folder / "weights.pth", **options)
        return folder / "weights.pth", folder / "weights.pth"

    return write


class _Holder(torch.nn.Module):
    def forward(self, x):
        return x


def torchscript(folder, state, beside):
    network = _Holder()
    for name, value in tensors(state).items():
        *parents, last = name.split(".")
        module = network
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, _Holder())
            module = getattr(module, parent)
        module.register_parameter(last, torch.nn.Parameter(value))
    path = folder / "weights.pt"
    torch.jit.script(network).save(str(path))
    if not isinstance(beside, int):
        with zipfile.ZipFile(path) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in entries.items():
                is_data = name.endswith("/data.pkl")
                archive.writestr(name, pickle.dumps(beside) if is_data else content)
    return path, path


def shards(folder, state, beside):
    """Two safetensors with an index; what code is to other containers is a way out to this one."""
    names = sorted(state)
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    where = {name: files[position % 2] for position, name in enumerate(names)}
    for file in files:
        save_file(
            {name: np.ascontiguousarray(state[name]) for name in names if where[name] == file},
            folder / file,
        )
    if not isinstance(beside, int):
        (folder / files[1]).rename(folder.parent / files[1])
        where = {n: f"../{file}" if file == files[1] else file for n, file in where.items()}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    return index, folder / files[0]


def hugging_face(folder, state, beside):
    torch.save({**tensors(state), **({} if isinstance(beside, int) else {"x": beside})},
               folder / "pytorch_model.bin")  # fmt: skip
    return folder, folder / "pytorch_model.bin"


CONTAINERS = {
    "bare": pickled(lambda state, beside: {**state, "epoch": beside}),
    "legacy": pickled(
        lambda state, beside: {"state_dict": state, "epoch": beside},
        _use_new_zipfile_serialization=False,
    ),
    "model, optimizer and arguments": pickled(
        lambda state, beside: {
            "model": state,
            "optimizer": {"state": {0: {"step": 3}}},
            "args": argparse.Namespace(lr=1e-3, hook=beside),
        }
    ),
    "teacher": pickled(
        lambda state, beside: {
            "teacher": {f"backbone.{name}": value for name, value in state.items()},
            "student": beside,
        }
    ),
    "state_dict": pickled(
        lambda state, beside: {
            "state_dict": {f"module.{name}": value for name, value in state.items()},
            "hyper_parameters": {"of": [beside]},
        }
    ),
    "model_state_dict": pickled(
        lambda state, beside: {
            "model_state_dict": {f"_orig_mod.{name}": value for name, value in state.items()},
            "epoch": beside,
        }
    ),
    "TorchScript": torchscript,
    "shards": shards,
    "Hugging Face folder": hugging_face,
}


def import_(source, tmp_path, capsys):
    status = cli.main(["import", str(source), "--workdir", str(tmp_path / "run")])
    return status, capsys.readouterr()


@pytest.fixture(params=CONTAINERS)
def write(request, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    return lambda state=STATE, beside=1: CONTAINERS[request.param](folder, state, beside)


def assert_refused(status, said, tmp_path, *named):
    assert status == 1
    assert "Traceback" not in said.err
    assert said.err.count("retfm import:") == 1, said.err
    for name in named:
        assert name in said.err
    assert not (tmp_path / "run").exists()


def test_a_container_is_read_and_its_twin_with_code_is_not(write, tmp_path, capsys):
    source, _ = write()
    status, said = import_(source, tmp_path, capsys)
    assert status == 0, said.err
    (tmp_path / "run").rename(tmp_path / "good")
    source, _ = write(beside=Payload(tmp_path / "executed"))
    status, said = import_(source, tmp_path, capsys)
    assert_refused(status, said, tmp_path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_its_cut_twin_gives_one_message(write, share, tmp_path, capsys):
    source, file = write()
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    status, said = import_(source, tmp_path, capsys)
    assert_refused(status, said, tmp_path, file.name)


@pytest.mark.parametrize(
    ("name", "shape"), [("blocks.1.mlp.fc1.weight", (128, 31)), ("pos_embed", (1, 20, 32))]
)
def test_its_twin_of_wrong_sizes_names_the_tensor(write, name, shape, tmp_path, capsys):
    source, _ = write(STATE | {name: np.zeros(shape, np.float32)})
    status, said = import_(source, tmp_path, capsys)
    assert_refused(status, said, tmp_path, "20" if name == "pos_embed" else name)
