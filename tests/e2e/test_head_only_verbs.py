"""From two arrays of vectors to a judged head, by the commands alone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
CLASSES, ITEMS, NEW, OLD = 300, 10, 128, 64


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    """Return a folder with vectors of a good new encoder and of a poorer old one.

    Both see what the items are through a map and a squashing of their own, and add noise.
    """
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), ITEMS)
    who, how = (rng.normal(size=shape) for shape in ((CLASSES, 48), (len(labels), 48)))

    def see(dim: int, noise: float, own: float) -> np.ndarray:
        through = rng.normal(size=(48, dim)) / np.sqrt(48)
        return np.tanh((who[labels] + noise * how) @ through) + own * rng.normal(
            size=(len(labels), dim)
        )

    new, old = see(NEW, 0.5, 0.15), see(OLD, 1.0, 0.5)
    np.save(tmp_path / "new.npy", new.astype(np.float16))
    np.save(tmp_path / "old.npy", old)
    np.save(tmp_path / "labels.npy", labels)
    lines = "".join(f"person {label}/{i}\n" for i, label in enumerate(labels))
    (tmp_path / "keys.txt").write_text(lines)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    return tmp_path


def bank_words(side: str) -> list[str]:
    files = ["--features", f"{side}.npy", "--labels", "labels.npy", "--keys", "keys.txt"]
    return ["data", "bank", *files, "--contract", side, "--out", f"runs/{side}-bank"]


def test_vectors_labels_and_nothing_else(mixbct, arrays: Path) -> None:
    for side in ("new", "old"):
        assert f"by {side} (" in mixbct(*bank_words(side), cwd=arrays).stdout
    mixbct("denoise", "runs/old-bank", cwd=arrays)
    mixbct("data", "split", "runs/new-bank", "--out", "runs/split", cwd=arrays)
    shorter = ["--set", f"model.dim={OLD}", "--set", "train.epochs=10"]
    done = mixbct("train", "recipes/head.toml", *shorter, "--out", "runs/head", cwd=arrays)
    assert "next: mixbct eval" in done.stdout
    banks = ["--old", "runs/old-bank", "--data", "runs/new-bank", "--split", "runs/split"]
    mixbct("eval", "--new", "runs/head", *banks, "--out", "head.json", cwd=arrays)
    result = json.loads((arrays / "head.json").read_text())
    assert result["examples"] == []
    assert result["models"]["new"]["preprocessing"]["name"] == "new"
    mixbct("report", "head.json", cwd=arrays)
    says = mixbct("gate", "head.json", cwd=arrays, expect=(0, 1)).stdout
    assert "is it worth more than the old model alone, whitened?" in says
    best = mixbct("gate", "head.json", "--against", "best", cwd=arrays, expect=(0, 1)).stdout
    assert "is it worth more" not in best
    assert "on whiten/old" in best
    wrong = mixbct("gate", "head.json", "--against", "worst", cwd=arrays, expect=2)
    assert "against" in wrong.stderr

    # the head's own bank stands for it
    words = ["extract", "runs/head", "--data", "runs/new-bank", "--dtype", "float32"]
    mixbct(*words, "--out", "runs/head-bank", cwd=arrays)
    mixbct("eval", "--new", "runs/head-bank", *banks, "--out", "stored.json", cwd=arrays)
    stored = json.loads((arrays / "stored.json").read_text())
    found, again = (
        each["combinations"]["new/old"]["mean_average_precision"]["value"]
        for each in (result, stored)
    )
    assert abs(found - again) < 1e-5

    # where it began: the start alone, an epoch of no step size to speak of
    still = [*shorter, "--set", "optimizer.lr=1e-9", "--set", "train.epochs=1"]
    mixbct("train", "recipes/head.toml", *still, "--out", "runs/start", cwd=arrays)
    mixbct("eval", "--new", "runs/start", *banks, "--out", "start.json", cwd=arrays)
    start = json.loads((arrays / "start.json").read_text())["combinations"]["new/old"]
    old = result["combinations"]["old/old"]["mean_average_precision"]["value"]
    assert found >= start["mean_average_precision"]["value"] > old

    # what is not of its encoder
    for words in (
        ["extract", "runs/head", "--data", "runs/old-bank", "--out", "no"],
        ["extract", "runs/head", "--data", "runs/head-bank", "--out", "no"],
    ):
        refused = mixbct(*words, cwd=arrays, expect=2)
        assert f"the model takes {NEW}-d vectors of new" in refused.stderr
    (arrays / "photos/a").mkdir(parents=True)
    refused = mixbct(
        "extract", "runs/head", "--data", "photos", "--out", "no", cwd=arrays, expect=2
    )
    assert "photos holds images, but the model takes" in refused.stderr
    (arrays / "pairs.bin").touch()
    judged = ["eval-pairs", "--pairs", "pairs.bin", "--model", "runs/head"]
    assert "is a head over 128-d vectors of new" in mixbct(*judged, cwd=arrays, expect=2).stderr


def test_a_bridge_on_stored_vectors_alone(mixbct, arrays: Path) -> None:
    """No training and no images: chosen on a split's training part, judged on its test classes."""
    for name in ("new", "old"):
        mixbct(*bank_words(name), cwd=arrays)
    mixbct("data", "split", "runs/new-bank", "--out", "runs/split", cwd=arrays)
    split = ["--split", "runs/split"]
    sides = ["--from", "runs/new-bank", "--to", "runs/old-bank"]
    made = mixbct("adapt", *sides, *split, "--out", "runs/bridge.json", cwd=arrays)
    shown = " ".join(made.stdout.split())
    assert "chosen: " in shown
    assert "on classes left out of the fit" in shown
    assert "queries are those of new" in shown
    assert "stored are those of old" in shown
    judged = ["--data", "runs/new-bank", *split, "--replicates", "100"]
    models = ["--old", "runs/old-bank", "--new", "runs/new-bank"]
    mixbct("eval", *models, *judged, "--bridge", "runs/bridge.json", cwd=arrays)
    result = json.loads((arrays / "result.json").read_text())
    chosen = result["combinations"]["new/old"]["mean_average_precision"]["value"]
    assert chosen > result["combinations"]["old/old"]["mean_average_precision"]["value"] - 0.05
    swapped = ["--old", "runs/new-bank", "--new", "runs/old-bank"]
    refused = mixbct(
        "eval", *swapped, *judged, "--bridge", "runs/bridge.json", cwd=arrays, expect=2
    )
    assert "fitted the wrong way round" in refused.stderr
    # without labels it says what it judged by
    words = bank_words("new")
    at = words.index("--labels")
    shutil.rmtree(arrays / "runs/new-bank")
    shutil.rmtree(arrays / "runs/old-bank")
    for words in (bank_words("new"), bank_words("old")):
        mixbct(*words[:at], *words[at + 2 :], cwd=arrays)
    made = mixbct("adapt", *sides, "--out", "runs/bridge.json", cwd=arrays)
    assert "pairs of like items" in " ".join(made.stdout.split())


def test_what_is_missing_is_named(mixbct, arrays: Path) -> None:
    words = bank_words("new")
    at = words.index("--labels")
    made = mixbct(*words[:at], *words[at + 2 :], cwd=arrays)
    assert "no classes" in made.stdout
    assert "next: mixbct adapt --from NEW --to runs/new-bank" in made.stdout
    looked_at = mixbct("data", "info", "runs/new-bank", cwd=arrays).stdout
    assert "3,000 vectors, without labels" in looked_at
    assert "norm of the mean" in looked_at
    for verb in (["denoise"], ["data", "split", "--out", "no"]):
        refused = mixbct(*verb, "runs/new-bank", cwd=arrays, expect=2)
        assert "no labels, which `mixbct adapt` does without" in refused.stderr
    shutil.rmtree(arrays / "runs/new-bank")
    mixbct(*words, cwd=arrays)
    assert "there already" in mixbct(*words, cwd=arrays, expect=2).stderr
    checked = mixbct("data", "verify", "runs/new-bank", cwd=arrays)
    assert "vectors are as they were written" in checked.stdout
    shape = ["--set", "data.flip=true", "--set", "method={name='independent'}"]
    mixbct("data", "split", "runs/new-bank", "--out", "runs/split", cwd=arrays)
    refused = mixbct("train", "recipes/head.toml", *shape, cwd=arrays, expect=2)
    assert "data.flip means nothing" in refused.stderr
    # the old vectors of some items only
    old = np.load(arrays / "old.npy")
    np.save(arrays / "old.npy", old[:50])
    np.save(arrays / "labels.npy", np.load(arrays / "labels.npy")[:50])
    keys = (arrays / "keys.txt").read_text().splitlines()[:50]
    (arrays / "keys.txt").write_text("\n".join(keys))
    mixbct(*bank_words("old"), cwd=arrays)
    judged = ["eval", "--old", "runs/old-bank", "--new", "runs/new-bank"]
    refused = mixbct(
        *judged, "--data", "runs/new-bank", "--split", "runs/split", cwd=arrays, expect=2
    )
    assert "has no vector of" in refused.stderr
    assert "name a bank that was made of the same items" in refused.stderr
