"""Splits: which rows of a source play which part. Index files with a manifest, never copies.

A folder with

    manifest.json   source digest, rule, seed, number of rows a part, digests (`SplitManifest`)
    PART.npy        [n] int64 rows of the source, ascending

The parts are `old_train`, `new_train`, `query` and `gallery` (the last two only where classes are
tested on), and `validation_query` and `validation_gallery` where classes are kept to choose
settings on. No class is in two of training, validation and test. A part is held against its digest
whenever it is opened.
"""

import hashlib
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Int64

from mixbct.data.source import Rows, Selection, Source, left_out
from mixbct.errors import DataError
from mixbct.files import folder_written_whole, sha256_file
from mixbct.reading import open_array
from mixbct.schemas.data import SplitManifest
from mixbct.schemas.record import read_record

Scenario = Literal["open-data", "open-class", "extended-data", "extended-class"]
Order = Literal["seeded", "record"]
# two classes are the least that a classifier, or a search among others, means anything with
_FEWEST_CLASSES = 2


def make_split(
    source: Source,
    out: Path,
    *,
    scenario: Scenario = "extended-class",
    order: Order = "seeded",
    seed: int = 0,
    old_share: float = 0.3,
    test_classes: int | float = 0.2,
    validation_classes: int | float = 0,
    query_share: float = 0.3,
    held_out_groups: Sequence[str] = (),
    skipped: Sequence[str] = (),
) -> SplitManifest:
    """Choose test classes, divide the rest between the old and the new model, and write it down.

    Classes, and the images of each, are put into a seeded order, or stay in the order in which
    the source has them (`record`: the published choice). The first classes (in record order the
    last) are test classes; of the C that are left, the old model gets (Liang et al., arXiv
    2308.06948, section 4.1)

    - `…-class`: all images of the first round(old_share · C) classes;
    - `…-data`: max(1, round(old_share · n)) of the n images of each class, halves to even;

    and the new model everything (`extended-…`) or what the old one did not get (`open-…`; a
    class with one image then goes to both).

    With `held_out_groups`, the queries are the test classes' images in those groups, the gallery
    their other images, only classes with both kinds are tested on, and no image of those groups
    is trained on. Without, `query_share` of each test class's images are queries (at least one,
    never all; a class with one image is in the gallery only).

    Args:
        source: what is split.
        out: the folder to write; the same split may be there already, and is mended if damaged.
        scenario: how the training data of the two models relate.
        order: of classes and of the images of each.
        seed: of the seeded order of classes and the choice of images.
        old_share: the old model's share, in (0, 1).
        test_classes: a number of classes, or a share in (0, 1) of all; 0 where another set is
            tested on.
        validation_classes: the same for validation; in record order they come before the test
            classes, otherwise after them.
        query_share: share of a test class's images that are queries, in (0, 1).
        held_out_groups: groups that are kept for queries.
        skipped: keys to leave out of every part, since they cannot be read. (Records that the
            source left out when it was opened are in the manifest as well.)

    Raises:
        DataError: too few classes, an unknown group or key, or a part without a row.
    """
    for what, value, known in (("scenario", scenario, Scenario), ("order", order, Order)):
        if value not in get_args(known):
            raise DataError(f"{what} {value!r}: choose one of {', '.join(get_args(known))}")
    for name, share in (("old_share", old_share), ("query_share", query_share)):
        if not 0 < share < 1:
            raise DataError(f"{name} is {share}; expected a number between 0 and 1")
    labels = source.labels()
    held_out = _rows_of(source, "group", held_out_groups)
    usable = ~_rows_of(source, "image", skipped)

    # the classes that occur: shuffled, or by the first of each one's rows
    classes, first = np.unique(labels[usable], return_index=True)
    if order == "record":
        classes = classes[np.argsort(first)]
    else:
        classes = np.random.default_rng((seed, 0)).permutation(classes)
    testable = classes
    if held_out_groups:
        both = np.intersect1d(labels[usable & held_out], labels[usable & ~held_out])
        testable = classes[np.isin(classes, both)]
    count = _class_count("test", test_classes, len(classes), len(testable))
    kept = _class_count("validation", validation_classes, len(classes), len(testable) - count)
    if order == "record":
        testable = testable[::-1]
    test, validation = testable[:count], testable[count : count + kept]

    row_order = seed if order == "seeded" else None

    is_test, is_validation = np.isin(labels, test), np.isin(labels, validation)
    trainable = usable & ~is_test & ~is_validation & ~held_out
    train = classes[np.isin(classes, labels[trainable])]
    if scenario.endswith("class"):
        alone, is_old = False, np.isin(labels, train[: round(old_share * len(train))])
    else:
        alone = np.bincount(labels[trainable], minlength=labels.max() + 1)[labels] == 1
        is_old = _share_of_each_class(labels, trainable, old_share, row_order)
    is_new = ~is_old if scenario.startswith("open") else np.ones_like(is_old)
    is_old |= alone

    is_query = held_out
    if not held_out_groups:
        tested = usable & (is_test | is_validation)
        is_query = _share_of_each_class(labels, tested, query_share, row_order)
    chosen = {"old_train": trainable & is_old, "new_train": trainable & is_new}
    for prefix, some, wanted in (("", is_test, count), ("validation_", is_validation, kept)):
        if wanted:
            chosen[f"{prefix}query"] = usable & some & is_query
            chosen[f"{prefix}gallery"] = usable & some & ~is_query
    parts = {part: np.flatnonzero(rows) for part, rows in chosen.items()}
    for part, rows in parts.items():
        found, fewest = len(np.unique(labels[rows])), 1 if "query" in part else _FEWEST_CLASSES
        if found < fewest:
            raise DataError(
                f"too few classes in {source}: {part} would have {len(rows)} images of {found} "
                f"classes, expected {fewest} classes at least; change the shares or add data"
            )

    rule = f"{scenario}: {old_share:.0%} for the old model, {len(train)} training classes"
    if count and held_out_groups:
        rule += f", {count} test classes, queries from the groups {', '.join(held_out_groups)}"
    elif count:
        rule += f", {count} test classes, {query_share:.0%} of each test class as queries"
    if kept:
        rule += f", {kept} validation classes"
    if order == "record":
        rule += ", in record order"
    files = {f"{part}.npy": _npy(rows) for part, rows in parts.items()}
    undigested = SplitManifest(
        source=str(source),
        source_digest=source.digest(),
        rule=rule,
        seed=seed,
        parts={part: len(rows) for part, rows in parts.items()},
        skipped=(*left_out(source), *sorted(skipped)),
    )
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    manifest = undigested.model_copy(update={"digests": digests})
    if (out / "manifest.json").exists():
        there = read_record(out / "manifest.json", SplitManifest, DataError, "split")
        if there not in (manifest, undigested):
            raise DataError(
                f"{out} holds another split ({there.rule}, seed {there.seed}), on which models may "
                "have been trained already: choose another --out, or delete it"
            )
        if all(_is_written(manifest, out / name) for name in files):
            return there
    with folder_written_whole(out) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        (folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def divide(source: Source, query_share: float = 0.3, seed: int = 0) -> dict[str, Rows]:
    """Return the rows of `query` and `gallery` of a source that is a test set as a whole.

    Raises:
        DataError: no class has two items, or there is only one class.
    """
    labels = source.labels()
    is_query = _share_of_each_class(labels, np.ones(len(labels), np.bool_), query_share, seed)
    if not is_query.any() or len(np.unique(labels)) < _FEWEST_CLASSES:
        raise DataError(
            f"{source} is no test set: it needs {_FEWEST_CLASSES} classes at least, and a class of "
            "2 items or more, of which one searches for the others"
        )
    return {"query": np.flatnonzero(is_query), "gallery": np.flatnonzero(~is_query)}


def skips_bad(split: Path) -> bool:
    """Return whether a split was made with images left out: its source is opened as it was then."""
    return bool(read_record(split / "manifest.json", SplitManifest, DataError, "split").skipped)


def open_part(source: Source, split: Path, part: str) -> Selection:
    """Return the rows of one part of a split as a source.

    Raises:
        DataError: there is no such split or part, the split was made from other data, or the part
            is not what was written.
    """
    manifest = read_record(split / "manifest.json", SplitManifest, DataError, "split")
    if manifest.source_digest != source.digest():
        raise DataError(
            f"the split {split} was made from other data ({manifest.source}) than {source}, or "
            "that data has changed since; make the split again with `mixbct data split`"
        )
    if part not in manifest.parts:
        raise DataError(f"{split} has no part {part!r}; choose one of {', '.join(manifest.parts)}")
    shape, path = (manifest.parts[part],), split / f"{part}.npy"
    rows = np.array(open_array(path, "rows", DataError, ("int64",), shape=shape))
    in_order = len(rows) and (np.diff(rows) > 0).all()
    if not in_order or not _is_written(manifest, path):
        how = "was changed after it was written" if in_order else "holds rows out of order"
        raise DataError(
            f"the split {split} is damaged: {path.name} {how}; make it again with "
            "`mixbct data split`"
        )
    return Selection(source, rows)


def _npy(rows: Rows) -> bytes:
    file = io.BytesIO()
    np.save(file, rows)
    return file.getvalue()


def _is_written(manifest: SplitManifest, path: Path) -> bool:
    """Return whether a file is what was written; one of an earlier version's split is taken so."""
    if manifest.digests is None:
        return True
    return path.is_file() and sha256_file(path) == manifest.digests.get(path.name)


def _rows_of(source: Source, what: str, chosen: Sequence[str]) -> Bool[np.ndarray, " n"]:
    """Mark the rows of each `group`, or of each `image` by its key, that is chosen."""
    if not chosen:
        return np.zeros(len(source), np.bool_)
    names = source.groups() if what == "group" else source.keys()
    wanted, known = set(chosen), set(names) - {""}
    if unknown := sorted(wanted - known):
        groups = ", ".join(sorted(known)) or "none"
        more = f"; its groups are: {groups}" if what == "group" else ", which was to be left out"
        raise DataError(f"{source} has no {what} {', '.join(map(repr, unknown[:5]))}{more}")
    return np.array([name in wanted for name in names], dtype=np.bool_)


def _class_count(what: str, wanted: int | float, classes: int, testable: int) -> int:
    if not wanted:
        return 0
    if not 0 < wanted < math.inf:
        raise DataError(f"{wanted} {what} classes; expected a number, or a share between 0 and 1")
    if float(wanted).is_integer():
        wanted = int(wanted)
    count = wanted if isinstance(wanted, int) else round(wanted * classes)
    if not _FEWEST_CLASSES <= count <= testable:
        raise DataError(
            f"{wanted} {what} classes, of {classes} classes ({testable} that can be tested), "
            f"make {count}; expected {_FEWEST_CLASSES} to {testable}: choose another number"
        )
    return count


def _share_of_each_class(
    labels: Int64[np.ndarray, " n"], among: Bool[np.ndarray, " n"], share: float, seed: int | None
) -> Bool[np.ndarray, " n"]:
    """Mark a share of each class's rows in `among`, shuffled or as they come.

    At least one of a class, but never all: none of a class with one.
    """
    rows = np.flatnonzero(among)
    if seed is not None:
        rows = np.random.default_rng((seed, 1)).permutation(rows)
    rows = rows[np.argsort(labels[rows], kind="stable")]
    taken = np.zeros_like(among)
    for some in np.split(rows, np.flatnonzero(np.diff(labels[rows])) + 1):
        taken[some[: min(max(1, round(share * len(some))), len(some) - 1)]] = True
    return taken
