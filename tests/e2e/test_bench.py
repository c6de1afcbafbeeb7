"""The miniature of the bench, on pictures made here in place of the glyphs."""

import json
import shutil
from pathlib import Path

import pytest

MINI = [
    "bench",
    "recipes/bench/mini.toml",
    *("--set", "data.path=photos", "--set", "data.held_out_groups=[]"),
    *("--set", "data.validation_classes=5", "--set", "data.test_classes=7"),
    *("--set", "new.train.batch=16", "--set", "old.softmax-32.train.batch=8"),
    *("--set", "new.train.epochs=3", "--jobs", "2"),
]


@pytest.mark.slow
def test_two_methods_in_two_scenarios(mixbct, photos: Path) -> None:
    summary = json.loads(mixbct(*MINI, "--json", cwd=photos).stdout)
    results = photos / "runs/bench/mini/results"
    assert (summary["cells"], summary["failed"]) == (8, 0)
    assert {t["scenario"] for t in summary["tables"]} == {"extended-class", "open-data"}
    for table in summary["tables"]:
        methods = [row["method"] for row in table["rows"] if ", " not in row["method"]]
        assert methods == ["independent", "mixbct", "l2", "procrustes"]
        behind = [row["method"] for row in table["rows"] if row["method"].startswith("mixbct, ")]
        kinds = ("whiten", "cca", "whiten_cca", "own + whiten_cca", "both queries")
        assert behind == [f"mixbct, {kind}" for kind in kinds]
        assert table["whitened"].keys() == {"mAP", "rank-1", "TAR@1e-3", "TAR@1e-4"}
        costs = {row["method"]: row["cost"]["images"] for row in table["rows"] if row["cost"]}
        assert costs["independent"] == costs["mixbct"] == costs["l2"] > 0
        assert costs["procrustes"] == 0
    assert [choice["method"] for choice in summary["choices"]] == ["l2"]
    assert len(list((results / "cells").iterdir())) == 8 + 2 + 1
    assert "procrustes" in (results / "README.md").read_text()
    assert "<svg" in (results / "index.html").read_text()

    # again at no cost, and one cell made anew to the last digit
    cells = {path: path.read_bytes() for path in (results / "cells").iterdir()}
    mixbct(*MINI, cwd=photos)
    assert {path: path.read_bytes() for path in cells} == cells
    one = "softmax-32--open-data--mixbct--s1"
    where = ["--out", "again/out", "--work", "again/work"]
    mixbct(*MINI, *where, "--only", one, cwd=photos)
    before, after = (
        json.loads((folder / f"cells/{one}.json").read_text())
        for folder in (results, photos / "again/out")
    )
    assert before["figures"] == after["figures"]
    assert before["plan"] == after["plan"]
    drawn = [(folder / "draws" / one).read_bytes() for folder in (results, photos / "again/out")]
    assert drawn[0] == drawn[1]

    # on another device, with all that was made on the first
    (results / f"cells/{one}.json").unlink()
    last = json.loads(mixbct(*MINI, "--device", "cpu:0", "--json", cwd=photos).stdout)
    assert json.loads((results / f"cells/{one}.json").read_text())["figures"] == before["figures"]

    # where only the results are: nothing runs, and every interval is what it was; what is missing
    # is made, and paired with what lies there
    shutil.rmtree(photos / "runs/bench/mini/work/cells")
    shutil.rmtree(photos / "runs/bench/mini/work/old")
    cells = {path: path.read_bytes() for path in (results / "cells").iterdir()}
    there = json.loads(mixbct(*MINI, "--json", cwd=photos).stdout)
    assert there["tables"] == last["tables"]
    assert {path: path.read_bytes() for path in cells} == cells
    assert not (photos / "runs/bench/mini/work/old").exists()
    (results / f"cells/{one}.json").unlink()
    there = json.loads(mixbct(*MINI, "--json", cwd=photos).stdout)
    for summary in (there, last):
        for table in summary["tables"]:
            for row in table["rows"]:
                row.pop("cost", None)
    assert there["tables"] == last["tables"]


def test_a_cell_that_fails_is_shown_and_run_again(mixbct, photos: Path) -> None:
    words = [*MINI, "--only", "*extended-class--mixbct*"]
    diverging = ["--set", "methods.mixbct.settings.optimizer.lr=1e18"]
    summary = json.loads(mixbct(*words, *diverging, "--json", cwd=photos).stdout)
    assert summary["failed"] == 1
    readme = photos / "runs/bench/mini/results/README.md"
    assert "diverged" in readme.read_text()
    summary = json.loads(mixbct(*words, "--json", cwd=photos).stdout)
    assert summary["failed"] == 0
    assert "diverged" not in readme.read_text()


def test_a_pattern_that_fits_no_cell(mixbct, photos: Path) -> None:
    assert "no cell" in mixbct(*MINI, "--only", "nothing", cwd=photos, expect=2).stderr


def test_a_device_that_is_not_there_is_said_at_once(mixbct, photos: Path) -> None:
    assert "'mars'" in mixbct(*MINI, "--device", "mars", cwd=photos, expect=2).stderr
    assert not (photos / "runs/bench").exists()
