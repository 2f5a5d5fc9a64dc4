"""Forms of exports, one file each."""

from retfm_jax.interop.formats.base import Form
from retfm_jax.interop.formats.torch import Torch

#: By name.
FORMS: dict[str, Form] = {form.name: form for form in (Torch(),)}
