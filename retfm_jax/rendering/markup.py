"""HTML pages in one file: users' text is escaped here and nowhere else, pictures are inside.

Colors are those of the style sheet's variables, which follow what the reader's system prefers.
"""

import base64
import datetime
import html
import importlib.metadata
import io
import os
import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from retfm_jax.rendering import fonts, glossary, style

_TERMS = re.compile(
    r"(?<![\w-])("
    + "|".join(map(re.escape, sorted(glossary.TERMS, key=len, reverse=True)))
    + r")(?!\w)"
)
_EXPLAINED = re.compile(r'<abbr title="[^"]*">([^<]*)</abbr>')
#: What a page says of data that no patient stands behind.
SYNTHETIC = (
    "Synthetic patients: generated photographs and reports. Numbers on them say that the "
    "software works, and nothing of patients."
)


def text(value: object) -> str:
    """Escapes text for an element or a quoted attribute.

    Args:
      value: an object whose `str` is shown.
    """
    return html.escape(fonts.visible(value))


def own(value: object, kind: str = "") -> str:
    """Escapes text of a user, of either direction, so that it cannot turn the text beside it.

    Args:
      value: an object whose `str` is shown.
      kind: a class of the style sheet; "" for none.
    """
    return f'<bdi class="{kind}">{text(value)}</bdi>' if kind else f"<bdi>{text(value)}</bdi>"


def explained(value: object) -> str:
    """Escapes text of a user, in which abbreviations of the glossary show their meaning on hover.

    Args:
      value: an object whose `str` is shown.
    """

    def told(found: re.Match[str]) -> str:
        return f'<abbr title="{text(glossary.TERMS[found[0]])}">{found[0]}</abbr>'

    return f"<bdi>{_TERMS.sub(told, text(value))}</bdi>"


def answer(sentence: str, *more: str) -> str:
    """What a page has found, in a box that stands before all else.

    Args:
      sentence: HTML already.
      more: further paragraphs, HTML already.
    """
    paragraphs = "".join(f"<p>{each}</p>" for each in (sentence, *more))
    return f'<div class="answer">{paragraphs}</div>'


def warning(sentence: str) -> str:
    """What a reader has to know before the numbers, in a box.

    Args:
      sentence: HTML already.
    """
    return f'<p class="warn">{sentence}</p>'


def terms(meanings: Mapping[str, str]) -> str:
    """List of words and what they mean.

    Args:
      meanings: by word, both as text.
    """
    rows = "".join(f"<dt>{text(name)}</dt><dd>{text(said)}</dd>" for name, said in meanings.items())
    return f"<dl>{rows}</dl>"


def table(header: Sequence[object], rows: Sequence[Sequence[str]]) -> str:
    """Table that scrolls where it is wide.

    Args:
      header: names of the columns, as text.
      rows: for every row its cells, which are HTML already.
    """
    head = "".join(f"<th>{explained(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def figure(png: bytes, alt: str) -> str:
    """Image element with a figure inside.

    Args:
      png: the bytes of a PNG file.
      alt: text for readers who cannot see it.
    """
    encoded = base64.b64encode(png).decode()
    return f'<img class="figure" alt="{text(alt)}" src="data:image/png;base64,{encoded}">'


def photograph(pixels: UInt8[np.ndarray, "h w 3"], alt: str = "") -> str:
    """Image element with a photograph inside, as JPEG.

    Args:
      pixels: RGB, (h, w, 3) uint8.
      alt: text for readers who cannot see it; "" where the text beside it says all.
    """
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{text(alt)}" src="data:image/jpeg;base64,{encoded}">'


def page(
    title: str,
    parts: Sequence[str],
    facts: Mapping[str, object] | None = None,
    synthetic: bool = False,
    words: Mapping[str, str] | None = None,
) -> str:
    """Whole HTML page, with a line on what made it, and at its end what abbreviations mean.

    Args:
      title: text of the heading and of the window.
      parts: what follows the heading, HTML already.
      facts: what the page is made from by name, such as its checkpoint and its dataset; empty ones
        are left out.
      synthetic: whether all data are generated, which the page then says before anything else.
      words: meanings of words of this page alone, listed with those of the glossary that it has.
    """
    body = chr(10).join([warning(SYNTHETIC)] * synthetic + list(parts))
    used = {term: glossary.TERMS[term] for term in _EXPLAINED.findall(body)}
    listed = dict(sorted((used | dict(words or {})).items(), key=lambda pair: pair[0].lower()))
    end = f'\n<h2 id="words">Words and abbreviations</h2>{terms(listed)}' if listed else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{style.SHEET}</style></head>\n"
        f"<body>\n<h1>{own(title)}</h1>\n{_header(facts or {})}\n{body}{end}\n</body></html>\n"
    )


def _header(facts: Mapping[str, object]) -> str:
    """The line below the heading: what the page is made from, when and by which versions."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _VERSIONS)
    shown = [f"{text(name)} {own(value)}" for name, value in facts.items() if value]
    day = _today().isoformat()
    shown += [f'<time datetime="{day}">{day}</time>', text(versions)]
    return '<p class="about">' + "".join(f"<span>{each}</span>" for each in shown) + "</p>"


#: Packages whose versions pages name.
_VERSIONS = ("retfm-jax", "jax")


def _today() -> datetime.date:
    """The date of pages: today's in UTC, or that of SOURCE_DATE_EPOCH, for builds that repeat."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    now = datetime.datetime.now(datetime.UTC)
    return (
        datetime.datetime.fromtimestamp(int(epoch), datetime.UTC) if epoch.isdecimal() else now
    ).date()
