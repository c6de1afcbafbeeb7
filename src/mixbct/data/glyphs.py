"""The kanji glyphs: class = a kanji of JIS X 0208 level 1, instance = a typeface.

2,965 classes that look alike in many ways, drawn 32 × 32 in grey from real fonts. Typefaces
that draw little, or that draw most kanji just as an earlier one does, are left out: fonts come
in fixed-width and proportional variants of one design, and such twins in gallery and query
would flatter every figure.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL
from fontTools.ttLib import TTFont
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw, ImageFont, features

from mixbct.data.array import ArraySource, write_array
from mixbct.data.fonts import Typeface, own_typefaces, packaged_typefaces
from mixbct.data.source import Progress
from mixbct.errors import DataError
from mixbct.files import sha256_file, user_cache
from mixbct.schemas.data import ArrayManifest

SIZE = 32
DEMO_QUERY_GROUPS = (
    "kiloji",
    "yusei-magic",
    "bizud-mincho",
    "dotgothic16",
    "reggae",
    "stick",
    "train",
)
"""The families that the demo keeps for queries: handwriting, marker, mincho, pixel, display,
outline. Families of one hand or house stay on one side: the four Fontworks designs here, the
three brush families of the calligrapher Aoyagi Kozan in the gallery."""

_KANJI = 2965
_FONT_SIZE = 28
# change this when the drawing changes: sets that were cached before are then drawn again
_RENDERING = f"font size {_FONT_SIZE} on {SIZE} × {SIZE}, centred by the ink's box"
_LOOKED_AT = 256
_TWIN_SHARE = 0.5
_LEAST_SHARE = 0.5

Glyphs = UInt8[np.ndarray, "n 32 32"]


def kanji() -> tuple[str, ...]:
    """Return the 2,965 kanji of JIS X 0208 level 1 (rows 16 to 47), in the standard's order.

    >>> len(kanji()), kanji()[0], kanji()[-1]
    (2965, '亜', '腕')
    """
    codes = (0xA0 + part for row in range(16, 48) for cell in range(1, 95) for part in (row, cell))
    return tuple(bytes(codes)[: 2 * _KANJI].decode("euc_jp"))  # the last row is not full


def build_glyphs(
    out: Path, classes: int | None, seed: int, fonts: Path | None, progress: Progress
) -> ArrayManifest:
    """Draw the kanji in every typeface and write them as an image array.

    A set at `out` that was made from the same fonts in the same way is kept as it is. The
    manifest's `origin` lists each typeface with its file's SHA-256, and why one was left out.

    Args:
        out: the folder to write.
        classes: how many kanji, in a seeded choice; None: all.
        seed: of that choice.
        fonts: a folder with fonts to use; None: those of the Debian packages.
        progress: called with (done, in all): packages fetched, then typefaces drawn.

    Raises:
        DataError: the fonts cannot be fetched, none of them draws kanji, or `classes` is not
            between 2 and 2,965.
    """
    chosen = _choose(classes, seed)
    cache = user_cache() / "fonts"
    typefaces = own_typefaces(fonts) if fonts else packaged_typefaces(cache, progress)
    origin = {
        "classes": f"{len(chosen)} kanji of JIS X 0208 level 1, seed {seed}",
        "rendering": f"{_RENDERING}; Pillow {PIL.__version__}, "
        f"FreeType {features.version('freetype2')}",
    }
    origin |= {f"font {t.family}/{t.name}": sha256_file(t.path) for t in typefaces}
    if (out / "manifest.json").exists():
        there = ArraySource(out).manifest
        if {k: v for k, v in there.origin.items() if not k.startswith("left out ")} == origin:
            return there

    looked_at = chosen[:: -(-len(chosen) // _LOOKED_AT)]
    kept: dict[str, Glyphs] = {}
    drawings: list[tuple[Typeface, Glyphs, np.ndarray]] = []
    for done, typeface in enumerate(typefaces):
        progress(done, len(typefaces))
        try:
            sample, drawn = render(typeface.path, looked_at)
            reason = _reason_against(sample, drawn, kept)
        except Exception as error:  # damaged font files raise anything
            reason = f"not a readable font: {error}"
        if reason:
            origin[f"left out {typeface.name}"] = reason
            continue
        kept[typeface.name] = sample
        drawings.append((typeface, *render(typeface.path, chosen)))
    if not kept:
        raise DataError(
            f"none of {len(typefaces)} typefaces draws half of the kanji, such as "
            f"{typefaces[0].path}; use Japanese fonts"
        )
    progress(len(typefaces), len(typefaces))
    # class by class, in the order of the typefaces
    faces, glyphs, present = zip(*drawings, strict=True)
    labels, of = np.nonzero(np.column_stack(present))
    return write_array(
        out,
        np.stack(glyphs)[of, labels][..., None],
        labels,
        chosen,
        [f"{chosen[label]}/{faces[face].name}" for label, face in zip(labels, of, strict=True)],
        [faces[face].family for face in of],
        name="kanji glyphs",
        origin=origin,
    )


def render(font: Path, characters: Sequence[str]) -> tuple[Glyphs, Bool[np.ndarray, " n"]]:
    """Draw characters in white on black, centred by the box of their ink.

    Characters that the font's character map lacks, that come out blank, or that the font engine
    fails on are left black.

    Returns:
        The glyphs, and which of them were drawn.

    Raises:
        Exception: whatever the font libraries raise on a file that is not a font.
    """
    # opened here, since a TTFont that fails leaves its file open
    with font.open("rb") as content, TTFont(content, fontNumber=0, lazy=True) as tables:
        known = tables.getBestCmap() or {}
    # the other layout engine is not in every build of Pillow
    loaded = ImageFont.truetype(font, _FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)
    canvas = Image.new("L", (2 * SIZE, 2 * SIZE))
    pen = ImageDraw.Draw(canvas)
    glyphs = np.zeros((len(characters), SIZE, SIZE), np.uint8)
    drawn = np.zeros(len(characters), np.bool_)
    for i, character in enumerate(characters):
        if ord(character) not in known:
            continue
        canvas.paste(0, (0, 0, 2 * SIZE, 2 * SIZE))
        try:
            pen.text((SIZE, SIZE), character, fill=255, font=loaded, anchor="mm")
        except OSError:  # "invalid opcode" in the programs of some fonts, and the like
            continue
        if box := canvas.getbbox():
            left, top = ((box[at] + box[at + 2]) // 2 - SIZE // 2 for at in (0, 1))
            glyphs[i] = np.asarray(canvas.crop((left, top, left + SIZE, top + SIZE)))
            drawn[i] = True
    return glyphs, drawn


def _choose(classes: int | None, seed: int) -> tuple[str, ...]:
    everything = kanji()
    if classes is None:
        return everything
    if not 2 <= classes <= len(everything):
        raise DataError(f"{classes} classes of kanji; expected 2 to {len(everything)}")
    chosen = np.random.default_rng(seed).permutation(len(everything))[:classes]
    return tuple(everything[i] for i in np.sort(chosen))


def _reason_against(glyphs: Glyphs, drawn: Bool[np.ndarray, " n"], kept: dict[str, Glyphs]) -> str:
    """Return why a typeface is left out, judged by some of its glyphs; '' to keep it."""
    if drawn.sum() < _LEAST_SHARE * len(drawn):
        return f"draws {drawn.sum()} of {len(drawn)} kanji that were looked at"
    for name, others in kept.items():
        difference = np.abs(glyphs[drawn].astype(np.int16) - others[drawn]).mean(axis=(1, 2))
        same = int((difference < 1).sum())
        if same > _TWIN_SHARE * drawn.sum():
            return f"draws {same} of {drawn.sum()} kanji that were looked at just as {name} does"
    return ""
