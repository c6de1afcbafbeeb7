"""A labelled face folder laid out like IJB-C, so that its protocols run on one's own data.

A person with two images or more is enrolled in one of two galleries by one template; the rest of
the images make probe templates. A person with one image is a probe that neither gallery knows.
"""

import csv
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from PIL import Image

from mixbct.data.alignment import reference_points
from mixbct.data.folder import FolderSource
from mixbct.data.ijb import IMAGES, META
from mixbct.data.source import Progress, unseen, write_lines
from mixbct.distributed import row_rng
from mixbct.errors import DataError
from mixbct.files import folder_written_whole, refuse_existing
from mixbct.reading import failing_as
from mixbct.schemas.protocols import LayoutCounts

PREFIX = "ijbc"
TEMPLATE_IMAGES = 3
IMPOSTORS = 200


def lay_out(
    source: FolderSource,
    out: Path,
    *,
    seed: int = 0,
    template_images: int = TEMPLATE_IMAGES,
    impostors: int = IMPOSTORS,
    progress: Progress = unseen,
) -> LayoutCounts:
    """Write `source` to `out` in the layout that `ijb.read_layout` reads; whole or not at all.

    The images are copied. They must be aligned already, so their five points are the reference
    points. Every image counts as a still: a media of its own, with the detector's score 1.

    Args:
        source: class folders of square images.
        out: the folder to write; one that is there is refused.
        seed: of who is enrolled where, of which images make a template, and of the pairs.
        template_images: the most images that a template is made of.
        impostors: how many impostor pairs each probe template gets, at most all.
        progress: called with (images copied, images in all).

    Raises:
        DataError: `out` exists, fewer than two persons have two images, an image is not square or
            cannot be opened, or a setting is out of range.
    """
    if template_images < 1 or impostors < 1:
        raise DataError(
            f"template_images {template_images} and impostors {impostors}: both must be at least 1"
        )
    refuse_existing(out, DataError)
    keys = source.keys()
    members = _shuffled_members(source.labels(), seed)
    several = [person for person, rows in enumerate(members) if len(rows) > 1]
    if len(several) < 2:
        raise DataError(
            f"{source} has {len(several)} persons with two images or more; two are the least"
        )
    order = row_rng(seed, len(several)).permutation(several)
    enrolled: list[list[tuple[int, Int64[np.ndarray, " k"]]]] = [[], []]
    for place, person in enumerate(order.tolist()):
        # at least one image stays for a probe
        size = min(template_images, len(members[person]) // 2)
        enrolled[place % 2].append((person, members[person][:size]))
        members[person] = members[person][size:]
    probes = [
        (person, rows[start : start + template_images])
        for person, rows in enumerate(members)
        for start in range(0, len(rows), template_images)
    ]
    templates = [*enrolled[0], *enrolled[1], *probes]
    pairs = _pairs(np.array([person for person, _ in templates]), len(several), impostors, seed)
    with folder_written_whole(out) as folder:
        (folder / IMAGES).mkdir()
        (folder / META).mkdir()
        names, points = [], []
        for row, key in enumerate(keys):  # under numbers, as IJB names them
            names.append(f"{row + 1}{Path(key).suffix.lower()}")
            shutil.copyfile(source.path / key, folder / IMAGES / names[-1])
            points.append(_points(folder / IMAGES / names[-1], key))
            progress(row + 1, len(keys))
        listed = [(number, row) for number, (_, rows) in enumerate(templates, 1) for row in rows]
        meta = folder / META
        ids = [f"{names[row]} {number} {row + 1}" for number, row in listed]
        write_lines(meta / f"{PREFIX}_face_tid_mid.txt", ids)
        faces = [f"{names[row]} {points[row]} 1.0" for _, row in listed]
        write_lines(meta / f"{PREFIX}_name_5pts_score.txt", faces)
        np.savetxt(meta / f"{PREFIX}_template_pair_label.txt", pairs, fmt="%d")
        ends = np.cumsum([0, len(enrolled[0]), len(enrolled[1]), len(probes)])
        parts = ("gallery_G1", "gallery_G2", "probe_mixed")
        for part, (start, stop) in zip(parts, pairwise(ends), strict=True):
            rows = [
                (number + 1, templates[number][0] + 1, keys[row])
                for number in range(start, stop)
                for row in templates[number][1]
            ]
            with (meta / f"{PREFIX}_1N_{part}.csv").open("w", encoding="utf-8", newline="") as file:
                lines = csv.writer(file, lineterminator="\n")
                lines.writerows([("TEMPLATE_ID", "SUBJECT_ID", "FILENAME"), *rows])
    genuine = int(pairs[:, 2].sum())
    return LayoutCounts(
        images=len(names),
        subjects=len(source.classes()),
        galleries=(len(enrolled[0]), len(enrolled[1])),
        probes=len(probes),
        genuine_pairs=genuine,
        impostor_pairs=len(pairs) - genuine,
    )


def _shuffled_members(labels: Int64[np.ndarray, " n"], seed: int) -> list[np.ndarray]:
    """Return each person's rows, in an order that the seed decides."""
    order = np.argsort(labels, kind="stable")
    return [
        row_rng(seed, person, len(rows)).permutation(rows)
        for person, rows in enumerate(np.split(order, np.cumsum(np.bincount(labels))[:-1]))
    ]


def _pairs(
    subjects: Int64[np.ndarray, " t"], galleries: int, impostors: int, seed: int
) -> Int64[np.ndarray, "p 3"]:
    """Pair each probe with its subject's gallery template and with some of others.

    The first `galleries` templates are those of the galleries, one a subject; ids count from 1.
    """
    found = []
    own = np.full(subjects.max() + 1, galleries)  # behind the last one for who is not enrolled
    own[subjects[:galleries]] = np.arange(galleries)
    for probe, mate in enumerate(own[subjects[galleries:]].tolist(), galleries):
        mates = [mate] if mate < galleries else []
        others = galleries - len(mates)
        chosen = row_rng(seed, probe).choice(others, min(impostors, others), replace=False)
        first = np.array([*mates, *np.sort(chosen + (chosen >= mate))])  # the mate is passed over
        found.append(np.column_stack([first + 1, np.full(len(first), probe + 1), first == mate]))
    return np.concatenate(found)


def _points(path: Path, key: str) -> str:
    """Return the five points of an image that is aligned already, as text."""
    with failing_as(DataError, f"{key} is not a readable image"), Image.open(path) as image:
        width, height = image.size
    if width != height:
        raise DataError(
            f"{key} has {width} × {height} pixels; expected square images that are aligned already"
        )
    return " ".join(f"{value:.4f}" for value in reference_points(width).ravel())
