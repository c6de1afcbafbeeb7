"""Reading the IJB layout, and laying out a folder like it."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixbct.data.folder import FolderSource
from mixbct.data.ijb import IjbImages, Subjects, read_layout
from mixbct.data.ijb_layout import _pairs, lay_out
from mixbct.data.source import Source
from mixbct.distributed import row_rng
from mixbct.errors import BadImageError, DataError
from mixbct.schemas.model import Preprocessing
from mixbct.schemas.protocols import LayoutCounts

RGB16 = Preprocessing(size=16, channels=3)
COUNTS = {"ann": 7, "bob": 2, "cid": 1, "dee": 4, "eve": 3, "fay": 1}


@pytest.fixture
def folder(tmp_path: Path, make_folder) -> FolderSource:
    return FolderSource(make_folder(tmp_path / "faces", COUNTS, size=16), RGB16)


@pytest.fixture
def laid_out(tmp_path: Path, folder: FolderSource) -> Path:
    lay_out(folder, tmp_path / "ijb", seed=1, impostors=2)
    return tmp_path / "ijb"


def subjects(of: Subjects) -> dict[int, int]:
    return dict(zip(of.templates.tolist(), of.subjects.tolist(), strict=True))


def test_what_is_written_is_read_back(tmp_path: Path, folder: FolderSource) -> None:
    counts = lay_out(folder, tmp_path / "ijb", seed=1, impostors=2)
    found = read_layout(tmp_path / "ijb")
    galleries = {name: subjects(each) for name, each in found.galleries.items()}
    probes = subjects(found.probes)
    assert list(galleries) == ["G1", "G2"]
    enrolled = [s for each in galleries.values() for s in each.values()]
    assert sorted(enrolled) == [1, 2, 4, 5]  # who has two images or more, each once
    assert set(probes.values()) == {1, 2, 3, 4, 5, 6}  # everybody is searched for
    everyone = galleries["G1"] | galleries["G2"] | probes
    assert len(everyone) == len(enrolled) + len(probes)  # no template plays two parts
    assert sorted(found.names, key=lambda n: int(n.split(".")[0])) == [
        f"{i + 1}.png" for i in range(len(folder))
    ]
    for name, template in zip(found.names, found.templates.tolist(), strict=True):
        row = int(name.split(".")[0]) - 1
        assert everyone[template] == folder.labels()[row] + 1
    assert np.bincount(found.templates).max() == 3
    assert len(set(found.media.tolist())) == len(folder)
    assert (found.scores == 1).all()
    same = [everyone[a] == everyone[b] for a, b in found.pairs.tolist()]
    assert same == found.same.tolist()
    assert all(a not in probes and b in probes for a, b in found.pairs.tolist())
    assert counts == LayoutCounts(
        images=18,
        subjects=6,
        galleries=(2, 2),
        probes=len(probes),
        genuine_pairs=sum(s in enrolled for s in probes.values()),
        impostor_pairs=2 * len(probes),
    )
    assert counts.genuine_pairs == found.same.sum()


def test_the_seed_decides(tmp_path: Path, folder: FolderSource, laid_out: Path) -> None:
    for name, seed in (("same", 1), ("other", 2)):
        lay_out(folder, tmp_path / name, seed=seed, impostors=2)
    files = [p.relative_to(laid_out) for p in sorted(laid_out.rglob("*")) if p.is_file()]
    assert len(files) == 18 + 6
    same = [(tmp_path / "same" / f).read_bytes() == (laid_out / f).read_bytes() for f in files]
    other = [(tmp_path / "other" / f).read_bytes() == (laid_out / f).read_bytes() for f in files]
    assert all(same)
    assert not all(other)


def test_images_come_back_unchanged_and_in_order(laid_out: Path, folder: FolderSource) -> None:
    layout = read_layout(laid_out)
    images = IjbImages(layout, RGB16)
    assert isinstance(images, Source)
    rows = np.array([int(name.split(".")[0]) - 1 for name in layout.names])
    assert np.array_equal(images.read(np.arange(len(images))), folder.read(rows))
    assert images.read(np.arange(0)).shape == (0, 16, 16, 3)
    assert [images.classes()[i] for i in images.labels()] == [str(t) for t in layout.templates]
    assert images.keys() == list(layout.names)
    assert images.groups() == [""] * 18
    assert images.digest() == IjbImages(read_layout(laid_out), RGB16).digest()
    grey = IjbImages(layout, Preprocessing(size=24, channels=1)).read(np.arange(2))
    assert grey.shape == (2, 24, 24, 1)


def test_images_that_cannot_be_read_are_named(laid_out: Path) -> None:
    (laid_out / "loose_crop" / "3.png").write_bytes(b"broken")
    (laid_out / "loose_crop" / "5.png").unlink()
    points = laid_out / "meta" / "ijbc_name_5pts_score.txt"
    lines = points.read_text().splitlines()
    lines = [f"7.png {'1 1 ' * 5}1" if line.startswith("7.png") else line for line in lines]
    points.write_text("\n".join(lines))
    images = IjbImages(read_layout(laid_out), RGB16)
    with pytest.raises(BadImageError, match="3 of 18 images") as caught:
        images.read(np.arange(18))
    assert set(caught.value.keys) == {"3.png", "5.png", "7.png"}


def test_ijbb_names_its_galleries_s1_and_s2(laid_out: Path) -> None:
    for file in sorted((laid_out / "meta").iterdir()):
        name = file.name.replace("ijbc", "ijbb").replace("_G", "_S")
        file.rename(file.with_name(name))
    assert list(read_layout(laid_out).galleries) == ["S1", "S2"]


def test_headers_in_any_case_and_order(laid_out: Path) -> None:
    file = laid_out / "meta" / "ijbc_1N_gallery_G1.csv"
    before = read_layout(laid_out).galleries["G1"]
    rows = [line.split(",") for line in file.read_text().splitlines()[1:]]
    table = ["Filename, Subject_ID ,template_id"] + [f"{f},{s},{t}" for t, s, f in rows]
    file.write_text("\n".join(table))
    assert subjects(read_layout(laid_out).galleries["G1"]) == subjects(before)


@pytest.mark.parametrize(
    ("file", "line", "content", "says"),
    [
        ("face_tid_mid.txt", 2, "2.jpg 3", r"line 2: expected an image's name and 2 numbers"),
        ("face_tid_mid.txt", 2, "2.jpg x 3", r"line 2: expected an image's name and 2 numbers"),
        (
            "face_tid_mid.txt",
            2,
            "2.jpg 1.5 3",
            r"line 2: expected .*, whole and from 0, found .2.jpg 1.5 3",
        ),
        ("face_tid_mid.txt", 2, "2.jpg -1 3", r"line 2: expected .*, whole and from 0, found"),
        ("face_tid_mid.txt", 2, "../2.jpg 1 3", r"line 2: expected an image's name"),
        ("face_tid_mid.txt", 2, "", r"line 2: expected an image's name .*, found ''"),
        (
            "name_5pts_score.txt",
            3,
            "stranger.png 1 2 3 4 5 6 7 8 9 10 1",
            "line 3: expected the im",
        ),
        ("name_5pts_score.txt", 3, "3.png 1 2 3 4 5 6 7 8 9 nan 1", "line 3: expected an image's"),
        (
            "template_pair_label.txt",
            4,
            "1 5 2",
            r"line 4: expected a label of 0 or 1, found .1 5 2",
        ),
        (
            "template_pair_label.txt",
            4,
            "1 999 0",
            r"line 4: expected two templates of \S+, found .1 999 0",
        ),
        ("template_pair_label.txt", 4, "1 5", "line 4: expected 3 numbers, two templates"),
        ("template_pair_label.txt", 4, "-1 5 0", "line 4: expected 3 numbers, .*found '-1 5 0'"),
        ("1N_gallery_G1.csv", 1, "TEMPLATE,SUBJECT", "line 1: expected a header"),
        (
            "1N_gallery_G2.csv",
            2,
            "x,1,a.png",
            "line 2: expected whole numbers from 0 as TEMPLATE_ID",
        ),
        ("1N_gallery_G2.csv", 2, "1,-1,a.png", "line 2: expected whole numbers from 0"),
        ("1N_gallery_G2.csv", 2, "1," + "9" * 19, "line 2: expected whole numbers from 0"),
        ("1N_gallery_G2.csv", 2, "x" * 200_000, "line 2: expected whole numbers from 0"),
        ("1N_gallery_G2.csv", 2, "7", "line 2: expected whole numbers from 0 as TEMPLATE_ID"),
        ("1N_probe_mixed.csv", 2, "999,1,a.png", "line 2: expected a template that has an image"),
    ],
)
def test_a_line_that_does_not_fit_is_named(
    file: str, line: int, content: str, says: str, laid_out: Path
) -> None:
    path = laid_out / "meta" / f"ijbc_{file}"
    lines = path.read_text().splitlines()
    lines[line - 1] = content
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=says) as caught:
        read_layout(laid_out)
    assert path.name in str(caught.value)


def test_a_template_of_two_subjects(laid_out: Path) -> None:
    path = laid_out / "meta" / "ijbc_1N_probe_mixed.csv"
    first = path.read_text().splitlines()[1].split(",")[0]
    with path.open("a") as file:
        file.write(f"{first},77,a.png\n")
    with pytest.raises(
        DataError, match=f"expected template {first} to be of one subject, .*,77,a.png"
    ):
        read_layout(laid_out)


def test_missing_and_empty_files(tmp_path: Path, laid_out: Path) -> None:
    with pytest.raises(DataError, match=r"no ijbb_face_tid_mid.txt and no ijbc_face_tid_mid"):
        read_layout(tmp_path)
    with pytest.raises(DataError, match=r"no ijbb_face_tid_mid.txt and no"):
        read_layout(tmp_path / ("x" * 5000))
    (laid_out / "meta" / "ijbc_1N_probe_mixed.csv").unlink()
    with pytest.raises(DataError, match=r"there is no table .*probe_mixed.csv"):
        read_layout(laid_out)
    (laid_out / "meta" / "ijbc_name_5pts_score.txt").write_text("")
    with pytest.raises(DataError, match=r"5pts_score.txt is empty"):
        read_layout(laid_out)


def test_tables_of_other_editors(laid_out: Path) -> None:
    """A byte order mark, carriage returns, blanks at the ends and blank lines behind it all."""
    before = read_layout(laid_out)
    for file in sorted((laid_out / "meta").iterdir()):
        text = file.read_text().replace("\n", " \t\r\n")
        file.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n \n\n")
    after = read_layout(laid_out)
    assert after.names == before.names
    for name in ("templates", "media", "points", "scores", "pairs", "same"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    for name, each in before.galleries.items():
        assert subjects(after.galleries[name]) == subjects(each)
    assert subjects(after.probes) == subjects(before.probes)


NO_FACE = {
    "negative": lambda words: [*words[:11], "-1"],
    "zero points": lambda words: [words[0], *["0"] * 10, words[11]],
    "no number": lambda words: [words[0], *["nan"] * 10, words[11]],
}


def without_faces(laid_out: Path, how: str, lines: list[int]) -> list[str]:
    """Change lines of the points' table; return the names of their images."""
    path = laid_out / "meta" / "ijbc_name_5pts_score.txt"
    rows = [line.split() for line in path.read_text().splitlines()]
    for line in lines:
        rows[line - 1] = NO_FACE[how](rows[line - 1])
    path.write_text("".join(" ".join(row) + "\n" for row in rows))
    return [rows[line - 1][0] for line in lines]


@pytest.mark.parametrize("how", NO_FACE)
def test_images_without_a_face_are_refused_by_line_or_left_out(laid_out: Path, how: str) -> None:
    whole = read_layout(laid_out)
    several = np.flatnonzero(np.bincount(whole.templates) == 3)[0]
    line = int(np.flatnonzero(whole.templates == several)[1]) + 1
    alone = int(np.flatnonzero(np.bincount(whole.templates) == 1)[0])
    last = int(np.flatnonzero(whole.templates == alone)[0]) + 1
    names = without_faces(laid_out, how, [line, last])
    with pytest.raises(DataError) as caught:
        read_layout(laid_out)
    first = min(line, last)
    says = rf"5pts_score\.txt, line {first}: expected .* above 0, .*\(2 such lines: .*--skip-bad"
    assert re.search(says, str(caught.value))
    found = read_layout(laid_out, skip_bad=True)
    assert set(found.skipped) == set(names)
    assert found.lost == (alone,)
    assert len(found.names) == len(found.templates) == len(found.scores) == len(whole.names) - 2
    assert not set(names) & set(found.names)
    assert (found.scores > 0).all()
    assert (found.templates == several).sum() == 2
    assert alone not in found.pairs
    assert len(found.pairs) == (whole.pairs != alone).all(axis=1).sum() == len(found.same)
    every = [*found.galleries.values(), found.probes]
    before = [*whole.galleries.values(), whole.probes]
    for each, known in zip(every, before, strict=True):
        assert subjects(each) == {t: s for t, s in subjects(known).items() if t != alone}


def test_a_score_of_0_takes_out_an_image_but_not_a_whole_template(laid_out: Path) -> None:
    whole = read_layout(laid_out)
    several = np.flatnonzero(np.bincount(whole.templates) == 3)[0]
    lines = (np.flatnonzero(whole.templates == several) + 1).tolist()
    NO_FACE["zero score"] = lambda words: [*words[:11], "0"]
    without_faces(laid_out, "zero score", lines[:2])
    rest = read_layout(laid_out)
    assert (rest.scores == 0).sum() == 2
    # the one that had a score cannot be read: none is left
    assert rest.keep(np.delete(np.arange(18), lines[2] - 1)).lost == (several,)
    names = without_faces(laid_out, "zero score", lines[2:])
    with pytest.raises(DataError, match=rf"line {lines[0]}: .*3 such lines: .*the whole template"):
        read_layout(laid_out)
    found = read_layout(laid_out, skip_bad=True)
    assert (found.lost, len(found.skipped)) == ((several,), 3)
    assert set(names) <= set(found.skipped)


def slow_pairs(subjects: np.ndarray, galleries: int, impostors: int, seed: int) -> list[list[int]]:
    """Look through all that is enrolled for each probe."""
    found = []
    for probe in range(galleries, len(subjects)):
        mates = [g for g in range(galleries) if subjects[g] == subjects[probe]]
        others = [g for g in range(galleries) if subjects[g] != subjects[probe]]
        count = min(impostors, len(others))
        chosen = row_rng(seed, probe).choice(np.array(others), count, replace=False)
        found += [[g + 1, probe + 1, 1] for g in mates]
        found += [[g + 1, probe + 1, 0] for g in sorted(chosen.tolist())]
    return found


@pytest.mark.parametrize("impostors", [1, 3, 1000])
def test_pairs_against_a_slow_loop(impostors: int) -> None:
    rng = np.random.default_rng(0)
    subjects = np.concatenate([rng.permutation(30)[:20], rng.integers(0, 30, 50)])
    found = _pairs(subjects, 20, impostors, seed=4)
    assert found.tolist() == slow_pairs(subjects, 20, impostors, 4)


def test_no_probe_goes_through_all_that_is_enrolled(monkeypatch: pytest.MonkeyPatch) -> None:
    """20,000 people would be 4·10⁸ comparisons; each impostor is drawn by its number instead."""

    class Drawn:
        def choice(self, population: int, count: int, replace: bool) -> np.ndarray:
            assert population == 19_999  # a number: no array of the others was made
            return np.arange(count)

    monkeypatch.setattr("mixbct.data.ijb_layout.row_rng", lambda *_: Drawn())
    found = _pairs(np.tile(np.arange(20_000), 2), 20_000, 2, seed=0)
    assert found.shape == (60_000, 3)
    assert (found[:3, 0].tolist(), found[3:6, 0].tolist()) == ([1, 2, 3], [2, 1, 3])


def test_nothing_is_left(laid_out: Path) -> None:
    without_faces(laid_out, "negative", list(range(1, 19)))
    with pytest.raises(DataError, match=r"none of the 18 images of .* can be used"):
        read_layout(laid_out, skip_bad=True)


def test_what_cannot_be_laid_out(tmp_path: Path, folder: FolderSource, make_folder) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(DataError, match="there is there already"):
        lay_out(folder, tmp_path / "there")
    few = FolderSource(make_folder(tmp_path / "few", {"a": 2, "b": 1}), RGB16)
    with pytest.raises(DataError, match="1 persons with two images or more"):
        lay_out(few, tmp_path / "out")
    with pytest.raises(DataError, match="impostors 0"):
        lay_out(folder, tmp_path / "out", impostors=0)
    Image.new("RGB", (16, 20)).save(folder.path / "ann" / "0.png")
    with pytest.raises(DataError, match=r"ann/0.png has 16 × 20 pixels"):
        lay_out(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
