"""Charts: round numbers on axes, labels apart, the same content in pages and in pictures."""

import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from retfm_jax.rendering import charts, colors, figures, glossary, markup

LINE = np.linspace(0.0, 1.0, 30)


def panel(**more):
    curves = [
        charts.Curve(LINE, LINE**2, "<left> & right", (LINE, LINE**3, LINE)),
        charts.Curve(LINE, LINE, "other", color=1, faint=True),
    ]
    return charts.Panel("a_1 <b>", "recall", "precision", curves, "AUROC 0.9", **more)


def test_a_chart_is_xml_with_its_curves_bands_and_labels():
    drawn = charts.svg(panel(dots=[(0.5, 0.5, 2)], diagonal=True))
    root = ET.fromstring(drawn)
    kinds = [element.get("class") for element in root]
    assert [kinds.count(kind) for kind in ("c0", "b0", "diagonal", "c2")] == [2, 1, 1, 1]
    texts = [element.text for element in root if element.tag == "text"]
    assert {"<left> & right", "other", "0.0", "0.5", "1.0", "recall", "precision"} <= set(texts)
    assert "a_1 <b>" in root.get("aria-label")
    width, height = map(float, root.get("viewBox").split()[2:])
    for path in re.findall(r' d="([^"]+)"', drawn):
        numbers = re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path)
        assert all(0 <= float(x) <= width and 0 <= float(y) <= height for x, y in numbers)


def test_values_without_an_end_are_left_out_and_many_points_are_thinned():
    x = np.arange(9000.0)
    y = np.where(x == 7, np.nan, np.sin(x))
    kept = charts.thinned(x, y)
    assert len(kept[0]) == 1000
    assert kept[0][-1] == 8999
    empty = charts.Panel("t", "x", "y", [charts.Curve(x[:1], np.array([np.nan]))], "", None, None)
    ET.fromstring(charts.svg(empty))


@pytest.mark.parametrize(
    ("limits", "integers", "said"),
    [
        ((0.0, 1.0), False, ["0.0", "0.5", "1.0"]),
        ((0.0, 490.0), True, ["0", "200", "400"]),
        ((0.0, 3.0), True, ["0", "1", "2", "3"]),
        ((-0.3, 0.3), False, ["−0.2", "0.0", "0.2"]),
        ((0.0, 4e-4), False, ["0", "1e-4", "2e-4", "3e-4", "4e-4"]),
        ((0.0, 12_000.0), True, ["0", "5,000", "10,000"]),
    ],
)
def test_axes_have_round_numbers(limits, integers, said):
    assert charts.tick_labels(charts.ticks(limits, 4, integers)) == said


def test_labels_stand_apart_in_their_order():
    generator = np.random.default_rng(0)
    for _ in range(50):
        places = generator.random(4) * 100
        found = np.array(charts.apart(places, 12, 0, 100))
        assert (np.argsort(found, kind="stable") == np.argsort(places, kind="stable")).all()
        assert (np.diff(np.sort(found)) >= 12 - 1e-9).all()
        assert found.min() >= 0
        assert found.max() <= 100
    assert charts.apart([10.0, 50.0, 90.0], 12, 0, 100) == [10.0, 50.0, 90.0]


def test_a_picture_shows_the_same_charts():
    figure = figures.panels([panel(), panel()], "t $x_", ["a note"], key=["one", "two"])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["a_1 <b>"] * 2
    assert len(figure.axes[0].lines) == 2
    assert len(figure.axes[0].collections) == 1
    shown = np.asarray(Image.open(io.BytesIO(figures.png(figure, dpi=40))).convert("RGB"))
    assert (shown != shown[:1, :1]).any()


def linear(color):
    parts = np.array([int(color[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def contrast(first, second):
    """The ratio of the Web Content Accessibility Guidelines."""
    bright, dark = sorted(
        (float(linear(c) @ (0.2126, 0.7152, 0.0722)) + 0.05 for c in (first, second)), reverse=True
    )
    return bright / dark


#: Linear RGB as a deuteranope sees it (Machado, Oliveira and Fernandes 2009, severity 1).
DEUTERANOPE = np.array(
    [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]
)


@pytest.mark.parametrize("palette", [colors.CURVES, colors.CURVES_ON_DARK])
def test_curves_are_told_apart_by_color_blind_eyes(palette):
    first = palette[:4]  # as many as a chart has
    for at, one in enumerate(first):
        for other in first[at + 1 :]:
            difference = DEUTERANOPE @ (linear(one) - linear(other))
            assert np.linalg.norm(difference) > 0.08, (one, other)


def test_curves_are_seen_on_the_page():
    assert min(contrast(color, "#ffffff") for color in colors.CURVES[:3]) > 3
    assert min(contrast(color, "#15181c") for color in colors.CURVES_ON_DARK) > 5
    assert contrast(colors.INK, "#ffffff") > 7


def test_abbreviations_show_their_meaning_on_hover_and_at_the_end_of_the_page():
    head = markup.explained("macro AUROC, not AUROCs & <x>")
    meaning = markup.text(glossary.TERMS["AUROC"])
    assert f'<abbr title="{meaning}">AUROC</abbr>, not AUROCs &amp; &lt;x&gt;' in head
    page = markup.page("t", [markup.table(["AUROC", "F1"], [])], words={"own": "a word"})
    end = page[page.index('id="words"') :]
    assert f"<dt>AUROC</dt><dd>{meaning}</dd>" in end
    assert end.index("<dt>AUROC") < end.index("<dt>F1") < end.index("<dt>own")
    assert "Dice" not in end
    assert 'id="words"' not in markup.page("t", ["no table"])


def test_the_header_says_what_made_the_page(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    page = markup.page("t", ["body"], {"checkpoint": "run<1>", "nothing": ""}, synthetic=True)
    head = page[page.index("<body>") :]
    assert '<time datetime="2023-11-14">' in head
    assert re.search(r"retfm-jax \d+\.\d+", head)
    assert "checkpoint <bdi>run&lt;1&gt;</bdi>" in head
    assert "nothing" not in head.split("warn")[0]
    assert "Synthetic patients" in head
    assert "Synthetic" not in markup.page("t", ["body"])
