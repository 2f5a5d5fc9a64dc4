"""Masks of a release: which file is the mask of which image, and what is missing or left over."""

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence

from retfm_jax.data.image_files import folded
from retfm_jax.data.public_sets.cells import NAMED, filled, fold
from retfm_jax.data.public_sets.description import MaskFiles, PublicSet
from retfm_jax.data.public_sets.layouts import Tree

#: What the field of view is called among structures.
FIELD = "field of view"
_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class MaskFault:
    """A mask that is missing, or that belongs to no image.

    Attributes:
      kind: "missing_mask" or "mask_without_image".
      file: path of the image whose mask is missing, or of the mask that has no image.
      structure: of the mask.
      what: what is wrong, for people.
    """

    kind: str
    file: str
    structure: str
    what: str


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Masks of an image: see `reading.Photograph`."""

    masks: Mapping[str, str]
    field: str


@dataclasses.dataclass
class Found:
    """Masks of a release.

    Attributes:
      of: path of an image -> its masks.
      faults: what is missing or left over.
      sentences: for the user.
    """

    of: dict[str, Drawn] = dataclasses.field(default_factory=dict)
    faults: list[MaskFault] = dataclasses.field(default_factory=list)
    sentences: list[str] = dataclasses.field(default_factory=list)


def find_masks(described: PublicSet, tree: Tree, images: Mapping[str, Mapping[str, str]]) -> Found:
    """Finds the masks of all images of a release.

    Where no image has a mask of a structure that each should have, the release lacks them as a
    whole: that is said once, and nobody knows of the structure.

    Args:
      described: the set.
      tree: the files of the release.
      images: path of an image -> its cells, by column in lower case.
    """
    wanted = {**described.masks, **({FIELD: described.field} if described.field else {})}
    found = Found()
    by_structure = {
        name: _of_structure(name, files, tree, images) for name, files in wanted.items()
    }
    for name, (paths, missing) in by_structure.items():
        if missing and not any(paths.values()):
            wanted_file = missing[0].what.partition(": ")[2].removesuffix(" does not exist")
            found.sentences.append(
                f"there is no mask of {name}, such as {wanted_file}: it is unknown of all images"
            )
            continue
        found.faults += missing
    for image in images:
        drawn = {name: paths[image] for name, (paths, _) in by_structure.items() if image in paths}
        found.of[image] = Drawn(
            {name: path for name, path in drawn.items() if name != FIELD}, drawn.get(FIELD, "")
        )
    claimed = {path for paths, _ in by_structure.values() for path in paths.values()}
    found.faults += _left_over(wanted, tree, {*claimed, *images})
    return found


def _of_structure(
    name: str, files: MaskFiles, tree: Tree, images: Mapping[str, Mapping[str, str]]
) -> tuple[dict[str, str], list[MaskFault]]:
    """Path of each image's mask, "" where the structure is absent; and what is missing."""
    found: dict[str, str] = {}
    missing = []
    last = files.file[0]
    for image, cells in images.items():
        if not _matches(files.where, cells):
            continue
        if files.absent and _matches(files.absent, cells):
            found[image] = ""
            continue
        path = None
        for pattern in dict.fromkeys((last, *files.file)):
            path = tree.find(filled(pattern, cells).replace("\\", "/"))
            if path is not None and path != image:
                last = pattern
                break
            path = None
        if path is not None:
            found[image] = path
        elif files.missing == "absent":
            found[image] = ""
        elif files.missing == "fault":
            wanted = filled(files.file[0], cells).removeprefix("**/")
            what = f"{image} has no mask of {name}: {wanted} does not exist"
            missing.append(MaskFault("missing_mask", image, name, what))
    return found, missing


def _matches(conditions: Mapping[str, re.Pattern[str]], cells: Mapping[str, str]) -> bool:
    return all(find.search(cells.get(fold(name), "")) for name, find in conditions.items())


def _left_over(wanted: Mapping[str, MaskFiles], tree: Tree, claimed: set[str]) -> list[MaskFault]:
    """Masks without an image, one fault each."""
    faults: dict[str, MaskFault] = {}
    for name, files in wanted.items():
        for pattern in files.file:
            if not NAMED.sub("", pattern).strip("*/"):
                continue  # a table names whole paths: any file looks like that
            looks = _as_regex(pattern)
            for path in tree.names:
                if path not in claimed and path not in faults and looks.fullmatch(folded(path)):
                    what = f"{path} is a mask of {name}, and its photograph is not there"
                    faults[path] = MaskFault("mask_without_image", path, name, what)
    return [faults[path] for path in sorted(faults)]


def _as_regex(pattern: str) -> re.Pattern[str]:
    """What paths a pattern may become, whatever its columns hold."""
    anywhere = "(?:.*/)?" if pattern.startswith("**/") else ""
    pieces = NAMED.split(folded(pattern.removeprefix("**/")))
    return re.compile(
        anywhere
        + "".join(".+?" if odd % 2 else re.escape(piece) for odd, piece in enumerate(pieces))
    )


def said_of(faults: Sequence[MaskFault]) -> list[str]:
    """Counts faults by their kind, with examples, as sentences.

    Args:
      faults: of a release.
    """
    by_kind = collections.defaultdict(list)
    for fault in faults:
        by_kind[fault.kind].append(fault.what)
    return [
        f"{kind.replace('_', ' ')}: {len(what)} ({'; '.join(what[:_SHOWN])}"
        + "; ..." * (len(what) > _SHOWN)
        + ")"
        for kind, what in by_kind.items()
    ]
