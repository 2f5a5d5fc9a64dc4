"""Numbers of images as a set publishes them, against those that are here."""

import collections
from collections.abc import Iterable, Mapping, Sequence

from retfm_jax.data.public_sets.description import Label, PublicSet


def differences(
    described: PublicSet,
    published: int | Mapping[str, int] | None,
    here: Mapping[str | None, int],
) -> list[str]:
    """Describes how the number of images differs from what is published; [] where it does not.

    Args:
      described: the set, whose other versions are known by their totals.
      published: how many there are, of all or by split; None: nobody says.
      here: how many are here, by split; None where nobody says the split.
    """
    total = sum(here.values())
    known = described.versions.get(total)
    if published is None or known is not None:
        return [f"{described.name}: {total} images are here: {known}"] if known else []
    if not isinstance(published, Mapping):
        if total == published:
            return []
        return [f"{described.name}: {published} images are published, {total} are here"]
    return [
        f"{described.name}: {number} images of {split} are published, {here.get(split, 0)} are here"
        for split, number in published.items()
        if here.get(split, 0) != number
    ]


def counted(
    label: Label,
    published: int | Mapping[str, int] | None,
    shown: Iterable[Sequence[str]],
) -> list[str]:
    """Describes how the number of images of each class differs from what is published.

    Args:
      label: with the numbers of the whole release.
      published: how many images the layout that was read holds. Where these are not the ones that
        were counted by class, ungraded ones aside, nothing is compared.
      shown: classes of every image that is here.
    """
    whole = published.values() if isinstance(published, Mapping) else (published,)
    total = sum(number for number in whole if number is not None)
    by_class = sum(label.images.values())
    if not label.images or total < by_class or (total > by_class and not label.unknown):
        return []
    here = collections.Counter(name for names in shown for name in names)
    other = [
        f"{name} {here[name]} of {number}"
        for name, number in label.images.items()
        if here[name] != number
    ]
    return (
        [f"images of each class differ from {label.counted}: {', '.join(other)}"] if other else []
    )
