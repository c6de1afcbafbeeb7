"""What GPUs are for, tried on a processor: bfloat16, losses that are looked at late, compiling."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_run import MemorySource, make_recipe
from torch import nn

from mixbct.errors import RecipeError, TrainingDivergedError
from mixbct.recipe import Recipe
from mixbct.training.checkpoint import latest_checkpoint
from mixbct.training.run import train
from mixbct.training.trainer import Trainer

BACKBONES = """
import torch
from torch import nn

class NaNAt(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.calls, self.call = 0, call

    def forward(self, x):
        self.calls += 1
        return x * float("nan") if self.calls == self.call else x

def diverging(dim, size, channels, call, **_):
    return nn.Sequential(nn.Flatten(), nn.Linear(size * size * channels, dim), NaNAt(call))

class Noting(nn.Module):
    def forward(self, x):
        self.seen = x.dtype
        return x

def noting(dim, size, channels, **_):
    return nn.Sequential(nn.Flatten(), nn.Linear(size * size * channels, dim), Noting())
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "fast_backbones.py").write_text(BACKBONES)
    monkeypatch.syspath_prepend(tmp_path)
    return "model.backbone=fast_backbones:%s"


def first_gradients(*settings: str) -> tuple[float, dict[str, torch.Tensor], Trainer]:
    trainer = Trainer(make_recipe(*settings), MemorySource())
    report = trainer.take_step(next(trainer.batches()))
    found = {
        f"{name}.{of}": p.grad.clone()
        for name, module in trainer.modules.items()
        for of, p in module.named_parameters()
        if p.grad is not None
    }
    return report.losses["classification"], found, trainer


def test_with_bf16_the_backbone_alone_is_half(own: str) -> None:
    _, found, trainer = first_gradients(own % "noting", "train.precision=bf16")
    assert trainer.backbone[2].seen == torch.bfloat16
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    assert trainer.embed(MemorySource().images[:3]).dtype == torch.float32


def test_bf16_gives_the_losses_and_gradients_of_float32_but_for_its_rounding() -> None:
    loss, expected, _ = first_gradients()
    half, found, _ = first_gradients("train.precision=bf16")
    assert half == pytest.approx(loss, rel=0.01)
    assert half != loss
    assert found.keys() == expected.keys()
    weight = "head.weight"
    for name in (weight, "backbone.embedding.weight"):
        alike = torch.cosine_similarity(found[name].flatten(), expected[name].flatten(), dim=0)
        assert alike > 0.99


def test_a_run_in_bf16_leaves_weights_in_float32(tmp_path: Path) -> None:
    train(make_recipe("train.precision=bf16"), MemorySource(), tmp_path / "run")
    state = load_file(tmp_path / "run/model/backbone.safetensors")
    assert {v.dtype for v in state.values() if v.is_floating_point()} == {torch.float32}


def late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "late", True)


def test_losses_that_are_looked_at_late_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: dict[str, list[tuple[int, dict[str, float]]]] = {"now": [], "late": []}
    for name, kept in reports.items():
        train(
            make_recipe(),
            MemorySource(),
            tmp_path / name,
            progress=lambda report, kept=kept: kept.append((report.step, report.losses)),
        )
        late(monkeypatch)
    assert reports["now"] == reports["late"]
    logs = [(tmp_path / name / "steps.jsonl").read_text() for name in reports]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("call", [4, 18])
def test_a_late_divergence_is_named_with_its_step_and_nothing_is_saved_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, call: int
) -> None:
    late(monkeypatch)
    recipe = make_recipe(
        own % "diverging", f"model.options.call={call}", "train.checkpoint_every=2"
    )
    out = tmp_path / "run"
    with pytest.raises(TrainingDivergedError, match=f"at step {call} of 18: classification = nan"):
        train(recipe, MemorySource(), out)
    assert not (out / "model").exists()
    newest = latest_checkpoint(out / "checkpoints")
    assert newest is not None
    assert newest.name == f"step-{call - 2:08d}"
    state = load_file(newest / "shared.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in state.values())


def test_a_step_after_a_divergence_does_not_happen(
    monkeypatch: pytest.MonkeyPatch, own: str
) -> None:
    late(monkeypatch)
    trainer = Trainer(make_recipe(own % "diverging", "model.options.call=3"), MemorySource())
    batches = trainer.batches()
    for _ in range(3):
        trainer.take_step(next(batches))
    with pytest.raises(TrainingDivergedError, match="at step 3 of 18"):
        trainer.take_step(next(batches))
    assert trainer.step == 3
    with pytest.raises(TrainingDivergedError, match="at step"):
        trainer.save(Path("nowhere"))


def compiled(own: str) -> Recipe:
    return make_recipe(own % "noting", "train.compile=true")


@pytest.mark.skipif(not shutil.which("g++"), reason="torch compiles for processors with g++")
@pytest.mark.filterwarnings("ignore")  # of torch's compiler
def test_a_compiled_backbone_trains_alike(own: str) -> None:
    plain = Trainer(make_recipe(own % "noting"), MemorySource())
    fast = Trainer(compiled(own), MemorySource())
    assert fast.backbone.state_dict().keys() == plain.backbone.state_dict().keys()
    for batch in [batch for _, batch in zip(range(3), plain.batches(), strict=False)]:
        losses = [trainer.take_step(batch).losses for trainer in (plain, fast)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for name, tensor in plain.backbone.state_dict().items():
        torch.testing.assert_close(fast.backbone.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
    assert next(iter(fast.backbone.modules()))._compiled_call_impl is not None


def test_a_compiler_that_fails_is_named(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(compiled(own), MemorySource())
    fault = type("InvalidCxxCompiler", (RuntimeError,), {"__module__": "torch._inductor.exc"})

    def fail(*_: object) -> None:
        raise fault("No working C++ compiler found\nmore")

    monkeypatch.setattr(nn.Module, "__call__", fail)
    with pytest.raises(RecipeError, match=r"No working C\+\+ compiler found; set train\.compile"):
        trainer.embed(np.zeros((2, 16, 16, 1), np.uint8))


def test_recipes_of_before_have_the_digest_of_before() -> None:
    assert "compile" not in make_recipe().to_json()
