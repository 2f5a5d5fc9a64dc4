"""Tokens are the published ones; exchanging sides mirrors a report and nothing else."""

import json
import pickle
import threading

import numpy as np
import pytest
from golden_files import golden_path

from retfm_jax.config import TextConfig
from retfm_jax.data.text import Tokenizer, vocabulary_size
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

    def work(index: int) -> None:
        results[index] = copy(texts)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
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


@pytest.mark.parametrize("words", [[], ["[MASK]", "The"], ["[MASK]", "the"]])
def test_a_vocabulary_file_is_what_transformers_makes_of_it(tmp_path, words):
    """With transformers, which is imported for folders that it wrote and not for such files."""
    from transformers import BertTokenizer

    vocabulary = [*SPECIAL[:4], *words, "a", "b", "e", "é", ",", "眼", "底", "##b"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    theirs = BertTokenizer(vocab=str(tmp_path / "vocab.txt"), do_lower_case="The" not in words)
    theirs.save_pretrained(tmp_path / "saved")
    ours, saved = (
        Tokenizer(TextConfig(tokenizer=str(tmp_path / name), context_length=12))
        for name in ("vocab.txt", "saved")
    )
    assert (ours.digest, ours.is_word_pieces) == (saved.digest, saved.is_word_pieces)
    for text in ("A ab É,b 眼底 THE the", "[MASK] [SEP] ｂ “a”", "a\u3000b\tc\x00", ""):
        np.testing.assert_array_equal(ours.row(text), saved.row(text))


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_line_ends_and_byte_order_marks_are_no_part_of_tokens(tmp_path, before, end):
    words = [*SPECIAL, "drusen", "left", "a\u2028b"]
    lines = end.join(word.encode() for word in words) + end
    (tmp_path / "vocab.txt").write_bytes(before + lines)
    config = TextConfig(tokenizer=str(tmp_path / "vocab.txt"), context_length=5)
    tokenizer = Tokenizer(config)
    assert tokenizer.row("drusen left").tolist() == [2, 5, 6, 3, 0]
    assert tokenizer.vocab_size == vocabulary_size(config) == len(words)


def test_ids_end_where_the_vocabulary_ends(tmp_path):
    """A special token that the vocabulary lacks is added behind it, and never comes up."""
    from transformers import BertTokenizer

    words = [word for word in SPECIAL if word != "[MASK]"] + ["drusen"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    plain = TextConfig(tokenizer=str(tmp_path / "vocab.txt"), context_length=9)
    BertTokenizer(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "saved")
    saved = TextConfig(tokenizer=str(tmp_path / "saved"), context_length=9)
    for config in (plain, saved):
        tokenizer = Tokenizer(config)
        assert tokenizer.vocab_size == vocabulary_size(config) == len(words)
        assert tokenizer.row("[MASK] drusen [SEP]").max() < len(words)
    assert vocabulary_size(TextConfig()) == 21128


@pytest.mark.parametrize(
    ("odd", "plain"),
    [("dru\ud800sen", "drusen"), ("\ud83d\ude00", "\U0001f600"), ("dru\0sen", "drusen")],
)
def test_broken_characters_are_left_out(odd, plain):
    tokenizer = Tokenizer(TextConfig(context_length=8))
    assert tokenizer.row(odd).tolist() == tokenizer.row(plain).tolist()


@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
def test_code_of_a_tokenizer_is_refused_and_not_asked_for(tmp_path, monkeypatch, file):
    def asked(*_):
        raise AssertionError("somebody was asked")

    monkeypatch.setattr("builtins.input", asked)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "Evil"}')
    config = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    (tmp_path / file).write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text("raise SystemExit('run')")
    with pytest.raises(UserError, match=f"refused: {file} has an auto_map"):
        Tokenizer(TextConfig(tokenizer=str(tmp_path)))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"vocab.txt": ""}, "is empty"),
        ({"vocab.txt": "\n\n"}, "is empty"),
        ({"vocab.txt": b"\xff\xfe\x00"}, "cannot be read"),
        ({"vocab.txt": "\n".join([*SPECIAL, "a", "b", "a"])}, r"'a' \(lines 6 and 8\)"),
        ({"vocab.txt": "\n".join(SPECIAL[:2])}, r"lacks \[CLS\], \[SEP\]"),
        ({}, "cannot be read"),
        ({"tokenizer.json": ""}, "cannot be read"),
        ({"tokenizer.json": "{"}, "cannot be read"),
        ({"tokenizer.json": '{"version": "1.0", "model": null}'}, "cannot be read"),
        ({"tokenizer_config.json": "[1"}, "not valid JSON"),
        ({"tokenizer_config.json": "[]", "tokenizer.json": "[]"}, "cannot be read"),
        ({"tokenizer_config.json": '{"tokenizer_class": "Evil"}'}, "tokenizer"),
    ],
)
def test_damaged_tokenizers_give_one_message(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as error:
        Tokenizer(TextConfig(tokenizer=str(tmp_path)))
    assert "\n" not in str(error.value)


def test_a_tokenizer_without_special_tokens_is_refused(tmp_path):
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    backend = Backend(WordLevel({"a": 0, "b": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"has no \[PAD\], \[UNK\], \[CLS\], \[SEP\]"):
        Tokenizer(TextConfig(tokenizer=str(tmp_path)))


def test_unusable_tokenizers_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no-such-model.*no such file or folder.*hf:owner/name"):
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
