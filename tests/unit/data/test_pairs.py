import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from record_files import jpeg
from test_mutations import mutate

from mixbct.data.images import decode_bytes
from mixbct.data.pairs import read_pairs_bin, read_pairs_text
from mixbct.errors import BadImageError, DataError
from mixbct.schemas.model import Preprocessing

RGB8 = Preprocessing(size=8, channels=3)
IMAGES = [jpeg(i) for i in range(6)]
SAME = [True, False, True]
SHARED = Path(os.environ.get("MIXBCT_SHARED", Path(__file__).parents[3] / ".." / "shared"))


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("as_arrays", [False, True])
def test_a_bin_file(tmp_path: Path, protocol: int, as_arrays: bool) -> None:
    content = (IMAGES, SAME)
    if as_arrays:
        content = ([np.frombuffer(i, np.uint8) for i in IMAGES], np.array(SAME))  # type: ignore[assignment]
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps(content, protocol))
    found = read_pairs_bin(tmp_path / "lfw.bin", RGB8)
    assert found.pairs.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert found.same.tolist() == SAME
    assert found.folds is None
    rows = np.array([4, 1])
    expected = np.stack([decode_bytes(IMAGES[i], RGB8, "") for i in rows])
    np.testing.assert_array_equal(found.images.read(rows), expected)
    images = found.images
    assert len(images) == len(images.keys()) == len(images.labels()) == len(images.groups()) == 6
    assert set(images.labels()) == {0}
    assert images.classes() == ("unknown",)
    assert "lfw.bin" in str(images)


def test_the_digest_follows_the_images(tmp_path: Path) -> None:
    digests = set()
    for images in (IMAGES, IMAGES[::-1], [*IMAGES[:5], jpeg(9)]):
        (tmp_path / "t.bin").write_bytes(pickle.dumps((images, SAME)))
        digests |= {read_pairs_bin(tmp_path / "t.bin", RGB8).images.digest() for _ in range(2)}
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (IMAGES, "expected a pair"),
        ((IMAGES, SAME, SAME), "expected a pair"),
        ((b"x", SAME), "first of the two is not a list of encoded images"),
        (([1, 2], [True]), "first of the two"),
        ((IMAGES, [0, 1, 2]), "second of the two is not a list of booleans"),
        ((IMAGES, b"abc"), "second of the two"),
        ((IMAGES, SAME[:2]), "6 images for 2 pairs"),
        (([], []), "0 images for 0 pairs"),
        (({}, SAME), "uses EMPTY_DICT"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: object, says: str) -> None:
    (tmp_path / "t.bin").write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=rf"t\.bin: .*{says}"):
        read_pairs_bin(tmp_path / "t.bin", RGB8)
    with pytest.raises(DataError, match=r"no verification set at .*none\.bin"):
        read_pairs_bin(tmp_path / "none.bin", RGB8)


@pytest.mark.parametrize(
    "same",
    [np.array([1, 0, 1]), [np.int64(1), np.int64(0), np.int64(1)], [1.0, 0.0, 1.0], [2, 0, 1]],
)
def test_other_labels_than_booleans_come_with_a_remedy(tmp_path: Path, same: object) -> None:
    (tmp_path / "t.bin").write_bytes(pickle.dumps((IMAGES, same)))
    with pytest.raises(DataError, match=r"t\.bin: .*`pickle\.dump.*\[bool\(s\) for s in same"):
        read_pairs_bin(tmp_path / "t.bin", RGB8)
    fixed = ([bytes(i) for i in IMAGES], [bool(s) for s in same])  # type: ignore[attr-defined]
    (tmp_path / "t.bin").write_bytes(pickle.dumps(fixed))
    assert read_pairs_bin(tmp_path / "t.bin", RGB8).same.tolist() == SAME


def test_an_empty_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "t.bin").touch()
    with pytest.raises(DataError, match=r"t\.bin is empty"):
        read_pairs_bin(tmp_path / "t.bin", RGB8)


def test_a_damaged_image_of_a_bin_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.bin").write_bytes(pickle.dumps(([*IMAGES[:5], b"broken"], SAME)))
    with pytest.raises(BadImageError, match="1 of 6 images") as caught:
        read_pairs_bin(tmp_path / "t.bin", RGB8).images.read(np.arange(6))
    assert caught.value.keys == ["5"]


def people(folder: Path) -> Path:
    for name, count in (("Ann_A", 3), ("Bo", 2), ("Cy_D", 1)):
        (folder / name).mkdir(parents=True)
        for i in range(1, count + 1):
            (folder / name / f"{name}_{i:04d}.jpg").write_bytes(jpeg(i))
    return folder


LIST = """2\t2
Ann_A\t1\t3
Bo\t1\t2
Ann_A\t2\tBo\t1
Cy_D\t1\tBo\t2
Ann_A\t1\t2
Ann_A\t2\t3
Bo\t2\tAnn_A\t3
Bo\t1\tCy_D\t1
"""


@pytest.mark.parametrize(
    "text",
    [
        LIST,
        LIST.replace("\t", " "),
        LIST.replace("\n", "\r\n"),
        "\ufeff" + LIST,
        LIST.replace("\n", " \t \n") + "\n \r\n\n",
        LIST.replace("\t", " \t "),
        LIST.replace("\t", "   ").rstrip(),
    ],
)
def test_a_list_of_pairs(tmp_path: Path, text: str) -> None:
    (tmp_path / "pairs.txt").write_text(text, newline="", encoding="utf-8")
    found = read_pairs_text(tmp_path / "pairs.txt", people(tmp_path / "p"), RGB8)
    keys = [Path(key).stem for key in found.images.keys()]  # noqa: SIM118
    named = [(keys[a], keys[b]) for a, b in found.pairs]
    assert named[:4] == [
        ("Ann_A_0001", "Ann_A_0003"),
        ("Bo_0001", "Bo_0002"),
        ("Ann_A_0002", "Bo_0001"),
        ("Cy_D_0001", "Bo_0002"),
    ]
    assert found.same.tolist() == [True, True, False, False] * 2
    assert found.folds is not None
    assert found.folds.tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1: expected the numbers of folds"),
        ("2 x\n", "line 1"),
        ("99999999999999999999 1\n", "line 1"),
        ("999999999 999999999\n", "0 lines of pairs; line 1 says"),
        ("1 0\n", "line 1 says"),
        (LIST.replace("2\t2", "3\t2", 1), r"8 lines of pairs; line 1 says 3 × 2 × 2"),
        (LIST.replace("Bo\t1\t2", "Bo\t1"), "line 3: expected `name i j`"),
        (LIST.replace("Cy_D\t1\tBo\t2", "Cy_D\t1\t2"), "line 5: expected `name i name j`"),
        (
            LIST.replace("Cy_D\t1\tBo\t2", "Cy_D\t1\tBo\t3"),
            "line 5: expected one image 3 of Bo in .*found none",
        ),
    ],
)
def test_a_damaged_list_names_the_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(DataError, match=rf"pairs\.txt.*{says}"):
        read_pairs_text(tmp_path / "pairs.txt", people(tmp_path / "p"), RGB8)


@pytest.mark.skipif(not (SHARED / "data/lfw_pairs.txt").exists(), reason="LFW's list is not here")
def test_the_list_of_lfw(tmp_path: Path) -> None:
    lines = (SHARED / "data/lfw_pairs.txt").read_text().splitlines()[1:]
    for line in lines:
        words = line.split("\t")
        for name, i in ((words[0], words[1]), (words[0 if len(words) == 3 else 2], words[-1])):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{name}_{int(i):04d}.jpg").touch()
    found = read_pairs_text(SHARED / "data/lfw_pairs.txt", tmp_path, RGB8)
    assert (len(found.images), len(found.images.classes())) == (7701, 4281)
    assert found.same.sum() == 3000
    assert found.folds is not None
    assert np.bincount(found.folds).tolist() == [600] * 10
    labels = found.images.labels()[found.pairs]
    np.testing.assert_array_equal(labels[:, 0] == labels[:, 1], found.same)


def test_two_images_of_one_number_are_told_apart_or_refused(tmp_path: Path) -> None:
    """Which of `Bo_0001.jpg` and `Bo_0001.png` is meant, nobody can know."""
    folder = people(tmp_path / "p")
    (folder / "Cy_D/Cy_D_0002.jpg").write_bytes(jpeg(1))
    (folder / "Cy_D/Cy_D_0002.png").write_bytes(jpeg(2))
    (tmp_path / "pairs.txt").write_text(LIST, encoding="utf-8")
    found = read_pairs_text(tmp_path / "pairs.txt", folder, RGB8)
    assert len(found.images) == 8  # the list names neither
    (folder / "Bo/Bo_0001.png").write_bytes(jpeg(9))
    says = r"pairs\.txt, line 3: expected one image 1 of Bo .*found Bo/Bo_0001.jpg, Bo/Bo_0001.png"
    with pytest.raises(DataError, match=says):
        read_pairs_text(tmp_path / "pairs.txt", folder, RGB8)


def test_names_with_other_blanks_are_one_word(tmp_path: Path) -> None:
    name = "山田\u3000太郎\u00a0A"
    (tmp_path / "p" / name).mkdir(parents=True)
    for number in (1, 2):
        (tmp_path / "p" / name / f"{name}_000{number}.jpg").write_bytes(jpeg(number))
    (tmp_path / "pairs.txt").write_text(f"1\n{name} 1 2\n{name} 1 {name} 2\n", encoding="utf-8")
    found = read_pairs_text(tmp_path / "pairs.txt", tmp_path / "p", RGB8)
    assert found.pairs.tolist() == [[0, 1], [0, 1]]


def test_mutated_lists_are_read_or_refused_by_line(tmp_path: Path) -> None:
    folder = people(tmp_path / "p")
    rng = np.random.default_rng(6)
    read = 0
    for number in range(300):
        lines = LIST.encode().split(b"\n")
        if number % 2:  # whole lines and words in other places
            i, j = rng.integers(0, len(lines), 2)
            lines[i], lines[j] = lines[j], lines[i][: rng.integers(20)]
        (tmp_path / "pairs.txt").write_bytes(mutate(b"\n".join(lines), rng))
        try:
            found = read_pairs_text(tmp_path / "pairs.txt", folder, RGB8)
        except DataError as error:
            assert "pairs.txt" in str(error)  # noqa: PT017
        else:
            assert found.pairs.shape == (len(found.same), 2)
            assert 0 <= found.pairs.min() <= found.pairs.max() < len(found.images)
            read += 1
    assert 0 < read < 300
