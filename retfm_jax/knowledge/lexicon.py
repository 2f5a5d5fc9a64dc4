"""Every word that the labeler knows, with its variants, and the scanner that finds them."""

import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from retfm_jax.knowledge.cues import (
    ABSENT,
    ANATOMY,
    BARE_SIDES,
    CUES,
    GRADE_WORDS,
    NORMAL_PARTS,
    PHRASES,
    PRESENT,
    SIDES,
    SIDES_IN_CAPITALS,
    STAGES,
    UNCERTAIN,
    UNCHANGED,
    Cue,
)
from retfm_jax.knowledge.normalize import SPELLINGS, fold, normalize
from retfm_jax.knowledge.signs import (
    ABSENT_MARK,
    DENIAL_MARK,
    MARKS,
    PRESENT_MARK,
    UNCERTAIN_MARK,
    mark_signs,
)
from retfm_jax.knowledge.trie import trie_pattern
from retfm_jax.knowledge.vocabulary import Vocabulary

#: Abbreviations of at most so many letters are words of the language too often.
_CAPITALS_ONLY = 2

# One of a pair for the other, anywhere in a term.
_CHINESE_VARIANTS = (
    ("视盘", "视乳头"),
    ("视盘", "视神经乳头"),
    ("混浊", "浑浊"),
    ("玻璃膜疣", "玻璃疣"),
    ("玻璃膜疣", "玻膜疣"),
    ("黄斑", "黄班"),
    ("增殖", "增生"),
    ("糖尿病视网膜病变", "糖尿病性视网膜病变"),
    ("糖尿病视网膜病变", "dr"),
    ("糖尿病视网膜病变", "糖网"),
    ("年龄相关性黄斑变性", "amd"),
    ("年龄相关性", "年龄相关"),
    ("阻塞", "栓塞"),
    ("微血管瘤", "微血管榴"),
    ("渗出", "渗岀"),
    ("出血", "岀血"),
    ("新生血管", "新生血菅"),
    ("斑", "班"),
    ("人工晶状体", "人工晶体"),
    ("迂曲", "纡曲"),
    ("变性", "病变性"),
)
_ENGLISH_VARIANTS = (
    *((folded, spelling) for spelling, folded in SPELLINGS),
    ("optic disc", "optic nerve head"),
    ("status post", "s/p"),
    ("age related", "age relate"),
    ("diabetic retinopathy", "dr"),
    ("diabetic retinopathy", "diabetes retinopathy"),
    ("age related macular degeneration", "amd"),
    ("age related macular degeneration", "armd"),
    ("macular oedema", "macula oedema"),
    ("cup to disc ratio", "c/d ratio"),
    ("cup to disc ratio", "c/d"),
    ("cup to disc ratio", "cdr"),
    ("cup to disc ratio", "cup disc ratio"),
)
# Slips of the keyboard that are common in reports.
_MISSPELLINGS = {
    "haemorrhage": (
        "haemorrage",
        "hemorrage",
        "hemorhage",
        "hemmorhage",
        "haemorhage",
        "hemmorrhage",
    ),
    "haemorrhages": ("haemorrages", "hemorrages", "hemorhages", "hemmorhages", "haemorhages"),
    "exudates": ("exsudates", "exudats", "exudes", "excudates"),
    "exudate": ("exsudate", "exudat"),
    "retinopathy": ("retinopaty", "retinapathy", "retinopthy", "retinopathay", "retionpathy"),
    "diabetic": ("diabetc", "daibetic", "diebetic"),
    "proliferative": ("prolifrative", "proliferativ", "prolferative", "proliferate"),
    "nonproliferative": ("nonprolifrative", "nonproliferativ"),
    "glaucoma": ("glucoma", "glaucome", "gluacoma", "glaucomma", "glacoma"),
    "cataract": ("catarct", "catarract", "cateract", "cataracht", "catract"),
    "oedema": ("odema", "oedma", "edma", "oedama", "eodema"),
    "macular": ("maculer", "macluar", "maculr"),
    "drusen": ("druzen", "drussen", "drusens", "druse", "dursen"),
    "microaneurysms": ("microaneursyms", "microaneurisms", "micro aneurysms", "microanuerysms"),
    "microaneurysm": ("microaneursym", "microaneurism", "micro aneurysm", "microanuerysm"),
    "neovascularization": ("neovascularistion", "neovasularization", "neovascularsation"),
    "degeneration": ("degenration", "degenaration"),
    "detachment": ("detachement", "detatchment"),
    "epiretinal": ("epi retinal", "epiretnal"),
    "occlusion": ("oclusion", "occulsion"),
    "myopia": ("mypoia",),
    "pathologic": ("patholgic",),
    "atrophy": ("athrophy", "atropy"),
    "tessellated": ("tesselated", "tessalated"),
    "tessellation": ("tesselation",),
    "peripapillary": ("peripapilary",),
    "hypertensive": ("hypertensiv", "hypertesive"),
    "cotton": ("coton",),
    "vessels": ("vesels", "vessles"),
    "vitreous": ("vitrous", "viterous"),
    "pigmentosa": ("pigmentosum",),
}
# Terms that share a word: "硬性及软性渗出" names two.
_COMBINED = {
    ("hard_exudates", "cotton_wool_spots"): (
        "hard and soft exudates",
        "soft and hard exudates",
        "硬性及软性渗出",
        "软硬性渗出",
        "硬性、软性渗出",
        "软性及硬性渗出",
    ),
    ("dot_blot_haemorrhage", "flame_haemorrhage"): (
        "dot and flame haemorrhages",
        "flame and dot haemorrhages",
        "flame shaped and blot haemorrhages",
        "点状及火焰状出血",
        "点状、火焰状出血",
        "火焰状及点状出血",
    ),
    ("vessel_tortuosity", "arteriolar_narrowing"): ("attenuated and tortuous vessels",),
    ("diabetic_retinopathy", "hypertensive_retinopathy"): (
        "diabetic or hypertensive retinopathy",
        "diabetic and hypertensive retinopathy",
        "hypertensive or diabetic retinopathy",
        "hypertensive and diabetic retinopathy",
    ),
    ("npdr", "pdr"): (
        "background or proliferative diabetic retinopathy",
        "non-proliferative or proliferative diabetic retinopathy",
    ),
}
_ENLARGED = {
    True: ("enlarged", "increased", "large", "high", "raised", "elevated"),
    False: (
        "enlarged", "increased", "is enlarged", "is increased", "large", "is large", "raised",
        "增大", "扩大", "大", "偏大", "升高", "增加", "变大", "明显增大", "明显扩大",
    ),
}  # fmt: skip


class Token(NamedTuple):
    """A known word in a sentence.

    Attributes:
      cue: what the word is.
      payload: what it stands for, such as a condition's id or the value of a number.
      start, end: span in the sentence, in characters.
    """

    cue: Cue
    payload: Any
    start: int
    end: int


# Between letters and Chinese characters a blank may stand: "DR 3期", "干性 AMD".
_SCRIPTS = re.compile(r"(?<=[a-z])(?=[0-9\u4e00-\u9fff])|(?<=[\u4e00-\u9fff])(?=[a-z])")

# Without the call of a Python function that the class's own constructor is.
_token = functools.partial(tuple.__new__, Token)


@dataclasses.dataclass(frozen=True)
class Lexicon:
    """Known words, and the pattern that finds them.

    Attributes:
      words: cue and payload of every word, by the word with and without its blanks.
      pattern: finds them, and decimal numbers.
    """

    words: Mapping[str, tuple[Cue, Any]]
    pattern: re.Pattern[str]

    def scan(self, sentence: str) -> list[Token]:
        """Finds the known words of a sentence; decimal numbers carry their value.

        Args:
          sentence: as the report has it; abbreviations of two letters need its capitals.

        Returns:
          the tokens in the order of the text.
        """
        words, tokens = self.words, []
        for match in self.pattern.finditer(normalize(mark_signs(sentence))):
            word = match.group()
            start, end = match.span()
            if word[0] in MARKS:
                word = word[0]
            entry = words.get(word) or words.get(word.replace(" ", "").replace("\n", ""))
            cue, payload = entry or (Cue.NUMBER, float(word.replace(",", ".")))
            if cue is Cue.ABBREVIATION or cue is Cue.SIDE_CAPITALS:
                if not sentence[start:end].rstrip("s").isupper():
                    continue
                cue = Cue.CONDITION if cue is Cue.ABBREVIATION else Cue.SIDE
            tokens.append(_token((cue, payload, start, end)))
        return tokens


def build_lexicon(vocabulary: Vocabulary) -> Lexicon:
    """Collects the terms of a vocabulary, the cues, and the variants of both.

    Args:
      vocabulary: the conditions to be found.
    """
    words: dict[str, tuple[Cue, Any]] = {}
    spelled: list[str] = []

    def add(terms: Iterable[str], cue: Cue, payload: Any = None) -> None:
        for term in terms:
            word = _SCRIPTS.sub(" ", normalize(term).strip())
            if words.setdefault(word.replace(" ", ""), (cue, payload)) == (cue, payload):
                words[word] = (cue, payload)
                spelled.append(word)

    reported = [condition for condition in vocabulary if condition.absence_of is None]
    # A term as it is written goes before the variants of another one.
    for condition in reported:
        add(condition.terms(), Cue.CONDITION, (condition.id,))
    for conditions, terms in _COMBINED.items():
        if all(condition in vocabulary for condition in conditions):
            add((v for term in terms for v in _variants(term)), Cue.CONDITION, conditions)
    for cue, listed in CUES.items():
        add(_split(listed), cue)
    add(UNCHANGED, Cue.IGNORED)
    for cue, phrases in PHRASES.items():
        add(phrases, cue)
    for cue, sides in (
        (Cue.SIDE, SIDES),
        (Cue.SIDE_CAPITALS, SIDES_IN_CAPITALS),
        (Cue.BARE_SIDE, BARE_SIDES),
    ):
        for side, listed in sides.items():
            add(listed, cue, side)
    for cue, table in (
        (Cue.GRADE, GRADE_WORDS),
        (Cue.STAGE, {stage: listed for stage, listed in STAGES.items() if stage in vocabulary}),
        (Cue.NORMAL_PART, NORMAL_PARTS),
        (Cue.ANATOMY, ANATOMY),
    ):
        for payload, listed in table.items():
            add(_split(listed), cue, payload)
    for condition in reported:
        for abbreviation in condition.abbreviations:
            capitals = len(abbreviation.rstrip("s")) <= _CAPITALS_ONLY
            add([abbreviation], Cue.ABBREVIATION if capitals else Cue.CONDITION, (condition.id,))
        for term in condition.terms():
            add(_variants(term), Cue.CONDITION, (condition.id,))
    if "large_cup" in vocabulary:
        add(_enlarged_cups(), Cue.CONDITION, ("large_cup",))
    words |= {
        ABSENT_MARK: (Cue.SIGN, ABSENT),
        PRESENT_MARK: (Cue.SIGN, PRESENT),
        UNCERTAIN_MARK: (Cue.SIGN, UNCERTAIN),
        DENIAL_MARK: (Cue.NEGATION, None),
    }
    return Lexicon(words, _scanner(spelled))


def _scanner(words: Iterable[str]) -> re.Pattern[str]:
    latin, other = set(), set()
    for word in words:
        (latin if re.match("[a-z0-9]", word) else other).add(word)
    first = "".join(sorted({re.escape(word[0]) for word in other}))
    return re.compile(
        r"(?<![\d.])(?:[01]?\.\d{1,2}|0,\d)(?!\d)"
        rf"|(?<![a-z0-9])(?=[a-z0-9]){trie_pattern(latin)}"
        # The set spares most positions the walk through the alternatives.
        rf"|(?=[{first}]){trie_pattern(other)}"
        rf"|([{''.join(MARKS)}])\1*"
    )


def _split(listed: str) -> list[str]:
    return [cue.strip() for cue in listed.split("|")]


def _enlarged_cups() -> Iterator[str]:
    for cup in _split(CUES[Cue.CUP]):
        for before, adjectives in _ENLARGED.items():
            for adjective in adjectives:
                yield f"{adjective} {cup}" if before else f"{cup} {adjective}"


def _variants(term: str) -> set[str]:
    """A term in every spelling, number and common misspelling that reports use."""
    term = fold(term)
    english = term.isascii()
    variants = {term}
    for one, other in _ENGLISH_VARIANTS if english else _CHINESE_VARIANTS:
        variants |= {v.replace(one, other) for v in variants if one in v}
        if not english:
            variants |= {v.replace(other, one) for v in variants if other in v}
    if english:
        variants |= {form for v in variants for form in _numbers(v)}
        variants |= {form for v in variants for form in _misspelled(v)}
    return variants


def _numbers(term: str) -> Iterator[str]:
    """Singular and plural of the last word."""
    if term.endswith(("ies", "ches", "ses")):
        yield term[:-3] + "y" if term.endswith("ies") else term[:-2]
    elif term.endswith("s") and not term.endswith(("ss", "us", "is")):
        yield term[:-1]
    elif term.endswith("y") and not term.endswith("ey"):
        yield term[:-1] + "ies"
    elif term.endswith(("ch", "sh", "x", "ss")):
        yield term + "es"
    elif not term.endswith("s"):
        yield term + "s"


def _misspelled(term: str) -> Iterator[str]:
    parts = term.split(" ")
    for position, word in enumerate(parts):
        for slip in _MISSPELLINGS.get(word, ()):
            yield " ".join((*parts[:position], slip, *parts[position + 1 :]))
