"""A patient with two views of each eye: what methods learn from that also reconstruct."""

from collections.abc import Mapping
from typing import ClassVar

from retfm_jax.config import DataConfig, ExperimentConfig
from retfm_jax.data.kinds.base import ArraySpec, Role, image_spec
from retfm_jax.data.kinds.patient import PatientKind, PatientMaker
from retfm_jax.data.samples import SampleMaker


class PatientViewsKind(PatientKind):
    """Arrays of a patient, and `view_left`, `view_right`, the same eyes augmented once more.

    `noise` decides which patches are hidden, where it is given: rows of left eyes, then of right
    eyes.
    """

    name = "patient_views"
    roles: ClassVar[Mapping[str, Role]] = {
        **PatientKind.roles,
        "view_left": "image",
        "view_right": "image",
        "noise": "noise",
    }
    targets = ("view_left", "view_right")
    rows: ClassVar = {"noise": 2}

    def arrays(self, config: ExperimentConfig) -> dict[str, ArraySpec]:
        """See `SampleKind.arrays`."""
        image = image_spec(config)
        return super().arrays(config) | {"view_left": image, "view_right": image}

    def maker(self, config: DataConfig, label_names: tuple[str, ...]) -> SampleMaker:
        """See `SampleKind.maker`."""
        return PatientMaker(config, views=("image", "view"))


KIND = PatientViewsKind()
