"""Records of patients and of photographs, as TFDS stores them and as the pipeline reads them."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int8

from retfm_jax import extras
from retfm_jax.data.masks import EncodedMask
from retfm_jax.knowledge.vocabulary import LANGUAGES


@dataclasses.dataclass(frozen=True)
class PatientRecord:
    """A patient: two eyes, of which one may be missing, and one report.

    Attributes:
      record_id: the patient's id, unique in the dataset.
      left, right: the encoded photograph (JPEG or PNG), b"" where the eye is missing.
      report: text of the whole report by language, "" where there is none.
      left_report, right_report: the part that describes one eye, by language, "" where unknown.
      labels: multi-hot (classes,) int8 over the dataset's label names for the patient; -1
        everywhere: unknown.
      left_labels, right_labels: the same for one eye.
    """

    record_id: str
    left: bytes
    right: bytes
    report: Mapping[str, str]
    left_report: Mapping[str, str]
    right_report: Mapping[str, str]
    labels: Int8[np.ndarray, " classes"]
    left_labels: Int8[np.ndarray, " classes"]
    right_labels: Int8[np.ndarray, " classes"]


@dataclasses.dataclass(frozen=True)
class ImageRecord:
    """A photograph with a caption, or with categories and attributes.

    Attributes:
      record_id: unique in the dataset.
      patient_id: groups images of one patient; the record id where patients are unknown.
      image: the encoded photograph.
      caption: text by language, "" where there is none.
      categories, attributes: as the source names them.
      labels: multi-hot (classes,) int8 over the dataset's label names; -1: unknown.
      case_id: of one patient's images, which of them one report speaks of; "" where the source does
        not say.
    """

    record_id: str
    patient_id: str
    image: bytes
    caption: Mapping[str, str]
    categories: tuple[str, ...]
    attributes: tuple[str, ...]
    labels: Int8[np.ndarray, " classes"]
    case_id: str = dataclasses.field(default="", kw_only=True)

    def shows(self, label_names: Sequence[str]) -> tuple[str, ...]:
        """Names what the image shows: its categories, or else its present labels.

        Args:
          label_names: the classes of the dataset's label vectors.
        """
        if self.categories:
            return self.categories
        return tuple(label_names[index] for index in np.flatnonzero(self.labels > 0).tolist())


@dataclasses.dataclass(frozen=True)
class SegmentedRecord(ImageRecord):
    """A photograph with masks of structures: lesions, vessels, the optic disc and its cup.

    Attributes:
      masks: over the dataset's structures, in their order: a mask as a file holds it, whose `data`
        are b"" where the structure is known to be absent; None where nobody looked for it.
      field: the field of view; None where it has to be found (see `field_of_view.lit_field`).
    """

    masks: tuple[EncodedMask | None, ...]
    field: EncodedMask | None


@dataclasses.dataclass(frozen=True)
class CaseRecord:
    """Images and the report on all of them.

    Attributes:
      record_id: of the patient and the case, of the first image where cases have no names, or of
        the patient whose eyes they are.
      patient_id: cases of one patient share it.
      images: the encoded photographs, at least one, each read when it is taken; b"" of one that is
        missing.
      names: what messages call each of them.
      report: text by language, "" where there is none; there is one in some language.
      eyes: whether the images are the left and the right eye of a patient.
    """

    record_id: str
    patient_id: str
    images: Sequence[bytes]
    names: Sequence[str]
    report: Mapping[str, str]
    eyes: bool = False


def _texts(texts: Mapping[str, str] | None) -> dict[str, str]:
    return {language: (texts or {}).get(language, "") for language in LANGUAGES}


def _labels(present: Iterable[str] | None) -> dict[str, Any]:
    return {"known": present is not None, "present": sorted(set(present or ()))}


def patient_example(
    record_id: str,
    *,
    left: bytes | None,
    right: bytes | None,
    report: Mapping[str, str] | None = None,
    left_report: Mapping[str, str] | None = None,
    right_report: Mapping[str, str] | None = None,
    labels: Iterable[str] | None = None,
    left_labels: Iterable[str] | None = None,
    right_labels: Iterable[str] | None = None,
) -> dict[str, Any]:
    """Makes the example of a patient that a TFDS builder yields.

    Args:
      record_id: the patient's id, unique in the dataset.
      left, right: the encoded photographs, JPEG or PNG; None where the eye is missing.
      report, left_report, right_report: text of the patient and of each eye by language; None: no
        text.
      labels, left_labels, right_labels: names of the conditions that the patient and each eye have;
        None: unknown, empty: nothing found.
    """
    return {
        "kind": "patient",
        "record_id": record_id,
        "left": left or b"",
        "right": right or b"",
        "report": _texts(report),
        "left_report": _texts(left_report),
        "right_report": _texts(right_report),
        "labels": _labels(labels),
        "left_labels": _labels(left_labels),
        "right_labels": _labels(right_labels),
    }


def image_example(
    record_id: str,
    *,
    image: bytes,
    patient_id: str | None = None,
    caption: Mapping[str, str] | None = None,
    categories: Iterable[str] = (),
    attributes: Iterable[str] = (),
    labels: Iterable[str] | None = None,
    unknown: Iterable[str] | None = None,
    case_id: str | None = None,
) -> dict[str, Any]:
    """Makes the example of a single image that a TFDS builder yields.

    Args:
      record_id: unique in the dataset.
      image: the encoded photograph, JPEG or PNG.
      patient_id: groups images of one patient; None: the record id.
      caption: text by language; None: no text.
      categories, attributes: names as the source gives them.
      labels: names of the conditions that it shows; None: unknown, empty: nothing found.
      unknown: names of those of which nobody knows, where `labels` are known; None of a dataset
        whose features have no such list.
      case_id: of the case, "" where nobody knows; None of a dataset whose features have none.
    """
    return {
        "kind": "image",
        "record_id": record_id,
        "patient_id": patient_id or record_id,
        "image": image,
        "caption": _texts(caption),
        "categories": list(categories),
        "attributes": list(attributes),
        "labels": _labels(labels) | ({} if unknown is None else {"unknown": sorted(set(unknown))}),
        **({} if case_id is None else {"case_id": case_id}),
    }


def mask_fields(masks: Mapping[str, bytes | None], field: bytes) -> dict[str, Any]:
    """Makes the fields that the example of an image with masks has beside those of any image.

    Args:
      masks: structure -> its mask as `masks.encode` writes it, b"" where it is absent, None where
        nobody knows; of all structures of the dataset, in their order.
      field: the field of view, encoded the same way.
    """
    return {
        "masks": [mask or b"" for mask in masks.values()],
        "structures": [name for name, mask in masks.items() if mask is not None],
        "field": field,
    }


def parse_record(example: bytes, classes: int) -> PatientRecord | ImageRecord:
    """Parses a record from a serialized `tf.train.Example` with the features of `record_features`.

    TFDS's own reading of an example takes as long as decoding a small photograph, and no two
    threads can do it at once.

    Args:
      example: the serialized bytes.
      classes: how many labels the dataset has.
    """
    return record_of(_parser()(example), classes)


@functools.cache
def _parser() -> Callable[[bytes], Any]:
    with extras.needed("data"):
        from tensorflow_datasets.proto import tf_example_pb2
    # The module makes its classes when it is imported.
    return tf_example_pb2.Example.FromString  # pyright: ignore[reportAttributeAccessIssue]


def record_of(example: Any, classes: int) -> PatientRecord | ImageRecord:
    """Reads a record from a `tf.train.Example`; see `parse_record`.

    Args:
      example: the message.
      classes: how many labels the dataset has.
    """
    features = example.features.feature

    def one(key: str) -> bytes:
        return features[key].bytes_list.value[0]

    def text(key: str) -> str:
        return one(key).decode("utf-8")

    def texts(key: str) -> dict[str, str]:
        return {language: text(f"{key}/{language}") for language in LANGUAGES}

    def names(key: str) -> tuple[str, ...]:
        return tuple(name.decode("utf-8") for name in features[key].bytes_list.value)

    def multi_hot(key: str) -> Int8[np.ndarray, " classes"]:
        if not features[f"{key}/known"].int64_list.value[0]:
            return np.full(classes, -1, np.int8)
        hot = np.zeros(classes, np.int8)
        if (unknown := f"{key}/unknown") in features:
            hot[list(features[unknown].int64_list.value)] = -1
        hot[list(features[f"{key}/present"].int64_list.value)] = 1
        return hot

    if text("kind") == "patient":
        return PatientRecord(
            record_id=text("record_id"),
            left=one("left"),
            right=one("right"),
            report=texts("report"),
            left_report=texts("left_report"),
            right_report=texts("right_report"),
            labels=multi_hot("labels"),
            left_labels=multi_hot("left_labels"),
            right_labels=multi_hot("right_labels"),
        )
    image = {
        "record_id": text("record_id"),
        "patient_id": text("patient_id"),
        "image": one("image"),
        "caption": texts("caption"),
        "categories": names("categories"),
        "attributes": names("attributes"),
        "labels": multi_hot("labels"),
        "case_id": text("case_id") if "case_id" in features else "",
    }
    if "field" not in features:
        return ImageRecord(**image)
    known = {*features["structures"].int64_list.value}
    return SegmentedRecord(
        **image,
        masks=tuple(
            EncodedMask(data, name=f"mask {index} of {image['record_id']}")
            if index in known
            else None
            for index, data in enumerate(features["masks"].bytes_list.value)
        ),
        field=EncodedMask(one("field"), name=f"field of view of {image['record_id']}"),
    )
