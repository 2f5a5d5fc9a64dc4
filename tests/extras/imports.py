"""Imports modules of this package, with every protocol: `python imports.py MODULE...`."""

import importlib
import sys

from retfm_jax.evaluation.protocols import protocol_names

for name in sys.argv[1:]:
    importlib.import_module(f"retfm_jax.{name}")
if "evaluation.evaluate" in sys.argv:
    from retfm_jax.evaluation.protocols import get_protocols

    assert get_protocols(protocol_names())
