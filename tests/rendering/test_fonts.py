"""Which fonts draw a text, by what they draw; and text that has no form of its own."""

import types

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from retfm_jax.rendering import fonts

HAN = "眼底"


def font(folder, family, forms):
    """A font file.

    Args:
      forms: glyph name -> (width of its box or 0 for a blank, the characters that it stands for).
    """
    path = folder / f"{family}.ttf"
    names = [".notdef", *forms]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(c): n for n, (_, chars) in forms.items() for c in chars})
    glyphs = {}
    for name in names:
        width = forms.get(name, (0, ""))[0]
        pen = TTGlyphPen(None)
        if width:
            pen.moveTo((0, 0))
            for point in ((0, 700), (width, 700), (width, 0)):
                pen.lineTo(point)
            pen.closePath()
        glyphs[name] = pen.glyph()
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(names, (800, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return types.SimpleNamespace(name=family, fname=str(path), style="normal", weight=400)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs these fonts alone: a function of (family, forms)s."""
    cached = (fonts.families, fonts._candidates, fonts._file, fonts._drawn)

    def clear():
        for function in cached:
            function.cache_clear()

    def install(*descriptions):
        entries = [font(tmp_path, *description) for description in descriptions]
        monkeypatch.setattr(fonts, "_entries", lambda: entries)
        clear()

    yield install
    monkeypatch.undo()
    clear()


LATIN = ("DejaVu Sans", {"a": (300, "ab")})
HONEST = ("Zhong Hei", {"eye": (500, "眼"), "ground": (600, "底"), "left": (700, "左")})


@pytest.mark.parametrize(
    "liar",
    [
        ("A Last Resort", {"box": (900, HAN + "左\ufdd0"), "a": (300, "a")}),
        ("A Last Resort", {"box": (900, HAN + "左")}),  # one form for all of a block
        ("A Blank", {"eye": (0, "眼"), "ground": (0, "底")}),
        ("A Part", {"eye": (500, "眼")}),
    ],
)
def test_a_font_is_chosen_by_the_forms_that_it_draws(installed, liar):
    installed(LATIN, liar, HONEST)
    assert fonts.families() == ("DejaVu Sans", "Zhong Hei")
    assert fonts.drawable("a 左眼 b") == "a 左眼 b"
    installed(LATIN, liar)
    assert fonts.families() == ("DejaVu Sans",)
    assert fonts.drawable("a 左眼 b") == f"a {fonts.UNDRAWN} b"


def test_the_font_that_matplotlib_ships_for_every_character_is_none():
    assert not any("last resort" in family.lower() for family in fonts.families())
    assert "DejaVu Sans" in fonts.families()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("$x_{1}^2$ \\alpha [b] <i>&", "$x_{1}^2$ \\alpha [b] <i>&"),
        ("two\nlines\ttab\r\nend", "two\\nlines\\ttab\\nend"),
        ("\udcff\udc80.jpg", "\\udcff\\udc80.jpg"),
        ("a\x00b\x1b[31m\x7f", "a\\x00b\\x1b[31m\\x7f"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("שלום 眼 😀 é", "שלום 眼 😀 é"),
        ("", ""),
    ],
)
def test_what_has_no_form_is_written_out_and_nothing_else(text, shown):
    assert fonts.one_line(text) == shown
    fonts.visible(text).encode("utf-8")


def test_a_long_name_keeps_both_ends():
    assert fonts.one_line("patient_" + "x" * 400 + "_left", 17) == "patient_…xxx_left"
    assert len(fonts.one_line("x" * 400, 17)) == 17
