"""Layouts of releases: which one lies in a folder, however deep an archive has nested it."""

import collections
from collections.abc import Collection, Iterator, Mapping, Sequence

from retfm_jax.data import photographs
from retfm_jax.data.building.splits import split_name
from retfm_jax.data.image_files import folded
from retfm_jax.data.public_sets.description import Layout, Part, PublicSet
from retfm_jax.errors import UserError
from retfm_jax.files import Path

#: Folders between the one that is given and the release: archives nest them variously.
_DEEPEST = 2


class Tree:
    """Names of all files below a folder, listed once.

    Attributes:
      folder: the folder.
      names: paths below it, with forward slashes.
    """

    def __init__(self, folder: Path, names: Sequence[str] | None = None):
        """Lists the folder.

        Args:
          folder: that is listed, hidden files aside.
          names: its files, where they are known.

        Raises:
          UserError: a folder cannot be read.
        """
        self.folder = folder
        self.names = photographs.names(folder) if names is None else list(names)
        self._spelled = {folded(name): name for name in reversed(self.names)}
        self._anywhere: Mapping[str, str] | None = None

    def find(self, relative: str) -> str | None:
        """Finds a file, whatever its letter case; None where it is not there.

        Args:
          relative: a path below the folder; behind `**/` the name of a file in any folder.
        """
        if not relative.startswith("**/"):
            return self._spelled.get(folded(relative).removeprefix("./"))
        if self._anywhere is None:
            # The first folder in alphabetical order: a release that holds a name twice is odd.
            order = sorted(self.names, reverse=True)
            self._anywhere = {folded(name).rpartition("/")[2]: name for name in order}
        return self._anywhere.get(folded(relative.removeprefix("**/")))

    def below(self) -> Iterator["Tree"]:
        """Yields this folder and those in it down to a depth, the least deep first.

        Inside of a split's folder nothing begins: it would be a part, taken for the whole.
        """
        yield self
        for depth in range(1, _DEEPEST + 1):
            inside: dict[str, list[str]] = collections.defaultdict(list)
            for name in self.names:
                *above, file = name.split("/", depth)
                if len(above) == depth:
                    inside["/".join(above)].append(file)
            for name in sorted(inside):
                if not any(map(split_name, name.split("/"))):
                    yield Tree(self.folder / name, inside[name])


def choose(
    described: PublicSet, folder: Path, allowed: Collection[str] = ()
) -> tuple[Layout, Tree, tuple[str, ...]]:
    """Finds the layout of the release in a folder, and the folder in which it begins.

    Args:
      described: the set.
      folder: of the release, or up to two folders above it.
      allowed: names of the layouts that count; all where there are none.

    Returns:
      the first layout of the description that fits, in the folder that holds most of its parts;
      of several such folders, in the one that is the least deep. Then the names of other layouts
      that lie there as well, in other files.

    Raises:
      UserError: none fits; the message says what each of them wants.
    """
    trees = list(Tree(folder).below())
    layouts = [each for each in described.layouts if not allowed or each.name in allowed]
    for layout in layouts:
        tree = _begins(layout, trees)
        if tree is not None:
            return layout, tree, _beside(described, layout, tree, trees)
    raise UserError(_none(described, folder, layouts, trees))


def _begins(layout: Layout, trees: Sequence[Tree]) -> Tree | None:
    """The folder with all that a layout needs, and of several the one with most of its parts."""
    needed = [not part.optional for part in layout.parts]
    fitting = []
    for tree in trees:
        held = [holds(tree, part) for part in layout.parts]
        if all(found >= wanted for found, wanted in zip(held, needed, strict=True)):
            fitting.append((sum(held), tree))
    return max(fitting, key=lambda each: each[0])[1] if fitting else None


def _beside(
    described: PublicSet, layout: Layout, tree: Tree, trees: Sequence[Tree]
) -> tuple[str, ...]:
    """Other layouts that lie there, and share no file with the one that is read."""
    own = _files(layout, tree)
    found = []
    for other in described.layouts:
        there = None if other is layout else _begins(other, trees)
        if there is not None and not own & _files(other, there):
            found.append(other.name)
    return tuple(found)


def _files(layout: Layout, tree: Tree) -> set[Path]:
    """Tables and images of a layout's parts, images of tables aside."""
    found = set()
    for part in layout.parts:
        if part.files is None:
            table = table_of(tree, part)
            found |= {tree.folder / table} if table else set()
        else:
            found |= {tree.folder / name for name in tree.names if part.files.fullmatch(name)}
    return found


def _none(
    described: PublicSet, folder: Path, layouts: Sequence[Layout], trees: Sequence[Tree]
) -> str:
    """Says that none of the layouts fits, and what each of them wants."""
    wanted = "; ".join(f"{each.name}: {_wanted(each, trees)}" for each in layouts)
    others = [each.name for each in described.layouts if _begins(each, trees) is not None]
    if others:
        return (
            f"{folder} holds {described.name} in the layout {others[0]}, and what is wanted here "
            f"is another one: {wanted}"
        )
    return (
        f"{folder} holds no release of {described.name} in a layout that is known. Get it from "
        f"{described.url} and unpack it there, at most {_DEEPEST} folders deeper; the layouts want "
        f"{wanted}"
    )


def holds(tree: Tree, part: Part) -> bool:
    """Tells whether a part of a layout begins in a folder.

    Args:
      tree: the folder.
      part: its table, or at least one of its files, has to be there.
    """
    if part.files is None:
        return table_of(tree, part) is not None
    return any(part.files.fullmatch(name) for name in tree.names)


def table_of(tree: Tree, part: Part) -> str | None:
    """Finds the table of a part below a folder; None where it is not there.

    Args:
      tree: the folder.
      part: one with a table.
    """
    return next(filter(None, map(tree.find, part.table)), None)


def _wanted(layout: Layout, trees: Sequence[Tree]) -> str:
    """What a layout lacks in the folder where most of it lies."""
    needed = [part for part in layout.parts if not part.optional]
    lacking = min(
        ([part for part in needed if not holds(tree, part)] for tree in trees), key=len, default=[]
    )
    part = lacking[0] if lacking else needed[0]
    return part.table[0] if part.files is None else f"files {part.files.pattern}"
