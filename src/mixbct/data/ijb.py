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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from mixbct.data.alignment import align
from mixbct.data.decoding import Decoder
from mixbct.data.images import decode_unscaled
from mixbct.data.source import Images, ListedSource, Rows, digest_rows
from mixbct.data.tables import read_integers
from mixbct.errors import BadImageError, DataError
from mixbct.schemas.model import Preprocessing

IMAGES = "loose_crop"
META = "meta"
ALIGNMENT = "arcface-5pts"

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


def read_layout(path: Path) -> IjbLayout:
    """Read the files in `path/meta`; images are read later (`IjbImages`).

    Raises:
        DataError: a file is missing or has a line that does not fit, or the files name different
            images or templates; it says which file and line.
    """
    meta = path / META
    prefix = next((p for p in _GALLERIES if (meta / f"{p}_face_tid_mid.txt").exists()), None)
    if prefix is None:
        raise DataError(
            f"{meta} holds neither ijbb_face_tid_mid.txt nor ijbc_face_tid_mid.txt; expected the "
            "layout of IJB-B or IJB-C, which `mixbct data ijb-layout` makes from class folders"
        )
    images = meta / f"{prefix}_face_tid_mid.txt"
    names, ids = _read_named(images, 2)
    templates, media = (_whole(images, column) for column in ids.T)
    faces = meta / f"{prefix}_name_5pts_score.txt"
    names_too, numbers = _read_named(faces, 11)
    if names != names_too:
        both = zip(names, names_too, strict=False)
        line = next((i for i, (a, b) in enumerate(both) if a != b), min(len(names), len(names_too)))
        raise DataError(
            f"{faces}, line {line + 1}: expected the image that stands on that line of "
            f"{images.name} (they have {len(names_too)} and {len(names)} lines)"
        )
    known = np.unique(templates)
    pair_file = meta / f"{prefix}_template_pair_label.txt"
    table = read_integers(pair_file, 3)
    _check_lines(pair_file, table[:, 2] > 1, table[:, 2], "a label of 0 or 1")
    for side in (0, 1):
        _check_known(pair_file, table[:, side], known, first_line=1)
    return IjbLayout(
        path=path,
        names=names,
        templates=templates,
        media=media,
        points=numbers[:, :10].reshape(-1, 5, 2).astype(np.float32),
        scores=numbers[:, 10].astype(np.float32),
        pairs=np.ascontiguousarray(table[:, :2]),
        same=table[:, 2] == 1,
        galleries={
            name: _read_subjects(meta / f"{prefix}_1N_gallery_{name}.csv", known)
            for name in _GALLERIES[prefix]
        },
        probes=_read_subjects(meta / f"{prefix}_1N_probe_mixed.csv", known),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _read_named(path: Path, columns: int) -> tuple[tuple[str, ...], np.ndarray]:
    """Read lines of an image's name and `columns` numbers; [n, columns] float64."""
    words = [line.split() for line in _text(path).splitlines()]
    what = f"an image's name and {columns} numbers"
    for number, line in enumerate(words, start=1):
        if len(line) != columns + 1:
            raise DataError(f"{path}, line {number}: expected {what}, found {' '.join(line)!r}")
    if not words:
        raise DataError(f"{path} is empty; expected lines of {what}")
    try:
        numbers = np.array([line[1:] for line in words], dtype=np.float64)
        bad = ~np.isfinite(numbers).all(axis=1)
    except ValueError:
        bad = np.array([not _all_numbers(line[1:]) for line in words])
    if bad.any():
        number = int(np.argmax(bad))
        raise DataError(
            f"{path}, line {number + 1}: expected {what}, found {' '.join(words[number])!r}"
        )
    return tuple(line[0] for line in words), numbers


def _all_numbers(words: list[str]) -> bool:
    try:
        return bool(np.isfinite([float(word) for word in words]).all())
    except ValueError:
        return False


def _whole(path: Path, numbers: np.ndarray) -> Int64[np.ndarray, " n"]:
    bad = (numbers != np.floor(numbers)) | (np.abs(numbers) >= 2**53)
    _check_lines(path, bad, numbers, "whole numbers as ids")
    return np.asarray(numbers.astype(np.int64))


def _check_lines(path: Path, bad: np.ndarray, values: np.ndarray, expected: str) -> None:
    if bad.any():
        line = int(np.argmax(bad))
        raise DataError(f"{path}, line {line + 1}: expected {expected}, found {values[line]}")


def _check_known(path: Path, ids: np.ndarray, known: np.ndarray, first_line: int) -> None:
    """Refuse template ids that no image has; `known` is ascending."""
    present = np.isin(ids, known)
    if not present.all():
        row = int(np.argmin(present))
        raise DataError(
            f"{path}, line {row + first_line}: template {ids[row]} has no image in face_tid_mid.txt"
        )


def _read_subjects(path: Path, known: Int64[np.ndarray, " k"]) -> Subjects:
    """Read a gallery's or the probes' table; a template may have many lines, one an image."""
    lines = csv.reader(_text(path).splitlines())
    header = [name.strip().lower() for name in next(lines, [])]
    if not {"template_id", "subject_id"} <= set(header):
        raise DataError(
            f"{path}, line 1: expected a header with TEMPLATE_ID and SUBJECT_ID, found {header}"
        )
    places = header.index("template_id"), header.index("subject_id")
    found: dict[int, int] = {}
    for number, row in enumerate(lines, start=2):
        try:
            template, subject = (int(row[place]) for place in places)
        except (ValueError, IndexError):
            raise DataError(
                f"{path}, line {number}: expected whole numbers as TEMPLATE_ID and SUBJECT_ID, "
                f"found {row[:4]}"
            ) from None
        if found.setdefault(template, subject) != subject:
            raise DataError(
                f"{path}, line {number}: template {template} is of subject {subject} here and of "
                f"subject {found[template]} above"
            )
    templates = np.array(list(found), np.int64)
    unknown = templates[~np.isin(templates, known)]
    if not len(templates) or len(unknown):
        raise DataError(
            f"{path}: template {unknown[0]} has no image in face_tid_mid.txt"
            if len(unknown)
            else f"{path} names no template"
        )
    return Subjects(templates, np.array(list(found.values()), np.int64))


class IjbImages(ListedSource):
    """The images of a layout as a source, aligned by their five points; a class is a template.

    Args:
        layout: what `read_layout` found.
        preprocessing: the size and number of channels of what is returned.
        workers: number of threads that decode and align, see `Decoder`.
    """

    def __init__(
        self, layout: IjbLayout, preprocessing: Preprocessing, workers: int | None = None
    ) -> None:
        self._layout = layout
        ids, labels = np.unique(layout.templates, return_inverse=True)
        classes = tuple(str(i) for i in ids)
        super().__init__(f"IJB layout {layout.path}", list(layout.names), labels, classes)
        self._decoder = Decoder(str(self), preprocessing, workers)

    def read(self, rows: Rows) -> Images:
        """Decode and align the images of `rows`, in that order.

        Raises:
            BadImageError: images cannot be decoded or aligned; it names each.
        """
        return self._decoder.fill(rows, self._align, self._layout.names.__getitem__)

    def _align(self, row: int) -> UInt8[np.ndarray, "h w c"]:
        wanted = self._decoder.preprocessing
        path = self._layout.path / IMAGES / self._layout.names[row]
        image = decode_unscaled(path, wanted.channels)
        try:
            return align(image, self._layout.points[row], wanted.size)
        except DataError as error:
            raise BadImageError(f"{path}: {error}", [self._layout.names[row]]) from error

    def digest(self) -> str:
        """Return the SHA-256 over name, template and points of every image.

        The images' content is not read: IJB has 469,375 of them.
        """
        layout = self._layout
        return digest_rows(
            (name, str(template), points.tobytes().hex())
            for name, template, points in zip(
                layout.names, layout.templates, layout.points, strict=True
            )
        )
