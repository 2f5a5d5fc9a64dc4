"""The ways to ask what a network knows; a protocol is found by its name, or by "module:Class"."""

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from retfm_jax.errors import UserError, did_you_mean
from retfm_jax.plugins import find, is_outside

if TYPE_CHECKING:
    from retfm_jax.evaluation.protocols.base import Protocol

#: Where each stands, so that a list of them imports none.
_BUNDLED = {
    "zero_shot": "zero_shot:ZeroShotProtocol",
    "classify": "classify:Classify",
    "segment": "segment:Segment",
    "captioning": "captioning:Captioning",
    "retrieval": "retrieval:RetrievalProtocol",
    "linear_probe": "linear_probe:LinearProbe",
    "linear_probe_unprojected": "linear_probe:UnprojectedLinearProbe",
    "clip_adapter": "adapters:ClipAdapter",
    "tip_adapter": "adapters:TipAdapter",
    "tip_adapter_f": "adapters:TipAdapterF",
    "fine_tune": "fine_tune:FineTune",
}


def protocol_names() -> list[str]:
    """Names of the protocols that come with this package, those that learn nothing first."""
    return list(_BUNDLED)


def default_protocol(
    classes: Sequence[str], structures: Sequence[str] = (), writes: bool = False
) -> str:
    """Name of the protocol of a network for which none was asked.

    Args:
      classes: of the network's own; () of one that tells none apart.
      structures: whose pixels it finds; () of one that finds none.
      writes: whether it writes reports.
    """
    if writes:
        return "captioning"
    if structures:
        return "segment"
    return "classify" if classes else "zero_shot"


def get_protocol(name: str) -> "Protocol":
    """Makes a protocol by its name.

    Args:
      name: one of `protocol_names`, or "module:Class" of one from outside this package.

    Raises:
      UserError: there is no such protocol.
    """
    if is_outside(name):
        from retfm_jax.evaluation.protocols.base import Protocol

        return find(name, "protocol", Protocol)()
    if name not in _BUNDLED:
        hint = did_you_mean(name, protocol_names())
        listed = ", ".join(protocol_names())
        raise UserError(f"task {name}: no such protocol ({listed}, or module:Class){hint}")
    module, _, class_name = _BUNDLED[name].partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), class_name)()


def get_protocols(names: list[str] | tuple[str, ...]) -> "list[Protocol]":
    """Makes protocols by their names, in this order.

    Args:
      names: each as `get_protocol` takes it.

    Raises:
      UserError: there is none, an unknown one, or one twice.
    """
    if not names:
        raise UserError(f"no protocol is named: give some of {', '.join(protocol_names())}")
    if len(set(names)) < len(names):
        raise UserError(f"task {','.join(names)}: a protocol occurs twice")
    return [get_protocol(name) for name in names]
