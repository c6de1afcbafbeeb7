"""What every source must do, run on each of them."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixbct.data.array import ArraySource, write_array
from mixbct.data.folder import FolderSource
from mixbct.data.record_index import record_writer
from mixbct.data.records import RecordSource
from mixbct.data.source import Selection, Source
from mixbct.schemas.model import Preprocessing

RGB8 = Preprocessing(size=8, channels=3)
NAMES = ["b", "a", "字"]  # classes, as they occur
PER_CLASS = 3

Content = dict[str, np.ndarray]  # key "class/file" → pixels
Build = Callable[[Path, Content], Source]


def content() -> Content:
    rng = np.random.default_rng(0)
    return {
        f"{name}/{i}.png": rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        for name in NAMES
        for i in range(PER_CLASS)
    }


def build_folder(path: Path, images: Content) -> Source:
    for key, pixels in images.items():
        (path / key).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path / key)
    return FolderSource(path, RGB8)


def build_array(path: Path, images: Content) -> Source:
    classes = sorted({key.split("/")[0] for key in images} | {"never seen"})
    keys = list(images)
    labels = np.array([classes.index(key.split("/")[0]) for key in keys])
    groups = ["odd" if i % 2 else "even" for i in range(len(keys))]
    write_array(path, np.stack(list(images.values())), labels, classes, keys, groups, "t", {})
    return ArraySource(path)


def build_records(path: Path, images: Content) -> Source:
    path.mkdir()
    classes = sorted({key.split("/")[0] for key in images})
    with record_writer(path / "train.rec") as writer:
        for key, pixels in images.items():
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            number = classes.index(key.split("/")[0])
            writer.write(record_key(key), [number], file.getvalue())
    (path / "train.classes.txt").write_text("".join(f"{name}\n" for name in classes))
    source = RecordSource(path, RGB8)
    source.workers = 2
    return source


def record_key(key: str) -> int:
    """Number the nine images as they come; a renamed one gets the next number."""
    known = list(content())
    return known.index(key) if key in known else len(known)


def content_keys(source: Source) -> list[str]:
    """Return the keys of a source as `content` has them."""
    if not isinstance(source, RecordSource):
        return source.keys()
    keys = source.keys()
    return [f"{key[0]}/9.png" if int(key) == 9 else list(content())[int(key)] for key in keys]


def build_selection(path: Path, images: Content) -> Source:
    decoy = {"decoy/0.png": np.zeros((8, 8, 3), np.uint8)}
    whole = build_array(path, {**decoy, **images})
    return Selection(whole, np.arange(len(images), 0, -1))


@pytest.fixture(params=[build_folder, build_array, build_records, build_selection])
def build(request: pytest.FixtureRequest) -> Build:
    return request.param  # type: ignore[no-any-return]


def test_rows_labels_and_keys_fit(build: Build, tmp_path: Path) -> None:
    images = content()
    source = build(tmp_path / "s", images)
    assert isinstance(source, Source)
    assert len(source) == len(images) == len(source.keys()) == len(source.groups())
    assert len(set(source.keys())) == len(images)
    assert sorted(content_keys(source)) == sorted(images)
    assert source.labels().dtype == np.int64
    assert source.labels().shape == (len(images),)
    for key, label in zip(content_keys(source), source.labels(), strict=True):
        assert source.classes()[label] == key.split("/")[0]
    assert len(set(source.classes())) == len(source.classes())
    assert str(tmp_path / "s") in str(source)


def test_read_gives_the_rows_asked_for_in_order(build: Build, tmp_path: Path) -> None:
    images = content()
    source = build(tmp_path / "s", images)
    rows = np.array([5, 0, 5, 8, 1])
    got = source.read(rows)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, np.stack([images[content_keys(source)[i]] for i in rows]))


def test_read_of_no_rows_is_empty(build: Build, tmp_path: Path) -> None:
    assert build(tmp_path / "s", content()).read(np.array([], np.int64)).shape == (0, 8, 8, 3)


def test_what_was_read_may_be_written_to(build: Build, tmp_path: Path) -> None:
    source = build(tmp_path / "s", content())
    rows = np.array([0, 1])
    before = source.read(rows).copy()
    source.read(rows)[:] = 7
    np.testing.assert_array_equal(source.read(rows), before)


def test_two_builds_agree(build: Build, tmp_path: Path) -> None:
    a, b = build(tmp_path / "a", content()), build(tmp_path / "b", content())
    assert a.keys() == b.keys()
    assert a.classes() == b.classes()
    assert a.digest() == a.digest() == b.digest()
    rows = np.arange(len(a))
    np.testing.assert_array_equal(a.read(rows), b.read(rows))


def changed_pixels(images: Content) -> Content:
    # a flat image also has another size as a file
    return {**images, "a/1.png": np.zeros((8, 8, 3), np.uint8)}


def changed_key(images: Content) -> Content:
    return {("a/9.png" if key == "a/1.png" else key): v for key, v in images.items()}


def changed_label(images: Content) -> Content:
    return {("b/9.png" if key == "a/1.png" else key): v for key, v in images.items()}


def fewer(images: Content) -> Content:
    return dict(list(images.items())[:-1])


@pytest.mark.parametrize("change", [changed_pixels, changed_key, changed_label, fewer])
def test_digest_follows_the_content(
    build: Build, tmp_path: Path, change: Callable[[Content], Content]
) -> None:
    before = build(tmp_path / "a", content()).digest()
    assert build(tmp_path / "b", change(content())).digest() != before


def test_digest_of_a_selection_follows_its_rows_and_their_order(tmp_path: Path) -> None:
    whole = build_array(tmp_path / "s", content())
    rows = [[0, 1, 2], [0, 2, 1], [0, 1, 3], [0, 1]]
    digests = {Selection(whole, np.array(r)).digest() for r in rows}
    assert len(digests | {whole.digest()}) == len(rows) + 1
