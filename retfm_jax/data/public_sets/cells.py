"""Columns of a release and the texts that name them in braces."""

import re
from collections.abc import Mapping

#: A column in a pattern: its name in braces.
NAMED = re.compile(r"\{([^{}]+)\}")


def fold(name: str) -> str:
    """Folds the name of a column for comparison: no letter case, single blanks.

    Args:
      name: of a column.
    """
    return " ".join(name.split()).casefold()


def filled(pattern: str, cells: Mapping[str, str]) -> str:
    """Puts cells in the place of the columns that a pattern names.

    Args:
      pattern: with columns in braces; one that is not there is empty.
      cells: by folded column.
    """
    return NAMED.sub(lambda name: cells.get(fold(name[1]), ""), pattern)
