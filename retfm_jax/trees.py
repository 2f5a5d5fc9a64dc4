"""Names of a pytree's leaves, what they hold, and differences of mappings."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path, tree_map_with_path

from retfm_jax.errors import UserError


def leaf_name(path: tuple[Any, ...]) -> str:
    """Path of a leaf as "visual/blocks/mlp/kernel".

    Args:
      path: keys from the root to the leaf, as `jax.tree_util` gives them.
    """
    return keystr(path, simple=True, separator="/")


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves of a pytree by their names.

    Args:
      tree: any pytree; see `leaf_name` for the names.
    """
    return {leaf_name(path): leaf for path, leaf in tree_flatten_with_path(tree)[0]}


def digest(*trees: Any) -> str:
    """SHA-256 of all leaves with their names, dtypes and shapes, as hexadecimal digits.

    Args:
      trees: pytrees of arrays, on the host or on its devices.
    """
    found = hashlib.sha256()
    for tree in trees:
        for path, leaf in flatten(tree).items():
            array = np.asarray(leaf)
            found.update(f"{path} {array.dtype} {array.shape}".encode())
            found.update(array.tobytes())
    return found.hexdigest()


def unflatten_like(tree: Any, leaves: Mapping[str, Any]) -> Any:
    """Builds a tree of the same structure as `tree` from leaves by name.

    Args:
      tree: a pytree whose own leaves do not matter.
      leaves: a value for every leaf's name, as `flatten` returns them; others are ignored.
    """
    return tree_map_with_path(lambda path, _: leaves[leaf_name(path)], tree)


def at_hand(leaves: Sequence[Any]) -> list[np.ndarray] | None:
    """Arrays as NumPy has them, where this process and its processors hold all of them.

    What is asked of such arrays needs no program, which would be compiled for these shapes alone.

    Args:
      leaves: arrays, of JAX (on any mesh) or NumPy.

    Returns:
      the arrays, in place where one device holds them whole; None: some lie on accelerators or
      with other hosts.
    """
    here = all(
        not isinstance(leaf, jax.Array)
        or (leaf.is_fully_addressable and all(of.platform == "cpu" for of in leaf.devices()))
        for leaf in leaves
    )
    return [np.asarray(leaf) for leaf in leaves] if here else None


def floating_leaves(tree: Any) -> dict[str, Any]:
    """Finds the leaves that may hold NaN: those of floating point.

    Args:
      tree: a pytree of arrays, of JAX or NumPy.

    Returns:
      leaves by their paths, parts joined by "/".
    """
    return {
        path: leaf
        for path, leaf in flatten(tree).items()
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    }


@jax.jit
def _counts(leaves: list[Any]) -> list[Any]:
    return [jnp.sum(~jnp.isfinite(leaf)) for leaf in leaves]


def nonfinite_leaves(tree: Any) -> dict[str, int]:
    """Counts the NaN and infinite values of each leaf; leaves without any are left out.

    Args:
      tree: a pytree of arrays, of JAX (on any mesh) or NumPy; integers are always finite.

    Returns:
      counts by the leaves' paths, parts joined by "/".
    """
    floating = floating_leaves(tree)
    leaves = list(floating.values())
    arrays = at_hand(leaves)
    if arrays is None:
        counts = _counts(leaves)
    else:
        counts = [array.size - np.count_nonzero(np.isfinite(array)) for array in arrays]
    found = {path: int(count) for path, count in zip(floating, counts, strict=True)}
    return {path: count for path, count in found.items() if count}


def refuse_nonfinite(tree: Any, where: str) -> None:
    """Refuses arrays with values that are NaN or infinite.

    Args:
      tree: a pytree of arrays, see `nonfinite_leaves`.
      where: how the message calls it: the file, the folder.

    Raises:
      UserError: there are such values; the message names every leaf and counts them.
    """
    found = nonfinite_leaves(tree)
    if found:
        named = ", ".join(f"{name} ({count:,})" for name, count in found.items())
        raise UserError(
            f"{where} has values that are not finite (NaN or infinite) in {len(found)} tensors: "
            f"{named}. Such weights make every embedding meaningless: take an earlier checkpoint, "
            "or get the file again"
        )


def differences(before: Any, now: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """Finds the entries in which two nested mappings differ; an absent entry is None.

    Args:
      before, now: mappings with text keys, or the values at one path of them.
      where: a name for both, with which all paths begin: "config".

    Yields:
      path ("config.train.steps"), the value before, the value now.
    """
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in sorted({*before, *now}):
            yield from differences(before.get(key), now.get(key), f"{where}.{key}")
    elif before != now:
        yield where, before, now
