"""Messages that the documentation explains are messages that the code has."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
#: Stands for what a message fills in, in the page and in the sources.
_FILLED = "..."


def messages(page=PAGE):
    """What stands in the first column of the tables, as code."""
    return re.findall(r"^\| `(.+?)` \|", page, re.MULTILINE)


def templates(node):
    """Every text of a module, with the names and numbers that it fills in left open."""
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value
        elif isinstance(each, ast.JoinedStr):
            yield "".join(
                part.value if isinstance(part, ast.Constant) else _FILLED for part in each.values
            )


@pytest.fixture(scope="module")
def known():
    files = sorted((ROOT / "retfm_jax").rglob("*.py"))
    texts = (text for file in files for text in templates(ast.parse(file.read_text("utf-8"))))
    return "\n".join(text.replace("\n", " ").replace("`", "") for text in set(texts))


def is_known(message, known):
    fixed = [part.strip(" ") for part in message.replace("`", "").split(_FILLED)]
    assert sum(map(len, fixed)) >= 8, f"{message} says too little to be found"
    return re.search(".*".join(map(re.escape, filter(None, fixed))), known) is not None


@pytest.mark.parametrize("message", messages())
def test_a_message_stands_in_the_sources(message, known):
    assert is_known(message, known)


def test_a_message_that_the_code_does_not_have_is_found(known):
    assert len(messages()) > 40
    assert not is_known("dataset ... was not built in .../ (built there: ...)", known)
    assert not is_known("the step does not fit ... devices: the sizes must multiply", known)
