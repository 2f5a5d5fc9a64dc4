"""Users' text in figures and pages: neither mathematics nor markup."""

import io
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
from PIL import Image

from retfm_jax.rendering import figures, markup

NASTY = [
    "IOP $5_{ $",
    "a_b^c",
    "\\frac{1}{",
    "[bold]x[/bold]",
    "<script>alert('1')</script>",
    'quote " and &amp; <b',
    "_leading",
    "\udcff\udc80",
    "😀 眼底",
    "שלום",
    "two\nlines",
    "x" * 3000,
]


@figures.plain_style()
def labeled(text):
    figure = figures.new_figure(4, 3)
    axes = figure.subplots()
    figure.suptitle(figures.words(text))
    axes.set_title(figures.words(text))
    axes.set_xticks([0, 1], [figures.words(text), "b"])
    axes.set_yticks([0, 1])
    axes.annotate(figures.words(text), (0.5, 0.5))
    return figure


def pixels(figure):
    return np.asarray(Image.open(io.BytesIO(figures.png(figure, dpi=50))).convert("L"))


@pytest.mark.parametrize("text", NASTY)
def test_names_are_plotted_as_they_are(text):
    figure = labeled(text)
    assert pixels(figure).std() > 5
    title = figure.axes[0].get_title()
    assert title == figures.words(text)
    assert len(title) <= 48


def test_a_dollar_sign_is_drawn_and_not_taken_for_mathematics():
    def drawn(text):
        return pixels(labeled(text))

    assert (drawn("$x$") != drawn("x")).any()


def test_settings_of_the_machine_change_nothing():
    plain = pixels(labeled("$x_1$"))
    mine = {"axes.formatter.use_mathtext": True, "axes.facecolor": "red", "font.size": 20}
    with matplotlib.rc_context(mine):
        np.testing.assert_array_equal(pixels(labeled("$x_1$")), plain)


class Tags(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.texts = set(), []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.texts.append(data)


@pytest.mark.parametrize("text", NASTY)
def test_pages_hold_names_whole_and_as_text(text):
    page = markup.page(text, [markup.table([text], [[markup.own(text)]]), markup.figure(b"", text)])
    page.encode("utf-8")
    found = Tags(page)
    assert "script" not in found.tags
    assert "b" not in found.tags
    shown = "\\udcff\\udc80" if text == "\udcff\udc80" else text
    assert found.texts.count(shown) == 4  # title, heading, head and cell
