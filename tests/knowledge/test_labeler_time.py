"""Reports of any length: the time grows with the number of characters, whatever they are."""

import gc
import time

import pytest

from retfm_jax.knowledge.laterality import exchange_sides

#: What a report could be filled with, by what it tries.
FILLINGS = {
    "one finding": ("", "drusen, "),
    "one finding, denied": ("no ", "drusen, "),
    "one finding without commas": ("", "drusen "),
    "no separators": ("", "出血"),
    "未见, then a list": ("未见", "玻璃膜疣，"),
    "negations": ("", "no not without "),
    "negations and findings": ("", "无出血，无"),
    "denied afterwards": ("drusen " * 2000, "absent "),
    "denied afterwards in Chinese": ("出血" * 20000, "阴性"),
    "doubted afterwards": ("出血" * 20000, "可疑"),
    "denied and seen in turn": ("", "no drusen, drusen absent present and "),
    "a list that nothing closes": ("no ", "drusen and haemorrhage, "),
    "a list of diseases": ("no ", "DR, AMD, "),
    "no or": ("未见", "出血、"),
    "commas": ("no drusen", ","),
    "full-width commas": ("", "，"),
    "parts": ("", "黄斑、视盘、"),
    "parts, then normal": ("黄斑、视盘、" * 8000, "正常、"),
    "normal": ("", "normal "),
    "fundus, then normal": ("眼底、" * 15000, "正常、"),
    "abnormal": ("", "异常"),
    "abnormal parts": ("no ", "abnormal macula, "),
    "parentheses": ("", "("),
    "parentheses, closed": ("(" * 40000, ")"),
    "parentheses and findings": ("", "(drusen "),
    "ratios": ("C/D ", "0.8 "),
    "ratios of two eyes": ("", "OD C/D 0.3 OS C/D 0.7 "),
    "digits": ("", "0123456789"),
    "decimal points": ("", "0.1.2.3."),
    "sides": ("", "left eye right eye "),
    "sides and findings": ("", "OD drusen OS "),
    "sides in Chinese": ("", "左眼右眼出血"),
    "bare sides": ("", "L R left "),
    "blanks": ("left eye", " "),
    "blanks after a negation": ("no", " "),
    "blanks and findings": ("", "drusen" + " " * 500),
    "line breaks": ("drusen", "\n"),
    "wrapped lines": ("", "no\ndrusen,\n"),
    "grades": ("drusen ", "mild "),
    "grades to grades": ("", "mild to moderate "),
    "stages": ("diabetic retinopathy " * 2000, "proliferative "),
    "question marks": ("drusen", "?"),
    "question marks and findings": ("", "?drusen"),
    "plus and minus": ("", "出血(+-)"),
    "minus": ("出血", "-"),
    "colons": ("", "DR: "),
    "advice": ("", "advise FFA for drusen, "),
    "history": ("", "history of drusen, "),
    "but": ("no ", "drusen but "),
    "signs": ("", "出血（－）"),
    "signs of a long list": ("出血、" * 16000, "（－）"),
    "values": ("", "DR: no "),
    "values with commas": ("", "DR: 无，"),
    "family": ("", "mother has DR, "),
    "a family's list": ("FHx: ", "DR, "),
    "versus": ("", "DR vs "),
    "hyphens": ("", "- "),
    "an open bracket and blanks": ("DR (", " "),
    "sides that have": ("", "the left has drusen "),
    "sides behind a doubt": ("", "不除外右眼青光眼 "),
    "screenings": ("", "DR screening: negative "),
    "differential diagnoses": ("DDx: ", "AMD, CSC, "),
    "letters": ("", "x"),
    "unknown words": ("no ", "abc def, "),
    "unknown characters": ("未见", "的了吗"),
    "emphasis": ("", "!!!???"),
}  # fmt: skip
SMALL, LARGE = 6_250, 100_000


def written(name, length):
    start, filling = FILLINGS[name]
    start = start[: length // 2]
    return (start + filling * (length // len(filling) + 1))[:length]


def timed(call, text):
    # What collecting garbage takes depends on all that other tests left in this process.
    gc.disable()
    try:
        begin = time.thread_time()
        result = call(text)
        return time.thread_time() - begin, result
    finally:
        gc.enable()


@pytest.mark.parametrize("name", FILLINGS)
def test_time_and_evidence_grow_with_the_length(labeler, name):
    short = min(timed(labeler.label, written(name, SMALL))[0] for _ in range(3))
    long, labels = timed(labeler.label, written(name, LARGE))
    # Sixteen times as long: the square would be 256 times. Below 10 ms the clock measures nothing.
    assert long < 80 * max(short, 0.01)
    assert len(labels.evidence) <= LARGE // 2
    assert sum(len(item.text) for item in labels.evidence) <= 10 * LARGE


def test_a_list_of_any_length_stays_denied(labeler):
    for report in ("no " + "drusen, " * 5000 + "drusen", "未见" + "玻璃膜疣、" * 5000 + "出血"):
        labels = labeler.label(report)
        assert labels.patient == ()
        assert "drusen" in labels.absent


def test_long_sentences_are_not_remembered(labeler):
    before = labeler._read.cache_info().currsize
    for number in range(20):
        labeler.label(f"drusen {number} " * 1000)
    assert labeler._read.cache_info().currsize == before


@pytest.mark.parametrize("name", FILLINGS)
def test_sides_are_exchanged_in_time(name):
    short = min(timed(exchange_sides, written(name, SMALL))[0] for _ in range(3))
    long, _ = timed(exchange_sides, written(name, LARGE))
    assert long < 80 * max(short, 0.01)
