"""Numbers of images as a set publishes them, against those that are here."""

from collections.abc import Mapping

from retfm_jax.data.public_sets.description import PublicSet


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
