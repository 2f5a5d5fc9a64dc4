"""HTML pages in one file: users' text is escaped here and nowhere else, pictures are inside."""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from retfm_jax.rendering import fonts

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; color: #22262b;
  max-width: 1400px; margin: 2.5rem auto; padding: 0 1.5rem; background: #fff; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; padding-top: 1.4rem;
  border-top: 1px solid #d9dde2; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
h1, h2, h3, figcaption, dd { overflow-wrap: anywhere; }
p.sub, p.note { color: #5a6470; margin: 0 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; }
th, td { padding: .32rem .55rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal;
  overflow-wrap: anywhere; min-width: 9rem; max-width: 24rem; }
thead th { border-bottom: 2px solid #22262b; font-weight: 600; }
tbody td { border-bottom: 1px solid #e7eaee; vertical-align: top; }
thead th { white-space: normal; vertical-align: bottom; }
td small { display: block; color: #5a6470; font-size: .8em; line-height: 1.2; }
img.figure { max-width: 100%; height: auto; display: block; margin: .6rem 0; }
.pair { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
.pair img { max-width: min(600px, 48%); }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); gap: 1rem; }
.gallery.broad { grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); }
.gallery.pairs { grid-template-columns: repeat(auto-fill, minmax(min(560px, 100%), 1fr)); }
.swatch { display: inline-block; width: .9em; height: .9em; border: 1px solid #5a6470;
  vertical-align: -.1em; margin-right: .35em; }
.legend span { margin-right: 1.4rem; white-space: nowrap; }
figure { margin: 0; font-size: .82rem; }
figure .eyes { display: flex; gap: 4px; background: #000; border-radius: 4px; overflow: hidden; }
figure .eyes img { width: 100%; min-width: 0; object-fit: contain; }
figure .eyes span { width: 100%; color: #aaa; align-self: center; text-align: center; }
figure .maps { display: flex; gap: 4px; margin-top: 4px; }
figure .maps figure { flex: 1; min-width: 0; }
figure .maps img { width: 100%; border-radius: 4px; background: #000; }
figcaption small { color: #5a6470; display: block; }
.report { white-space: pre-line; overflow-wrap: anywhere; }
.query { display: grid; grid-template-columns: minmax(220px, 340px) 1fr; gap: 1.2rem;
  padding: .8rem 0; border-bottom: 1px solid #e7eaee; }
.query ol { margin: 0; padding-left: 1.6rem; } .query li { margin-bottom: .5rem; }
.right { color: #1e7d46; } .wrong { color: #b3382c; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; font-size: .88rem; }
dt { color: #5a6470; } dd { margin: 0; }
nav a { margin-right: 1.2rem; }
a { color: #1f5fa8; }
"""


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


def table(header: Sequence[object], rows: Sequence[Sequence[str]]) -> str:
    """Table that scrolls where it is wide.

    Args:
      header: names of the columns, as text.
      rows: for every row its cells, which are HTML already.
    """
    head = "".join(f"<th>{own(name)}</th>" for name in header)
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


def photograph(pixels: UInt8[np.ndarray, "h w 3"]) -> str:
    """Image element with a photograph inside, as JPEG.

    Args:
      pixels: RGB, (h, w, 3) uint8.
    """
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="" src="data:image/jpeg;base64,{encoded}">'


def page(title: str, parts: Sequence[str]) -> str:
    """Whole HTML page.

    Args:
      title: text of the heading and of the window.
      parts: what follows the heading, HTML already.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body>\n<h1>{own(title)}</h1>\n{chr(10).join(parts)}\n</body></html>\n"
    )
