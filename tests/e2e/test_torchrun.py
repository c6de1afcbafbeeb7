"""Processes that torchrun starts: one run, one bank, printed once; verbs that know one refuse."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mixbct.data.bank import FeatureBank

WORDS = "data.path=photos model.channels=3 train.batch=16 train.epochs=1 train.precision=float64"
TINY = [word for each in WORDS.split() for word in ("--set", each)]


def torchrun(processes: int, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    run = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run(
        [sys.executable, *run, "-m", "mixbct", *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_two_processes_train_and_extract_as_one(mixbct, shared_photos: Path) -> None:
    words = ["train", "recipes/tiny.toml", *TINY, "--set", "train.shared_statistics=true"]
    done = torchrun(2, *words, "--out", "two", "--json", cwd=shared_photos)
    assert done.returncode == 0, done.stderr
    cost = json.loads(done.stdout)  # printed once
    assert (cost["steps"], cost["images"]) == (12, 192)
    assert done.stderr.count(" s\n") == 1
    mixbct(*words, "--out", "one", cwd=shared_photos)
    one, two = (
        load_file(shared_photos / each / "model/head.safetensors") for each in ("one", "two")
    )
    assert one["weight"].shape == two["weight"].shape == (24, one["weight"].shape[1])
    # kinks of the tiny network make rounding larger
    np.testing.assert_allclose(two["weight"], one["weight"], rtol=1e-4, atol=1e-6)

    words = ["extract", "two", "--data", "photos", "--out", "bank"]
    done = torchrun(2, *words, cwd=shared_photos)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("features of") == done.stdout.count("next: mixbct denoise") == 1
    assert len(FeatureBank(shared_photos / "bank")) == 192


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch compiles for processors with g++")
def test_two_processes_train_a_compiled_backbone_alike(shared_photos: Path) -> None:
    weights = []
    for name, compiled in (("eager", "false"), ("compiled", "true")):
        words = ["train", "recipes/tiny.toml", *TINY, "--set", f"train.compile={compiled}"]
        done = torchrun(2, *words, "--out", name, cwd=shared_photos)
        assert done.returncode == 0, done.stderr
        weights.append(load_file(shared_photos / name / "model/head.safetensors")["weight"])
    np.testing.assert_allclose(*weights, rtol=1e-4, atol=1e-6)


def test_what_ends_all_is_said_without_a_traceback_of_ours(shared_photos: Path) -> None:
    words = ["train", "recipes/tiny.toml", *TINY, "--set", "train.batch=1000"]
    done = torchrun(2, *words, "--out", "none", cwd=shared_photos)
    assert done.returncode != 0
    assert "error: train.batch is 1000, but there are only 192 training images" in done.stderr
    assert "mixbct/training" not in done.stderr


@pytest.mark.parametrize(
    ("environment", "words", "said"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0"}, "denoise bank", "denoise knows only one process, but"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "data info photos", "data knows only one process"),
        ({"WORLD_SIZE": "2"}, "train recipes/tiny.toml", "not as torchrun does: RANK = None"),
        (
            {"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0"},
            "train recipes/tiny.toml",
            "not as torchrun does",
        ),
        ({"WORLD_SIZE": "many"}, "train recipes/tiny.toml", "WORLD_SIZE = 'many'"),
    ],
)
def test_a_world_that_is_none_is_refused(
    mixbct,
    shared_photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    words: str,
    said: str,
) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert said in mixbct(*words.split(), cwd=shared_photos, expect=2).stderr


def test_one_process_under_torchrun_is_one_process(
    mixbct, shared_photos: Path, monkeypatch
) -> None:  # type: ignore[no-untyped-def]
    for name, value in {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert "photos" in mixbct("data", "info", "photos", cwd=shared_photos).stdout
