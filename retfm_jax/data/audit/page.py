"""The page of an audit: what was found, and pairs side by side."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from retfm_jax.data import images
from retfm_jax.data.audit.fingerprints import BITS
from retfm_jax.dataset_folders import is_synthetic
from retfm_jax.errors import UserError
from retfm_jax.rendering import markup

if TYPE_CHECKING:
    from retfm_jax.data.audit.audit import Found, Pair

#: Pairs that are shown of each kind; the others are counted.
_SHOWN = 40
#: Long side of a photograph on the page, pixels.
_SIDE = 220

_STYLE = """<style>
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr));
  gap: 1.4rem; }
.pairs figure { border: 1px solid var(--rule); border-radius: 6px; padding: .6rem; min-width: 0; }
.pairs .eyes { align-items: center; } .pairs .eyes img { width: 50%; }
.pairs .eyes span { width: 50%; }
.pairs figcaption { overflow-wrap: anywhere; margin-top: .4rem; }
.pairs figcaption div { display: grid; grid-template-columns: 1fr 1fr; gap: .6rem; }
</style>"""


def page(found: "Found", document: Mapping[str, Any]) -> str:
    """Makes the page.

    Args:
      found: pairs and where their photographs are.
      document: numbers, as in `audit.json`.

    Returns:
      HTML, with all pictures inside.
    """
    sets = list(dict.fromkeys(split["set"] for split in document["splits"].values()))
    parts = [_STYLE, _summary(document), _splits(document), _between(document)]
    parts += _patients(document)
    parts += _relations(document)
    parts += _sections(found)
    synthetic = all(map(is_synthetic, sets))
    return markup.page(f"Audit of {', '.join(sets)}", parts, synthetic=synthetic)


def _summary(document: Mapping[str, Any]) -> str:
    copies, excluded, limits = document["copies"], document["excluded"], document["thresholds"]
    across = sum(row["pairs"] for row in copies["between"] if row["first"] != row["second"])
    what = ", ".join(f"{many} {reason}" for reason, many in excluded.items()) or "none"
    cut = document["comparisons_cut_off"]
    facts = {
        "copies": f"{copies['pairs']} pairs in {copies['groups']} groups, of which "
        f"{copies['equal_bytes']} equal byte for byte and {copies['mirrored']} mirrored; "
        f"{across} lie in two different splits or sets",
        "to be looked at": f"{document['doubtful_pairs']} pairs that may be copies, or two "
        "photographs of one eye",
        "how it is told": "one photograph is laid on the other and their vessels are correlated: "
        f"copies from {limits['same']:.2f} on, to be looked at from {limits['doubtful']:.2f} on",
        "label conflicts": f"{document['label_conflicts']} pairs of copies",
        "patients": f"{document['patients_in_several_splits']['count']} in several splits of a set",
        "left out": f"{sum(excluded.values())} records by exclusions.csv ({what})",
        "compared": f"{document['compared_pairs']} pairs of photographs"
        + (f"; {cut} comparisons were cut off" if cut else ""),
    }
    if by := document.get("embeddings"):
        facts["by embeddings"] = (
            f"{by['added']} of these pairs were added by embeddings of {by['model']}; {by['same']} "
            f"are copies, {by['doubtful']} are to be looked at"
        )
    rows = "".join(f"<dt>{markup.text(k)}</dt><dd>{markup.text(v)}</dd>" for k, v in facts.items())
    return f"<dl>{rows}</dl>"


def _splits(document: Mapping[str, Any]) -> str:
    header = ("set and split", "records", "compared", "nothing to compare", "broken", "no eye")
    keys = ("records", "hashed", "plain", "broken", "missing")
    rows = [
        [markup.own(name), *(f"{split[key]:,}" for key in keys)]
        for name, split in document["splits"].items()
    ]
    return f"<h2>Sets</h2>{markup.table(header, rows)}"


def _between(document: Mapping[str, Any]) -> str:
    rows = [
        [
            f"{markup.own(row['first'])} and {markup.own(row['second'])}"
            if row["first"] != row["second"]
            else f"within {markup.own(row['first'])}",
            f"{row['pairs']:,}",
        ]
        for row in document["copies"]["between"]
    ]
    if not rows:
        return "<h2>Where copies are</h2><p>No copies were found.</p>"
    return f"<h2>Where copies are</h2>{markup.table(('sets and splits', 'pairs'), rows)}"


def _patients(document: Mapping[str, Any]) -> list[str]:
    torn = document["patients_in_several_splits"]
    if not torn["count"]:
        return []
    rows = [
        [", ".join(f"{markup.own(photo)} in {split}" for split, photo in patient.items())]
        for patient in torn["first"]
    ]
    return [
        "<h2>Patients in several splits</h2>",
        f"<p>{torn['count']} patients; the first {len(rows)}:</p>",
        markup.table(("photographs of one patient",), rows),
    ]


def _relations(document: Mapping[str, Any]) -> list[str]:
    if not document["relations"]:
        return []
    rows = [
        [markup.own(each["name"]), *(markup.own(each[k]) for k in ("relation", "of", "holds")),
         markup.own(each["source"])]
        for each in document["relations"]
    ]  # fmt: skip
    header = ("set", "relation", "of", "which", "known from")
    return ["<h2>Known relations of these sets</h2>", markup.table(header, rows)]


def _sections(found: "Found") -> list[str]:
    same = [pair for pair in found.pairs if pair.same]
    same.sort(key=lambda pair: pair.score)  # what is least certain wants to be looked at
    across = {pair for pair in same if found.split(pair.first) != found.split(pair.second)}
    chosen: dict[str, list[Pair]] = {
        "Copies in two splits or sets": [pair for pair in same if pair in across],
        "Copies whose labels conflict": [pair for pair in same if found.conflict(pair)],
        "Copies within a split": [pair for pair in same if pair not in across],
        "To be looked at": [pair for pair in found.pairs if not pair.same],
    }
    parts = []
    for title, pairs in chosen.items():
        if not pairs:
            continue
        shown = pairs[:_SHOWN]
        order = "the least alike first" if pairs[0].same else "the most alike first"
        note = f"{len(pairs)} pairs, {order}"
        if len(shown) < len(pairs):
            note += (
                f"; {len(shown)} are shown, the other {len(pairs) - len(shown)} are in audit.json"
            )
        parts += [
            f"<h2>{title}</h2><p class='note'>{note}</p><div class='pairs'>",
            *(_figure(found, pair) for pair in shown),
            "</div>",
        ]
    return parts


def _figure(found: "Found", pair: "Pair") -> str:
    how = "equal byte for byte"
    if pair.how != "bytes":
        how = f"correlation {pair.score:.2f}, {pair.bits} of {BITS} bits differ"
        how += ", mirrored" * pair.mirror
        how += ", found by embeddings" * (pair.how == "embedded")
        if abs(pair.scale - 1) > 0.01:
            how += f", scale {pair.scale:.2f}"
    texts = "".join(_caption(found, number) for number in (pair.first, pair.second))
    eyes = "".join(_picture(found, number) for number in (pair.first, pair.second))
    return (
        f'<figure><div class="eyes">{eyes}</div><figcaption><small>{how}</small>'
        f"<div>{texts}</div></figcaption></figure>"
    )


def _caption(found: "Found", number: int) -> str:
    facts, split = found.facts[number], found.every[found.split(number)].split
    labels: Sequence[str] = facts.labels or ()
    shown = ", ".join(markup.own(label) for label in labels[:6]) + ", ..." * (len(labels) > 6)
    return (
        f"<span>{markup.own(facts.name)}<small>{markup.own(split)}</small>"
        f"<small>{shown or 'no label'}</small></span>"
    )


def _picture(found: "Found", number: int) -> str:
    pixels = _pixels(found, number)
    return "<span>cannot be read</span>" if pixels is None else markup.photograph(pixels)


def _pixels(found: "Found", number: int) -> UInt8[np.ndarray, "h w 3"] | None:
    split = found.split(number)
    try:
        photo = found.every[split].split.photograph(number - int(found.photographs.start[split]))
        return images.thumbnail(photo.image, photo.name, _SIDE)
    except UserError:
        return None
