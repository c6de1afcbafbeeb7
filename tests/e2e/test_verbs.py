"""What a person meets on the command line: exit codes, plain errors, stopping and resuming."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TINY = ["--set", "data.path=photos", "--set", "model.channels=3", "--set", "train.batch=16"]


def test_stop_after_and_resume(mixbct, photos: Path) -> None:
    words = ["train", "recipes/tiny.toml", *TINY]
    whole = json.loads(mixbct(*words, "--out", "whole", "--json", cwd=photos).stdout)
    assert whole["steps"] == 36
    stop = mixbct(*words, "--set", "train.stop_after=17", "--out", "parts", cwd=photos, expect=3)
    assert "stopped after step 17 of 36" in stop.stderr
    again = mixbct(*words, "--out", "parts", cwd=photos, expect=2)
    assert "--resume" in again.stderr
    mixbct(*words, "--out", "parts", "--resume", cwd=photos)
    weights = [photos / f"{run}/model/backbone.safetensors" for run in ("whole", "parts")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_exits_3(mixbct, photos: Path, number: signal.Signals) -> None:
    words = ["train", "recipes/tiny.toml", *TINY, "--set", "train.epochs=200", "--out", "run"]
    program = str(Path(sys.executable).parent / "mixbct")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [program, *words], cwd=photos, env=environment, stderr=subprocess.PIPE, text=True
    )
    log = photos / "run/steps.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.stat().st_size):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 3, errors
    assert "--resume" in errors
    step = int(max((photos / "run/checkpoints").glob("step-*")).name.removeprefix("step-"))
    mixbct(*words, "--resume", "--set", f"train.stop_after={step + 1}", cwd=photos, expect=3)


def test_bad_images_are_named_and_skipped_only_on_request(mixbct, photos: Path) -> None:
    bad = photos / "photos/class-03/1.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    words = ["train", "recipes/tiny.toml", *TINY, "--set", "train.epochs=1", "--out", "run"]
    refused = mixbct(*words, cwd=photos, expect=2)
    assert "class-03/1.jpg" in refused.stderr
    assert "class-03/1.jpg" in mixbct("data", "verify", "photos", cwd=photos, expect=2).stderr
    mixbct(*words, "--skip-bad", "--resume", cwd=photos)
    assert "no image was decoded" in mixbct("data", "info", "photos", cwd=photos).stdout


def test_one_bad_image_costs_one_command(mixbct, photos: Path) -> None:
    """A split that left it out is all that what follows needs to know."""
    bad = photos / "photos/class-03/1.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    words = ["data", "split", "photos", "--out", "split", "--json"]
    refused = mixbct(*words, cwd=photos, expect=2)
    assert "1 of 192 images" in refused.stderr
    assert "class-03/1.jpg" in refused.stderr
    assert "--skip-bad" in refused.stderr
    assert not (photos / "split").exists()
    made = mixbct(*words, "--skip-bad", cwd=photos)
    split = json.loads(made.stdout)
    assert split["skipped"] == ["class-03/1.jpg"]
    assert "left out 1 images" in made.stderr
    on_split = ["--set", "data.split=split"]
    mixbct("train", "recipes/tiny.toml", *TINY, *on_split, "--out", "run", cwd=photos)
    extract = ["extract", "run", "--data", "photos", "--split", "split", "--json"]
    digests = set()
    for name, more in (("plain", []), ("skipping", ["--skip-bad"])):
        bank = mixbct(*extract, "--out", name, *more, cwd=photos)
        assert json.loads(bank.stdout)["rows"] == split["parts"]["new_train"]
        digests.add(json.loads(bank.stdout)["data_digest"])
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "recipes/none.toml"], "there is no recipe at recipes/none.toml"),
        (["train", "recipes/tiny.toml", "--set", "train.epoch=3"], "did you mean 'epochs'"),
        (["train", "recipes/tiny.toml"], "there is no data at runs/tiny/data"),
        (["extract", "none", "--data", "photos", "--out", "bank"], "there is no model at none"),
        (["denoise", "none"], "there is no feature bank at none"),
        (["gate", "none.json"], "there is no result at none.json"),
        (["gallery", "status", "none"], "none"),
        (["data", "info", "none"], "there is no data at none"),
    ],
)
def test_errors_are_plain(mixbct, photos: Path, words: list[str], says: str) -> None:
    done = mixbct(*words, cwd=photos, expect=2)
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_demo_on_ones_own_folder(mixbct, photos: Path) -> None:
    short = ["train.epochs=2", "train.batch=16", "model.channels=3", "model.dim=64"]
    settings = [word for setting in short for word in ("--set", setting)]
    words = ["demo", "--data", "photos", "--out", "demo", *settings]
    first = mixbct(*words, cwd=photos, expect=(0, 1))
    verdict = json.loads((photos / "demo/gate.json").read_text())["passed"]
    # the page is there whatever the gate said, and the exit code says what it said
    assert first.code == (0 if verdict else 1)
    left = {path.name for path in (photos / "demo").iterdir()}
    assert {"report.html", "result.json", "gate.json", "old", "new", "independent", "bank"} <= left
    # deployed behind a bridge that was fitted to it, and judged so
    deployed = json.loads((photos / "demo/model/model.json").read_text())["bridge"]
    assert deployed["kind"] == "trained + whiten_cca"
    assert deployed["fit"]["shrinkage"] == 0.1
    result = json.loads((photos / "demo/result.json").read_text())
    assert result["bridge"] == deployed
    rows = {"old/old", "new/old", "new/new", "procrustes/old", "whiten/old", "new+old/old"}
    assert rows | {"chosen/old", "chosen+old/old"} <= set(result["combinations"])
    roles = ("old", "new", "independent", "bridge")
    assert result["trained_apart"] == dict.fromkeys(roles, "apart")
    assert "--resume" in mixbct(*words, cwd=photos, expect=2).stderr
    weights = photos / "demo/new/model/backbone.safetensors"
    written = [weights, photos / "demo/model/model.json"]
    before = [path.stat().st_mtime_ns for path in written]
    mixbct(*words, "--resume", cwd=photos, expect=first.code)
    assert [path.stat().st_mtime_ns for path in written] == before
    assert json.loads((photos / "demo/result.json").read_text()) == result
    gate = mixbct("gate", "demo/result.json", cwd=photos, expect=first.code)
    assert ("try next, for" in gate.stdout) is not verdict


def test_a_demo_leaves_out_what_cannot_be_read(mixbct, photos: Path) -> None:
    bad = photos / "photos/class-03/1.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    short = ["train.epochs=1", "train.batch=16", "model.channels=3", "model.dim=128"]
    settings = [word for setting in short for word in ("--set", setting)]
    words = ["demo", "--data", "photos", "--out", "demo", *settings]
    refused = mixbct(*words, cwd=photos, expect=2)
    assert "class-03/1.jpg; repair or delete them" in refused.stderr
    words.append("--skip-bad")  # nothing of the first try stands in the way
    mixbct(*words, cwd=photos, expect=(0, 1))
    split = json.loads((photos / "demo/split/manifest.json").read_text())
    assert split["skipped"] == ["class-03/1.jpg"]
    # its training items do not determine a bridge: the new model stays as it was trained
    assert not (photos / "demo/model").exists()
    result = json.loads((photos / "demo/result.json").read_text())
    assert "do not determine" in result["left_out"]["whiten/old"]


def test_a_record_set_from_photographs_to_a_split_and_back(mixbct, photos: Path) -> None:
    mixbct("data", "convert", "photos", "records", cwd=photos)
    assert {path.name for path in (photos / "records").iterdir()} == {
        "train.rec",
        "train.idx",
        "train.classes.txt",
    }
    counts = [
        json.loads(mixbct("data", "info", name, "--json", cwd=photos).stdout)
        for name in ("photos", "records")
    ]
    for key in ("images", "classes", "largest_class"):
        assert counts[0][key] == counts[1][key]
    index = (photos / "records/train.idx").read_bytes()
    (photos / "records/train.idx").unlink()
    mixbct("data", "verify", "records", "--save-index", cwd=photos)
    assert (photos / "records/train.idx").read_bytes() == index
    words = ["data", "split", "records", "--order", "record", "--test-classes", "0"]
    split = json.loads(mixbct(*words, "--out", "split", "--json", cwd=photos).stdout)
    assert split["parts"] == {"old_train": 7 * 8, "new_train": 24 * 8}

    content = bytearray((photos / "records/train.rec").read_bytes())
    at = int(index.split()[2 * 5 + 1])
    content[at : at + 4] = b"oops"
    (photos / "records/train.rec").write_bytes(content)
    for verb in (["info", "records"], ["verify", "records"], ["convert", "records", "back"]):
        failed = mixbct("data", *verb, cwd=photos, expect=2)
        assert f"train.rec, key 5, byte {at}: found" in failed.stderr
    done = mixbct("data", "convert", "records", "back", "--skip-bad", "--json", cwd=photos)
    assert json.loads(done.stdout)["images"] == 24 * 8 - 1
    assert "left out 1 images" in done.stderr
    train = ["train", "recipes/tiny.toml", *TINY, "--set", "data.path=records", "--out", "run"]
    train += ["--set", "train.epochs=1"]
    assert "key 5" in mixbct(*train, cwd=photos, expect=2).stderr
    assert "left out 1" in mixbct(*train, "--skip-bad", cwd=photos).stderr
