"""Names in other scripts: by a font that has their characters, or it is said that none has."""

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from PIL import Image, ImageDraw

from eql_d2.drawing import fonts
from eql_d2.drawing.contact_sheet import contact_sheet

CAT = "猫"  # which DejaVu Sans lacks


@pytest.fixture(autouse=True)
def forget():
    """What was found, and said, for other tests."""
    caches = (fonts.load_font, fonts._font_with, fonts._characters)
    for clear in (*(cache.cache_clear for cache in caches), fonts._told.clear):
        clear()
    yield
    for clear in (*(cache.cache_clear for cache in caches), fonts._told.clear):
        clear()


def make_font(path, characters):
    """A font whose characters are all a full square."""
    pen = TTGlyphPen(None)
    for move, point in zip((pen.moveTo, *[pen.lineTo] * 3), ((0, 0), (0, 1000), (1000, 1000), (1000, 0)), strict=True):
        move(point)
    pen.closePath()
    characters = "".join(dict.fromkeys(characters))
    names = [".notdef", *(f"uni{ord(character):04X}" for character in characters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(character): name for character, name in zip(characters, names[1:], strict=True)})
    builder.setupGlyf({name: pen.glyph() if name != ".notdef" else TTGlyphPen(None).glyph() for name in names})
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": "Square", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)


@pytest.fixture
def system_fonts(tmp_path, monkeypatch):
    """The machine's fonts are those of a folder."""
    find = font_manager.findSystemFonts
    monkeypatch.setattr(fonts.font_manager, "findSystemFonts", lambda: find([str(tmp_path)]))
    return tmp_path


def drawn(text):
    picture = Image.new("L", (400, 40))
    ImageDraw.Draw(picture).text((0, 0), text, font=fonts.load_font(20, text), fill=255)
    return np.asarray(picture)


def test_a_chinese_name_takes_a_font_that_has_it(system_fonts, caplog):
    (system_fonts / "broken.ttf").write_bytes(b"no font")
    make_font(system_fonts / "a_latin.ttf", "abc")
    make_font(system_fonts / "cjk.ttf", CAT)
    assert fonts.load_font(20, CAT).path.endswith("cjk.ttf")
    assert (drawn(CAT) == 255).sum() == 400  # the square of 20 pixels
    assert not caplog.records


def test_a_font_with_the_whole_name_is_better_than_one_with_the_rest(system_fonts):
    make_font(system_fonts / "a_cjk_alone.ttf", CAT)
    make_font(system_fonts / "cjk_and_latin.ttf", CAT + "cat")
    assert fonts.load_font(20, f"{CAT} cat").path.endswith("cjk_and_latin.ttf")
    assert fonts.load_font(20, f"{CAT} dog").path.endswith("a_cjk_alone.ttf")


def test_without_such_a_font_it_is_said_once(system_fonts, caplog):
    pictures = [np.zeros((40, 40, 3), np.uint8)] * 2
    contact_sheet(pictures, [CAT, "犬"], side=40)
    (record,) = caplog.records
    assert f"No font of this machine has the characters {CAT} of a name" in record.getMessage()
    assert "fonts-noto-cjk" in record.getMessage()


@pytest.mark.parametrize("name", ["cat", "Straße", "кошка", "γάτα", "a b\tc"])
def test_other_names_take_the_usual_font(system_fonts, name, caplog):
    make_font(system_fonts / "all.ttf", name.replace("\t", ""))
    assert fonts.load_font(20, name).path == fonts.DEFAULT
    assert not caplog.records
