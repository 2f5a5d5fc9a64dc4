"""TFDS features of datasets of patients and of photographs, whose records `records` reads."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from retfm_jax import extras
from retfm_jax.knowledge.vocabulary import LANGUAGES

with extras.needed("data"):
    import tensorflow_datasets as tfds


def _text() -> dict[str, Any]:
    return {language: tfds.features.Text() for language in LANGUAGES}


def _label_list(label_names: Sequence[str], partly: bool = False) -> dict[str, Any]:
    # "known" tells "nothing found" from "nobody looked": both have an empty list.
    names = tfds.features.Sequence(tfds.features.ClassLabel(names=list(label_names)))
    return {"known": np.bool_, "present": names, **({"unknown": names} if partly else {})}


def _image() -> tfds.features.Image:
    return tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")


def patient_features(label_names: Sequence[str]) -> tfds.features.FeaturesDict:
    """Makes the TFDS features of a dataset of patients.

    Args:
      label_names: classes of the label vectors, in their order.
    """
    return tfds.features.FeaturesDict(
        {
            "kind": tfds.features.Text(),
            "record_id": tfds.features.Text(),
            "left": _image(),
            "right": _image(),
            "report": _text(),
            "left_report": _text(),
            "right_report": _text(),
            "labels": _label_list(label_names),
            "left_labels": _label_list(label_names),
            "right_labels": _label_list(label_names),
        }
    )


def image_features(
    label_names: Sequence[str],
    structures: Sequence[str] = (),
    partly: bool = False,
    cases: bool = False,
) -> tfds.features.FeaturesDict:
    """Makes the TFDS features of a dataset of single images.

    Args:
      label_names: classes of the label vectors, in their order.
      structures: of which there are masks, in their order; () of images without masks.
      partly: whether some labels of an image may be known and others not.
      cases: whether the source says which images of a patient are of one case.
    """
    masks = {
        # Masks of all structures, empty of those that are absent or unknown, and the known ones.
        "masks": tfds.features.Sequence(tfds.features.Text()),
        "structures": tfds.features.Sequence(tfds.features.ClassLabel(names=list(structures))),
        "field": tfds.features.Text(),
    }
    return tfds.features.FeaturesDict(
        {
            "kind": tfds.features.Text(),
            "record_id": tfds.features.Text(),
            "patient_id": tfds.features.Text(),
            "image": _image(),
            "caption": _text(),
            "categories": tfds.features.Sequence(tfds.features.Text()),
            "attributes": tfds.features.Sequence(tfds.features.Text()),
            "labels": _label_list(label_names, partly),
            **(masks if structures else {}),
            **({"case_id": tfds.features.Text()} if cases else {}),
        }
    )
