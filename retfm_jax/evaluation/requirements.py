"""Checks of what an evaluation needs, before the first image is embedded."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from retfm_jax.config import DataConfig
from retfm_jax.data.records import ImageRecord, PatientRecord
from retfm_jax.data.sources import RecordSource
from retfm_jax.errors import UserError, did_you_mean
from retfm_jax.files import PathLike, absolute, as_path, check_writable
from retfm_jax.knowledge.vocabulary import LANGUAGES

#: More would take hours or more memory than there is, and says no more.
_MOST_DRAWS, _MOST_FOLDS, _MOST_COPIES = 1_000_000, 1000, 1000
#: A page of more photographs is opened by nobody.
_MOST_MISTAKES = 200
#: The features of more do not fit into memory.
_MOST_TRAINING_CASES = 1_000_000
#: Seeds of folds are counted on from the first; generators take 32 bits.
_MOST_SEED = 2**32 - 1 - _MOST_FOLDS


def check_name(option: str, name: str, known: Sequence[str]) -> None:
    """Checks that a name is one of those known.

    Args:
      option: what the name was given for, in the message.
      name: as it was given.
      known: allowed names.

    Raises:
      UserError: it is none of them; the message suggests the nearest.
    """
    if name not in known:
        hint = did_you_mean(name, known)
        raise UserError(f"{option} {name}: give one of {', '.join(known)}{hint}")


def check_languages(languages: Sequence[str]) -> None:
    """Checks that there are prompts in every language, and that none is given twice.

    Args:
      languages: such as "en" and "zh".

    Raises:
      UserError: a language is unknown or given twice.
    """
    for language in languages:
        check_name("language", language, LANGUAGES)
    if len(set(languages)) < len(languages):
        raise UserError(f"language {', '.join(languages)}: one occurs twice")


def check_numbers(options: Any) -> None:
    """Checks that every number of the options is in its range.

    Args:
      options: an `evaluate.Options` whose `draws` are decided.

    Raises:
      UserError: one is not; the message names its range.
    """
    tuning = options.fine_tune
    for option, value, least, most in (
        ("draws", options.draws, 1, _MOST_DRAWS),
        ("seed", options.seed, 0, _MOST_SEED),
        ("folds", options.folds, 1, _MOST_FOLDS),
        ("fit_augmentations", options.fit_augmentations, 0, _MOST_COPIES),
        ("test_augmentations", options.test_augmentations, 0, _MOST_COPIES),
        ("mistakes", options.mistakes, 0, _MOST_MISTAKES),
        ("training_cases", options.caption.training_cases, 0, _MOST_TRAINING_CASES),
        ("epochs", tuning.epochs, 1, 1_000_000),
        ("batch_size", tuning.batch_size, 1, 1_000_000),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise UserError(f"{option} {value}: give a whole number from {least} to {most}")
    for option, value in (
        ("backbone_learning_rate", tuning.backbone_learning_rate),
        ("head_learning_rate", tuning.head_learning_rate),
        ("weight_decay", tuning.weight_decay),
    ):
        if not (math.isfinite(value) and 0 <= value <= 1000):
            raise UserError(f"{option} {value}: give a number from 0 to 1000, such as 0.001")
    if tuning.layer_decay is not None and not 0 < tuning.layer_decay <= 1:
        raise UserError(f"layer_decay {tuning.layer_decay}: give a factor up to 1, such as 0.65")
    if tuning.drop_path is not None and not 0 <= tuning.drop_path < 1:
        raise UserError(f"drop_path {tuning.drop_path}: give a probability below 1, such as 0.2")
    if not tuning.backbone_learning_rate and not tuning.head_learning_rate:
        raise UserError("both learning rates of fine_tune are 0: nothing would be learned")


def check_out(out: PathLike) -> None:
    """Checks that results can be written to a JSON file and beside it.

    Args:
      out: path of that file, with the suffix .json.

    Raises:
      UserError: they cannot.
    """
    path = as_path(out)
    if path.suffix != ".json":
        raise UserError(f"out {path}: the numbers are written as JSON, name a .json file")
    if path.is_dir():
        raise UserError(f"out {path} is a folder: name a .json file")
    check_writable(path)


def was_trained_on(config: DataConfig, dataset: str) -> bool:
    """Tells whether a dataset is that of a training, by its name.

    A path that was relative to another folder tells no more.

    Args:
      config: of the training's data.
      dataset: a name or folder.
    """
    return absolute(dataset).name == absolute(config.dataset).name


def check_records(source: RecordSource) -> None:
    """Checks that a split holds a record.

    Args:
      source: the split.

    Raises:
      UserError: it holds none.
    """
    if not len(source):
        raise UserError(
            f"{source.name}, split {source.split}, holds no record; choose another split"
        )


def is_labeled(source: RecordSource) -> bool:
    """Tells whether any record has a label for itself or for an eye; reads until it finds one.

    Args:
      source: the split that is read.
    """
    return any(_known(record) for record in _records(source))


def check_reports(source: RecordSource, languages: Sequence[str]) -> None:
    """Checks that some language has two records with an image and a report.

    Reads until it finds them.

    Args:
      source: the split that is read.
      languages: of the reports, any of which will do.

    Raises:
      UserError: there are fewer in every language.
    """
    wanted = dict.fromkeys(languages, 2)
    for record in _records(source):
        for language, text in texts(record).items():
            if language in wanted and text.strip() and has_image(record):
                wanted[language] -= 1
        if min(wanted.values()) <= 0:
            return
    there = [f"{2 - left} in {language}" for language, left in wanted.items() if left < 2]
    raise UserError(
        f"retrieval needs reports in {' or '.join(languages)}; the split has "
        f"{', '.join(there) or 'none'}: at least two records of {source.name}, split "
        f"{source.split}, must have an image and a report in one language"
    )


def texts(record: PatientRecord | ImageRecord) -> Mapping[str, str]:
    """Report or caption of a record by language.

    Args:
      record: of a patient (the report) or of a single image (the caption).
    """
    return record.report if isinstance(record, PatientRecord) else record.caption


def has_image(record: PatientRecord | ImageRecord) -> bool:
    """Tells whether a record has any image.

    Args:
      record: of a patient (one eye is enough) or of a single image.
    """
    if isinstance(record, PatientRecord):
        return bool(record.left or record.right)
    return bool(record.image)


def _records(source: RecordSource) -> Iterable[PatientRecord | ImageRecord]:
    return (source[index] for index in range(len(source)))


def _known(record: PatientRecord | ImageRecord) -> bool:
    if isinstance(record, PatientRecord):
        labels = (record.labels, record.left_labels, record.right_labels)
    else:
        labels = (record.labels,)
    return any((of >= 0).any() for of in labels)
