"""Reports become the ids of words as published, and words again; ours keep what a reader needs."""

import json

import numpy as np
import pytest
from golden_files import golden_path

from retfm_jax.config import TextConfig
from retfm_jax.data import words
from retfm_jax.errors import UserError


@pytest.fixture(scope="module")
def golden():
    return json.loads(golden_path("ffa_tokens.json").read_text(encoding="utf-8"))


def test_published_words_ids_and_texts(golden):
    reports = [row["En_Report"] for row in golden["reports"]]
    for text, cleaned in zip(reports, golden["cleaned"], strict=False):
        assert words.clean_as_published(text) == cleaned.split()
    train = [row["En_Report"] for row in golden["reports"] if row["Split"] == "train"]
    counted = words.count_words(train, "published")
    made = words.make_vocabulary(counted, golden["threshold"])
    assert {word: number for number, word in enumerate(made, start=1)} == golden["token2idx"]
    tokenizer = words.WordTokenizer(TextConfig("none", 90, made, "published"))
    for text, ids, decoded in zip(golden["encoded"], golden["ids"], golden["decoded"], strict=True):
        row = tokenizer.row(text)
        np.testing.assert_array_equal(row[: len(ids)], ids)
        assert not row[len(ids) :].any()
        assert tokenizer.spelled(text) == decoded


def test_ours_keeps_hyphens_decimals_and_the_end_of_a_cut_report():
    assert words.clean("Non-perfusion, 0.5\nPD  (OS)! ＦＦＡ..") == [
        "non-perfusion", "0.5", "pd", "os", ".", "ffa", "."
    ]  # fmt: skip
    assert words.clean("右眼黄斑水肿，VA 0.3；未见出血。") == [
        *"右眼黄斑水肿", "va", "0.3", ".", *"未见出血", "."
    ]  # fmt: skip
    assert words.clean(" ... ") == words.clean("") == []
    vocabulary = (".", "<unk>", "a", "b")
    ours = words.WordTokenizer(TextConfig("none", 5, vocabulary))
    published = words.WordTokenizer(TextConfig("none", 5, vocabulary, "published"))
    assert ours.row("a b a b").tolist() == [0, 3, 4, 3, 0]
    assert published.row("a b a b").tolist() == [0, 3, 4, 3, 4]


def test_five_thousand_words_are_cut_and_nothing_is_an_empty_row():
    tokenizer = words.WordTokenizer(TextConfig("none", 90, (".", "<unk>", "a")))
    counted = words.count_words(["a " * 5000, "a " * 87, ""])
    assert (counted.longer_than(88), counted.words["a"]) == (1, 5087)
    row = tokenizer.row("a " * 5000)
    assert (row > 0).sum() == 88
    assert (row[0], row[-1]) == (0, 0)
    assert not tokenizer.row("").any()
    assert tokenizer.words(row[1:]) == ["a"] * 88


def test_words_are_written_as_a_text_that_reads_the_same_again():
    for text in ("early leakage. no non-perfusion 0.5 pd.", "右眼黄斑水肿。未见出血。"):
        assert words.readable(words.clean(text)) == text
        assert words.clean(words.readable(words.clean(text))) == words.clean(text)


def test_vocabularies_that_cannot_serve_are_refused():
    with pytest.raises(UserError, match="occurs 3 times"):
        words.make_vocabulary(words.count_words(["a", "b"]))
    with pytest.raises(UserError, match="has 0 words and lacks <unk>"):
        words.WordTokenizer(TextConfig())
    with pytest.raises(UserError, match="<unk>"):
        words.WordTokenizer(TextConfig(words=("a",)))
    with pytest.raises(UserError, match="names a twice"):
        TextConfig(words=("a", "a"))
