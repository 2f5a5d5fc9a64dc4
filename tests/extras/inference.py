"""What an installation without extras does: loads, encodes, zero-shot, predicts, draws heat maps.

`python inference.py FOLDER`, in any environment; FOLDER is empty. What the package does not promise
without extras has to be absent, and a verb that wants it says one sentence.
"""

import contextlib
import importlib.util
import io
import sys
from pathlib import Path

import jax
import numpy as np
from PIL import Image

import retfm_jax
from retfm_jax import cli
from retfm_jax.config import DataConfig, ExperimentConfig, ImageConfig, TextConfig
from retfm_jax.methods import get_method_class
from retfm_jax.models.bert import BertConfig
from retfm_jax.models.vit import ViTConfig

#: Module -> what must not be needed.
HEAVY = (
    "tensorflow_datasets", "grain", "array_record", "pandas", "pyarrow", "lmdb", "tensorboardX",
    "matplotlib", "sklearn", "transformers", "torch", "openpyxl",
)  # fmt: skip
#: A command that wants an extra, and what its message names.
WANTING = {
    "train --config quickstart --workdir {0}/w": "'train'",
    "evaluate --workdir {0}/classes --out {0}/e.json": "'eval'",
    "quickstart --workdir {0}/q": "'all'",
    "ablate --config vilref_synthetic --workdir {0}/a": "'all'",
    "bench step --config quickstart": "'train'",
    "benchmark retfound8 --out {0}/b": "'all'",
    "label {0}/r.jsonl --out {0}/l.jsonl": "'eval'",
    "data list": "'data'",
    "data build synthetic_fundus --data_dir {0}/d": "'data'",
    "data import --name n --manifest {0}/table.csv --images {0} --data_dir {0}/d": "'data'",
    "data check n --data_dir {0}/d --out {0}/c": "'data'",
    "predict --workdir {0}/classes --images {0}/eyes --out {0}/p.parquet": "'data'",
    "embed --workdir {0}/texts --images {0}/eyes --out {0}/p.parquet": "'data'",
    "demo --workdir {0}/texts": "gradio",
}
TOWER = ViTConfig(32, 16, 16, 1, heads=2)


def network(name, **sizes):
    """A network of small random weights, which compiles nothing to be made."""
    method_class = get_method_class(name)
    config = method_class.config_class(image=TOWER, embed_dim=8, **sizes)
    method = method_class(config)
    rng = np.random.default_rng(0)
    params, state = jax.tree.map(
        lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(leaf.dtype),
        jax.eval_shape(method.init, jax.random.key(0)),
    )
    data = DataConfig(image=ImageConfig(size=32), text=TextConfig(context_length=12))
    return retfm_jax.RetinalModel(method, params, state, ExperimentConfig(name, config, data))


def main(folder):
    """Asks two networks everything."""
    eyes = folder / "eyes"
    eyes.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 48, 3), np.uint8)
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(eyes / f"{number}.png")
    text = BertConfig(21128, width=16, layers=1, heads=2, mlp_width=16, positions=12)
    network("retclip", text=text).save(folder / "texts")
    network("classifier", classes=("normal", "drusen"), outcome="exclusive").save(
        folder / "classes"
    )
    paths = sorted(eyes.iterdir())

    model = retfm_jax.load(folder / "texts")
    assert model.encode_images(paths).shape == (2, 8)
    assert model.encode_texts(["drusen", "正常"]).shape == (2, 8)
    assert np.allclose(model.zero_shot(paths, ["normal", "drusen"], language="zh").sum(1), 1)
    (heat,) = model.heatmap(paths[0], "drusen")
    assert heat.shape == (40, 48)
    assert retfm_jax.to_torch(model)
    assert retfm_jax.load(folder / "classes").predict(paths).shape == (2, 2)

    for command in (
        "predict --workdir {0}/classes --images {0}/eyes --out {0}/predictions.csv",
        "explain --workdir {0}/texts --images {0}/eyes --target drusen --out {0}/maps",
        "embed --workdir {0}/texts --images {0}/eyes --out {0}/embeddings.npz",
        "export --workdir {0}/texts --to retclip --out {0}/weights.safetensors",
        "import {0}/weights.safetensors --text_num_heads 2 --workdir {0}/again",
        "models",
        "configs",
        "tasks",
    ):
        assert said(command, folder)[0] == 0, command
    assert len((folder / "predictions.csv").read_text().splitlines()) == 3


def refusals(folder):
    """Asks for what needs an extra."""
    (folder / "table.csv").write_text("image\n0.png\n")
    (folder / "r.jsonl").write_text('{"report": "drusen"}\n')
    for command, wanted in WANTING.items():
        status, message = said(command, folder)
        assert status == 1, command
        assert message.count("\n") == 1, (command, message)
        assert "pip install " in message, (command, message)
        assert wanted in message, (command, wanted, message)


def said(command, folder):
    """Exit status of a command line, and what it wrote to stderr."""
    heard = io.StringIO()
    with contextlib.redirect_stderr(heard), contextlib.redirect_stdout(io.StringIO()):
        status = cli.main(command.format(folder).split())
    return status, heard.getvalue()


if __name__ == "__main__":
    there = Path(sys.argv[1])
    main(there)
    assert not set(HEAVY) & set(sys.modules)
    if "--core" in sys.argv:
        found = []
        for name in HEAVY:
            with contextlib.suppress(ModuleNotFoundError):
                found += [name] if importlib.util.find_spec(name) else []
        assert not found, found
        refusals(there)
    print("inference works")
