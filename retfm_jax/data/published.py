"""Name of `data.importing.published` in version 0.1, which programs import."""

from retfm_jax.data.importing.published import load_plain as load_plain
