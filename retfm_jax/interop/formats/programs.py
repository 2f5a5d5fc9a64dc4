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
from retfm_jax.interop.bundles import Bundle, bundle
from retfm_jax.interop.formats.base import PROGRAM, TOKENIZER, Exported

_MAIN = """
if __name__ == "__main__":
    import sys

    program = load()
    for path in sys.argv[1:]:
        {shown}
"""


def program_text(network: Exported, language: str, parts: Sequence[Bundle | str], load: str) -> str:
    """Assembles the file `model.py` of an export.

    Args:
      network: what the program computes.
      language: in which it does, for the docstring.
      parts: code of the network, in its order.
      load: text of the function `load`, which makes a `Program` of `{arguments}`.

    Returns:
      Python source text that imports nothing of this package.
    """
    roots = [("retfm_jax.interop.parts.program", "Program")]
    if network.wordpieces:
        roots.append(("retfm_jax.interop.parts.tokenizer", "WordPieces"))
    program = bundle(roots)
    own = [*parts, program]
    imports = {line for each in own if isinstance(each, Bundle) for line in each.imports}
    imports |= {"import pathlib"}
    plain = {line for line in imports if line.startswith("import ")}
    codes = [each.code if isinstance(each, Bundle) else each for each in own]
    shown = "print(path, program.embed_images(path)[0])"
    if network.decisions is not None:
        shown = "print(path, program.decide(path)[0])"
    blocks = [
        f'"""{_docstring(network, language)}"""',
        "\n".join([*sorted(plain), *sorted(imports - plain)]),
        _constants(network),
        *codes,
        load.replace("{arguments}", _arguments(network)).strip("\n"),
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


def _arguments(network: Exported) -> str:
    """Text of the arguments of `Program`."""
    if not network.texts:
        return "images, PREPROCESSING, decisions=DECISIONS"
    words = f'WordPieces(folder / "{TOKENIZER}", TEXT_LENGTH, STRAIGHTEN)'
    tokenizer = words if network.wordpieces else "None"
    return f"images, PREPROCESSING, texts, {tokenizer}, DECISIONS, SCALE"


def _literal(value: Any) -> str:
    return pprint.pformat(value, width=80, sort_dicts=False)


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
      photographs: encoded.
      texts: () where the network takes none.
    """
    program = load_program(folder)
    found = program.outputs(list(photographs))
    return found | program.text_outputs(list(texts)) if texts else found
