"""IJB-B and IJB-C as the field passes them on, and any set that is laid out like them.

loose_crop/NAME                        the images, cut out loosely
meta/PREFIX_face_tid_mid.txt           NAME TEMPLATE MEDIA, a line an image
meta/PREFIX_name_5pts_score.txt        NAME x1 y1 … x5 y5 SCORE, the same images in the same order
meta/PREFIX_template_pair_label.txt    TEMPLATE TEMPLATE LABEL, 1 for one subject, 0 for two
meta/PREFIX_1N_gallery_G1.csv, …_G2    TEMPLATE_ID, SUBJECT_ID and more, a line an image (…_S1 and
                                       …_S2 in IJB-B)
meta/PREFIX_1N_probe_mixed.csv         the same

PREFIX is `ijbb` or `ijbc`.
"""

import csv
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from mixbct.data.alignment import align
from mixbct.data.images import decode_unscaled, read_image
from mixbct.data.source import EncodedSource, Rows, digest_rows
from mixbct.errors import BadImageError, DataError
from mixbct.reading import is_whole, read_integers, read_lines_of, shown, wrong_line
from mixbct.schemas.model import Preprocessing

IMAGES = "loose_crop"
META = "meta"

_GALLERIES = {"ijbb": ("S1", "S2"), "ijbc": ("G1", "G2")}


@dataclass(frozen=True)
class Subjects:
    """Templates of a gallery, or of the probes, with the subject of each.

    Args:
        templates: [t] ids.
        subjects: [t] ids.
    """

    templates: Int64[np.ndarray, " t"]
    subjects: Int64[np.ndarray, " t"]


@dataclass(frozen=True)
class IjbLayout:
    """What the files of a layout say; made by `read_layout`.

    Args:
        path: the folder.
        names: of the images, in the order of the files.
        templates: [n] template id of each image.
        media: [n] media id of each image.
        points: [n, 5, 2] eyes, nose and corners of the mouth, (x, y) in pixels.
        scores: [n] of the face detector.
        pairs: [p, 2] template ids.
        same: [p] whether a pair is of one subject.
        galleries: the two galleries by name.
        probes: the probes of the 1:N protocol.
        skipped: names of images that were left out.
        lost: templates that no image is left of; they take part in nothing.
    """

    path: Path
    names: tuple[str, ...]
    templates: Int64[np.ndarray, " n"]
    media: Int64[np.ndarray, " n"]
    points: Float32[np.ndarray, "n 5 2"]
    scores: Float32[np.ndarray, " n"]
    pairs: Int64[np.ndarray, "p 2"]
    same: Bool[np.ndarray, " p"]
    galleries: dict[str, Subjects]
    probes: Subjects
    skipped: tuple[str, ...] = ()
    lost: tuple[int, ...] = ()

    def keep(self, rows: Int64[np.ndarray, " k"]) -> "IjbLayout":
        """Return the layout of some of its images (rows, ascending), without unscored templates.

        Raises:
            DataError: there is none.
        """
        if len(rows) == len(self.names):
            return self
        rows = rows[_in_scored(self.templates[rows], self.scores[rows])]
        if not len(rows):
            raise DataError(f"none of the {len(self.names)} images of {self.path} can be used")
        left = np.unique(self.templates[rows])
        gone = np.delete(np.arange(len(self.names)), rows)
        paired = np.isin(self.pairs, left).all(axis=1)

        def some(of: Subjects) -> Subjects:
            chosen = np.isin(of.templates, left)
            return Subjects(of.templates[chosen], of.subjects[chosen])

        columns = "templates", "media", "points", "scores"
        images = {name: getattr(self, name)[rows] for name in columns}
        return replace(
            self,
            **images,
            names=tuple(self.names[row] for row in rows),
            pairs=self.pairs[paired],
            same=self.same[paired],
            galleries={name: some(each) for name, each in self.galleries.items()},
            probes=some(self.probes),
            skipped=(*self.skipped, *(self.names[row] for row in gone)),
            lost=(*self.lost, *np.setdiff1d(self.templates, left).tolist()),
        )


def read_layout(path: Path, skip_bad: bool = False) -> IjbLayout:
    """Read the files in `path/meta`; images are read later (`IjbImages`).

    Args:
        path: the folder.
        skip_bad: leave out images in which the detector found no face: their score is negative,
            or 0 as all others of the template, their points are all 0, or one is no number.

    Raises:
        DataError: a file is missing or has a line that does not fit, the files name different
            images or templates, or no face was found; it says which file and line.
    """
    meta = path / META
    tables = {p: meta / f"{p}_face_tid_mid.txt" for p in _GALLERIES}
    # the path's own method raises where a name is too long
    here = (p for p, table in tables.items() if os.path.exists(table))  # noqa: PTH110
    if (prefix := next(here, None)) is None:
        raise DataError(
            f"{shown(meta)} holds no ijbb_face_tid_mid.txt and no ijbc_face_tid_mid.txt; expected "
            "the layout of IJB-B or IJB-C, which `mixbct data ijb-layout` makes from class folders"
        )
    what = "an image's name and 2 numbers, its template and its media, whole and from 0"
    images = _Named(tables[prefix], 2, what)
    ids = images.numbers
    images.check((ids >= 0) & (ids < 2**53) & (ids == np.floor(ids)))
    images.check(np.array([n[0] != "/" and ".." not in n.split("/") for n in images.names]))
    what = "an image's name and 11 numbers, five points and the detector's score, above 0"
    faces = _Named(meta / f"{prefix}_name_5pts_score.txt", 11, what)
    if images.names != faces.names:
        both = zip(images.names, faces.names, strict=False)
        fewer = min(len(images.names), len(faces.names))
        line = next((i for i, (a, b) in enumerate(both) if a != b), fewer)
        raise DataError(
            f"{faces.path}, line {line + 1}: expected the image that stands on that line of "
            f"{images.path.name} (they have {len(faces.names)} and {len(images.names)} lines)"
        )
    with np.errstate(over="ignore"):
        numbers = faces.numbers.astype(np.float32)
    templates, media = ids.astype(np.int64).T
    known = np.unique(templates)
    found = np.isfinite(numbers).all(axis=1) & numbers[:, :10].any(axis=1) & (numbers[:, 10] >= 0)
    found &= _in_scored(templates, np.where(found, numbers[:, 10], 0))
    if not skip_bad:
        faces.check(
            found,
            f" ({int((~found).sum())} such lines: no face was found there, or none in the whole "
            "template; leave such images out with --skip-bad)",
        )
    pair_file = meta / f"{prefix}_template_pair_label.txt"
    table = read_integers(pair_file, 3, "3 numbers, two templates and a label of 0 or 1,")
    for good, expected in (
        (table[2] <= 1, "a label of 0 or 1"),
        (np.isin(table[:2], known).T, f"two templates of {images.path.name}"),
    ):
        if (row := _first_wrong(good)) is not None:
            there = " ".join(map(str, table[:, row]))
            raise DataError(wrong_line(pair_file, row + 1, expected, there))
    if not table.size:
        raise DataError(f"{pair_file} is empty; expected two templates and 0 or 1 a line")
    layout = IjbLayout(
        path=path,
        names=images.names,
        templates=templates,
        media=media,
        points=numbers[:, :10].reshape(-1, 5, 2),
        scores=numbers[:, 10],
        pairs=np.ascontiguousarray(table[:2].T),
        same=table[2] == 1,
        galleries={
            name: _read_subjects(meta / f"{prefix}_1N_gallery_{name}.csv", known)
            for name in _GALLERIES[prefix]
        },
        probes=_read_subjects(meta / f"{prefix}_1N_probe_mixed.csv", known),
    )
    return layout.keep(np.flatnonzero(found))


def _in_scored(templates: Rows, scores: Float32[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Return which images are of a template that has a score above 0; others' vectors are 0."""
    _, places = np.unique(templates, return_inverse=True)
    return np.asarray((np.bincount(places, scores > 0) > 0)[places])


class _Named:
    """A table of images' names with `columns` numbers each; `numbers` is [n, columns] float64."""

    def __init__(self, path: Path, columns: int, what: str) -> None:
        self.path, self._what = path, what
        self._lines = read_lines_of(path, "table of images")
        if not self._lines:
            raise DataError(f"{path} is empty; expected lines of {what}")
        rows = [_numbers(line.split()[1:]) for line in self._lines]
        self.check(np.array([len(row) == columns for row in rows]))
        self.numbers = np.array(rows, np.float64)
        self.names = tuple(line.split()[0] for line in self._lines)

    def check(self, good: Bool[np.ndarray, "n ..."], advice: str = "") -> None:
        """Refuse the first line for which `good` is not true."""
        if (row := _first_wrong(good)) is not None:
            raise DataError(wrong_line(self.path, row + 1, self._what, self._lines[row]) + advice)


def _numbers(words: list[str]) -> list[float]:
    try:
        return list(map(float, words))
    except ValueError:
        return []


def _first_wrong(good: Bool[np.ndarray, "n ..."]) -> int | None:
    """Return the first row for which `good` is not true throughout."""
    rows = good.reshape(len(good), -1).all(axis=1) if len(good) else good
    return None if rows.all() else int(np.argmin(rows))


def _read_subjects(path: Path, known: Int64[np.ndarray, " k"]) -> Subjects:
    """Read a gallery's or the probes' table; a template may have many lines, one an image."""
    text = read_lines_of(path, "table of templates and subjects")
    lines = csv.reader(text)
    ids = set(known.tolist())
    found: dict[int, int] = {}

    def wrong(expected: str) -> DataError:
        line = max(lines.line_num, 1)
        return DataError(wrong_line(path, line, expected, text[line - 1] if text else ""))

    expected = "a header with TEMPLATE_ID and SUBJECT_ID"
    try:
        header = [name.strip().lower() for name in next(lines, [])]
        places = header.index("template_id"), header.index("subject_id")
        expected = "whole numbers from 0 as TEMPLATE_ID and SUBJECT_ID"
        for row in lines:
            words = [row[place].strip() for place in places]
            if not all(map(is_whole, words)):
                raise wrong(expected)
            template, subject = map(int, words)
            if template not in ids:
                raise wrong("a template that has an image in face_tid_mid.txt")
            if (one := found.setdefault(template, subject)) != subject:
                raise wrong(f"template {template} to be of one subject, {one} as above")
    except (ValueError, IndexError, csv.Error):
        raise wrong(expected) from None
    if not found:
        raise DataError(f"{path} names no template")
    return Subjects(np.array(list(found), np.int64), np.array(list(found.values()), np.int64))


class IjbImages(EncodedSource):
    """The images of a layout as a source, aligned by their five points; a class is a template.

    Args:
        layout: what `read_layout` found.
        preprocessing: the size and number of channels of what is returned.
    """

    def __init__(self, layout: IjbLayout, preprocessing: Preprocessing) -> None:
        self._layout = layout
        ids, labels = np.unique(layout.templates, return_inverse=True)
        classes = tuple(str(i) for i in ids)
        name = f"IJB layout {layout.path}"
        super().__init__(name, list(layout.names), labels, classes, preprocessing=preprocessing)

    def encoded(self, row: int) -> bytes:
        """Return the content of a row's file, which is not aligned.

        Raises:
            BadImageError: the file cannot be read.
        """
        return read_image(self._layout.path / IMAGES / self._keys[row], self._keys[row])

    def _pixels(self, row: int) -> UInt8[np.ndarray, "h w c"]:
        wanted, path = self.preprocessing, self._layout.path / IMAGES / self._keys[row]
        image = decode_unscaled(self.encoded(row), wanted.channels, str(path))
        try:
            return align(image, self._layout.points[row], wanted.size)
        except DataError as error:
            raise BadImageError(f"{path}: {error}", [self._keys[row]]) from error

    def digest(self) -> str:
        """Return the SHA-256 over name, template and points of every image.

        The images' content is not read: IJB has 469,375 of them.
        """
        layout = self._layout
        points = (one.tobytes().hex() for one in layout.points)
        return digest_rows(zip(layout.names, map(str, layout.templates), points, strict=True))
