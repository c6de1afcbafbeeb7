"""Runs: the same bits every time, however often they were stopped or killed."""

import errno
import itertools
import json
import math
import os
import pkgutil
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_run import MemorySource, make_bank, make_recipe, weights
from torch import nn

from mixbct.backbones.model import load_model
from mixbct.errors import (
    BadImageError,
    BankError,
    CheckpointError,
    DiskFullError,
    ModelError,
    RecipeError,
    StoppedError,
    TrainingDivergedError,
)
from mixbct.files import sha256_file
from mixbct.methods.method import given
from mixbct.recipe import Recipe
from mixbct.training import checkpoint as checkpoint_module
from mixbct.training import run as run_module
from mixbct.training.log import StepReport
from mixbct.training.run import train
from mixbct.training.trainer import Trainer, learning_rate_factor

METHODS = ("independent", "replace", "skip", "bank")


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    return make_bank(tmp_path / "bank", MemorySource()).path


def recipe_of(method: str, bank: Path, *overrides: str) -> Recipe:
    if method == "independent":
        return make_recipe(*overrides)
    return make_recipe(*overrides, bank=bank, draw=method)


def stopped(recipe: Recipe, out: Path, resume: bool = False) -> None:
    with pytest.raises(StoppedError, match="--resume"):
        train(recipe, MemorySource(), out, resume=resume)


def checkpoint(out: Path) -> Path:
    """Return the newest of at most two."""
    found = sorted((out / "checkpoints").glob("*"))
    assert len(found) in (1, 2)
    return found[-1]


# ---------------------------------------------------------------- a run as a folder


def test_a_run_leaves_a_model_its_cost_and_its_recipe(tmp_path: Path, bank: Path) -> None:
    recipe = recipe_of("bank", bank, "train.epochs=4")
    reports: list[StepReport] = []
    cost = train(recipe, MemorySource(), tmp_path / "run", progress=reports.append)
    assert (cost.steps, cost.images) == (24, 24 * 8)
    assert cost.seconds > 0
    assert sorted(p.name for p in (tmp_path / "run").iterdir() if p.name != "tensorboard") == [
        "cost.json",
        "model",
        "recipe.json",
        "steps.jsonl",
    ]
    manifest = load_model(tmp_path / "run").manifest
    assert (manifest.contract.name, manifest.head) == ("tiny", "arcface")
    assert manifest.classes == MemorySource().classes()
    assert manifest.data_digest == MemorySource().digest()
    head = load_file(tmp_path / "run/model/head.safetensors")
    assert head["weight"].shape == (5, 4)
    lines = (tmp_path / "run/steps.jsonl").read_text().splitlines()
    assert [sorted(json.loads(line)) for line in lines] == [["lr", "mixed", "step"]] * 2
    assert [json.loads(line)["step"] for line in lines] == [20, 24]
    assert json.loads(lines[0])["lr"] == pytest.approx(0.1 * (1 - 19 / 24))
    assert [r.step for r in reports] == list(range(1, 25))
    assert [r.epoch for r in reports] == [i // 6 for i in range(24)]
    assert {r.images_in_all for r in reports} == {24 * 8}
    assert all(set(r.losses) == {"mixed"} and r.steps == 24 for r in reports)


def test_a_finished_run_returns_at_once_or_is_refused(tmp_path: Path) -> None:
    recipe, out = make_recipe(), tmp_path / "run"
    cost = train(recipe, MemorySource(), out)
    before = weights(out)
    source = MemorySource()
    assert train(recipe, source, out, resume=True) == cost
    assert source.rows_read == []
    assert weights(out) == before
    with pytest.raises(CheckpointError, match=r"already holds a training run: add --resume"):
        train(recipe, source, out)
    with pytest.raises(CheckpointError, match="trained on other data"):
        train(recipe, MemorySource(seed=1), out, resume=True)
    with pytest.raises(CheckpointError, match=r"a run of another recipe \(tiny\)"):
        train(make_recipe("seed=4"), source, out, resume=True)


def test_resume_begins_what_was_never_begun(tmp_path: Path) -> None:
    train(make_recipe(), MemorySource(), tmp_path / "a", resume=True)
    train(make_recipe(), MemorySource(), tmp_path / "b")
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


# ---------------------------------------------------------------- the same bits


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_decides_every_bit(tmp_path: Path, bank: Path, method: str) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        torch.manual_seed(hash(name) % 1000)  # what ran before must not matter
        np.random.default_rng().random()
        train(recipe_of(method, bank, f"seed={seed}"), MemorySource(), tmp_path / name)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert weights(tmp_path / "a") != weights(tmp_path / "c")


SGD = 'optimizer={name = "sgd", lr = 0.1}'
NO_MOMENTUM = 'optimizer={name = "sgd", lr = 0.1, momentum = 0.0}'
ADAMW = 'optimizer={name = "adamw", lr = 0.01}'


@pytest.mark.parametrize(
    ("method", "optimizer"),
    [*((m, o) for m in METHODS for o in (SGD, ADAMW)), ("independent", NO_MOMENTUM)],
)
def test_stopping_twice_changes_nothing(
    tmp_path: Path, bank: Path, method: str, optimizer: str
) -> None:
    words = (optimizer, "train.warmup_steps=10")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(recipe_of(method, bank, *words), MemorySource(), whole)
    stopped(recipe_of(method, bank, *words, "train.stop_after=4"), parts)
    assert checkpoint(parts).name == "step-00000004"
    assert not (parts / "model").exists()
    torch.manual_seed(99)
    stopped(recipe_of(method, bank, *words, "train.stop_after=13"), parts, resume=True)
    cost = train(recipe_of(method, bank, *words), MemorySource(), parts, resume=True)
    assert weights(parts) == weights(whole)
    assert not (parts / "checkpoints").exists()
    kept = json.loads((whole / "cost.json").read_text())
    assert (cost.steps, cost.images) == (kept["steps"], kept["images"])


BACKBONES = """
from torch import nn

def dropout(dim, size, channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(size * size * channels, 8), nn.Dropout(0.5),
                         nn.Linear(8, dim))

def diverging(dim, size, channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(size * size * channels, dim), NaNAt(4))

class NaNAt(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.calls, self.call = 0, call
    def forward(self, x):
        self.calls += 1
        return x * float("nan") if self.calls == self.call else x

def wrong_shape(dim, size, channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(size * size * channels, dim + 1))
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "own_backbones.py").write_text(BACKBONES)
    monkeypatch.syspath_prepend(tmp_path)
    yield "model={dim = 4, size = 16, channels = 1, backbone = 'own_backbones:%s'}"
    sys.modules.pop("own_backbones", None)


def test_dropout_goes_on_as_if_nothing_had_happened(tmp_path: Path, own: str) -> None:
    model = own % "dropout"
    train(make_recipe(model), MemorySource(), tmp_path / "whole")
    stopped(make_recipe(model, "train.stop_after=7"), tmp_path / "parts")
    torch.manual_seed(99)
    train(make_recipe(model), MemorySource(), tmp_path / "parts", resume=True)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_stop_after_the_last_step_is_the_end(tmp_path: Path) -> None:
    train(make_recipe("train.stop_after=18"), MemorySource(), tmp_path / "run")
    assert (tmp_path / "run/model").exists()


def test_the_log_is_that_of_an_uninterrupted_run(tmp_path: Path) -> None:
    words = ("train.epochs=8",)
    train(make_recipe(*words), MemorySource(), tmp_path / "whole")
    every = (*words, "train.checkpoint_every=15")

    class Killed(BaseException):
        pass

    def kill(report: StepReport) -> None:
        if report.step == 42:
            raise Killed

    with pytest.raises(Killed):
        train(make_recipe(*every), MemorySource(), tmp_path / "parts", progress=kill)
    with (tmp_path / "parts/steps.jsonl").open("a") as file:
        file.write('{"step": 41')
    assert checkpoint(tmp_path / "parts").name == "step-00000030"
    train(make_recipe(*every), MemorySource(), tmp_path / "parts", resume=True)
    logs = [(tmp_path / run / "steps.jsonl").read_text() for run in ("whole", "parts")]
    assert logs[0] == logs[1]
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_saves_and_stops(tmp_path: Path, number: int) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(make_recipe(), MemorySource(), whole)

    def interrupt(report: StepReport) -> None:
        if report.step == 8:
            os.kill(os.getpid(), number)

    with pytest.raises(StoppedError, match="stopped after step 8 of 18") as caught:
        train(make_recipe(), MemorySource(), parts, progress=interrupt)
    assert caught.value.exit_code == 3
    train(make_recipe(), MemorySource(), parts, resume=True)
    assert weights(parts) == weights(whole)


MOMENTS = {
    "before anything is opened": ("mixbct.training.run.latest_checkpoint", "stopped"),
    "while all is built": ("mixbct.training.trainer.open_task", "stopped"),
    "before the first weights": ("mixbct.training.trainer.Trainer.begin", "stopped"),
    "before the log is opened": ("mixbct.training.run.StepLog", "saved"),
    "while a batch is read": ("tiny_run.MemorySource.read", "saved"),
    "in a step": ("mixbct.training.trainer.learning_rate_factor", "saved"),
    "while a checkpoint is written": ("mixbct.training.checkpoint.save_file", "saved"),
    "while the model is saved": ("mixbct.training.run.save_model", "finished"),
    "before the cost is written": ("mixbct.training.run.ModelCost", "finished"),
}
"""What is called then, and how a run ends that is asked to stop there."""


@pytest.mark.parametrize(
    ("moment", "number"), [*zip(MOMENTS, itertools.cycle([signal.SIGINT, signal.SIGTERM]))]
)
def test_a_stop_at_any_moment_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, number: int
) -> None:
    recipe, out = make_recipe("train.checkpoint_every=6"), tmp_path / "parts"
    called, ends = MOMENTS[moment]
    kept = pkgutil.resolve_name(called)
    asked: list[int] = []

    def ask(*arguments: object, **named: object) -> object:
        if not asked:
            asked.append(number)
            # to the main thread, from whichever reads ahead
            signal.pthread_kill(threading.main_thread().ident or 0, number)
        return kept(*arguments, **named)

    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    with monkeypatch.context() as patched:
        patched.setattr(called, ask)
        if ends == "finished":
            train(recipe, MemorySource(), out)
        else:
            with pytest.raises(StoppedError, match=r"same command.* --resume") as caught:
                train(recipe, MemorySource(), out)
            assert caught.value.exit_code == 3
    assert asked
    assert {n: signal.getsignal(n) for n in before} == before
    assert (out / "checkpoints").exists() == (ends == "saved")
    assert (out / "cost.json").exists() == (ends == "finished")
    train(recipe, MemorySource(), out, resume=True)
    train(make_recipe(), MemorySource(), tmp_path / "whole")
    assert weights(out) == weights(tmp_path / "whole")


def test_a_second_signal_acts_at_once_and_keeps_what_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, out = make_recipe("train.checkpoint_every=6"), tmp_path / "run"
    with monkeypatch.context() as patched:

        def impatient(step: int, *others: Any) -> float:
            if step == 8:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGTERM)
            return learning_rate_factor(step, *others)

        patched.setattr("mixbct.training.trainer.learning_rate_factor", impatient)
        with pytest.raises(StoppedError, match=f"stopped; what {out} holds is intact"):
            train(recipe, MemorySource(), out)
    assert checkpoint(out).name == "step-00000006"
    train(recipe, MemorySource(), out, resume=True)
    train(recipe, MemorySource(), tmp_path / "whole")
    assert weights(out) == weights(tmp_path / "whole")


class Unreadable(MemorySource):
    """Its batch of the ninth step cannot be read."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def read(self, rows: np.ndarray) -> np.ndarray:
        if len(self.rows_read) == 8:
            raise self.error
        return super().read(rows)


def test_an_error_between_steps_keeps_the_steps_before_it(tmp_path: Path) -> None:
    # the remedy for a damaged image is other data, which no checkpoint may stand in the way of
    with pytest.raises(BadImageError, match="k3"):
        train(make_recipe(), Unreadable(BadImageError("k3 is damaged", ["k3"])), tmp_path / "run")
    assert not (tmp_path / "run/checkpoints").exists()
    gone = OSError(errno.ESTALE, "Stale file handle")
    with pytest.raises(OSError, match="Stale file handle"):
        train(make_recipe(), Unreadable(gone), tmp_path / "run")
    assert checkpoint(tmp_path / "run").name == "step-00000008"
    train(make_recipe(), MemorySource(), tmp_path / "run", resume=True)
    train(make_recipe(), MemorySource(), tmp_path / "whole")
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_a_disk_that_holds_no_log_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Path.open

    def refuse(self: Path, *arguments: object, **named: object) -> object:
        if self.name == "steps.jsonl":
            raise OSError(errno.ENOSPC, "No space left on device")
        return kept(self, *arguments, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)
    assert train(make_recipe(), MemorySource(), tmp_path / "run").steps == 18
    assert "No space left on device" in caplog.text
    assert (tmp_path / "run/model/model.json").exists()


def test_what_late_kills_leave_behind_is_cleared(tmp_path: Path) -> None:
    recipe, out = make_recipe(), tmp_path / "run"
    stopped(make_recipe("train.stop_after=4"), out)
    begun = shutil.copytree(out / "checkpoints", tmp_path / "kept")
    (out / "checkpoints/.step-00000009.77.partial").mkdir()
    (out / ".model.77.partial").mkdir()
    (out / ".model.77.partial/backbone.safetensors").write_bytes(b"half")
    (out / ".recipe.json.77.partial").write_text("half", encoding="utf-8")
    (out / ".cost.json.77.partial").write_text("half", encoding="utf-8")
    (out / ".profile.old").write_text("a person's own", encoding="utf-8")
    train(recipe, MemorySource(), out, resume=True)
    shutil.copytree(begun, out / "checkpoints")  # a kill after the cost, before they are removed
    train(recipe, MemorySource(), out, resume=True)
    left = {path.name for path in out.iterdir()} - {"tensorboard"}
    assert left == {"cost.json", "model", "recipe.json", "steps.jsonl", ".profile.old"}


def test_a_signal_in_the_last_step_is_too_late(tmp_path: Path) -> None:
    def interrupt(report: StepReport) -> None:
        if report.step == report.steps:
            os.kill(os.getpid(), signal.SIGTERM)

    train(make_recipe(), MemorySource(), tmp_path / "run", progress=interrupt)
    assert (tmp_path / "run/model").exists()


def test_kill_9_loses_no_more_than_the_steps_since_the_checkpoint(tmp_path: Path) -> None:
    words = ("train.checkpoint_every=4",)
    program = (
        f"import sys, time; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "from tiny_run import MemorySource, make_recipe\n"
        "from mixbct.training.run import train\n"
        f"train(make_recipe(*{words!r}), MemorySource(), Path({str(tmp_path / 'parts')!r}),"
        " progress=lambda report: time.sleep(5 * (report.step > 4)))"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        deadline = time.monotonic() + 200
        while not list((tmp_path / "parts/checkpoints").glob("step-*/manifest.json")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "parts/model").exists()
    begun = checkpoint(tmp_path / "parts").name
    source = MemorySource()
    train(make_recipe(*words), source, tmp_path / "parts", resume=True)
    assert len(source.rows_read) == 18 - int(begun.removeprefix("step-"))
    train(make_recipe(), MemorySource(), tmp_path / "whole")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_a_kill_while_the_model_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make_recipe("train.checkpoint_every=6")

    class Killed(BaseException):
        pass

    def kill(*arguments: object, **named: object) -> None:
        raise Killed

    for name in ("save_model", "ModelCost"):  # before the model, and between it and the cost
        with monkeypatch.context() as patched:
            patched.setattr(run_module, name, kill)
            with pytest.raises(Killed):
                train(recipe, MemorySource(), tmp_path / "parts", resume=True)
        assert checkpoint(tmp_path / "parts").name == "step-00000018"
    source = MemorySource()
    assert train(recipe, source, tmp_path / "parts", resume=True).steps == 18
    assert source.rows_read == []
    train(recipe, MemorySource(), tmp_path / "whole")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


# ---------------------------------------------------------------- what is read


def test_skip_never_reads_what_it_does_not_forward(tmp_path: Path, bank: Path) -> None:
    recipe = recipe_of("skip", bank)
    source = MemorySource()
    cost = train(recipe, source, tmp_path / "run")
    plans = [Trainer(recipe, MemorySource()).method.plan(3, *divmod(s, 6)) for s in range(18)]
    assert source.rows_read == [plan.forward_rows.tolist() for plan in plans]
    assert all(
        not set(rows) & set(plan.old_rows.tolist())
        for rows, plan in zip(source.rows_read, plans, strict=True)
    )
    assert sum(len(plan.old_rows) for plan in plans) > 18
    assert cost.images == sum(map(len, source.rows_read)) < 18 * 8


@pytest.mark.parametrize("method", ["independent", "replace", "bank"])
def test_every_image_once_an_epoch(tmp_path: Path, bank: Path, method: str) -> None:
    source = MemorySource(48)
    shutil.rmtree(bank)
    make_bank(bank, source)
    train(recipe_of(method, bank), source, tmp_path / "run")
    for epoch in range(3):
        rows = [row for batch in source.rows_read[epoch * 6 : epoch * 6 + 6] for row in batch]
        assert sorted(rows) == list(range(48))


# ---------------------------------------------------------------- what goes wrong


def test_nan_stops_with_the_step_the_losses_and_the_recipe(tmp_path: Path, own: str) -> None:
    out = tmp_path / "run"
    recipe = make_recipe(own % "diverging", "train.checkpoint_every=2")
    with pytest.raises(
        TrainingDivergedError,
        match=r"at step 4 of 18: classification = nan, gradient norm nan \(recipe tiny\); lower",
    ):
        train(recipe, MemorySource(), out)
    assert not (out / "model").exists()
    assert not (out / "cost.json").exists()
    state = load_file(checkpoint(out) / "shared.safetensors")
    assert checkpoint(out).name == "step-00000002"
    assert all(torch.isfinite(tensor).all() for tensor in state.values())


def test_an_absurd_rate_diverges(tmp_path: Path) -> None:
    recipe = make_recipe(
        "optimizer.lr=1e30", 'head={name = "softmax"}', "optimizer.weight_decay=1.0"
    )
    with pytest.raises(TrainingDivergedError, match=r"classification = (nan|inf)"):
        train(recipe, MemorySource(), tmp_path / "run")
    assert not (tmp_path / "run/model").exists()


def test_nothing_is_updated_by_a_step_that_diverged(own: str) -> None:
    trainer = Trainer(make_recipe(own % "diverging"), MemorySource())
    batches = trainer.batches()
    for _ in range(3):
        trainer.take_step(next(batches))
    before = {k: v.clone() for k, v in trainer.head.state_dict().items()}
    with pytest.raises(TrainingDivergedError):
        trainer.take_step(next(batches))
    assert trainer.step == 3
    for name, tensor in trainer.head.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_backbone_that_gives_the_wrong_dimension(tmp_path: Path, own: str) -> None:
    with pytest.raises(ModelError, match=r"gave \(8, 5\) for 8 inputs, expected \(8, 4\)"):
        train(make_recipe(own % "wrong_shape"), MemorySource(), tmp_path / "run")


def sign(path: Path) -> None:
    """Make the digests in a manifest right."""
    manifest = json.loads((path / "manifest.json").read_text())
    for name in manifest["digests"]:
        manifest["digests"][name] = sha256_file(path / name)
    (path / "manifest.json").write_text(json.dumps(manifest))


def damage_tensors(path: Path) -> None:
    content = bytearray((path / "shared.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "shared.safetensors").write_bytes(content)


def damage_tensors_cut(path: Path) -> None:
    os.truncate(path / "shared.safetensors", 100)


def damage_tensors_gone(path: Path) -> None:
    (path / "shared.safetensors").unlink()


def damage_manifest(path: Path) -> None:
    (path / "manifest.json").write_text("{")


def damage_head(path: Path) -> None:
    os.truncate(next(path.glob("head-*")), 50)


@pytest.mark.parametrize(
    "damage", [f for name, f in sorted(globals().items()) if name.startswith("damage_")]
)
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "run"
    stopped(make_recipe("train.stop_after=4"), out)
    damage(checkpoint(out))
    with pytest.raises(CheckpointError, match=str(checkpoint(out))):
        train(make_recipe(), MemorySource(), out, resume=True)


@pytest.mark.parametrize("damage", [damage_tensors, damage_head, damage_manifest])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage,  # type: ignore[no-untyped-def]
) -> None:
    out, words = tmp_path / "run", ("train.checkpoint_every=4",)
    stopped(make_recipe(*words, "train.stop_after=12"), out)
    damage(checkpoint(out))
    source = MemorySource()
    train(make_recipe(*words), source, out, resume=True)
    assert len(source.rows_read) == 10
    assert "step-00000012" in caplog.text
    assert "the one before it is taken" in caplog.text
    train(make_recipe(), MemorySource(), tmp_path / "whole")
    assert weights(out) == weights(tmp_path / "whole")


def test_a_checkpoint_that_was_never_finished_is_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    stopped(make_recipe("train.stop_after=4"), out)
    (checkpoint(out) / "manifest.json").unlink()
    source = MemorySource()
    train(make_recipe(), source, out)
    assert len(source.rows_read) == 18
    assert "step-00000004 was never finished" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        {"step": -1},
        {"step": 19},
        {"step": 10**30},
        {"step": None},
        {"seconds": -1.0},
        {"seconds": float("nan")},
        {"images": -5},
        {"digests": {"shared.safetensors": "../x"}},
        {"spans": [[0, 4]]},
        {"spans": []},
    ],
    ids=str,
)
def test_a_checkpoint_that_contradicts_its_run_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    out = tmp_path / "run"
    stopped(make_recipe("train.stop_after=4"), out)
    manifest = checkpoint(out) / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | change))
    with pytest.raises(CheckpointError, match=str(checkpoint(out))):
        train(make_recipe(), MemorySource(), out, resume=True)


def test_no_mutation_of_a_checkpoint_gives_a_traceback(tmp_path: Path) -> None:
    out, rng = tmp_path / "run", random.Random(0)
    stopped(make_recipe("train.stop_after=4"), out)
    path = checkpoint(out)
    files = {name: (path / name).read_bytes() for name in ("manifest.json", "shared.safetensors")}
    trainer = Trainer(make_recipe(), MemorySource())
    refused = 0
    for turn in range(200):
        manifest, tensors = map(bytearray, files.values())
        content = (manifest, tensors)[turn % 2]
        # mostly the header of the tensors, whose digest is then made right
        place = rng.randrange(min(len(content), 2000))
        match rng.randrange(3):
            case 0:
                content[place] ^= 1 << rng.randrange(8)
            case 1:
                del content[place : place + rng.randint(1, 40)]
            case _:
                content[place:place] = rng.choice([b"[" * 10_000, b"9" * 5000, b"\0", b"\xff"])
        (path / "shared.safetensors").write_bytes(tensors)
        (path / "manifest.json").write_bytes(manifest)
        if turn % 2:
            sign(path)
        try:
            trainer.load(path)
        except CheckpointError:
            refused += 1
    assert refused > 150


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    """Its digest is right, its tensors are not."""
    out = tmp_path / "run"
    stopped(make_recipe("train.stop_after=4"), out)
    path = checkpoint(out)
    tensors = load_file(path / "shared.safetensors")
    tensors["backbone.embedding.weight"] = torch.zeros(9, 9)
    save_file(tensors, path / "shared.safetensors")
    sign(path)
    with pytest.raises(CheckpointError, match=r"(?s)cannot be loaded.*embedding"):
        train(make_recipe(), MemorySource(), out, resume=True)


def test_resuming_with_another_recipe_or_other_data_is_refused(tmp_path: Path, bank: Path) -> None:
    out = tmp_path / "run"
    stopped(recipe_of("bank", bank, "train.stop_after=4"), out)
    with pytest.raises(CheckpointError, match=r"another recipe \(tiny\).*recipe.json"):
        train(recipe_of("bank", bank, "train.epochs=4"), MemorySource(), out, resume=True)
    with pytest.raises(CheckpointError, match="add --resume"):
        train(recipe_of("bank", bank), MemorySource(), out)
    with pytest.raises(CheckpointError, match="another data or old bank"):
        train(recipe_of("bank", bank), MemorySource(seed=1), out, resume=True)
    (out / "recipe.json").unlink()
    with pytest.raises(CheckpointError, match="written with another recipe"):
        train(recipe_of("bank", bank, "train.epochs=4"), MemorySource(), out, resume=True)
    train(recipe_of("bank", bank), MemorySource(), out, resume=True)


def test_resuming_with_another_old_bank_is_refused(tmp_path: Path) -> None:
    """The recipe names the bank by its path alone, and it may have been made anew meanwhile."""
    out, path = tmp_path / "run", tmp_path / "bank"
    recipe = recipe_of("bank", path, "train.stop_after=4")
    bank = make_bank(path, MemorySource())
    stopped(recipe, out)
    bank.save_credible(np.ones(52, dtype=bool), 1.0, False)
    with pytest.raises(CheckpointError, match="another data or old bank"):
        train(recipe, MemorySource(), out, resume=True)
    shutil.rmtree(path)
    make_bank(path, MemorySource())  # as before, only later
    train(recipe, MemorySource(), out, resume=True)


def test_banks_that_do_not_fit(tmp_path: Path, bank: Path) -> None:
    other = make_bank(tmp_path / "other", MemorySource(40, seed=5, classes=("a", "x", "c"))).path
    for draw in ("replace", "skip"):
        with pytest.raises(BankError, match="not extracted from these training images"):
            train(recipe_of(draw, other), MemorySource(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    train(recipe_of("bank", other), MemorySource(), tmp_path / "run")
    with pytest.raises(BankError, match=r"set model\.dim = 4"):
        train(recipe_of("bank", bank, "model.dim=8"), MemorySource(), tmp_path / "run 2")


def test_settings_that_do_not_fit(tmp_path: Path, bank: Path) -> None:
    with pytest.raises(RecipeError, match=r"train.batch is 60, but there are only 52"):
        train(make_recipe("train.batch=60"), MemorySource(), tmp_path / "run")
    with pytest.raises(RecipeError, match="fewer than two images to forward"):
        train(recipe_of("skip", bank, "method.ratio=0.9"), MemorySource(), tmp_path / "run")
    with pytest.raises(ModelError, match="the device 'banana' cannot be used here"):
        train(make_recipe("train.device=banana"), MemorySource(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, kept = tmp_path / "run", checkpoint_module.save_file
    written = []

    def fill(tensors: dict[str, torch.Tensor], path: Path) -> None:
        if len(written) == 2:  # the two files of the first
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        kept(tensors, path)

    recipe = make_recipe("train.checkpoint_every=4")
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_module, "save_file", fill)
        with pytest.raises(DiskFullError, match="step-00000008"):
            train(recipe, MemorySource(), out)
    assert checkpoint(out).name == "step-00000004"
    train(recipe, MemorySource(), out, resume=True)
    train(recipe, MemorySource(), tmp_path / "whole")
    assert weights(out) == weights(tmp_path / "whole")


def test_clipping_touches_the_backbone_alone() -> None:
    """With a tiny limit the backbone hardly moves, and the head moves as without."""
    moved = {}
    for clip in ("1e-9", "1e9"):
        # weight decay moves what no gradient moves
        trainer = Trainer(
            make_recipe(f"train.clip={clip}", "optimizer.weight_decay=0.0"), MemorySource()
        )
        parts = {"backbone": trainer.backbone, "head": trainer.head}
        before = {n: [p.detach().clone() for p in m.parameters()] for n, m in parts.items()}
        trainer.take_step(next(trainer.batches()))
        moved[clip] = {
            name: [p.detach() - b for p, b in zip(m.parameters(), before[name], strict=True)]
            for name, m in parts.items()
        }
    assert max(float(d.abs().max()) for d in moved["1e-9"]["backbone"]) < 1e-8
    assert max(float(d.abs().max()) for d in moved["1e9"]["backbone"]) > 1e-4
    torch.testing.assert_close(moved["1e-9"]["head"], moved["1e9"]["head"])


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_clipping_is_torchs_to_the_bit(precision: str) -> None:
    """Also where the norm is the limit but for torch's 1e-6, and without a limit or a gradient."""
    trainer = Trainer(make_recipe(f"train.precision={precision}"), MemorySource())
    trained = list(trainer.backbone.parameters())
    assert trainer._clip() == 0
    generator = torch.Generator().manual_seed(5)
    kept = [torch.randn(p.shape, dtype=p.dtype, generator=generator) for p in trained]
    norm = float(nn.utils.get_total_norm(kept))
    near = [math.nextafter(norm + 1e-6, toward) for toward in (0, math.inf)]
    limits = [None, norm / 3, norm, norm + 1e-6, *near, 0.99 * norm, 1.01 * norm, 3 * norm]
    scaled = 0
    for limit in limits:
        found = []
        for ours in (True, False):
            for parameter, gradient in zip(trained, kept, strict=True):
                parameter.grad = gradient.clone()
            train = trainer.recipe.train.model_copy(update={"clip": limit})
            trainer.recipe = trainer.recipe.model_copy(update={"train": train})
            most = math.inf if limit is None else limit
            was = trainer._clip() if ours else nn.utils.clip_grad_norm_(trained, most)
            found.append([was, *(given(p.grad) for p in trained)])
        assert all(map(torch.equal, *found))
        scaled += not torch.equal(found[0][1], kept[0])
    assert 3 <= scaled < len(limits)
