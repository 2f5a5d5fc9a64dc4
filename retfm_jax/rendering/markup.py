"""HTML pages in one file: users' text is escaped here and nowhere else, pictures are inside.

Colors are those of `_STYLE`'s variables, which follow what the reader's system prefers.
"""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from retfm_jax.rendering import fonts

_STYLE = """
:root { color-scheme: light dark; --ink: #22262b; --page: #fff; --soft: #5a6470; --rule: #d9dde2;
  --line: #e7eaee; --link: #1f5fa8; --right: #1e7d46; --wrong: #b3382c;
  --open: #8a5a00; --tint: #f2f6fb; --warn: #fdf3e7;
  --named: #d3f0dc; --other: #e3dbf7; --missed: #fdeab8; --invented: #d5e6fb; --denied: #fbd3cd; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --page: #15181c; --soft: #a2acb7;
  --rule: #3a424b; --line: #2a3037; --link: #8ab8ee; --right: #6cc98f; --wrong: #f0897d;
  --open: #e0b35c; --tint: #1d2733; --warn: #33291b;
  --named: #1c4a2e; --other: #443572; --missed: #5c4711; --invented: #1d4370; --denied: #702a22; } }
body { font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; color: var(--ink);
  max-width: 1400px; margin: 2.5rem auto; padding: 0 1.5rem; background: var(--page); }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; padding-top: 1.4rem;
  border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
h4 { font-size: .82rem; margin: 0; color: var(--soft); font-weight: 600; }
h1, h2, h3, figcaption, dd { overflow-wrap: anywhere; }
p.sub, p.note { color: var(--soft); margin: 0 0 1rem; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; }
th, td { padding: .32rem .55rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal;
  overflow-wrap: anywhere; min-width: 9rem; max-width: 24rem; }
thead th { border-bottom: 2px solid var(--ink); font-weight: 600; }
tbody td { border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { white-space: normal; vertical-align: bottom; }
td small { display: block; color: var(--soft); font-size: .8em; line-height: 1.2; }
img.figure { max-width: 100%; height: auto; display: block; margin: .6rem 0; background: #fff; }
.pair { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
.pair img { max-width: min(600px, 48%); }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); gap: 1rem; }
.gallery.broad { grid-template-columns: repeat(auto-fill, minmax(min(330px, 100%), 1fr)); }
.gallery.pairs { grid-template-columns: repeat(auto-fill, minmax(min(560px, 100%), 1fr)); }
.swatch { display: inline-block; width: .9em; height: .9em; border: 1px solid var(--soft);
  vertical-align: -.1em; margin-right: .35em; }
.legend span { display: inline-block; margin-right: 1.4rem; }
figure { margin: 0; font-size: .82rem; }
figure .eyes { display: flex; gap: 4px; background: #000; border-radius: 4px; overflow: hidden; }
figure .eyes img { width: 100%; min-width: 0; object-fit: contain; }
figure .eyes span { width: 100%; color: #aaa; align-self: center; text-align: center; }
figure .maps { display: flex; gap: 4px; margin-top: 4px; }
figure .maps figure { flex: 1; min-width: 0; }
figure .maps img { width: 100%; border-radius: 4px; background: #000; }
figcaption small { color: var(--soft); display: block; }
.report { white-space: pre-line; overflow-wrap: anywhere; }
.query, .case { display: grid; gap: 1.2rem; padding: .8rem 0;
  border-bottom: 1px solid var(--line); }
.query { grid-template-columns: minmax(220px, 340px) 1fr; }
.query ol { margin: 0; padding-left: 1.6rem; } .query li { margin-bottom: .5rem; }
.case { grid-template-columns: minmax(200px, 340px) 1fr 1fr; grid-template-rows: auto 1fr; }
.case figure { grid-row: 1 / -1; } .case p { margin: .2rem 0; line-height: 1.7; }
.case dl { grid-column: 2 / -1; margin: 0; align-content: start; }
mark { color: inherit; border-radius: 3px; padding: 0 .15em; border-bottom: 2px solid var(--soft); }
mark.named { background: var(--named); } mark.other_eye { background: var(--other);
  border-bottom-style: double; border-bottom-width: 4px; }
mark.missed { background: var(--missed); border-bottom-style: dotted; }
mark.invented { background: var(--invented); border-bottom-style: dashed; }
mark.contradicted { background: var(--denied); text-decoration: underline wavy; border-bottom: 0; }
@media (max-width: 800px) { body { margin: 1rem auto; padding: 0 .8rem; }
  .query, .case { grid-template-columns: minmax(0, 1fr); grid-template-rows: none; }
  .case figure { grid-row: auto; } .case dl { grid-column: 1; } .case figure { max-width: 400px; }
  dl { grid-template-columns: minmax(6rem, max-content) minmax(0, 1fr); } }
.right { color: var(--right); } .wrong { color: var(--wrong); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; font-size: .88rem; }
dt { color: var(--soft); } dd { margin: 0; }
nav a { margin-right: 1.2rem; }
a { color: var(--link); }
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
