from pathlib import Path

import numpy as np
import pytest

from mixbct.data import glyphs
from mixbct.data.array import ArraySource
from mixbct.data.fonts import PACKAGES
from mixbct.data.glyphs import build_glyphs, kanji, render
from mixbct.errors import DataError
from mixbct.files import sha256_file
from mixbct.schemas.data import ArrayManifest

KANJI = kanji()
Boxes = dict[str, list[tuple[int, int, int, int]]]


def design(characters: tuple[str, ...], seed: int) -> Boxes:
    """A made-up design: each character a tall and a wide box of its own."""
    rng = np.random.default_rng(seed)
    boxes: Boxes = {}
    for character in characters:
        a, b, c, d = rng.integers(0, 300, 4).tolist()
        boxes[character] = [(a, 0, a + 200, 800 - b), (0, c, 800 - d, c + 200)]
    return boxes


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Twenty kanji that stand for all."""
    monkeypatch.setattr(glyphs, "kanji", lambda: KANJI[:20])
    return KANJI[:20]


def build(out: Path, fonts: Path, classes: int | None = None, seed: int = 0) -> ArrayManifest:
    return build_glyphs(
        out,
        classes=classes,
        seed=seed,
        fonts=fonts,
        progress=lambda done, total: None,
    )


def test_kanji_are_those_of_level_one() -> None:
    assert len(KANJI) == len(set(KANJI)) == 2965
    assert KANJI[0] == "亜"
    assert KANJI[-1] == "腕"
    assert all(0x4E00 <= ord(c) <= 0x9FFF for c in KANJI)


def test_render_centres_the_ink(tmp_path: Path, make_font) -> None:
    # a box of 10 × 20 pixels at font size 28, far off centre
    unit = 1000 / 28
    box = (0, 0, round(10 * unit), round(20 * unit))
    font = make_font(tmp_path / "f.ttf", {"字": [box], "亜": []})
    drawn, ok = render(font, ("字", "唖", "亜"))
    assert ok.tolist() == [True, False, False]
    assert not drawn[1:].any()
    rows, columns = np.nonzero(drawn[0] > 127)
    assert (rows.min(), rows.max()) == (6, 25)
    assert (columns.min(), columns.max()) == (11, 20)


def test_render_passes_over_what_the_font_engine_fails_on(tmp_path: Path, make_font) -> None:
    boxes = {"字": [(100, 100, 900, 900)]}
    _, ok = render(make_font(tmp_path / "good.ttf", boxes), ("字",))
    assert ok.tolist() == [True]
    drawn, ok = render(make_font(tmp_path / "bad.ttf", boxes, broken=True), ("字",))
    assert ok.tolist() == [False]
    assert not drawn.any()


def test_build_writes_every_glyph_with_key_class_and_family(
    tmp_path: Path, make_font, chosen
) -> None:
    boxes = design(chosen, 1)
    boxes[chosen[4]] = []  # blank
    del boxes[chosen[5]]  # not in the font
    make_font(tmp_path / "fonts/brush/one.ttf", boxes)
    make_font(tmp_path / "fonts/pen/two.ttf", design(chosen, 2))
    manifest = build(tmp_path / "out", tmp_path / "fonts")
    source = ArraySource(tmp_path / "out")
    assert source.keys() == [
        f"{c}/{name}"
        for i, c in enumerate(chosen)
        for name in ("one", "two")
        if name == "two" or i not in (4, 5)
    ]
    assert manifest.classes == chosen
    assert manifest.groups == ("brush", "pen")
    for i, (key, group, label) in enumerate(
        zip(source.keys(), source.groups(), source.labels(), strict=True)
    ):
        character, name = key.split("/")
        assert group == {"one": "brush", "two": "pen"}[name]
        assert chosen[label] == character
        font = tmp_path / "fonts" / group / f"{name}.ttf"
        want, _ = render(font, (character,))
        np.testing.assert_array_equal(source.read(np.array([i]))[0, :, :, 0], want[0])
    assert manifest.origin["font pen/two"] == sha256_file(tmp_path / "fonts/pen/two.ttf")


def test_poor_twin_and_damaged_typefaces_are_left_out_with_the_reason(
    tmp_path: Path, make_font, chosen
) -> None:
    fonts = tmp_path / "fonts"
    first = design(chosen, 1)
    make_font(fonts / "a.ttf", first)
    make_font(fonts / "b.ttf", design(chosen, 2))
    # eleven of twenty are drawn alike: a twin; ten are not enough for that
    make_font(fonts / "c.ttf", {**design(chosen, 3), **{c: first[c] for c in chosen[:11]}})
    make_font(fonts / "d.ttf", {**design(chosen, 4), **{c: first[c] for c in chosen[:10]}})
    # of half of them a typeface must draw something; blank ones do not count
    make_font(fonts / "e.ttf", {**design(chosen, 5), **{c: [] for c in chosen[:11]}})
    make_font(fonts / "f.ttf", design(chosen[:10], 6))
    (fonts / "g.ttf").write_bytes(b"no font")
    origin = build(tmp_path / "out", fonts).origin
    left_out = {k.removeprefix("left out "): v for k, v in origin.items() if "left out" in k}
    assert set(left_out) == {"c", "e", "g"}
    assert left_out["c"] == "draws 11 of 20 kanji that were looked at just as a does"
    assert left_out["e"] == "draws 9 of 20 kanji that were looked at"
    assert left_out["g"].startswith("not a readable font: ")
    keys = ArraySource(tmp_path / "out").keys()
    names = {key.split("/")[1] for key in keys}
    assert names == {"a", "b", "d", "f"}


def test_a_set_from_the_same_fonts_is_kept_and_from_others_made_again(
    tmp_path: Path, make_font, chosen, monkeypatch: pytest.MonkeyPatch
) -> None:
    fonts = tmp_path / "fonts"
    make_font(fonts / "a.ttf", design(chosen, 1))
    first = build(tmp_path / "out", fonts)
    written = (tmp_path / "out/images.npy").stat().st_ino
    assert build(tmp_path / "out", fonts) == first
    assert (tmp_path / "out/images.npy").stat().st_ino == written
    assert build(tmp_path / "again", fonts) == first

    assert len(build(tmp_path / "out", fonts, classes=5).classes) == 5
    make_font(fonts / "b.ttf", design(chosen, 2))
    assert build(tmp_path / "again", fonts).images == 2 * first.images
    monkeypatch.setattr(glyphs, "_RENDERING", "another way")
    assert "another way" in build(tmp_path / "again", fonts).origin["rendering"]


def test_choice_is_seeded_and_in_the_order_of_the_standard(
    tmp_path: Path, make_font, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = KANJI[:200]
    monkeypatch.setattr(glyphs, "kanji", lambda: everything)
    make_font(tmp_path / "fonts/a.ttf", design(everything, 1))
    choices = [build(tmp_path / "out", tmp_path / "fonts", 40, seed).classes for seed in (1, 2, 1)]
    assert choices[0] == choices[2] != choices[1]
    positions = [everything.index(c) for c in choices[0]]
    assert len(set(positions)) == 40
    assert positions == sorted(positions)
    assert 8 < sum(p < 100 for p in positions) < 32  # from all over the standard


def test_fonts_without_kanji_are_an_error(tmp_path: Path, make_font) -> None:
    make_font(tmp_path / "fonts/latin.ttf", {"A": [(0, 0, 500, 500)]})
    with pytest.raises(DataError, match=r"none of 1 typefaces draws.*latin\.ttf"):
        build(tmp_path / "out", tmp_path / "fonts")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("classes", [1, 2966])
def test_number_of_classes_is_checked(tmp_path: Path, classes: int) -> None:
    with pytest.raises(DataError, match=f"{classes} classes of kanji; expected 2 to 2965"):
        build(tmp_path / "out", tmp_path, classes=classes)


def test_families_of_the_demo_are_packages_that_are_fetched() -> None:
    for family in glyphs.DEMO_QUERY_GROUPS:
        assert any(package.endswith(family) for package in PACKAGES)
