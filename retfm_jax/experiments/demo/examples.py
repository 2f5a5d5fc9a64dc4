"""Generated photographs, for those who have none at hand."""

import dataclasses
import itertools

from retfm_jax.data_builders.synthetic_fundus.drawing import draw_eye, encode
from retfm_jax.data_builders.synthetic_fundus.population import POPULATIONS, draw_patient

#: Side of a generated photograph, pixels.
_SIZE = 384

_numbers = itertools.count()


def patient() -> tuple[bytes, bytes]:
    """Generates the eyes of another synthetic patient at every call.

    Returns:
      the right and the left eye, JPEG.
    """
    everybody = dataclasses.replace(POPULATIONS["clinic"], one_eyed=0.0)
    made = draw_patient(everybody, 0, "test", next(_numbers))
    assert made.right is not None
    assert made.left is not None
    right, left = (encode(draw_eye(eye, made.look, _SIZE)) for eye in (made.right, made.left))
    return right, left
