"""Forms of exports that go without this package, one file each."""

import importlib
from typing import TYPE_CHECKING

from retfm_jax.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from retfm_jax.interop.formats.base import Form

#: What each form is; its file has its name, and a `FORM`.
ABOUT = {
    "torch": "one readable PyTorch file and its weights",
    "saved_npz": "arrays by name, and a program in plain NumPy",
    "stablehlo": "StableHLO for CPU, GPU and TPU by jax.export",
    "timm": "a folder that timm.create_model opens, of the image tower",
    "transformers": "a folder that transformers' AutoModel opens, of the image tower",
    "onnx": "ONNX networks of images and of texts, in float32 and int8",
}


def get_form(name: str) -> "Form":
    """The form of an export.

    Args:
      name: one of `ABOUT`.

    Raises:
      UserError: there is no such form.
    """
    if name not in ABOUT:
        raise UserError(f"to {name}: give one of {', '.join(ABOUT)}{did_you_mean(name, ABOUT)}")
    return importlib.import_module(f"retfm_jax.interop.formats.{name}").FORM
