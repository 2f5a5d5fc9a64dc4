"""Order of a task's classes where they are grades, and who says so."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from retfm_jax.knowledge.vocabulary import load_vocabulary

#: Published scales, from the least to the most severe, as ids of the vocabulary.
SCALES = {
    "the International Clinical Diabetic Retinopathy scale": (
        ("no_diabetic_retinopathy", "normal"),
        ("mild_npdr",),
        ("moderate_npdr",),
        ("severe_npdr",),
        ("pdr",),
    ),
    "the risk of macular oedema as in MESSIDOR and IDRiD": (
        ("no_macular_oedema_risk",),
        ("low_macular_oedema_risk",),
        ("high_macular_oedema_risk",),
    ),
}

_NUMBERED = re.compile(
    r"(?:(?:grade|stage|level|dr|r|icdr|级别|等级|分级|分期)[\s_-]*)?(\d{1,2})(?:\s*[级期])?"
)
# No severity of its own: a mild one is mild.
_UNSAID = re.compile(r"non[\s_-]*proliferative|非增殖[期性]?")
_SEVERITY = (
    ("no", "none", "normal", "healthy", "absent", "negative", "无", "正常"),
    ("mild", "轻度"),
    ("moderate", "中度"),
    ("severe", "重度"),
    ("proliferative", "proliferate", "pdr", "增殖期", "增殖性"),
)


@dataclasses.dataclass(frozen=True)
class Order:
    """The order of classes that are grades.

    Attributes:
      positions: the grade of every class as a number; equal steps weigh alike.
      known_from: what says that the classes are grades.
      guessed: whether nobody stated it, and it was inferred from the classes' names.
    """

    positions: Mapping[str, int]
    known_from: str
    guessed: bool

    def of(self, names: Sequence[str]) -> tuple[int, ...]:
        """Positions of some of the classes.

        Args:
          names: classes of this order.
        """
        return tuple(self.positions[name] for name in names)

    @property
    def classes(self) -> list[str]:
        """Classes from the lowest grade on."""
        return sorted(self.positions, key=self.positions.__getitem__)

    def to_json(self) -> dict[str, object]:
        """Converts the order to JSON values, with what says that the classes are grades."""
        return {"classes": self.classes, "known_from": self.known_from, "guessed": self.guessed}

    def __str__(self) -> str:
        return ", ".join(self.classes)


def class_order(names: Sequence[str], stated: bool = False) -> Order | None:
    """Finds the order of a task's classes; None where nothing speaks for one.

    Two classes have none: every kappa of them is the same.

    Args:
      names: of the classes; with `stated` from the lowest grade on.
      stated: whether the task itself says that its classes are grades (`ordered: true`).
    """
    if len(names) < 3:
        return None
    if stated:
        return Order({name: at for at, name in enumerate(names)}, "the task", guessed=False)
    return _scale(names) or _numbers(names) or _words(names)


def _scale(names: Sequence[str]) -> Order | None:
    vocabulary = load_vocabulary()
    found = {name: vocabulary.find(name) for name in names}
    for scale, grades in SCALES.items():
        position_of = {condition: at for at, grade in enumerate(grades) for condition in grade}
        at = _distinct(
            {name: condition and position_of.get(condition.id) for name, condition in found.items()}
        )
        if at is not None:
            return Order(at, scale, guessed=False)
    return None


def _numbers(names: Sequence[str]) -> Order | None:
    found = {name: _NUMBERED.fullmatch(name.strip().casefold()) for name in names}
    at = _distinct({name: int(match[1]) if match else None for name, match in found.items()})
    if at is None:
        return None
    return Order(at, "a guess: the names of the classes are numbers", guessed=True)


def _words(names: Sequence[str]) -> Order | None:
    at = _distinct({name: _severity(name) for name in names})
    # Somebody who means grades names at least two of mild, moderate and severe.
    if at is None or len({1, 2, 3} & set(at.values())) < 2:
        return None
    return Order(at, "a guess: the names of the classes are degrees of severity", guessed=True)


def _severity(name: str) -> int | None:
    name = _UNSAID.sub(" ", name.casefold())
    words = set(re.findall("[a-z]+", name))
    found = [
        at
        for at, degrees in enumerate(_SEVERITY)
        if any(d in words or (ord(d[0]) > 0x2E80 and d in name) for d in degrees)
    ]
    return found[0] if len(found) == 1 else None


def _distinct(at: Mapping[str, int | None]) -> dict[str, int] | None:
    """The positions, where every class has one and no two have the same."""
    positions = {name: position for name, position in at.items() if position is not None}
    each = len(positions) == len(at) == len(set(positions.values()))
    return positions if each else None
