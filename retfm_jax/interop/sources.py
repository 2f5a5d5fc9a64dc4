"""The one door to weights of others: a path, an address on the Hub, or a name of the zoo."""

import functools
import logging
import os
import pathlib
import posixpath
from collections.abc import Callable, Sequence
from typing import NamedTuple

from retfm_jax import hub
from retfm_jax.errors import UserError, did_you_mean, first_of
from retfm_jax.files import Path, PathLike, absolute, as_path
from retfm_jax.interop.downloads import cached_download
from retfm_jax.interop.weights import FOLDER_FILES, WEIGHT_SUFFIXES
from retfm_jax.interop.zoo import Origin, ZooModel, entry_of, zoo, zoo_model

_log = logging.getLogger(__name__)

#: What is read beside weights, where it is there.
_BESIDE = (
    *("preprocessor_config.json", "open_clip_config.json", "classes.json"),
    *hub.TOKENIZER_FILES,
)
_INDEX = ".index.json"


class Source(NamedTuple):
    """Weights as they lie on this machine or in a store.

    Attributes:
      path: of a file or a folder.
      place: what was read: an absolute path, or an address with its commit.
      model: the zoo's entry for them; None where there is none.
    """

    path: Path
    place: str
    model: ZooModel | None = None

    @property
    def origin(self) -> Origin:
        """Where the weights come from, with their license."""
        return Origin.of(self.place, self.model)


def is_place(text: str) -> bool:
    """Tells whether an origin is an address of others, not a path.

    Args:
      text: `Source.place`, or a value of `config.init`.
    """
    return hub.is_address(text) or text.startswith("https://")


def find_weights(source: PathLike, model: str | None = None) -> Source:
    """Finds weights, and downloads them where they are not on this machine.

    An existing path wins over a name. The license of a published model is logged once.

    Args:
      source: a path, `hf:owner/name[@revision][:file]`, or a name of the zoo.
      model: name of the zoo whose entry belongs to the weights; None: the one of the name, or whose
        address it is.

    Returns:
      where they are. A path that does not exist comes back as it is: who reads it says so.

    Raises:
      UserError: there is no such name; the model cannot be read or has no address; or the download
        fails.
    """
    entry = None if model is None else zoo_model(model)
    text = os.fspath(source)
    if isinstance(text, str) and not _exists(text):
        if hub.is_address(text):
            address = hub.address(text)
            entry = entry or entry_of(address)
            return _licensed(entry, functools.partial(_from_hub, address, entry))
        if text in zoo():
            named = zoo()[text]
            if entry not in (None, named):
                raise UserError(f"{named.name} is a published model itself, and not {entry.name}")
            return _licensed(named, functools.partial(_published, named))
        if _is_name(text) and (meant := did_you_mean(text, zoo())):
            raise UserError(f"{text} does not exist, and no published model has this name{meant}")
    place = str(absolute(source))
    return _licensed(entry, lambda: Source(as_path(source), place, entry))


def _licensed(model: ZooModel | None, find: Callable[[], Source]) -> Source:
    """Finds weights of a published model, if it can be read at all, and says their license."""
    if model is not None and model.unreadable is not None:
        raise UserError(f"{model.title} cannot be read: {model.unreadable}")
    found = find()
    if model is not None:
        _say_license(model)
    return found


def _exists(text: str) -> bool:
    try:
        return as_path(text).exists()
    except OSError:  # a name that is too long, a folder that may not be entered
        return True  # who reads it says so


def _is_name(text: str) -> bool:
    return "/" not in text and "\\" not in text and not as_path(text).suffix


def _published(named: ZooModel) -> Source:
    if named.address is None:
        raise UserError(
            f"{named.title} has no address to download from: {named.by_hand} ({named.page}). "
            f"Download the file there, and give its path, with {named.name} as its name in the zoo"
        )
    if hub.is_address(named.address):
        return _from_hub(hub.address(named.address), named)
    try:
        path = cached_download(named.address, named.sha256)
    except UserError as error:
        raise UserError(f"{error}, with {named.name} as its name in the zoo") from error
    return Source(path, named.address, named)


@functools.cache
def _say_license(model: ZooModel) -> None:
    """Once for each model: what is said at every load is read by nobody."""
    _log.warning("%s: license %s, see %s", model.title, model.described_license, model.page)


def _from_hub(address: hub.Address, model: ZooModel | None) -> Source:
    snapshot = hub.fetch(address, functools.partial(choose, address))
    pinned = address._replace(revision=snapshot.commit)
    return Source(pathlib.Path(snapshot.folder, snapshot.files[0]), str(pinned), model)


def choose(address: hub.Address, names: Sequence[str]) -> list[str]:
    """Selects weights, and what belongs to them, among the files of a repository.

    Args:
      address: which names the file, or leaves the choice: containers in the order of
        `FOLDER_FILES`, else the only weight file that there is.
      names: of all files.

    Returns:
      first the file of the weights, or the index of several; then its parts, and configuration,
      preprocessing and vocabulary beside it.

    Raises:
      UserError: there is no weight file, no file of the name, or there are several and none is
        named.
    """
    weights = address.file or next((name for name in FOLDER_FILES if name in names), None)
    if weights is None:
        single = [name for name in names if name.endswith(WEIGHT_SUFFIXES) and "/" not in name]
        if len(single) != 1:
            listed = f"{len(single)} weight files, name one (:FILE): {first_of(single, 5)}"
            raise UserError(
                f"{address} has "
                + (listed if single else "no weight file: look at its page ")
                + ("" if single else address.page)
            )
        weights = single[0]
    elif weights not in names:
        raise UserError(f"{address} has no file {weights}{did_you_mean(weights, names)}")
    folder = posixpath.dirname(weights)
    parts: list[str] = []
    if weights.endswith(_INDEX):
        stem, suffix = posixpath.splitext(weights.removesuffix(_INDEX))
        parts = [name for name in names if name.startswith(f"{stem}-") and name.endswith(suffix)]
    beside = [posixpath.join(folder, name) for name in _BESIDE]
    return [weights, *parts, *(name for name in beside if name in names)]
