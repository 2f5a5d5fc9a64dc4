"""Splits of built datasets with labels or masks, as an experiment names them."""

from collections.abc import Callable, Collection
from typing import Any, TypeVar

from retfm_jax.config import DataConfig
from retfm_jax.data.sources import RecordSource
from retfm_jax.errors import UserError

Source = TypeVar("Source", bound=RecordSource[Any])


def open_built(
    config: DataConfig,
    wanted: Collection[str],
    open_split: Callable[[str], Source],
    *,
    test: str = "test",
) -> dict[str, Source]:
    """Opens the splits of a built dataset that an experiment's records are taken from.

    Args:
      config: names the dataset; `train_split` and `eval_split` are what is asked for as "train" and
        "validation".
      wanted: of "train", "validation" and "test"; a fold is of all of them.
      open_split: opens a TFDS split by its name.
      test: the TFDS split that is asked for as "test".

    Returns:
      by what they are used as, the splits that are there and have records.

    Raises:
      UserError: `open_split` cannot open the training split, or one that the config names, or the
        config reads patients from names of files.
    """
    if config.patient_regex is not None:
        raise UserError(
            f"config.data.patient_regex reads file names, and {config.dataset} is a built dataset: "
            "give it to `retfm data build`, which stores patients"
        )
    names = {"train": config.train_split, "validation": config.eval_split, "test": test}
    sources: dict[str, Source] = {}
    for split, name in names.items():
        if split == "test" and "test" not in wanted and config.fold is None:
            continue
        try:
            source = open_split(name)
        except UserError:
            if split == "train" or name != split:  # what is named is wanted
                raise
            continue
        if len(source):
            sources[split] = source
    return sources
