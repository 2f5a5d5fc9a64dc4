"""Built datasets: opened, written as a whole, and checked by digests.

Beside what TFDS writes stands `contents.json`: a digest of the records of every split, in their
order.
"""

import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from retfm_jax import extras, files
from retfm_jax.data import case_keys
from retfm_jax.dataset_folders import INFO
from retfm_jax.errors import UserError
from retfm_jax.runtime.threads import cores, in_threads

CONTENTS = "contents.json"

_FEATURES = "features.json"
#: In the folder under way, where TFDS puts a dataset of any name and configuration.
_TFDS = ".tfds"
_READ_AT_ONCE = 64


def open_builder(folder: files.PathLike) -> Any:
    """Opens a dataset's folder with TFDS; nothing that the folder names is imported.

    Args:
      folder: of one version of a dataset, with `dataset_info.json` and `features.json`.

    Raises:
      UserError: it cannot be read, or is not made of TFDS's own features.
    """
    with extras.needed("data"):
        import tensorflow_datasets as tfds

    folder = files.as_path(folder)
    _check_features(folder)
    try:
        return tfds.builder_from_directory(folder)
    except Exception as error:  # TFDS raises whatever its readers meet in a damaged folder
        raise UserError(f"the dataset in {folder} cannot be read: {files.reason(error)}") from error


def without_bucket(info: Any) -> Any:
    """Keeps TFDS's info of a new builder from asking TFDS's own bucket for anything.

    The bucket has none of these datasets, and every question leaves a temporary folder behind.

    Args:
      info: a `tfds.core.DatasetInfo`; changed in place and returned.
    """
    info.initialize_from_bucket = lambda: None
    return info


def _check_features(folder: files.Path) -> None:
    # TFDS imports the module of every class that the file names, from the working folder, too.
    path = folder / _FEATURES
    if not path.is_file():
        raise UserError(f"the dataset in {folder} cannot be read: it has no {_FEATURES}")
    for name in _class_names(files.read_json(path)):
        if not _OWN_CLASS.fullmatch(name):
            raise UserError(
                f"{path} names the class {name!r}, which is none of TFDS's: reading this dataset "
                "would run code of others. Build it anew with `retfm data build` or "
                "`retfm data import`"
            )


_OWN_CLASS = re.compile(r"tensorflow_datasets\.core\.features(\.\w+)+")
#: Keys under which a feature names its class, in TFDS's formats of all times.
_CLASS_KEYS = ("pythonClassName", "python_class_name", "type")


def _class_names(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, child in value.items():
            if key in _CLASS_KEYS and isinstance(child, str):
                yield child
            elif key in ("json", "content") and isinstance(child, str):
                try:
                    yield from _class_names(json.loads(child))
                except (ValueError, RecursionError):
                    yield child
            else:
                yield from _class_names(child)
    elif isinstance(value, list):
        for child in value:
            yield from _class_names(child)


#: A disk, a user's share of it, or the size of a file is at its limit.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write(
    folder: files.PathLike, build: Callable[[pathlib.Path], pathlib.Path], overwrite: bool
) -> files.Path:
    """Writes a dataset as a whole; a dataset that was there stays until the new one is complete.

    Args:
      folder: of the version.
      build: called with an empty folder on a local disk, in which it lets TFDS make the dataset;
        returns where it lies.
      overwrite: replace a dataset that is there.

    Raises:
      UserError: a dataset is there, or it cannot be written.
    """
    folder = files.as_path(folder)
    # In a store a killed upload leaves objects that are no dataset yet.
    overwrite = overwrite or (files.is_remote(folder) and not (folder / INFO).is_file())
    with files.whole_folder(folder, last=INFO, overwrite=overwrite) as made:
        root = made / _TFDS
        root.mkdir()
        try:
            built = build(root)
        except (OSError, RuntimeError) as error:
            # The writer of array records is C++ and says it in a RuntimeError.
            full = getattr(error, "errno", None) in _FULL or any(
                os.strerror(number) in str(error) for number in _FULL
            )
            if not full:
                raise
            raise UserError(
                f"the disk of {folder} is full; nothing was written. Free some space, give "
                "another data_dir or a smaller image_size"
            ) from error
        for path in built.iterdir():
            path.rename(made / path.name)
        shutil.rmtree(root)
        found, keys = _looked_through(made)
        files.write_json(made / CONTENTS, {"digests": found})
        case_keys.write(made, keys)
        if files.is_remote(folder):
            _name_by_contents(made, found)
    return folder


def _name_by_contents(folder: pathlib.Path, found: Mapping[str, str]) -> None:
    """Gives shards names that those of no other contents have.

    A store has no renaming of folders: the shards of two builds lie side by side in one, until
    `dataset_info.json` names the new ones.
    """
    stamp = hashlib.sha256("".join(found.values()).encode()).hexdigest()[:12]
    shards = {name: info.filepaths for name, info in open_builder(folder).info.splits.items()}
    document = files.read_json(folder / INFO)
    for split in document["splits"]:
        split["filepathTemplate"] = f"{{DATASET}}-{stamp}-{{SPLIT}}.{{FILEFORMAT}}-{{SHARD_X_OF_Y}}"
    files.write_json(folder / INFO, document)
    for name, info in open_builder(folder).info.splits.items():
        for old, new in zip(shards[name], info.filepaths, strict=True):
            pathlib.Path(old).rename(new)


def digests(folder: pathlib.Path) -> dict[str, str]:
    """Computes SHA-256 of the records of every split of a dataset on a local disk, in their order.

    A record counts by what it holds: TFDS writes its entries in random order.

    Args:
      folder: of one version of a dataset.

    Returns:
      split -> 64 hexadecimal digits.
    """
    return _looked_through(folder)[0]


def _looked_through(folder: pathlib.Path) -> tuple[dict[str, str], dict[str, Any]]:
    """Of every split the digest, and the table of the cases of its records."""
    with extras.needed("data"):
        from array_record.python.array_record_module import ArrayRecordReader
        from tensorflow_datasets.proto import tf_example_pb2

    from retfm_jax.data.records import record_of

    # The module makes its classes when it is imported.
    parse = tf_example_pb2.Example.FromString  # pyright: ignore[reportAttributeAccessIssue]

    builder = open_builder(folder)
    features: Any = builder.info.features
    ours = "record_id" in features
    classes = features["labels"]["present"].feature.num_classes if ours else 0

    def of_part(part: tuple[str, int, int]) -> tuple[bytes, list[tuple[bytes, str]]]:
        path, start, end = part
        reader = ArrayRecordReader(path)
        entries = map(parse, reader.read(start, end))
        found, keys = [], []
        for entry in entries:
            found.append(hashlib.sha256(entry.SerializeToString(deterministic=True)).digest())
            if ours:
                record = record_of(entry, classes)
                keys.append((case_keys.key_of(record), record.record_id))
        reader.close()
        return b"".join(found), keys

    found, keys = {}, {}
    for name, info in sorted(builder.info.splits.items()):
        parts = [
            (str(path), start, min(start + _READ_AT_ONCE, size))
            for path, size in zip(info.filepaths, info.shard_lengths, strict=True)
            for start in range(0, size, _READ_AT_ONCE)
        ]
        digest, of_split = hashlib.sha256(), []
        with in_threads(of_part, parts, threads=cores(), ahead=2 * cores()) as done:
            for part, of_part_keys in done:
                digest.update(part)
                of_split += of_part_keys
        found[name], keys[name] = digest.hexdigest(), case_keys.table(of_split)
    return found, keys


def stored_digests(folder: files.Path) -> dict[str, str] | None:
    """Reads the digests that were stored when the dataset was built, as `digests` gives them.

    Args:
      folder: of one version of a dataset.

    Returns:
      split -> digest; None for a dataset that version 0.1 built.
    """
    path = folder / CONTENTS
    return dict(files.read_json(path)["digests"]) if path.is_file() else None
