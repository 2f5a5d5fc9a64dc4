"""The file `model.py` of an export: assembled as text, and run as its user will run it."""

import importlib.util
import pathlib
import pprint
import sys
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np

from retfm_jax.config import DataConfig
from retfm_jax.interop.bundles import bundle
from retfm_jax.interop.formats.base import PROGRAM, TOKENIZER, Exported
from retfm_jax.methods.outputs import PHOTOGRAPH_PROBABILITIES, PIXEL_LOGITS

#: Photographs of which a network that finds structures is run at their own size.
AT_OWN_SIZE = 2

_MAIN = """
if __name__ == "__main__":
    import sys

    program = load()
    for path in sys.argv[1:]:
        {shown}
"""


def program_text(
    network: Exported, language: str, roots: Sequence[tuple[str, str]], own: str, load: str
) -> str:
    """Assembles the file `model.py` of an export.

    Args:
      network: what the program computes.
      language: in which it does, for the docstring.
      roots: (module, name) of what is taken along, as `bundle` takes them.
      own: code of the network that uses it; empty where there is none.
      load: text of the function `load`, in which `{program}` stands for the call that makes a
        program of `images` and, where the network has them, `texts`.

    Returns:
      Python source text that imports nothing of this package.
    """
    wanted = [*roots, ("retfm_jax.interop.parts.program", "Program")]
    if network.mask_decisions is not None:
        wanted[-1] = ("retfm_jax.interop.parts.mask_program", "MaskProgram")
    if network.wordpieces:
        wanted.append(("retfm_jax.interop.parts.tokenizer", "WordPieces"))
    taken = bundle(wanted)
    imports = {*taken.imports, "import pathlib"}
    plain = {line for line in imports if line.startswith("import ")}
    shown = "print(path, program.embed_images(path)[0])"
    if network.decisions is not None:
        shown = "print(path, program.decide(path)[0])"
    if network.mask_decisions is not None:
        shown = "print(path, {name: mask.mean() for name, mask in program.masks(path).items()})"
    blocks = [
        f'"""{_docstring(network, language)}"""',
        "\n".join([*sorted(plain), *sorted(imports - plain)]),
        _constants(network),
        taken.code,
        *filter(None, [own]),
        load.replace("{program}", _program(network)).strip("\n"),
        _MAIN.format(shown=shown).strip("\n"),
    ]
    return "\n\n\n".join(blocks) + "\n"


def _docstring(network: Exported, language: str) -> str:
    use = "\n".join(f"    {line}".rstrip() for line in _usage(network))
    return f"""{network.title}, in {language}.

{use}

Written by retfm_jax, without which it computes the same. For research; it is no medical device.
"""


def usage(network: Exported) -> list[str]:
    """Lines of Markdown that show how a program is used.

    Args:
      network: what it computes.
    """
    return ["```python", *_usage(network), "```"]


def _usage(network: Exported) -> list[str]:
    lines = ["import model", "", "program = model.load()"]
    if network.mask_decisions is not None:
        return [
            *lines,
            'program.masks("photograph.jpg")  # by structure (h, w) bool, at its own size',
            'program.segment("photograph.jpg")  # probabilities (h, w, structures)',
        ]
    if network.decisions is not None:
        lines.append('program.predict(["photograph.jpg"])  # calibrated probabilities')
        lines.append('program.decide("photograph.jpg")  # classes by name, prediction sets')
    lines.append('program.embed_images(["photograph.jpg"])  # unit-norm embeddings')
    if network.texts:
        texts = '["normal fundus", "drusen"]' if network.wordpieces else "token_ids"
        lines.append(f'program.zero_shot(["photograph.jpg"], {texts})')
    return lines


def _constants(network: Exported) -> str:
    """Constants of a program: preprocessing, decisions, texts."""
    text = network.data.text
    decisions = None if network.decisions is None else network.decisions.to_json()
    lines = [
        "#: How a photograph becomes the network's input.",
        f"PREPROCESSING = {_literal(network.preprocessing)}",
    ]
    if network.mask_decisions is not None:
        lines += [
            "#: Names of the structures; a pixel shows one where its probability is greater than",
            "#: the threshold.",
            f"STRUCTURES = {_literal(network.mask_decisions.to_json())}",
        ]
        return "\n".join(lines)
    lines += [
        "#: Names of the classes, and what was fitted on validation; None: there are no classes.",
        f"DECISIONS = {_literal(decisions)}",
    ]
    if network.texts:
        straighten = text.tokenizer == DataConfig().text.tokenizer
        lines += [
            "#: Token ids of a text; whether texts are lower-cased and their quotes straightened.",
            f"TEXT_LENGTH, STRAIGHTEN = {text.context_length}, {straighten}",
            "#: Factor on cosines before a softmax over texts.",
            f"SCALE = {network.scale!r}",
        ]
    return "\n".join(lines)


def _program(network: Exported) -> str:
    """Text of the call that makes the program."""
    if network.mask_decisions is not None:
        return f"MaskProgram(images, PREPROCESSING, STRUCTURES, {network.exclusive})"
    if not network.texts:
        return "Program(images, PREPROCESSING, decisions=DECISIONS)"
    words = f'WordPieces(folder / "{TOKENIZER}", TEXT_LENGTH, STRAIGHTEN)'
    tokenizer = words if network.wordpieces else "None"
    return f"Program(images, PREPROCESSING, texts, {tokenizer}, DECISIONS, SCALE)"


def _literal(value: Any) -> str:
    return pprint.pformat(value, width=80, sort_dicts=False)


def of_pixels(photographs: Sequence[np.ndarray]) -> np.ndarray:
    """Joins what was computed of pixels of photographs of any sizes, (pixels, c).

    Args:
      photographs: of each (h, w, c).
    """
    return np.concatenate([each.reshape(-1, each.shape[-1]) for each in photographs])


def load_program(folder: pathlib.Path, **options: Any) -> Any:
    """Imports the program of an export, and loads its network.

    Args:
      folder: that this process wrote: its code is run.
      options: of the program's function `load`.
    """
    name = f"exported_{uuid.uuid4().hex}"
    spec = importlib.util.spec_from_file_location(name, folder / PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
        return module.load(**options)
    finally:
        sys.dont_write_bytecode = before


def run_program(
    folder: pathlib.Path, photographs: Sequence[bytes], texts: Sequence[str]
) -> dict[str, np.ndarray]:
    """Computes all outputs of a program, by name.

    Args:
      folder: that this process wrote.
      photographs: encoded; of structures the first `AT_OWN_SIZE` are seen at their own size, too.
      texts: () where the network takes none.
    """
    program = load_program(folder)
    found = program.outputs(list(photographs))
    if PIXEL_LOGITS in found:
        seen = [program.segment(each) for each in photographs[:AT_OWN_SIZE]]
        found[PHOTOGRAPH_PROBABILITIES] = of_pixels(seen)
    return found | program.text_outputs(list(texts)) if texts else found
