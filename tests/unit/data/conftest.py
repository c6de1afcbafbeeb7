"""Tiny sources and fonts, made on the spot."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import newTable
from fontTools.ttLib.tables import ttProgram
from PIL import Image

Box = tuple[int, int, int, int]
MakeFont = Callable[..., Path]
MakeFolder = Callable[..., Path]


@pytest.fixture
def make_folder() -> MakeFolder:
    """Return a function that writes class folders with `counts[i]` noisy PNGs in class i."""

    def make(path: Path, counts: Mapping[str, int], size: int = 8, seed: int = 0) -> Path:
        rng = np.random.default_rng(seed)
        for name, count in counts.items():
            (path / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path / name / f"{i}.png")
        return path

    return make


@pytest.fixture
def make_font() -> MakeFont:
    """Return a function that writes a TrueType font whose glyphs are boxes.

    `boxes` maps a character to its boxes (left, bottom, right, top) on a 1000 unit square; an
    empty list is a blank glyph. A `broken` font has a program that no font engine accepts.
    """

    def make(
        path: Path, boxes: Mapping[str, list[Box]], family: str = "Tiny", broken: bool = False
    ) -> Path:
        names = {character: f"u{ord(character):04X}" for character in boxes}
        glyphs = {".notdef": TTGlyphPen(None).glyph()}
        for character, name in names.items():
            pen = TTGlyphPen(None)
            for left, bottom, right, top in boxes[character]:
                pen.moveTo((left, bottom))
                pen.lineTo((left, top))
                pen.lineTo((right, top))
                pen.lineTo((right, bottom))
                pen.closePath()
            glyphs[name] = pen.glyph()
        builder = FontBuilder(1000, isTTF=True)
        builder.setupGlyphOrder(list(glyphs))
        builder.setupCharacterMap({ord(c): name for c, name in names.items()})
        builder.setupGlyf(glyphs)
        builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
        builder.setupHorizontalHeader(ascent=900, descent=-100)
        builder.setupNameTable({"familyName": family, "styleName": "Regular"})
        builder.setupOS2()
        builder.setupPost()
        if broken:
            program = newTable("fpgm")
            program.program = ttProgram.Program()
            program.program.fromBytecode(b"\x7b")
            builder.font["fpgm"] = program
        path.parent.mkdir(parents=True, exist_ok=True)
        builder.save(path)
        return path

    return make
