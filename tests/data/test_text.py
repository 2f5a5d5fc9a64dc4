"""Tokens are the published ones; exchanging sides mirrors a report and nothing else."""

import json
import pickle
import threading

import numpy as np
import pytest
from golden_files import golden_path

from retfm_jax.config import TextConfig
from retfm_jax.data.text import Tokenizer
from retfm_jax.errors import UserError
from retfm_jax.knowledge.laterality import exchange_sides, names_side

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def test_tokens_equal_the_golden():
    rows = json.loads(golden_path("tokens.json").read_text(encoding="utf-8"))
    for length in {row["context_length"] for row in rows}:
        chosen = [row for row in rows if row["context_length"] == length]
        tokens = Tokenizer(TextConfig(context_length=length))([row["text"] for row in chosen])
        assert tokens.dtype == np.int32
        for ours, row in zip(tokens, chosen, strict=True):
            assert ours.tolist() == row["ids"], row["text"]


def test_threads_and_copies_agree():
    tokenizer = Tokenizer(TextConfig(context_length=20))
    texts = [f"左眼 drusen {number}" for number in range(200)]
    alone = tokenizer(texts)
    copy = pickle.loads(pickle.dumps(tokenizer))
    results = [None] * 4

    def work(place: int) -> None:
        results[place] = copy(texts)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        np.testing.assert_array_equal(result, alone)


def test_no_texts_give_no_rows():
    assert Tokenizer(TextConfig(context_length=7))([]).shape == (0, 7)


@pytest.mark.parametrize(
    ("words", "text", "tokens"),
    [
        (["drusen", "left"], "LEFT drusen", ["left", "drusen"]),
        (["Drusen", "drusen"], "Drusen drusen", ["Drusen", "drusen"]),
    ],
)
def test_a_vocabulary_says_itself_whether_it_is_cased(tmp_path, words, text, tokens):
    vocabulary = [*SPECIAL, *words]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    ids = [vocabulary.index(token) for token in ["[CLS]", *tokens, "[SEP]"]]
    for name in (tmp_path, tmp_path / "vocab.txt"):
        row = Tokenizer(TextConfig(tokenizer=str(name), context_length=5)).row(text)
        assert row.tolist() == [*ids, 0]


def test_a_tokenizer_folder_is_read(tmp_path):
    from transformers import BertTokenizer

    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, "drusen", "Drusen"]))
    original = BertTokenizer(vocab=str(tmp_path / "vocab.txt"), do_lower_case=False)
    original.save_pretrained(tmp_path / "saved")
    row = Tokenizer(TextConfig(tokenizer=str(tmp_path / "saved"), context_length=4)).row("Drusen")
    assert row.tolist() == [2, 6, 3, 0]


def test_unusable_tokenizers_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no-such-model.*nothing is downloaded"):
        Tokenizer(TextConfig(tokenizer="no-such-model"))
    (tmp_path / "words.txt").write_text("left\nright\n")
    with pytest.raises(UserError, match=r"words\.txt is no BERT vocabulary: it lacks \[PAD\]"):
        Tokenizer(TextConfig(tokenizer=str(tmp_path / "words.txt")))
    (tmp_path / "shifted.txt").write_text("\n".join(["drusen", *SPECIAL]))
    with pytest.raises(UserError, match="must have id 0"):
        Tokenizer(TextConfig(tokenizer=str(tmp_path / "shifted.txt")))


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("Left eye: drusen. Right eye: normal.", "Right eye: drusen. Left eye: normal."),
        (
            "LEFT-sided, leftward; the right optic disc",
            "RIGHT-sided, rightward; the left optic disc",
        ),
        ("OD normal, OS hazy, O.D. 0.3, os: clear", "OS normal, OD hazy, O.S. 0.3, od: clear"),
        (
            "RE: ok; L/E cataract; L eye: haze; R: drusen",
            "LE: ok; R/E cataract; R eye: haze; L: drusen",
        ),
        ("oculus dexter", "oculus sinister"),
        ("左眼玻璃膜疣，右眼未见异常", "右眼玻璃膜疣，左眼未见异常"),
        ("OD视网膜出血，左：正常", "OS视网膜出血，右：正常"),
    ],
)
def test_sides_are_exchanged(text: str, mirrored: str):
    assert exchange_sides(text) == mirrored
    assert exchange_sides(mirrored) == text
    assert names_side(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Drusen in both eyes.",
        "Re-examination in six months, bright reflex, upright, copyright",
        "双眼白内障，杯盘比约0.3左右",
        "OU: normal. Repeat OCT. Leber's disease, Le Fort",
    ],
)
def test_texts_without_a_side_stay(text: str):
    assert exchange_sides(text) == text
    assert not names_side(text)


@pytest.mark.parametrize("text", ["haemorrhage at 3 o'clock", "视盘7点钟方向出血", "三点方位裂孔"])
def test_clock_hours_are_not_rewritten(text: str):
    assert exchange_sides(text) is None
