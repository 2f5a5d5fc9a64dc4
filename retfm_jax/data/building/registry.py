"""The bundled builders by name, and what they have built."""

import dataclasses
import functools
import importlib
import importlib.util
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

from retfm_jax import dataset_folders
from retfm_jax.data.building.beam import BeamSettings
from retfm_jax.data.building.builder import (
    PROBLEMS_FILE,
    SUMMARY_FILE,
    BuildOptions,
    RowsBuilder,
    quiet_tfds,
    write_dataset,
)
from retfm_jax.data.building.public_sets import PublicSetBuilder
from retfm_jax.data.public_sets.bundled import public_sets
from retfm_jax.errors import UserError, did_you_mean
from retfm_jax.files import Path as AnyPath
from retfm_jax.files import read_json

_BUILDERS = "retfm_jax.data_builders"

#: Written by `retfm data import`, not by a name.
IMPORTER = "manifest"


def builder_names() -> list[str]:
    """Names of the bundled builders and of the described public sets, sorted."""
    package = importlib.import_module(_BUILDERS)
    names = [module.name for module in pkgutil.iter_modules(package.__path__) if module.ispkg]
    with_code = {name for name in names if importlib.util.find_spec(_module_name(name))}
    return sorted(with_code | {name for name in public_sets() if _is_described(name)})


def _is_described(name: str) -> bool:
    """Whether a builder reads a release as its description has it, without code of its own."""
    return bool(name in public_sets() and public_sets()[name].layouts)


def _module_name(name: str) -> str:
    return f"{_BUILDERS}.{name}.{name}_dataset_builder"


def builder_module(name: str) -> ModuleType:
    """Imports the module of a bundled builder; its class `Builder` is TFDS's builder.

    Args:
      name: of a bundled builder that has code, without a configuration.

    Raises:
      UserError: there is none of that name.
    """
    _require_builder(name)
    return importlib.import_module(_module_name(name))


def _require_builder(name: str) -> None:
    names = builder_names()
    if name not in names:
        bundled = ", ".join(other for other in names if other != IMPORTER)
        raise UserError(
            f"no builder {name!r}; there are {bundled}. Patients of your own come in with "
            f"`retfm data import`{did_you_mean(name, names)}"
        )


def builder_class(name: str) -> Any:
    """Finds what makes the TFDS builder of a bundled builder: its class, or of a description.

    Args:
      name: of a bundled builder, without a configuration.

    Raises:
      UserError: there is none of that name.
    """
    _require_builder(name)
    if _is_described(name):
        return functools.partial(PublicSetBuilder, described=public_sets()[name])
    return builder_module(name).Builder


def is_synthetic(name: str) -> bool:
    """Tells whether a builder generates its records instead of reading a release.

    Args:
      name: of a bundled builder, without a configuration.

    Raises:
      UserError: there is no such builder.
    """
    _require_builder(name)
    return not (_is_described(name) or issubclass(builder_module(name).Builder, RowsBuilder))


def build(
    name: str,
    source: str | None,
    data_dir: str,
    options: BuildOptions,
    overwrite: bool = False,
    beam: BeamSettings | None = None,
) -> AnyPath:
    """Builds a bundled dataset from a release.

    Args:
      name: of a builder, or "name/configuration" as TFDS writes it: mm_retinal/ffa.
      source: folder of the files as they were downloaded; None or "" is refused.
      data_dir: where the dataset is put.
      options: of sizes, splits and problems.
      overwrite: replaces a built dataset.
      beam: the cluster that does the work; None for this machine's threads.

    Returns:
      the dataset's folder.

    Raises:
      UserError: there is no such builder or configuration, no source is given, or see
        `builder.write_dataset`.
    """
    name, _, config = name.partition("/")
    builder_of = builder_class(name)
    if not source:
        raise UserError(f"{name} wants the folder of its release as source. {_download(name)}")
    configs = {} if _is_described(name) else builder_of.builder_configs
    if config not in ("", *configs):
        known = ", ".join(configs) or "none"
        raise UserError(f"{name} has no configuration {config!r}; it has {known}")
    builder = builder_of(options=options, data_dir=data_dir, config=config or None)
    return write_dataset(builder, source, overwrite, beam)


def _download(name: str) -> str:
    """Where a release is found."""
    if _is_described(name):
        described = public_sets()[name]
        return f"Download {described.source} from {described.url} and give its folder."
    return " ".join(builder_class(name).MANUAL_DOWNLOAD_INSTRUCTIONS.split())


def generate(name: str, data_dir: str, **settings: Any) -> AnyPath:
    """Generates a bundled synthetic dataset.

    Args:
      name: of a synthetic builder.
      data_dir: folder below which the dataset is put.
      settings: as its builder's `build` takes them.

    Returns:
      the dataset's folder.

    Raises:
      UserError: there is no such builder, or a setting is wrong.
    """
    with quiet_tfds(bars=True):
        return builder_module(name).build(data_dir, **settings)


@dataclasses.dataclass(frozen=True)
class Built:
    """A dataset that was built.

    Attributes:
      folder: of the dataset's version.
      name: with its configuration.
      version: such as "1.0.0".
      sizes: records of each split.
      notes: remarks on its source.
      problems: of its source, how many of each kind; None where it was generated.
      listed_in: the file that names each problem.
    """

    folder: AnyPath
    name: str
    version: str
    sizes: dict[str, int]
    notes: tuple[str, ...] = ()
    problems: dict[str, int] | None = None
    listed_in: AnyPath | None = None


def describe(folder: AnyPath) -> Built:
    """Describes the dataset in a folder, and how much of its source was in order.

    Args:
      folder: of one version of a dataset.

    Raises:
      UserError: its `dataset_info.json` cannot be read.
    """
    info = read_json(folder / dataset_folders.INFO)
    name = "/".join(filter(None, (info["name"], info.get("configName"))))
    sizes = {
        split["name"]: sum(map(int, split.get("shardLengths", [])))
        for split in info.get("splits", [])
    }
    summary = read_json(folder / SUMMARY_FILE) if (folder / SUMMARY_FILE).is_file() else {}
    return Built(
        folder,
        name,
        info["version"],
        sizes,
        tuple(summary.get("notes", ())),
        summary.get("problems"),
        folder / PROBLEMS_FILE if summary else None,
    )


def titles() -> dict[str, str]:
    """Reads the titles of all builders: of descriptions, or the first line of a README."""
    found = {}
    for name in builder_names():
        if _is_described(name):
            found[name] = public_sets()[name].title
            continue
        (folder,) = importlib.import_module(f"{_BUILDERS}.{name}").__path__
        readme = Path(folder) / "README.md"
        found[name] = readme.read_text(encoding="utf-8").partition("\n")[0]
    return found
