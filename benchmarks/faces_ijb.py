"""The test people of the face table in the layout of IJB-C: 1:1 and 1:N, self and cross.

The images are aligned already, and so the layout's alignment leaves their pixels as they are: the
vectors in the banks are those that `mixbct eval-ijb` would compute, and need not be computed again.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mixbct.adapters import ridge
from mixbct.adapters.moments import Pairs
from mixbct.data.bank import FeatureBank
from mixbct.data.folder import FolderSource
from mixbct.data.ijb import read_layout
from mixbct.data.ijb_layout import lay_out
from mixbct.data.source import Rows
from mixbct.evaluation.protocols import identify, verification
from mixbct.evaluation.templates import Templates, pool_templates, template_scores
from mixbct.features.bridged import through
from mixbct.files import folder_written_whole
from mixbct.schemas.model import Preprocessing

FIGURES = ("TAR@1e-3", "TPIR at 1e-2", "rank-1")


def judge_layout(
    work: Path, banks: Mapping[str, FeatureBank], training: Rows, test: Rows
) -> dict[str, dict[str, float]]:
    """Return `FIGURES` of old/old, new/new and new/old through ridge; and the layout's counts.

    Args:
        work: folder with `images`; `ijb-people` and `ijb` are made in it.
        banks: the old and the new one, of the same images.
        training: rows that ridge is fitted on.
        test: rows of the people to lay out, every row of each.
    """
    keys = banks["new"].keys()
    people = work / "ijb-people"
    if not people.exists():
        with folder_written_whole(people) as folder:
            for row in test.tolist():
                (folder / keys[row]).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(work / "images" / keys[row], folder / keys[row])
    source = FolderSource(people, Preprocessing(size=112, channels=3))
    if not (work / "ijb").exists():
        lay_out(source, work / "ijb")
    layout = read_layout(work / "ijb")
    # an image is named after its place in the folder, counted from 1
    places = [int(name.partition(".")[0]) - 1 for name in layout.names]
    row_of = {key: row for row, key in enumerate(keys)}
    listed = source.keys()
    rows = np.array([row_of[listed[place]] for place in places])

    pooled = {
        role: pool_templates(bank.features[rows], layout.templates, layout.media, layout.scores)
        for role, bank in banks.items()
    }
    old, new = pooled["old"], pooled["new"]
    query, _ = ridge.fit(Pairs(banks["new"].read(training), banks["old"].read(training)))
    mapped = Templates(new.ids, through(query, new.features))
    found: dict[str, dict[str, float]] = {}
    sides = {"old/old": (old, old), "new/new": (new, new), "new/old through ridge": (mapped, old)}
    for name, (probe, gallery) in sides.items():
        scores = template_scores(gallery, probe, layout.pairs)
        pairs = verification(scores[layout.same], scores[~layout.same], (1e-3,))
        galleries = {each: gallery.of(some) for each, some in layout.galleries.items()}
        searched = identify(probe.of(layout.probes), galleries, (1e-2,))
        figures = (
            pairs.points[0].rate,
            next(iter(searched.tpir.values())),
            searched.ranks["rank-1"],
        )
        found[name] = dict(zip(FIGURES, figures, strict=True))
    found["counts"] = {
        "images": len(rows),
        "galleries": sum(len(each.templates) for each in layout.galleries.values()),
        "probes": len(layout.probes.templates),
        "genuine": int(layout.same.sum()),
        "impostors": int((~layout.same).sum()),
    }
    return found


def layout_lines(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the section of the page, of what `judge_layout` found."""
    counts = found["counts"]
    lines = [
        "## In the IJB layout",
        "",
        f"The test people of split 1, {counts['images']:,} images, laid out like IJB-C:",
        f"{counts['galleries']:,} gallery templates in two galleries, {counts['probes']:,} probes;",
        f"1:1 on {counts['genuine']:,} genuine and {counts['impostors']:,} impostor pairs, 1:N",
        "open-set (TPIR at FPIR 1e-2) and closed-set (rank-1). In %, no flip, point values.",
        "",
        f"| probes searching the galleries | {' | '.join(FIGURES)} |",
        "| --- |" + " ---: |" * len(FIGURES),
    ]
    for name, row in found.items():
        if name != "counts":
            lines.append(f"| {name} | {' | '.join(f'{100 * row[f]:.1f}' for f in FIGURES)} |")
    return [
        *lines,
        "",
        "The script pools the vectors of the two banks, which are those of these very pixels. The",
        "same from the images, where `ridge.json` is fitted on split 1's people for fitting",
        "(`mixbct adapt ridge`):",
        "",
        "    mixbct eval-ijb --model runs/faces/old --data runs/faces/ijb",
        "    mixbct eval-ijb --model runs/faces/new --data runs/faces/ijb",
        "    mixbct eval-ijb --model runs/faces/new --gallery-model runs/faces/old \\",
        "      --bridge ridge.json --data runs/faces/ijb",
    ]
