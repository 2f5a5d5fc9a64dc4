"""Embeds a split once, so that every protocol computes on the same cached arrays."""

import dataclasses
import hashlib
import itertools
import logging
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int8

from retfm_jax.data.images import ImageError, decode
from retfm_jax.data.records import ImageRecord, PatientRecord
from retfm_jax.data.sources import RecordSource
from retfm_jax.errors import UserError, first_of
from retfm_jax.knowledge.laterality import SIDES, Side
from retfm_jax.knowledge.vocabulary import LANGUAGES
from retfm_jax.progress import progress_bar
from retfm_jax.zero_shot import (
    Embedding,
    Image,
    ImageTextModel,
    check_finite,
    encode_texts,
    unit,
)

_log = logging.getLogger(__name__)
#: Damaged images that a warning names.
_NAMED = 8


@dataclasses.dataclass(frozen=True)
class View:
    """Embeddings of one view of every record: its one image, an eye, or the whole patient.

    Attributes:
      images: unit-norm embedding of every record (n, d) float32, zeros where there is nothing to
        see.
      seen: whether the record has that image, (n) bool.
      labels: multi-hot over the label names, -1 where unknown; (n, classes) int8.
      texts: embeddings of the records' reports by language, (n, d) float32; zeros where a record
        has none.
    """

    images: Embedding
    seen: Bool[np.ndarray, " n"]
    labels: Int8[np.ndarray, "n classes"]
    texts: Mapping[str, Embedding]


@dataclasses.dataclass(frozen=True)
class EmbeddedSplit:
    """A split with its embeddings.

    Attributes:
      views: {"patient", "left", "right"} for patients, {"image"} for single images.
      records: what holds the pictures and reports; read again for galleries only.
      record_ids, patient_ids: of every record.
      reports: text of every record by language, "" where it has none.
      label_names: of the columns of the labels.
      damaged: names of the images that cannot be decoded and count as missing.
    """

    views: Mapping[str, View]
    records: Sequence[PatientRecord | ImageRecord] | RecordSource
    record_ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    reports: Mapping[str, tuple[str, ...]]
    label_names: tuple[str, ...]
    damaged: tuple[str, ...] = ()

    @property
    def main_view(self) -> str:
        """The view that belongs to a record as a whole."""
        return "patient" if "patient" in self.views else "image"


def embed_split(
    model: ImageTextModel,
    records: Sequence[PatientRecord | ImageRecord] | RecordSource,
    label_names: Sequence[str],
    languages: Sequence[str] = LANGUAGES,
    batch_size: int = 64,
    progress: bool = True,
    on_error: str = "skip",
) -> EmbeddedSplit:
    """Embeds every image and every report of a split.

    An image that cannot be decoded counts as missing, and is named in a warning.

    Args:
      model: whose towers embed.
      records: all of one kind, patients or single images.
      label_names: of the columns of the records' labels.
      languages: in which reports are embedded; one without any report is skipped.
      batch_size: records at a time.
      progress: whether a progress bar is shown.
      on_error: "refuse" ends at images that cannot be decoded, "skip" does not.

    Raises:
      UserError: there is no record, the kinds are mixed, no image can be decoded, or an embedding
        is no finite number.
    """
    if not len(records):
        raise UserError("the split holds no record; choose another split")
    parts: dict[str, list[Embedding]] = {}
    labels: dict[str, list[np.ndarray]] = {}
    seen: dict[str, list[np.ndarray]] = {}
    reports: dict[str, list[str]] = {language: [] for language in languages}
    record_ids, patient_ids, damaged = [], [], []
    kind = type(records[0])
    bar = progress_bar(total=len(records), desc="embedding", unit="record", disable=not progress)
    with bar:
        for start in range(0, len(records), batch_size):
            batch = [
                records[index] for index in range(start, min(start + batch_size, len(records)))
            ]
            if not all(isinstance(record, kind) for record in batch):
                raise UserError("the split mixes records of patients and of single images")
            record_ids += [record.record_id for record in batch]
            patients = [record for record in batch if isinstance(record, PatientRecord)]
            pictures = [record for record in batch if isinstance(record, ImageRecord)]
            if patients:
                patient_ids += [record.record_id for record in patients]
                texts = [record.report for record in patients]
                images = _patients(model, patients, damaged)
                for view, prefix in (("patient", ""), ("left", "left_"), ("right", "right_")):
                    labels.setdefault(view, []).append(
                        np.stack([getattr(record, f"{prefix}labels") for record in batch])
                    )
            else:
                patient_ids += [record.patient_id for record in pictures]
                texts = [record.caption for record in pictures]
                images = {"image": _images(model, pictures, damaged)}
                labels.setdefault("image", []).append(np.stack([r.labels for r in batch]))
            for view, rows in images.items():
                check_finite(rows, [record.record_id for record in batch], "the image of")
                parts.setdefault(view, []).append(np.asarray(rows))
                seen.setdefault(view, []).append(np.linalg.norm(rows, axis=-1) > 0)
            for language in languages:
                reports[language] += [text[language] for text in texts]
            refuse_unusable(damaged, on_error)
            bar.update(len(batch))
    if not any(some.any() for some in itertools.chain(*seen.values())):
        named = first_of(damaged, _NAMED)
        raise UserError(f"none of {len(records)} records has an image that can be decoded: {named}")
    if damaged:
        _log.warning(
            "%d images of the split cannot be decoded and count as missing: %s (`retfm data "
            "check` lists all)",
            len(damaged),
            first_of(damaged, _NAMED),
        )
    embedded_texts = _texts(model, reports, tuple(parts), batch_size, progress)
    return EmbeddedSplit(
        views={
            view: View(
                images=np.concatenate(parts[view]),
                seen=np.concatenate(seen[view]),
                labels=np.concatenate(labels[view]),
                texts={language: texts[view] for language, texts in embedded_texts.items()},
            )
            for view in parts
        },
        records=records,
        record_ids=tuple(record_ids),
        patient_ids=tuple(patient_ids),
        reports={language: tuple(texts) for language, texts in reports.items()},
        label_names=tuple(label_names),
        damaged=tuple(damaged),
    )


def refuse_unusable(names: Sequence[str], on_error: str) -> None:
    """Refuses unusable images where none may be left out.

    Args:
      names: of the unusable images, for the message.
      on_error: "refuse" raises where there is any; "skip" lets them pass.

    Raises:
      UserError: an image is unusable and none may be left out.
    """
    if names and on_error == "refuse":
        raise UserError(
            f"{len(names)} images cannot be used: {first_of(names, _NAMED)}; nothing was written, "
            "as on_error refuse asks"
        )


def _decodable(image: bytes, name: str, damaged: list[str]) -> bool:
    try:
        decode(image, name)
    except ImageError:
        damaged.append(name)
        return False
    return True


def _images(model: ImageTextModel, batch: Sequence[ImageRecord], damaged: list[str]) -> Embedding:
    """Embeddings of single images, zeros for what cannot be decoded.

    Args:
      damaged: gets the names of those.
    """
    try:
        return model.encode_images([record.image for record in batch])
    except ImageError:
        # Only now is it worth while to decode each of them to find out which.
        good = [_decodable(record.image, record.record_id, damaged) for record in batch]
    there = _encoded(model, [r.image for r, fine in zip(batch, good, strict=True) if fine])
    rows = np.zeros((len(batch), there.shape[1]), np.float32)
    rows[np.array(good)] = there
    return rows


def _encoded(model: ImageTextModel, images: Sequence[Image]) -> Embedding:
    """Embeddings of single images, of none as well."""
    if images:
        return model.encode_images(images)
    return model.encode_images([np.zeros((8, 8, 3), np.uint8)])[:0]


def _patients(
    model: ImageTextModel, batch: Sequence[PatientRecord], damaged: list[str]
) -> dict[str, Embedding]:
    """Embeddings of both eyes and of the patient, zeros for what is missing or damaged."""
    eyes: dict[Side, list[bytes | None]] = {
        eye: [getattr(record, eye) or None for record in batch] for eye in SIDES
    }
    try:
        return embed_pairs(model, eyes)
    except ImageError:
        for eye in SIDES:
            for index, image in enumerate(eyes[eye]):
                name = f"{batch[index].record_id}/{eye}"
                if image is not None and not _decodable(image, name, damaged):
                    eyes[eye][index] = None
    return embed_pairs(model, eyes)


def embed_pairs(
    model: ImageTextModel, eyes: Mapping[Side, Sequence[Image | None]]
) -> dict[str, Embedding]:
    """Embeds patients and their eyes, of a model of single images as well.

    Args:
      model: whose image tower embeds; one without a patient level knows a patient by the mean of
        the eyes that there are.
      eyes: of each side an image for every patient, None where the eye is missing.

    Returns:
      unit-norm embeddings (n, d) by view, "patient", "left" and "right"; zeros for what is missing.

    Raises:
      ImageError: an image cannot be decoded.
    """
    has = {eye: np.array([image is not None for image in eyes[eye]]) for eye in SIDES}
    if model.trains_on_patients:
        features = model.encode_patients(eyes["left"], eyes["right"])
        rows = {view: np.asarray(features[f"image_{view}"]) for view in ("patient", *SIDES)}
    else:
        there = [image for eye in SIDES for image in eyes[eye] if image is not None]
        embedded = _encoded(model, there)
        present = np.concatenate([has[eye] for eye in SIDES])
        both = np.zeros((len(present), embedded.shape[1]), np.float32)
        both[present] = embedded
        left, right = np.split(both, 2)
        rows = {"patient": unit(left + right), "left": left, "right": right}
    there = has | {"patient": has["left"] | has["right"]}
    return {view: np.where(there[view][:, None], rows[view], np.float32(0)) for view in rows}


def _texts(
    model: ImageTextModel,
    reports: Mapping[str, Sequence[str]],
    views: Sequence[str],
    batch_size: int,
    progress: bool,
) -> dict[str, dict[str, Embedding]]:
    """Embeddings of reports by language and view; equal texts are computed once."""
    result = {}
    for language, texts in reports.items():
        distinct = sorted(set(texts) - {""})
        if not distinct:
            continue
        parts: dict[str, list[Embedding]] = {view: [] for view in views}
        starts = range(0, len(distinct), batch_size)
        for start in progress_bar(starts, desc=f"reports ({language})", disable=not progress):
            for view, rows in encode_texts(
                model, distinct[start : start + batch_size], views
            ).items():
                parts[view].append(rows)
        index_of = {text: index for index, text in enumerate(distinct)}
        index = np.array([index_of.get(text, -1) for text in texts])
        result[language] = {
            view: np.where((index >= 0)[:, None], np.concatenate(rows)[index], np.float32(0))
            for view, rows in parts.items()
        }
    return result


def same_report_groups(texts: Sequence[str]) -> np.ndarray:
    """Numbers reports, equally where they read alike: letter case and whitespace do not count.

    Args:
      texts: of the reports (n).

    Returns:
      group numbers (n) from 0 on.
    """
    keys = [hashlib.sha256("".join(text.casefold().split()).encode()).digest() for text in texts]
    return np.unique(np.array(keys, dtype="S32"), return_inverse=True)[1]
