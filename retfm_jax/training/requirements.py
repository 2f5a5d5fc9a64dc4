"""Requirements of a run beside its configuration, checked before a network is made.

A run of hours ends at its first evaluation where the evaluation split is missing; a vocabulary that
is larger than the network's table trains to nonsense without a word.
"""

import json
from typing import TYPE_CHECKING, Any

from retfm_jax.config import ExperimentConfig
from retfm_jax.errors import UserError
from retfm_jax.files import as_path
from retfm_jax.methods.base import Method

if TYPE_CHECKING:
    from retfm_jax.data.sources import RecordSource


def check_vocabularies(config: ExperimentConfig, *, present: bool = False) -> None:
    """Checks that the network has a row for every token, and a column for every condition.

    Args:
      config: the experiment.
      present: whether to pass where a file is not on this machine, as plans of other machines do.

    Raises:
      UserError: rows or columns are too few, with both numbers; or a vocabulary cannot be read.
    """
    from retfm_jax.data.text import BUNDLED, check_tokenizer

    data = config.data
    files = [data.text.tokenizer] * (data.text.tokenizer != BUNDLED)
    files += [*data.extend, *([data.vocabulary] if data.vocabulary else [])]
    if present and not all(as_path(file).exists() for file in files):
        return
    if hasattr(config.model, "text"):
        check_tokenizer(data.text, config.model.text)
    wanted = _labels(config.model)
    if wanted is None:
        return
    from retfm_jax.knowledge.vocabulary import load_vocabulary

    there = len(load_vocabulary(data.vocabulary, extend=data.extend))
    if wanted != there:
        raise UserError(
            f"config.model.num_labels is {wanted}, but the vocabulary that reports are searched "
            f"for has {there} conditions (config.data.vocabulary, config.data.extend): set it to "
            f"{there}, or config.model.use_labels=false to train without labels"
        )


def _labels(model: Any) -> int | None:
    """The length of the label vectors that a network takes; None where it takes none."""
    return getattr(model, "num_labels", None) if getattr(model, "use_labels", False) else None


def check_structures(config: ExperimentConfig, source: "RecordSource") -> None:
    """Checks that a network finds the structures whose masks it is shown, in their order.

    Args:
      config: the experiment.
      source: its training split.

    Raises:
      UserError: they differ.
    """
    if not hasattr(config.model, "structures"):
        return
    wanted, there = config.model.structures, source.structures
    if wanted == there or (not wanted and len(there) == 1):
        return
    raise UserError(
        f"config.model.structures is {', '.join(wanted) or 'one without a name'}, and the masks of "
        f"{config.data.dataset} show {', '.join(there)}: set it to {json.dumps(list(there))}, or "
        "choose some of these in config.data.classes, in the same order"
    )


def check_mixing(config: ExperimentConfig, method: Method) -> None:
    """Checks that images are mixed only where their labels can be mixed, too.

    Args:
      config: the experiment.
      method: that it trains.

    Raises:
      UserError: the method has no classes.
    """
    for name in ("mixup", "cutmix"):
        if getattr(config.data.augment, name) and not method.classes:
            raise UserError(
                f"config.data.augment.{name} mixes images with their classes, and a {method.name} "
                "network learns none: set it to 0"
            )


def check_splits(config: ExperimentConfig) -> None:
    """Checks that every split that a run will open is there.

    Args:
      config: the experiment.

    Raises:
      UserError: a dataset is not built or has no such split, or `config.data.exclude` says nothing
        of the evaluation split.
    """
    from retfm_jax.data.exclusions import read_exclusions
    from retfm_jax.data.sources import open_dataset

    data = config.data
    open_dataset(data.dataset, data.train_split, data.data_dir)
    described = None if data.curriculum is None else data.curriculum.descriptions
    for each in (data.expert, described):
        if each is not None:
            open_dataset(each.dataset, each.split, data.data_dir)
    if not (config.train.evaluate_every or config.train.evaluate_epochs):
        return
    try:
        source = open_dataset(data.dataset, data.eval_split, data.data_dir)
        empty = not len(source)
        if data.exclude is not None:
            read_exclusions(data.exclude).of(source.name, data.eval_split)
    except UserError as error:
        raise UserError(
            f"config.data.eval_split {data.eval_split}, which is evaluated on the way: {error}. "
            "Name another split, or set config.train.evaluate_every=0 to train without"
        ) from error
    if empty:
        raise UserError(
            f"config.data.eval_split {data.eval_split} of {data.dataset} is empty: name another, "
            "or set config.train.evaluate_every=0"
        )
