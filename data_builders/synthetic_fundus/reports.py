"""Reports as a hospital's graders write them: short, uneven, and true to the labels."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from retfm_jax.data_builders.synthetic_fundus.phrases import PHRASES, VASCULAR, Phrases
from retfm_jax.data_builders.synthetic_fundus.population import Eye, Patient

_Choice = TypeVar("_Choice")

_OTHER = {"left": "right", "right": "left"}


@dataclasses.dataclass(frozen=True)
class Reports:
    """A patient's texts by language.

    Attributes:
      whole: the report.
      left, right: the part that speaks of one eye, "" for a missing eye.
    """

    whole: Mapping[str, str]
    left: Mapping[str, str]
    right: Mapping[str, str]


def write_reports(patient: Patient) -> Reports:
    """Writes a patient's report in each language, each with words of its own."""
    whole, left, right = {}, {}, {}
    for number, (language, phrases) in enumerate(PHRASES.items()):
        writer = _Writer(phrases, np.random.default_rng((patient.seed, number)))
        whole[language], parts = writer.report(patient)
        left[language], right[language] = parts.get("left", ""), parts.get("right", "")
    return Reports(whole, left, right)


class _Writer:
    """One grader with one report to write."""

    def __init__(self, phrases: Phrases, rng: np.random.Generator):
        self._phrases = phrases
        self._rng = rng
        self._separator, self._stop = self._pick(phrases.separators)
        right, left, both = self._pick(phrases.headings)
        self._headings = {"right": right, "left": left, "both": both}
        self._gap = self._pick(phrases.gap)

    def report(self, patient: Patient) -> tuple[str, dict[str, str]]:
        """The whole report, and the part of each photographed eye by side."""
        if patient.right is None or patient.left is None:
            sections, parts = self._one_eye(patient.eyes[0])
        else:
            sections, parts = self._two_eyes(patient.right, patient.left)
        sections = [section + self._stop for section in sections]
        if len(patient.eyes) == 1 and self._chance(0.5):
            missing = self._phrases.missing[_OTHER[patient.eyes[0].side]]
            sections.append(self._pick(missing))
        findings = {name for eye in patient.eyes for name in eye.findings}
        if self._chance(0.3):
            sections += self._impression(findings)
        if self._chance(0.25):
            kind = bool(findings) + bool(findings & VASCULAR)
            sections.append(self._pick(self._phrases.advice[kind]))
        gap = self._gap if self._stop else self._gap or " "
        return gap.join(sections), parts

    def _one_eye(self, eye: Eye) -> tuple[list[str], dict[str, str]]:
        part = self._statements(eye)
        return [self._headings[eye.side] + part], {eye.side: part}

    def _two_eyes(self, right: Eye, left: Eye) -> tuple[list[str], dict[str, str]]:
        same = _forms(right) == _forms(left)
        shared = _forms(right) & _forms(left)
        if same and self._chance(0.6):
            # One statement for both, so it may not say what differs between them.
            part = self._statements(right, cup_ratio=_ratio(right) == _ratio(left))
            return [self._headings["both"] + part], {"right": part, "left": part}
        if shared and not same and self._chance(0.4):
            return self._shared(right, left, shared)
        parts = {eye.side: self._statements(eye) for eye in (right, left)}
        order = ("left", "right") if self._chance(0.1) else ("right", "left")
        return [self._headings[side] + parts[side] for side in order], parts

    def _shared(
        self, right: Eye, left: Eye, shared: frozenset[str]
    ) -> tuple[list[str], dict[str, str]]:
        """What both eyes have in one sentence, then what each has beside it."""
        common = self._slip(self._separator.join(self._affirm(right, shared, cup_ratio=False)))
        sections, parts = [self._headings["both"] + common], {}
        for eye in (right, left):
            parts[eye.side] = common
            own = _forms(eye) - shared
            if own:
                text = self._slip(self._separator.join(self._affirm(eye, own)))
                sections.append(self._headings[eye.side] + self._pick(self._phrases.also) + text)
                parts[eye.side] = common + self._separator + text
        return sections, parts

    def _statements(self, eye: Eye, cup_ratio: bool = True) -> str:
        """Everything said of one eye: findings first, then what is normal or absent."""
        present = set(eye.findings)
        if present:
            said = self._affirm(eye, _forms(eye), cup_ratio)
        else:
            said = [self._fill(self._pick(self._usable(self._phrases.normal, cup_ratio)), eye)]
        if "hazy_media" not in present:  # through haze nothing else can be ruled out
            if present and self._chance(0.3):
                said += self._unremarkable(eye, cup_ratio)
            absent = sorted(set(self._phrases.absent) - present)
            if absent and self._chance(0.25):
                said.append(self._deny(absent))
        return self._slip(self._separator.join(said))

    def _affirm(self, eye: Eye, forms: frozenset[str], cup_ratio: bool = True) -> list[str]:
        """Phrases for the given forms of findings, in no particular order."""
        said = []
        for form in self._rng.permutation(sorted(forms)):
            choices = self._usable(self._phrases.findings[str(form)], cup_ratio)
            said.append(self._fill(self._pick(choices), eye, str(form).partition("/")[0]))
        return said

    def _unremarkable(self, eye: Eye, cup_ratio: bool) -> list[str]:
        fitting = [
            text
            for text, contradicts in self._phrases.structures
            if not contradicts & set(eye.findings)
        ]
        fitting = self._usable(tuple(fitting), cup_ratio)
        return [self._fill(self._pick(fitting), eye)] if fitting else []

    def _deny(self, absent: list[str]) -> str:
        names = self._rng.choice(
            absent, size=min(len(absent), 1 + self._chance(0.5)), replace=False
        )
        what = self._pick(self._phrases.either).join(
            self._pick(self._phrases.absent[str(name)]) for name in names
        )
        return self._pick(self._phrases.negations).format(what=what)

    def _impression(self, findings: set[str]) -> list[str]:
        diagnoses = next((d for signs, d in self._phrases.impressions if signs <= findings), None)
        if diagnoses is None:
            return []
        return [self._pick(self._phrases.impression_headings) + self._pick(diagnoses) + self._stop]

    def _fill(self, pattern: str, eye: Eye, finding: str | None = None) -> str:
        severity = eye.findings[finding].severity if finding else 0.0
        few = self._pick(self._phrases.amounts[min(2, int(3 * severity))])
        return pattern.format(few=few, cd=_ratio(eye))

    def _usable(self, choices: tuple[str, ...], cup_ratio: bool) -> tuple[str, ...]:
        """Those that state no cup-to-disc ratio, where none is to be stated."""
        return choices if cup_ratio else tuple(c for c in choices if "{cd}" not in c)

    def _slip(self, text: str) -> str:
        """Leaves a slip of the keyboard or a variant of spelling here and there."""
        for word, variants in self._phrases.slips.items():
            if word in text and self._chance(0.06):
                text = text.replace(word, self._pick(variants), 1)
        return text

    def _pick(self, choices: Sequence[_Choice]) -> _Choice:
        return choices[int(self._rng.integers(len(choices)))]

    def _chance(self, probability: float) -> bool:
        return bool(self._rng.random() < probability)


def _forms(eye: Eye) -> frozenset[str]:
    """The findings with their variants, as the phrase tables name them."""
    return frozenset(
        f"{name}/{finding.variant}" if finding.variant else name
        for name, finding in eye.findings.items()
    )


def _ratio(eye: Eye) -> str:
    """The cup-to-disc ratio as graders write it."""
    return f"{eye.cup_ratio:.1f}"
