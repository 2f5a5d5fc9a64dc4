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
from retfm_jax.interop.formats.base import PROGRAM, TOKENIZER, WORDS, Exported
from retfm_jax.methods.outputs import (
    PHOTOGRAPH_PROBABILITIES,
    PIXEL_LOGITS,
    REPORT_SCORES,
    REPORT_WORDS,
    WORD_LOG_PROBABILITIES,
)

#: Photographs of which a network that finds structures is run at their own size.
AT_OWN_SIZE = 2
#: Reports that are followed side by side where a network that writes reports is run: greedily, and
#: as many as by default.
BEAMS = (1, 3)

_MAIN = """
if __name__ == "__main__":
    import sys

    program = load()
    for path in sys.argv[1:]:
        {shown}
"""
_MAIN_OF_CASES = """
if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description="Prints the report of one case.")
    parser.add_argument("photographs", nargs="+", help='in order; "" is one that is missing')
    parser.add_argument("--beams", type=int, default=3, help="1 is greedy")
    parser.add_argument("--length", type=int, help="words at most")
    parser.add_argument("--length_penalty", type=float, default=0.0)
    options = vars(parser.parse_args())
    print(load().caption(options.pop("photographs"), **options))
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
    if network.writer is not None:
        reports = "retfm_jax.interop.parts.report_program"
        wanted[-1:] = [(reports, "ReportProgram"), (reports, "words_of")]
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
        (_MAIN.format(shown=shown) if network.writer is None else _MAIN_OF_CASES).strip("\n"),
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
    if network.writer is not None:
        return [
            *lines,
            'program.caption(["left.jpg", "right.jpg"])  # the report of one case',
            'program.caption([None, "right.jpg"], beams=1)  # greedy; the left eye is missing',
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
    if network.writer is not None:
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
    if network.writer is not None:
        words = f'words_of(folder / "{WORDS}")'
        return f"ReportProgram(images, network.captioner, PREPROCESSING, {words})"
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


def cases_of(photographs: Sequence[bytes], most: int) -> list[list[bytes | None]]:
    """Makes cases: of one photograph, of two, and of one whose left eye is missing, in turn.

    Args:
      photographs: encoded, one at least.
      most: photographs of a case at most; 1: each is a case.
    """
    left, cases = list(photographs), []
    while left:
        kind = len(cases) % 3 if most > 1 else 0
        taken, left = left[: 1 + (kind == 1)], left[1 + (kind == 1) :]
        cases.append([None, *taken] if kind == 2 else taken)
    return cases


def drawn_words(cases: int, length: int, vocabulary: int) -> np.ndarray:
    """Draws reports that are read, one of each case, (cases, length) int32, of which 0 is first.

    Args:
      cases: their number.
      length: of a row, the beginning among them.
      vocabulary: number of ids.
    """
    words = np.random.default_rng(0).integers(1, vocabulary, (cases, length), np.int32)
    words[:, 0] = 0
    return words


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
      photographs: encoded; of structures the first `AT_OWN_SIZE` are seen at their own size, too;
        where reports are written, they are `cases_of`.
      texts: () where the network takes none.
    """
    program = load_program(folder)
    if hasattr(program, "caption"):
        return _report_outputs(program, photographs)
    found = program.outputs(list(photographs))
    if PIXEL_LOGITS in found:
        seen = [program.segment(each) for each in photographs[:AT_OWN_SIZE]]
        found[PHOTOGRAPH_PROBABILITIES] = of_pixels(seen)
    return found | program.text_outputs(list(texts)) if texts else found


def _report_outputs(program: Any, photographs: Sequence[bytes]) -> dict[str, np.ndarray]:
    """What a program that writes reports computes of cases."""
    cases = cases_of(photographs, program.preprocessing.case_images)
    length, ids = program.tokenizer.context_length, program.tokenizer.vocab_size
    read = drawn_words(len(cases), length, ids)
    pairs = zip(cases, read, strict=True)
    words = np.zeros((len(BEAMS), len(cases), length), np.int32)
    scores = np.zeros(words.shape[:2], np.float32)
    for row, beams in enumerate(BEAMS):
        for column, case in enumerate(cases):
            written, scores[row, column] = program.write(case, beams=min(beams, ids))
            words[row, column, : len(written)] = written
    return {
        WORD_LOG_PROBABILITIES: np.stack([program.read(case, row[:-1]) for case, row in pairs]),
        REPORT_WORDS: words,
        REPORT_SCORES: scores,
    }
