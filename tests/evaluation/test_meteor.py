"""METEOR's own program is spoken to as pycocoevalcap does."""

import stat
import sys

import numpy as np
import pytest

from retfm_jax.errors import UserError
from retfm_jax.evaluation.metrics import meteor

#: Stands for Java: answers as METEOR 1.5 does, by counts of common words, and keeps what it read.
JAVA = """#!{python}
import sys
asked = open("{asked}", "w", encoding="utf-8")
print(sys.argv[1:], file=asked)
for line in sys.stdin:
    print(line, end="", file=asked, flush=True)
    kind, *parts = line.rstrip("\\n").split(" ||| ")
    if kind == "SCORE":
        reference, said = (set(part.split()) for part in parts)
        print(len(reference & said), len(reference | said), flush=True)
    elif {fails}:
        sys.exit("Exception in thread main: out of memory")
    else:
        counts = [tuple(map(int, part.split())) for part in parts]
        for same, both in counts:
            print(same / both)
        print(sum(same for same, _ in counts) / sum(both for _, both in counts), flush=True)
"""


@pytest.fixture
def jar(tmp_path, monkeypatch):
    """A METEOR whose Java is the program above."""

    def make(fails=False):
        program = tmp_path / "java"
        program.write_text(
            JAVA.format(python=sys.executable, asked=tmp_path / "asked", fails=fails)
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        (tmp_path / "meteor-1.5.jar").touch()
        monkeypatch.setenv("PATH", str(tmp_path))
        return tmp_path / "meteor-1.5.jar"

    return make


def test_reports_are_counted_one_by_one_and_scored_together(jar):
    found = meteor.measure(["drusen\nof ||| the eye", ""], ["drusen of the macula", "a b"], jar())
    np.testing.assert_allclose(found.each, [3 / 5, 0])
    assert found.value == 3 / 7
    arguments, *lines = jar().with_name("asked").read_text().splitlines()
    assert arguments.endswith("'-', '-', '-stdio', '-l', 'en', '-norm']")
    assert lines == [
        "SCORE ||| drusen of the macula ||| drusen of the eye",
        "SCORE ||| a b ||| ",
        "EVAL ||| 3 5 ||| 0 2",
    ]


def test_a_program_that_fails_says_why(jar):
    with pytest.raises(UserError, match=r"1\.5\.jar: the program failed: Exception in"):
        meteor.measure(["a"], ["a"], jar(fails=True))


def test_without_the_program_or_java_there_is_a_sentence(tmp_path, monkeypatch):
    with pytest.raises(
        UserError, match=r"nothing\.jar: no such file; give the path of meteor-1\.5"
    ):
        meteor.check(tmp_path / "nothing.jar")
    (tmp_path / "meteor-1.5.jar").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no program java: install one"):
        meteor.measure(["a"], ["a"], tmp_path / "meteor-1.5.jar")
