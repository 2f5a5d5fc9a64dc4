"""How the page and the tables of a benchmark say things."""

import math
from collections.abc import Mapping

from retfm_jax.evaluation.results import LANGUAGE_NAMES
from retfm_jax.experiments.benchmark.results import Verdict
from retfm_jax.rendering import glossary

_METRICS = {
    "auroc": "macro AUROC",
    "average_precision": "macro AUPR",
    "aca": "ACA",
    "f1": "macro F1",
    "mean_recall": "mean recall",
    "quadratic_kappa": "quadratic kappa",
    "expected_calibration_error": "ECE",
    "image_dice": "macro Dice",
    "image_iou": "macro IoU",
    "dice": "pooled Dice",
    "iou": "pooled IoU",
    "mcc": "MCC",
}
_PROTOCOLS = {
    "zero_shot": "zero-shot",
    "few_shot": "few-shot",
    "fine_tune": "fine-tuning",
    "segment": "segmentation",
}

#: What the words of the contamination column mean.
VERDICTS: Mapping[Verdict, str] = {
    "holds its test": "Its training sets hold photographs of this task's test split: the number is "
    "no measure of photographs that the model has not seen.",
    "same set": "It was trained on the set that this task is taken from, by a division that is "
    "another one or not known: test photographs may have been among them.",
    "shares a source": "Its training sets and this task's set take photographs from a third set: "
    "some may be the same.",
    "trained on its training split": "It saw the training split before, and nothing else that is "
    "related: the test is clean, but other models saw less of this set.",
    "unknown": "Some of what it was trained on is not established.",
    "none known": "What it was trained on is known by name, and nothing of it is related to this "
    "task's set as far as is known. An audit of the photographs may say more.",
}
#: Those by which test photographs may have been seen.
SUSPECT: tuple[Verdict, ...] = ("holds its test", "same set", "shares a source")

#: Words of the page that are listed at its end whether or not its tables have them, and those of a
#: benchmark alone.
ABBREVIATIONS: Mapping[str, str] = {
    **{
        name: glossary.TERMS[name]
        for name in (
            "ACA", "AUPR", "AUROC", "Brier", "Dice", "ECE", "F1", "FLOPs", "IoU", "kappa", "macro",
        )
    },
    "interval": "95 % interval: how far the value varies with the patients of the test split; "
    "there is none where no resample of them varies it",
    "mean recall": "of a retrieval: share of queries whose own report or image is among the first "
    "1, 5 and 10 answers, mean over the three and over both directions; 1 is best",
    "p": "probability of a difference at least as large between models that are equally good; "
    "corrected by Holm's procedure for all pairs of the comparison",
    "rank": "1 + number of models that are significantly better in this comparison (corrected p at "
    "most 0.05): models with rank 1 cannot be told apart from a better one",
    "shot": "a training image of each class",
}  # fmt: skip


def metric(name: str) -> str:
    """A metric in words.

    Args:
      name: such as "auroc", "vessels/dice" or "image_to_report/recall_at_1".
    """
    part, _, last = name.rpartition("/")
    if part and last in _METRICS:
        return f"{part.replace('_', ' ')}, {metric(last).removeprefix('macro ')}"
    return _METRICS.get(name) or name.replace("/", ", ").replace("_", " ")


def protocol(name: str, setting: str = "", measure: str = "") -> str:
    """A protocol and its setting in words.

    Args:
      name: such as "linear_probe".
      setting: such as "en" or "5 shots"; "" where there is one alone.
      measure: one of several metrics by which the same cells are compared; "" where there is one.
    """
    said = _PROTOCOLS.get(name) or name.replace("_", " ")
    parts = [said, LANGUAGE_NAMES.get(setting, setting), metric(measure) if measure else ""]
    return ", ".join(filter(None, parts))


def p_value(p: float) -> str:
    """A p-value with three decimals.

    Args:
      p: from 0 to 1, NaN where nothing can be said.
    """
    if math.isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def number(value: float, unit: str = "") -> str:
    """A large number with three digits and a prefix, such as "61.6 GFLOPs".

    Args:
      value: at least 0.
      unit: written behind the prefix.
    """
    for power, prefix in ((15, "P"), (12, "T"), (9, "G"), (6, "M")):
        if value >= 10**power:
            return f"{_three(value / 10**power)} {prefix}{unit}"
    return f"{value:,.0f} {unit}".rstrip()


def decimal(value: float, sign: bool = False) -> str:
    """A number with three decimals and a real minus; a dash without a value.

    Args:
      value: NaN for none.
      sign: whether a plus is written, too.
    """
    if math.isnan(value):
        return "–"
    rounded = round(value, 3) + 0.0
    return f"{rounded:{'+' if sign else ''}.3f}".replace("-", "−")


def size(count: int) -> str:
    """Bytes as MiB or GiB.

    Args:
      count: of bytes.
    """
    if count >= 1 << 30:
        return f"{_three(count / (1 << 30))} GiB"
    return f"{_three(count / (1 << 20))} MiB"


def duration(seconds: float) -> str:
    """Seconds, as minutes or hours where they are many.

    Args:
      seconds: at least 0.
    """
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _three(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def chosen(values: Mapping[str, object]) -> str:
    """Values of a grid as one line.

    Args:
      values: by name.
    """
    return ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in values.items())


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def counted(many: int, what: str) -> str:
    """A number of things, such as "1 model" or "3 models".

    Args:
      many: how many.
      what: the word for one.
    """
    return f"{many:,} {what}{'s' * (many != 1)}"


def listed(names: list[str], most: int = 6) -> str:
    """Names as "a, b and c", of more than `most` the first and how many others.

    Args:
      names: at least one.
      most: how many are named.
    """
    if len(names) > most:
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} others"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
