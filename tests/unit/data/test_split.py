import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixbct.data.array import ArraySource, write_array
from mixbct.data.source import Source
from mixbct.data.split import make_split, open_part
from mixbct.errors import DataError
from mixbct.schemas.data import SplitManifest

PARTS = ("old_train", "new_train", "query", "gallery")


def make_source(path: Path, labels: list[int], groups: list[str] | None = None) -> Source:
    """Images whose first pixel is the row."""
    count = len(labels)
    write_array(
        path,
        np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8),
        np.array(labels),
        [f"c{i}" for i in range(max(labels) + 1)],
        [f"k{i}" for i in range(count)],
        groups or [],
        "t",
        {},
    )
    return ArraySource(path)


def uneven(classes: int = 20) -> list[int]:
    """Class i has 1 + i % 7 images, in a mixed order; label 3 is a gap."""
    labels = [i for i in range(classes) for _ in range(1 + i % 7) if i != 3]
    return np.random.default_rng(5).permutation(labels).tolist()


def split(source: Source, out: Path, **options: Any) -> dict[str, set[str]]:
    make_split(source, out, **options)
    return {part: set(open_part(source, out, part).keys()) for part in PARTS}


def classes_of(source: Source, keys: set[str]) -> dict[int, int]:
    """Number of rows a label among `keys`."""
    counts: dict[int, int] = {}
    for key, label in zip(source.keys(), source.labels().tolist(), strict=True):
        if key in keys:
            counts[label] = counts.get(label, 0) + 1
    return counts


@pytest.mark.parametrize("scenario", ["open-data", "open-class", "extended-data", "extended-class"])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_scenario_by_its_rule(tmp_path: Path, scenario: str, seed: int) -> None:
    source = make_source(tmp_path / "s", uneven())
    parts = split(source, tmp_path / "split", scenario=scenario, seed=seed, test_classes=5)
    old, new = parts["old_train"], parts["new_train"]
    test = parts["query"] | parts["gallery"]
    sizes = classes_of(source, set(source.keys()))
    assert len(classes_of(source, test)) == 5
    assert not set(classes_of(source, test)) & set(classes_of(source, old | new))
    assert test | old | new == set(source.keys())
    trained = classes_of(source, old | new)
    assert len(trained) == 19 - 5
    if scenario.endswith("class"):
        assert len(classes_of(source, old)) == round(0.3 * 14) == 4
        assert all(count == sizes[c] for c, count in classes_of(source, old).items())
        assert new == (set(source.keys()) - test if scenario == "extended-class" else new - old)
    else:
        # METHODS: max(1, round(0.3 n)), halves to even: 1.5 → 2
        by_rule = {1: 1, 2: 1, 3: 1, 4: 1, 5: 2, 6: 2, 7: 2}
        assert classes_of(source, old) == {c: by_rule[n] for c, n in trained.items()}
        if scenario == "extended-data":
            assert new == set(source.keys()) - test
        else:
            single = {c for c, n in trained.items() if n == 1}
            assert single
            assert set(classes_of(source, old & new)) == single
    if scenario == "open-class":
        assert not set(classes_of(source, old)) & set(classes_of(source, new))


def test_halves_go_to_even_and_a_large_share_leaves_an_image(tmp_path: Path) -> None:
    labels = [c for c, n in enumerate([5, 15, 2, 2, 2, 1, 9, 9]) for _ in range(n)]
    source = make_source(tmp_path / "s", labels)
    for share, want in (
        (0.3, {5: 2, 15: 4, 2: 1, 1: 1, 9: 3}),
        (0.9, {5: 4, 15: 14, 2: 1, 1: 1, 9: 8}),
    ):
        parts = split(
            source,
            tmp_path / f"split-{share}",
            scenario="open-data",
            test_classes=2,
            old_share=share,
        )
        sizes = classes_of(source, set(source.keys()))
        for label, count in classes_of(source, parts["old_train"]).items():
            assert count == want[sizes[label]]
        assert (
            classes_of(source, parts["new_train"]).keys()
            == classes_of(source, parts["old_train"]).keys()
        )


def test_queries_are_a_share_of_each_class_and_never_all(tmp_path: Path) -> None:
    labels = [c for c, n in enumerate([1, 2, 3, 10] * 5) for _ in range(n)]
    source = make_source(tmp_path / "s", labels)
    parts = split(source, tmp_path / "split", test_classes=12, query_share=0.5)
    assert not parts["query"] & parts["gallery"]
    sizes = classes_of(source, parts["query"] | parts["gallery"])
    assert len(sizes) == 12
    queries = classes_of(source, parts["query"])
    assert {c: queries.get(c, 0) for c in sizes} == {
        c: {1: 0, 2: 1, 3: 2, 10: 5}[n] for c, n in sizes.items()
    }
    tiny = split(source, tmp_path / "tiny", test_classes=12, query_share=0.01)
    with pytest.raises(DataError, match="holds another split"):
        split(source, tmp_path / "split", test_classes=12, query_share=0.01)
    assert {c: classes_of(source, tiny["query"]).get(c, 0) for c in sizes} == {
        c: min(1, n - 1) for c, n in sizes.items()
    }


def test_held_out_groups_are_queries_and_nothing_else(tmp_path: Path) -> None:
    labels = [c for c in range(26) for _ in range(4)]
    groups = ["w", "x", "y", "z"] * 26
    # class 0 has no held-out image, class 1 nothing else: neither can be tested on
    groups[:4] = ["w", "w", "x", "x"]
    groups[4:8] = ["y", "z", "y", "z"]
    source = make_source(tmp_path / "s", labels, groups)
    parts = split(source, tmp_path / "split", held_out_groups=("y", "z"), test_classes=18)
    group_of = dict(zip(source.keys(), source.groups(), strict=True))
    assert {group_of[k] for k in parts["query"]} == {"y", "z"}
    for part in ("old_train", "new_train", "gallery"):
        assert {group_of[k] for k in parts[part]} <= {"w", "x"}
    tested = classes_of(source, parts["query"])
    assert tested == classes_of(source, parts["gallery"])
    assert len(tested) == 18
    assert not {0, 1} & set(tested)


def test_held_out_split_fails_when_only_classes_without_training_rows_stay(tmp_path: Path) -> None:
    source = make_source(tmp_path / "s", [0, 0, 1, 1, 2, 2, 3, 3], ["x", "y"] * 4)
    with pytest.raises(DataError, match="too few classes"):
        make_split(source, tmp_path / "split", held_out_groups=("y",), test_classes=4)


def test_skipped_images_are_in_no_part_and_in_the_manifest(tmp_path: Path) -> None:
    source = make_source(tmp_path / "s", uneven())
    skipped = ("k3", "k1")
    parts = split(source, tmp_path / "split", skipped=skipped)
    assert set.union(*parts.values()) == set(source.keys()) - set(skipped)
    manifest = SplitManifest.model_validate_json((tmp_path / "split/manifest.json").read_bytes())
    assert manifest.skipped == ("k1", "k3")


def test_same_seed_same_split_other_seed_another(tmp_path: Path) -> None:
    source = make_source(tmp_path / "s", uneven())
    splits = [split(source, tmp_path / f"{i}", seed=seed) for i, seed in enumerate((7, 7, 8))]
    assert splits[0] == splits[1]
    assert splits[0] != splits[2]


def test_rows_ascend_and_the_manifest_counts_them(tmp_path: Path) -> None:
    source = make_source(tmp_path / "s", uneven())
    manifest = make_split(source, tmp_path / "split", test_classes=0.25)
    assert manifest.source_digest == source.digest()
    assert str(tmp_path / "s") in manifest.source
    assert "5 test classes" in manifest.rule  # a quarter of 19
    for part in PARTS:
        rows = np.load(tmp_path / "split" / f"{part}.npy")
        assert rows.dtype == np.int64
        assert (np.diff(rows) > 0).all()
        assert manifest.parts[part] == len(rows)


def test_a_part_reads_its_own_images(tmp_path: Path) -> None:
    source = make_source(tmp_path / "s", uneven())
    make_split(source, tmp_path / "split")
    part = open_part(source, tmp_path / "split", "query")
    pixels = part.read(np.arange(len(part)))[:, 0, 0, 0]
    assert [f"k{row}" for row in pixels] == part.keys()


def test_other_data_an_unknown_part_and_no_split_are_refused(tmp_path: Path) -> None:
    source = make_source(tmp_path / "s", uneven())
    make_split(source, tmp_path / "split")
    other = make_source(tmp_path / "other", uneven(21))
    with pytest.raises(DataError, match=r"made from other data .*array .*/s\) than .*/other"):
        open_part(other, tmp_path / "split", "query")
    with pytest.raises(DataError, match="no part 'test'; choose one of old_train, new_train"):
        open_part(source, tmp_path / "split", "test")
    with pytest.raises(DataError, match="no split at"):
        open_part(source, tmp_path / "nowhere", "query")


@pytest.mark.parametrize(
    "content",
    [None, b"", np.arange(3), np.arange(3.0), np.arange(57).repeat(2)[:58], np.arange(58)[::-1]],
)
def test_a_damaged_part_is_refused(tmp_path: Path, content: Any) -> None:
    source = make_source(tmp_path / "s", uneven())
    make_split(source, tmp_path / "split")
    path = tmp_path / "split" / "new_train.npy"
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(DataError, match=r"new_train"):
        open_part(source, tmp_path / "split", "new_train")


def flip(path: Path, byte: int) -> None:
    """Flip the lowest bit of one byte, from the end."""
    content = bytearray(path.read_bytes())
    content[-byte] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_is_found_and_the_same_split_mends_it(tmp_path: Path) -> None:
    source = make_source(tmp_path / "s", [i // 10 for i in range(100)])
    out = tmp_path / "split"
    manifest = make_split(source, out, test_classes=2)
    assert manifest.digests is not None
    for part in PARTS:
        path = out / f"{part}.npy"
        whole = path.read_bytes()
        assert manifest.digests[path.name] == hashlib.sha256(whole).hexdigest()
        # a change that leaves the rows ascending and in range
        rows = np.frombuffer(whole[-8 * manifest.parts[part] :], np.int64)
        at = next(i for i, row in enumerate(rows) if row ^ 1 not in rows or i == len(rows) - 1)
        flip(path, 8 * (len(rows) - at))
        with pytest.raises(DataError, match=rf"{part}\.npy .*mixbct data split"):
            open_part(source, out, part)
        assert make_split(source, out, test_classes=2) == manifest
        assert path.read_bytes() == whole
    rows = np.load(out / "query.npy")
    other = np.setdiff1d(np.arange(rows[0] + 1, 100), rows)[0]
    np.save(out / "query.npy", np.sort([*rows[1:], other]))
    with pytest.raises(DataError, match=r"query\.npy was changed after .*`mixbct data split`"):
        open_part(source, out, "query")
    (out / "query.npy").unlink()
    make_split(source, out, test_classes=2)
    assert len(open_part(source, out, "query")) == len(rows)


def test_a_split_of_an_earlier_version_has_no_digests(tmp_path: Path) -> None:
    source = make_source(tmp_path / "s", uneven())
    manifest = make_split(source, tmp_path / "split")
    earlier = manifest.model_copy(update={"digests": None})
    assert "digests" not in earlier.to_json()
    (tmp_path / "split/manifest.json").write_text(earlier.to_json(), encoding="utf-8")
    assert len(open_part(source, tmp_path / "split", "query")) == manifest.parts["query"]
    assert make_split(source, tmp_path / "split") == earlier
    with pytest.raises(DataError, match="holds another split"):
        make_split(source, tmp_path / "split", seed=1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"test_classes": 1}, "expected 2 to 19"),
        ({"test_classes": float("nan")}, "nan test classes; expected a number, or a share"),
        ({"validation_classes": float("inf")}, "inf validation classes; expected a number"),
        ({"test_classes": -3}, "-3 test classes; expected a number"),
        ({"test_classes": 20}, "make 20; expected 2 to 19"),
        ({"test_classes": 0.01}, "make 0; expected 2"),
        ({"test_classes": 18}, "old_train would have .* of 0 classes"),
        ({"test_classes": 16}, "old_train would have .* of 1 classes"),
        ({"old_share": 0.0}, "old_share is 0.0"),
        ({"query_share": 1.0}, "query_share is 1.0"),
        ({"held_out_groups": ("q", "x")}, "no group 'q', 'x'; its groups are: none"),
        ({"skipped": ("k999",)}, "no image 'k999'"),
    ],
)
def test_what_cannot_be_split_is_refused(
    tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    source = make_source(tmp_path / "s", uneven())
    with pytest.raises(DataError, match=says):
        make_split(source, tmp_path / "split", **options)
    assert not (tmp_path / "split").exists()


def test_unknown_groups_list_the_known(tmp_path: Path) -> None:
    source = make_source(tmp_path / "s", [0, 0, 1, 1], ["x", "y", "x", "y"])
    with pytest.raises(DataError, match="no group 'q'; its groups are: x, y"):
        make_split(source, tmp_path / "split", held_out_groups=("x", "q"))


def test_test_classes_with_one_image_each_leave_no_query(tmp_path: Path) -> None:
    source = make_source(tmp_path / "s", list(range(20)))
    with pytest.raises(DataError, match="query would have 0 images"):
        make_split(source, tmp_path / "split")


@pytest.mark.parametrize("share", [0.3, 0.5])
def test_record_order_is_the_published_rule(tmp_path: Path, share: float) -> None:
    """The first round(share · C) classes, the first max(1, round(share · n)) images of each."""
    labels = np.repeat(np.random.default_rng(3).permutation(15), np.arange(15) % 6 + 1).tolist()
    rows_of = {label: [i for i, x in enumerate(labels) if x == label] for label in labels}
    source = make_source(tmp_path / "s", labels)
    first = list(rows_of)[: round(share * len(rows_of))]
    by_class = {f"k{i}" for label in first for i in rows_of[label]}
    by_image = {f"k{i}" for r in rows_of.values() for i in r[: max(1, round(share * len(r)))]}
    for scenario, expected in (("extended-class", by_class), ("extended-data", by_image)):
        make_split(
            source,
            tmp_path / scenario,
            scenario=scenario,  # type: ignore[arg-type]
            order="record",
            old_share=share,
            test_classes=0,
        )
        assert set(open_part(source, tmp_path / scenario, "old_train").keys()) == expected
        assert len(open_part(source, tmp_path / scenario, "new_train")) == len(labels)
        with pytest.raises(DataError, match="no part 'query'"):
            open_part(source, tmp_path / scenario, "query")


def test_the_published_numbers_of_classes_and_images(tmp_path: Path) -> None:
    """MS1Mv3 has 93,431 classes; 0.3 of 5 and of 15 images are halves, which go to the even."""

    class Numbers(Source):
        """93,431 classes of 1 to 15 images, without the images."""

        def __init__(self) -> None:
            self.counts = 1 + np.arange(93_431) % 15
            super().__init__("numbers", [], np.repeat(np.arange(93_431), self.counts), ())

        def read(self, rows: np.ndarray) -> np.ndarray:
            raise NotImplementedError

        def digest(self) -> str:
            return "numbers"

    source = Numbers()
    options: dict[str, Any] = {"order": "record", "test_classes": 0}
    make_split(source, tmp_path / "c", scenario="extended-class", **options)
    rows = np.load(tmp_path / "c/old_train.npy")
    assert len(np.unique(source.labels()[rows])) == 28_029
    assert rows.tolist() == list(range(len(rows)))
    make_split(source, tmp_path / "d", scenario="extended-data", **options)
    taken = np.bincount(source.labels()[np.load(tmp_path / "d/old_train.npy")])
    assert taken[:15].tolist() == [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 4, 4, 4, 4]
    assert taken.tolist() == [taken[i % 15] for i in range(93_431)]


def test_record_order_tests_on_the_last_classes(tmp_path: Path) -> None:
    source = make_source(tmp_path / "s", [c for c in (4, 2, 0, 3, 1) for _ in range(4)])
    parts = split(source, tmp_path / "split", order="record", test_classes=2, old_share=0.7)
    assert parts["old_train"] == {f"k{i}" for i in range(8)}
    assert parts["new_train"] == {f"k{i}" for i in range(12)}
    assert parts["query"] == {"k12", "k16"}
    assert parts["gallery"] == {"k13", "k14", "k15", "k17", "k18", "k19"}


@pytest.mark.parametrize("order", ["seeded", "record"])
def test_validation_classes_are_neither_trained_nor_tested_on(tmp_path: Path, order: Any) -> None:
    source = make_source(tmp_path / "s", [c for c in range(12) for _ in range(4)])
    options: dict[str, Any] = {"order": order, "test_classes": 4}
    make_split(source, tmp_path / "split", validation_classes=3, **options)
    classes = {
        part: set(classes_of(source, set(open_part(source, tmp_path / "split", part).keys())))
        for part in (*PARTS, "validation_query", "validation_gallery")
    }
    assert classes["query"] == classes["gallery"]
    assert classes["validation_query"] == classes["validation_gallery"]
    counts = [len(classes[part]) for part in ("new_train", "query", "validation_query")]
    assert counts == [5, 4, 3]
    sides = classes["new_train"] | classes["query"] | classes["validation_query"]
    assert sides == set(range(12))
    # the test set is the one that there would be without
    make_split(source, tmp_path / "plain", **options)
    plain = open_part(source, tmp_path / "plain", "query").keys()
    assert set(classes_of(source, set(plain))) == classes["query"]
