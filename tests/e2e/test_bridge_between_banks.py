"""Two frozen encoders, known by their vectors alone: adapt, eval, gate, switch, by commands."""

import json
from pathlib import Path

import numpy as np
import pytest

FITTED, TESTED, ITEMS, NEW, OLD = 150, 60, 8, 64, 40


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what other programs saved: arrays, labels and keys, and no image."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(FITTED + TESTED), ITEMS)
    who, how = (rng.normal(size=(n, 24)) for n in (FITTED + TESTED, len(labels)))
    fitted = labels < FITTED
    for side, dim, noise, own in (("new", NEW, 0.4, 0.1), ("old", OLD, 0.9, 0.4)):
        through = rng.normal(size=(24, dim)) / 5
        vectors = np.tanh((who[labels] + noise * how) @ through)
        vectors = (vectors + own * rng.normal(size=vectors.shape)).astype(np.float32)
        np.save(folder / f"{side}-fit.npy", vectors[fitted])
        np.save(folder / f"{side}-test.npy", vectors[~fitted])
    for part, rows in (("fit", np.flatnonzero(fitted)), ("test", np.flatnonzero(~fitted))):
        lines = [f"person {labels[row]}" for row in rows]
        (folder / f"{part}-labels.txt").write_text("\n".join(lines) + "\n")
        keys = [f"{line}/{row}.jpg" for line, row in zip(lines, rows, strict=True)]
        (folder / f"{part}-keys.txt").write_text("\n".join(keys) + "\n")
    return folder


@pytest.fixture
def make_bank(mixbct, files: Path):
    def make(side: str, part: str, labelled: bool = True) -> str:
        out = f"{side}-{part}{'' if labelled else '-unlabelled'}"
        words = ["--features", f"{side}-{part}.npy", "--keys", f"{part}-keys.txt"]
        words += ["--labels", f"{part}-labels.txt"] if labelled else []
        if not (files / out).exists():
            mixbct("data", "bank", *words, "--contract", side, "--out", out, cwd=files)
        return out

    return make


def between(make_bank, part: str, labelled: bool = True) -> tuple[str, str]:
    return make_bank("old", part, labelled), make_bank("new", part, labelled)


def test_three_commands_judge_a_bridge(mixbct, files: Path, make_bank) -> None:
    old, new = between(make_bank, "fit")
    made = mixbct("adapt", "--from", new, "--to", old, "--out", "bridge.json", cwd=files)
    said = "next: mixbct eval --old OLD-TEST-BANK --new NEW-TEST-BANK --bridge bridge.json"
    assert made.stdout.splitlines()[-1] == said
    old, new = between(make_bank, "test")
    judged = ["eval", "--old", old, "--new", new, "--bridge", "bridge.json"]
    shown = mixbct(*judged, "--replicates", "200", cwd=files).stdout
    assert "o test class has the name of one that the bridge was trained on" in shown
    result = json.loads((files / "result.json").read_text())
    assert result["data"]["queries"] == TESTED * 2
    assert result["data"]["queries are"] == "a share of each class, drawn at random"
    assert result["classes"] == TESTED
    assert result["trained_apart"]["bridge"] == "apart"
    assert "of whose part new_train" in result["left_out"]["whiten/old"]
    passed = mixbct("gate", "result.json", cwd=files).stdout
    assert "Compatible" in passed
    edge = json.loads((files / "edge.json").read_text())
    assert edge["bridge"]["query"]["matrix"]
    assert "classes" not in edge["bridge"]["fit"]
    assert set(edge["calibrations"]) == {"old/old", "new/old", "new/new"}
    refused = mixbct("gate", "result.json", "--against", "best", cwd=files, expect=2)
    assert "name a --split" in refused.stderr
    asked = mixbct("gate", "result.json", "--far", "0.01", "--far", "0.001", cwd=files).stdout
    assert "new/old at a false-accept rate of 0.01: accept above" in asked
    assert "new/new at a false-accept rate of 0.001: accept above" in asked
    assert "above the old system's" in asked

    # the gallery was the old model's, whose weights nobody has, and is searched by the new one
    mixbct("gallery", "init", "gallery", "--contract", "old", "--dim", f"{OLD}", cwd=files)
    mixbct("gallery", "enrol", "gallery", "--bank", old, cwd=files)
    switched = mixbct("upgrade", "apply", "gallery", "--edge", "edge.json", cwd=files).stdout
    assert "searched by new" in switched
    first = np.load(files / "new-test.npy")[:3]
    np.save(files / "first.npy", first)
    found = json.loads(
        mixbct("gallery", "search", "gallery", "first.npy", "--json", cwd=files).stdout
    )
    assert [query["query"] for query in found["queries"]] == [f"first.npy[{i}]" for i in range(3)]
    hits = [hit for query in found["queries"] for hit in query["hits"]]
    assert sum(hit["label"] == f"person {FITTED}" for hit in hits) > 10
    for hit in hits:
        assert hit["accepted"] == (hit["far"] <= 0.01)
    np.save(files / "one.npy", first[0])
    words = ["gallery", "enrol", "gallery", "one.npy", "--key", "enrolled since"]
    assert "1 items added" in mixbct(*words, cwd=files).stdout
    shown = mixbct("gallery", "search", "gallery", "--key", "enrolled since", cwd=files).stdout
    assert "enrolled since" in shown
    assert " – " in shown  # without a label
    strict = ["gallery", "search", "gallery", "one.npy", "--far", "1e-9"]
    assert "cannot be decided at" in mixbct(*strict, cwd=files, expect=2).stderr
    missed = ["gallery", "search", "gallery", "one.npy", "--contract", "old"]
    assert "query model is new" in mixbct(*missed, cwd=files, expect=2).stderr
    both = ["gallery", "search", "gallery", "one.npy", "--old-model", "old.npy"]
    np.save(files / "old.npy", np.load(files / "old-test.npy")[0])
    assert "lead to: none. Evaluate with a --split" in mixbct(*both, cwd=files, expect=2).stderr


def test_both_queries_are_decided_by_their_own_calibration(mixbct, files: Path, make_bank) -> None:
    """With a split, on whose training part the share of the new query is chosen."""
    for side in ("old", "new"):
        parts = [np.load(files / f"{side}-{part}.npy") for part in ("fit", "test")]
        np.save(files / f"{side}-all.npy", np.concatenate(parts))
    for what in ("labels", "keys"):
        text = "".join((files / f"{part}-{what}.txt").read_text() for part in ("fit", "test"))
        (files / f"all-{what}.txt").write_text(text)
    old, new = between(make_bank, "all")
    split = ["--split", "split"]
    mixbct("data", "split", new, "--test-classes", "60", "--out", "split", cwd=files)
    mixbct("adapt", "cca", "--from", new, "--to", old, *split, "--out", "cca.json", cwd=files)
    judged = ["--old", old, "--new", new, "--bridge", "cca.json", "--replicates", "100"]
    mixbct("eval", *judged, *split, "--out", "both.json", cwd=files)
    says = mixbct("gate", "both.json", cwd=files).stdout
    assert "new+old/old at a false-accept rate of 0.001: accept above" in says
    mixbct("gallery", "init", "both", "--bank", old, cwd=files)
    mixbct("gallery", "enrol", "both", "--bank", old, cwd=files)
    mixbct("upgrade", "apply", "both", new, "--edge", "both.edge.json", cwd=files)
    edge = json.loads((files / "both.edge.json").read_text())
    pair = edge["calibrations"]["new+old/old"]
    for side in ("old", "new"):
        np.save(files / f"{side}-one.npy", np.load(files / f"{side}-test.npy")[:1])
    words = ["gallery", "search", "both", "new-one.npy", "--json"]
    plain, mixed = (
        json.loads(mixbct(*words, *more, cwd=files).stdout)["queries"][0]["hits"]
        for more in ((), ("--old-model", "old-one.npy"))
    )
    assert mixed[0]["key"] == f"person {FITTED}/{FITTED * ITEMS}.jpg"  # its own old vector
    assert mixed[0]["score"] > plain[0]["score"]
    for hit in mixed:
        assert 0.999 / pair["pairs"] < hit["far"] < 1
        assert hit["accepted"] == (hit["far"] <= 1e-3)


def test_a_bridge_is_not_judged_on_what_it_was_fitted_on(mixbct, files: Path, make_bank) -> None:
    old, new = between(make_bank, "fit")
    mixbct("adapt", "ridge", "--from", new, "--to", old, "--out", "ridge.json", cwd=files)
    judged = ["eval", "--old", old, "--new", new, "--bridge", "ridge.json", "--replicates", "100"]
    refused = mixbct(*judged, cwd=files, expect=2).stderr
    assert f"{FITTED} of the {FITTED} test classes" in refused
    assert "bridge (ridge) was fitted on" in refused
    declared = mixbct(*judged, "--other-classes", "--out", "declared.json", cwd=files).stdout
    assert "names of classes that the bridge was trained on, and were declared" in declared


def test_without_labels_it_says_what_is_missing(mixbct, files: Path, make_bank) -> None:
    """A bridge needs none, a verdict does: on one side's bank, or there is none."""
    old, new = between(make_bank, "fit", labelled=False)
    mixbct("adapt", "ridge", "--from", new, "--to", old, "--out", "blind.json", cwd=files)
    (bare_old, bare_new), old = between(make_bank, "test", False), make_bank("old", "test")
    bridge = ["--bridge", "blind.json", "--replicates", "100", "--out", "blind-result.json"]
    refused = mixbct("eval", "--old", bare_old, "--new", bare_new, *bridge, cwd=files, expect=2)
    assert f"neither {bare_new} nor {bare_old} has labels" in refused.stderr
    assert "mixbct data bank --labels" in refused.stderr
    shown = mixbct("eval", "--old", old, "--new", bare_new, *bridge, cwd=files).stdout
    assert "which classes the items were that the bridge was fitted on is not known" in shown
    refused = mixbct("eval", "--old", old, "--new", "nothing", *bridge, cwd=files, expect=2)
    assert "nothing is no feature bank: name the images" in refused.stderr


def test_a_bank_of_single_items_is_no_test_set(mixbct, files: Path, make_bank) -> None:
    for side in ("old", "new"):
        np.save(files / f"{side}-single.npy", np.load(files / f"{side}-test.npy")[::ITEMS])
    for what in ("labels", "keys"):
        lines = (files / f"test-{what}.txt").read_text().splitlines()[::ITEMS]
        (files / f"single-{what}.txt").write_text("\n".join(lines) + "\n")
    old, new = between(make_bank, "single")
    refused = mixbct("eval", "--old", old, "--new", new, cwd=files, expect=2)
    assert "is no test set" in refused.stderr
