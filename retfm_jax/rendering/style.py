"""The style sheet of all pages: one for light and dark, for wide screens and for telephones.

Pages take colors from its variables, which follow what the reader's system prefers.
"""

from retfm_jax.rendering import colors

_PAGES = """
:root { color-scheme: light dark; --ink: #22262b; --page: #fff; --soft: #5a6470; --rule: #d9dde2;
  --line: #e7eaee; --link: #1f5fa8; --right: #1e7d46; --wrong: #b3382c;
  --open: #8a5a00; --tint: #f2f6fb; --warn: #fdf3e7;
  --named: #d3f0dc; --other: #e3dbf7; --missed: #fdeab8; --invented: #d5e6fb; --denied: #fbd3cd; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --page: #15181c; --soft: #a2acb7;
  --rule: #3a424b; --line: #2a3037; --link: #8ab8ee; --right: #6cc98f; --wrong: #f0897d;
  --open: #e0b35c; --tint: #1d2733; --warn: #33291b;
  --named: #1c4a2e; --other: #443572; --missed: #5c4711; --invented: #1d4370; --denied: #702a22; }
  img.figure { filter: invert(.92) hue-rotate(180deg); } }
body { font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; color: var(--ink);
  max-width: 1400px; margin: 2.5rem auto; padding: 0 1.5rem; background: var(--page); }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; padding-top: 1.4rem;
  border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
ul + h4, ol + h4 { margin-top: .8rem; }
h4 { font-size: .82rem; margin: 0; color: var(--soft); font-weight: 600; }
h1, h2, h3, figcaption, dd { overflow-wrap: anywhere; }
p.sub, p.note { color: var(--soft); margin: 0 0 1rem; overflow-wrap: anywhere; }
p.about { color: var(--soft); font-size: .82rem; margin: 0 0 1rem; overflow-wrap: anywhere; }
p.about span + span::before { content: " · "; }
.answer { background: var(--tint); border-left: 4px solid var(--link); padding: .8rem 1.2rem;
  margin: 1rem 0; overflow-wrap: anywhere; }
.answer ul, .answer ol { margin: 0; padding-left: 1.1rem; } .answer li { margin-bottom: .35rem; }
.answer p { margin: .4rem 0 0; } .answer p:first-child { margin: 0; }
.warn { background: var(--warn); border-left: 4px solid #d1701c; padding: .6rem 1.2rem; }
abbr { text-decoration: underline dotted var(--soft); text-underline-offset: .2em; cursor: help; }
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
.gallery { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(260px, 100%), 1fr)); }
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
pre { background: var(--tint); padding: .6rem .8rem; overflow-x: auto; font-size: .85rem;
  margin: .3rem 0 1rem; }
nav a { margin-right: 1.2rem; }
a { color: var(--link); }
"""

_CHARTS = """
.charts { display: grid; gap: 1.3rem 1.6rem; margin: .8rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(215px, 45%), 1fr)); }
.charts.wide-charts { grid-template-columns: repeat(auto-fill, minmax(min(290px, 100%), 1fr)); }
.charts.pair-charts { grid-template-columns: repeat(auto-fill, minmax(min(400px, 100%), 1fr)); }
figure.card { min-width: 0; max-width: 380px; } .pair-charts figure.card { max-width: 540px; }
figure.card figcaption { font-weight: 600; }
figure.card > div { display: flex; gap: .8rem; } figure.card > div > div { flex: 1; min-width: 0; }
figure.card small { color: var(--soft); display: block; line-height: 1.35; }
table.confusion td:not(:first-child), table.confusion th:not(:first-child) { text-align: center; }
svg.chart { display: block; width: 100%; height: auto; font-size: 10.5px; overflow: visible; }
@media (max-width: 600px) { .charts:not(.wide-charts) svg.chart { font-size: 13px; } }
svg.chart path { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
svg.chart text { fill: var(--ink); } svg.chart .soft { fill: var(--soft); }
svg.chart .mid { text-anchor: middle; } svg.chart .end { text-anchor: end; }
svg.chart .grid { stroke: var(--line); stroke-width: 1; }
svg.chart .axis { stroke: var(--ink); stroke-width: 1; }
svg.chart .diagonal { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 2 3; }
"""


def _of_curves() -> str:
    """Colors of curves, of the bands round them and of dots."""
    light = "".join(f"--c{at}: {color}; " for at, color in enumerate(colors.CURVES))
    dark = "".join(f"--c{at}: {color}; " for at, color in enumerate(colors.CURVES_ON_DARK))
    rules = "".join(
        f"svg.chart path.c{at} {{ stroke: var(--c{at}); }} .key.c{at} {{ color: var(--c{at}); }}\n"
        f"svg.chart path.b{at}, svg.chart circle.c{at} {{ fill: var(--c{at}); }}\n"
        for at in range(len(colors.CURVES))
    )
    return (
        f":root {{ {light}}}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark}}} }}\n{rules}"
        "svg.chart path[class^=b] { stroke: none; opacity: .22; }\n"
        "svg.chart path.faint { opacity: .35; stroke-width: 1; }\n"
    )


SHEET = _PAGES + _CHARTS + _of_curves()
