"""Division of photographs into training, validation and test, by patient."""

import dataclasses
import hashlib
from collections.abc import Collection, Mapping, Sequence

from retfm_jax.data.building.splits import SPLITS, hashed_split
from retfm_jax.errors import UserError, did_you_mean

#: Shares of what has no splits of its own.
SHARES = (0.7, 0.1, 0.2)
#: The name of what has no splits.
UNDIVIDED = ""


def no_split(dataset: str, split: str, there: Collection[str]) -> UserError:
    """Makes the error of a split that a dataset has not.

    Args:
      dataset: what was asked, for the message.
      split: that is not there.
      there: those that are.
    """
    has = ", ".join(there) or "none"
    return UserError(f"{dataset} has no split {split!r}; it has {has}{did_you_mean(split, there)}")


@dataclasses.dataclass(frozen=True)
class Division:
    """How records without a split, or without one for validation, get one: all of a patient one.

    What the source divides stays: its test split is never touched.

    Attributes:
      shares: of training, validation and test; a source with a training but no validation split
        gives up validation's share of these two. By a hash of the patient, so that a patient stays
        where it is when others come or go.
      fold: (k, K): the k-th of K folds, from 0. Where the source has no test split, all of it is
        divided: fold k is the test, fold k + 1 validation. Else training and validation are: fold k
        is validation. All folds have as many patients as another, or one more.
    """

    shares: tuple[float, float, float] = SHARES
    fold: tuple[int, int] | None = None

    def __post_init__(self):
        if self.fold is None:
            return
        number, count = self.fold
        if not 0 <= number < count or count < 2 or count > 100:
            raise UserError(f"fold {number} of {count}: give one of 2 to 100 folds, from 0 on")

    def splits(self, parts: Collection[str]) -> list[str]:
        """Names the splits that come of a source's own.

        Args:
          parts: splits that the source has; `UNDIVIDED` where it has none.
        """
        found = {*parts} - {UNDIVIDED}
        if UNDIVIDED in parts or (self.fold is not None and "test" not in parts):
            found |= {*SPLITS}
        elif "train" in parts:
            found |= {"validation"}
        return [split for split in SPLITS if split in found]

    def assign(
        self, parts: Mapping[str, Sequence[str]], others: Collection[str] = ()
    ) -> dict[str, list[str]]:
        """Gives every record its split.

        Args:
          parts: by split of the source (`UNDIVIDED` where it has none), the patient of each record.
          others: splits that the source has and of which nothing is asked: a split that is there is
            none that has to be made.

        Returns:
          by split of the source, the split of each record.

        Raises:
          UserError: there are fewer patients than folds.
        """
        found = {part: [part] * len(members) for part, members in parts.items()}
        there = {*parts, *others}
        if self.fold is not None:
            divided = [part for part in parts if part != "test"]
            if self._whole(there) and self.fold[1] < 3:
                raise UserError(
                    "there is no test split: give 3 folds or more, of which one is the test and "
                    "one validation"
                )
            fold_of = self._folds({p for part in divided for p in parts[part]})
            for part in divided:
                found[part] = [self._by_fold(fold_of[p], self._whole(there)) for p in parts[part]]
            return found
        if UNDIVIDED in parts:
            shares: dict[str, float] = dict(zip(SPLITS, self.shares, strict=True))
            found[UNDIVIDED] = [hashed_split(p, shares, 0) for p in parts[UNDIVIDED]]
        elif "validation" not in there and "train" in parts:
            train, validation, _ = self.shares
            share = validation / (train + validation)
            two = {"train": 1 - share, "validation": share}
            found["train"] = [hashed_split(p, two, 0) for p in parts["train"]]
        return found

    def _whole(self, parts: Collection[str]) -> bool:
        """Whether a fold divides all that there is."""
        return "test" not in parts

    def _folds(self, patients: Collection[str]) -> dict[str, int]:
        """The fold of every patient: in the order of their hashes they are dealt out in turn."""
        assert self.fold is not None
        count = self.fold[1]
        if len(patients) < count:
            raise UserError(f"{len(patients)} patients cannot be divided into {count} folds")
        order = sorted(patients, key=lambda p: hashlib.sha256(f"fold:{p}".encode()).digest())
        return {patient: position % count for position, patient in enumerate(order)}

    def _by_fold(self, fold: int, whole: bool) -> str:
        assert self.fold is not None
        number, count = self.fold
        if not whole:
            return "validation" if fold == number else "train"
        if fold == number:
            return "test"
        return "validation" if fold == (number + 1) % count else "train"


def said_of(division: Division, parts: Collection[str]) -> str:
    """Describes a division in a sentence; "" where the source's own splits stay as they are.

    Args:
      division: of the source.
      parts: splits that the source has; `UNDIVIDED` where it has none.
    """
    if division.fold is not None:
        number, count = division.fold
        what = "training and validation are" if "test" in parts else "all photographs are"
        role = "validation" if "test" in parts else "the test"
        return f"{what} divided into {count} folds by patient; fold {number} is {role}"
    shares = "/".join(f"{100 * share:g}" for share in division.shares)
    if UNDIVIDED in parts:
        return f"no splits are given: {shares}% by a hash of the patient"
    if "validation" not in parts and "train" in parts:
        train, validation, _ = division.shares
        share = 100 * validation / (train + validation)
        return f"no validation split is given: {share:.3g}% of training, by a hash of the patient"
    return ""
