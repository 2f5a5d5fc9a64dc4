"""Groups of copies: what is a copy of a copy is one as well."""

from collections.abc import Iterable


def groups(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Joins pairs that share a member.

    Args:
      pairs: of numbers.

    Returns:
      the members of every group, sorted; groups by their first member.
    """
    above: dict[int, int] = {}

    def root(number: int) -> int:
        above.setdefault(number, number)
        while above[number] != number:
            above[number] = above[above[number]]  # halves the way for the next one
            number = above[number]
        return number

    for first, second in pairs:
        one, other = root(first), root(second)
        above[max(one, other)] = min(one, other)
    found: dict[int, list[int]] = {}
    for number in sorted(above):
        found.setdefault(root(number), []).append(number)
    return list(found.values())
