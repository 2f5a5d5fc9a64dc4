"""Inspection of a built dataset: what it holds, what is wrong with it, and how it looks."""

import collections
import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from retfm_jax.config import TextConfig
from retfm_jax.data import images, masks
from retfm_jax.data.building.patients import BY_IMAGE
from retfm_jax.data.building.splits import SPLITS
from retfm_jax.data.case_keys import key_of
from retfm_jax.data.field_of_view import FIELD_SHARES
from retfm_jax.data.inspection.contact_sheet import write_contact_sheet
from retfm_jax.data.records import ImageRecord, PatientRecord, SegmentedRecord
from retfm_jax.data.sources import DamagedRecord, RecordSource, open_dataset
from retfm_jax.data.text import Tokenizer
from retfm_jax.errors import UserError
from retfm_jax.files import PathLike, as_path, check_writable, write_json
from retfm_jax.knowledge.laterality import SIDES
from retfm_jax.knowledge.vocabulary import LANGUAGES
from retfm_jax.runtime.threads import cores, in_threads

#: Token counts end here: BERT has no more positions, and a row of this length is kept per text.
_LONGEST = 512
#: How many ids of one fault a report names.
_NAMED = 20


@dataclasses.dataclass(frozen=True)
class _Photograph:
    """Whose photograph it is, its size and a hash of its pixels; or why it cannot be decoded.

    `flat`: it shows one value everywhere.
    """

    name: str
    size: tuple[int, int] | None
    pixels: str
    error: str
    flat: bool = False


@dataclasses.dataclass(frozen=True)
class _Facts:
    """What one record shows to a check.

    `case`: the key of its case; None of a patient, and of an image without a report.
    """

    record_id: str
    group: str
    photographs: tuple[_Photograph, ...]
    missing: int
    texts: dict[str, str]
    labels: tuple[np.ndarray, ...]
    case: bytes | None = None
    drawn: "_Drawn | None" = None


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """Shares of a photograph that its structures have, None where unknown, and its field of view.

    `errors`: why masks cannot be used.
    """

    shares: tuple[float | None, ...]
    field: float
    errors: tuple[str, ...]


def check_dataset(
    name_or_folder: str, data_dir: str, split: str | None, out: PathLike
) -> dict[str, Any]:
    """Reads and decodes every record of a dataset.

    Args:
      name_or_folder, data_dir: see `sources.open_dataset`.
      split: the split to check, None for all.
      out: folder of `check.json`, `<split>.png` and `<split>.html`.

    Returns:
      the contents of `check.json`, with "splits" (split -> numbers), "across_splits" and "broken"
      (sentences) among them.

    Raises:
      UserError: the dataset cannot be opened.
    """
    check_writable(as_path(out) / "check.json")
    wanted = [split] if split else _splits(name_or_folder, data_dir)
    tokenizer = Tokenizer(TextConfig(context_length=_LONGEST))
    limit = TextConfig().context_length
    numbers, facts = {}, {}
    sources = [open_dataset(name_or_folder, name, data_dir) for name in wanted]
    for name, source in zip(wanted, sources, strict=True):
        facts[name], damaged = _facts(source)
        numbers[name] = _count(source, facts[name], tokenizer, limit)
        numbers[name]["unreadable"] = {"count": len(damaged), "first": damaged[:_NAMED]}
        write_contact_sheet(source, as_path(out))
    across = _across(facts)
    report = {
        "dataset": sources[-1].name,
        "kind": sources[-1].kind,
        "context_length": limit,
        "splits": numbers,
        "across_splits": across,
        "patients": _who(sources[-1], facts),
        "broken": _broken(numbers, across),
    }
    write_json(as_path(out) / "check.json", report)
    return report


def _splits(name_or_folder: str, data_dir: str) -> list[str]:
    found, missing = [], []
    for name in SPLITS:
        try:
            open_dataset(name_or_folder, name, data_dir)
        except UserError as error:
            missing.append(error)
        else:
            found.append(name)
    if not found:
        raise missing[-1]
    return found


def _facts(source: RecordSource) -> tuple[list[_Facts], list[str]]:
    """What every record shows, and the messages of those that cannot be read.

    Raises:
      DamagedRecord: no record can be read.
    """

    def look(index: int) -> _Facts | DamagedRecord:
        try:
            return _look(source[index])
        except DamagedRecord as error:
            return error

    with in_threads(look, range(len(source)), threads=cores(), ahead=64) as looked:
        found = list(looked)
    damaged = [each for each in found if isinstance(each, DamagedRecord)]
    if found and len(damaged) == len(found):
        raise damaged[0]
    return [each for each in found if isinstance(each, _Facts)], [str(each) for each in damaged]


def _look(record: PatientRecord | ImageRecord) -> _Facts:
    if isinstance(record, PatientRecord):
        eyes = {"left": record.left, "right": record.right}
        return _Facts(
            record_id=record.record_id,
            group=record.record_id,
            photographs=tuple(
                _photograph(f"{record.record_id}/{eye}", data) for eye, data in eyes.items() if data
            ),
            missing=sum(not data for data in eyes.values()),
            texts=dict(record.report),
            labels=(record.labels, record.left_labels, record.right_labels),
        )
    return _Facts(
        record_id=record.record_id,
        group=record.patient_id,
        photographs=(_photograph(record.record_id, record.image),),
        missing=0,
        texts=dict(record.caption),
        labels=(record.labels,),
        case=key if any(key := key_of(record)) else None,
        drawn=_drawn(record) if isinstance(record, SegmentedRecord) else None,
    )


def _drawn(record: SegmentedRecord) -> _Drawn | None:
    """What the masks of a photograph show; None where it cannot be decoded."""
    try:
        image = images.decode(record.image, record.record_id)
    except UserError:
        return None
    shape, errors = (image.shape[0], image.shape[1]), []
    shares: list[float | None] = []
    for mask in record.masks:
        try:
            pixels = masks.pixels(mask, shape, record.record_id)
        except UserError as error:
            errors.append(str(error))
            shares.append(None)
            continue
        known = pixels != masks.UNKNOWN
        shares.append(float((pixels == 1).sum() / known.sum()) if known.any() else None)
    try:
        field = masks.field_pixels(record.field, image, shape, record.record_id)
    except UserError as error:
        errors.append(str(error))
        field = np.zeros(shape, np.uint8)
    return _Drawn(tuple(shares), float(field.mean()), tuple(errors))


def _photograph(name: str, data: bytes) -> _Photograph:
    try:
        image = images.decode(data, name)
    except UserError as error:
        return _Photograph(name, None, "", str(error))
    # Of pixels, not of bytes: the same photograph saved twice is the same photograph.
    digest = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16)
    digest.update(str(image.shape).encode())
    flat = images.is_flat(image)
    return _Photograph(name, image.shape[1::-1], digest.hexdigest(), "", flat)


def _count(
    source: RecordSource, facts: Sequence[_Facts], tokenizer: Tokenizer, limit: int
) -> dict[str, Any]:
    photographs = [photograph for fact in facts for photograph in fact.photographs]
    sizes = collections.Counter(photo.size for photo in photographs if photo.size)
    by_pixels = collections.defaultdict(list)
    for photo in photographs:
        if photo.size:
            by_pixels[photo.pixels].append(photo.name)
    repeated = [members for members in by_pixels.values() if len(members) > 1]
    ids = collections.Counter(fact.record_id for fact in facts)
    silent = [
        fact.record_id
        for fact in facts
        if not any(fact.texts.values())
        and not any((hot >= 0).all() for hot in fact.labels)
        and not (fact.drawn and any(share is not None for share in fact.drawn.shares))
    ]
    undecodable = [photo for photo in photographs if photo.error]
    flat = [photo.name for photo in photographs if photo.flat]
    numbers: dict[str, Any] = {
        "records": len(facts),
        "patients": len({fact.group for fact in facts}),
        "photographs": len(photographs),
        "missing_eyes": sum(fact.missing for fact in facts),
        "without_photograph": [f.record_id for f in facts if not f.photographs][:_NAMED],
        "empty_reports": {
            language: sum(not fact.texts.get(language) for fact in facts)
            for language in LANGUAGES
        },
        "neither_report_nor_label": {"count": len(silent), "first": silent[:_NAMED]},
        "undecodable": {
            "count": len(undecodable), "first": [photo.error for photo in undecodable[:_NAMED]]
        },
        "flat_photographs": {"count": len(flat), "first": flat[:_NAMED]},
        "repeated_photographs": {"count": len(repeated), "first": repeated[:_NAMED]},
        "repeated_ids": [record for record, count in ids.items() if count > 1][:_NAMED],
        "sizes": {f"{w}x{h}": count for (w, h), count in sizes.most_common(_NAMED)},
        "labels": _label_counts(source, facts),
        "tokens": {
            language: lengths
            for language in LANGUAGES
            if (lengths := _token_lengths(facts, language, tokenizer, limit))
        },
    }  # fmt: skip
    cases = collections.Counter(fact.case for fact in facts if fact.case is not None)
    if any(count > 1 for count in cases.values()):
        sizes_of = list(cases.values())
        numbers["cases"] = {
            "count": len(cases),
            "median_images": float(np.median(sizes_of)),
            "most_images": max(sizes_of),
        }
    if source.structures:
        numbers |= _mask_counts(source, facts)
    return numbers


def _mask_counts(source: RecordSource, facts: Sequence[_Facts]) -> dict[str, Any]:
    """Counts of each structure's masks, and faults of masks and fields of view."""
    drawn = {fact.record_id: fact.drawn for fact in facts if fact.drawn}
    counts = {}
    for column, name in enumerate(source.structures):
        shares = [each.shares[column] for each in drawn.values()]
        known = [share for share in shares if share is not None]
        present = [share for share in known if share > 0]
        counts[name] = {
            "known": len(known),
            "present": len(present),
            "mean_share": float(np.mean(present)) if present else 0.0,
        }
    low, high = FIELD_SHARES
    odd = [name for name, each in drawn.items() if not low <= each.field <= high]
    broken = [error for each in drawn.values() for error in each.errors]
    return {
        "masks": counts,
        "odd_fields_of_view": {"count": len(odd), "first": odd[:_NAMED]},
        "broken_masks": {"count": len(broken), "first": broken[:_NAMED]},
    }


def _label_counts(source: RecordSource, facts: Sequence[_Facts]) -> dict[str, Any]:
    levels = ("patient", *SIDES) if source.kind == "patient" else ("image",)
    counts = {}
    for level, name in enumerate(levels):
        hot = np.array([fact.labels[level] for fact in facts]).reshape(len(facts), -1)
        known = (hot >= 0).all(axis=1) & (hot.shape[1] > 0)
        counts[name] = {
            "known": int(known.sum()),
            "present": dict(
                zip(source.label_names, (hot[known] > 0).sum(axis=0).tolist(), strict=True)
            ),
        }
    return counts


def _token_lengths(
    facts: Sequence[_Facts], language: str, tokenizer: Tokenizer, limit: int
) -> dict[str, int] | None:
    texts = [fact.texts[language] for fact in facts if fact.texts.get(language)]
    if not texts:
        return None
    lengths = np.array([np.count_nonzero(tokenizer([text])) for text in dict.fromkeys(texts)])
    return {
        "median": int(np.median(lengths)),
        "p95": int(np.percentile(lengths, 95)),
        "longest": int(lengths.max()),
        "cut": int((lengths > limit).sum()),
        "different_texts": len(lengths),
    }


def _who(source: RecordSource, facts: dict[str, list[_Facts]]) -> str:
    """Whether the dataset knows patients, as a sentence."""
    if source.kind == "patient":
        return "every record is a patient"
    records = [fact for members in facts.values() for fact in members]
    known = sum(fact.group != fact.record_id for fact in records)
    if not known:
        return BY_IMAGE
    return f"{known} of {len(records)} photographs have a patient's id of their own"


def _across(facts: dict[str, list[_Facts]]) -> dict[str, Any]:
    """Patients and photographs that occur in more than one split: evaluation would be flattered."""
    groups, pixels = collections.defaultdict(dict), collections.defaultdict(dict)
    for split, members in facts.items():
        for fact in members:
            groups[fact.group].setdefault(split, fact.record_id)
            for photo in fact.photographs:
                if photo.size:
                    pixels[photo.pixels].setdefault(split, photo.name)
    patients = [splits for splits in groups.values() if len(splits) > 1]
    photographs = [splits for splits in pixels.values() if len(splits) > 1]
    return {
        "patients": {"count": len(patients), "first": patients[:_NAMED]},
        "photographs": {"count": len(photographs), "first": photographs[:_NAMED]},
    }


def _broken(numbers: dict[str, Any], across: dict[str, Any]) -> list[str]:
    faults = []
    for split, counted in numbers.items():
        found = {
            "records that cannot be read": counted["unreadable"]["count"],
            "undecodable photographs": counted["undecodable"]["count"],
            "masks that cannot be used": counted.get("broken_masks", {}).get("count", 0),
            "records without a photograph": len(counted["without_photograph"]),
            "record ids that occur twice": len(counted["repeated_ids"]),
            "records with neither a report nor a label": (
                counted["neither_report_nor_label"]["count"]
            ),
        }
        faults += [f"{split}: {count} {what}" for what, count in found.items() if count]
        faults += counted["unreadable"]["first"][:1]
    for what, found in across.items():
        if found["count"]:
            faults.append(f"{found['count']} {what} in more than one split")
    return faults
