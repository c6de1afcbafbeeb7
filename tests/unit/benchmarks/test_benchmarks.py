"""Every benchmark runs, small and once; what it measures is not judged here."""

import dataclasses
import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[3]
NAMES = [
    "train_step/small",
    "mix_step/skip",
    "mix_step/skip_floor",
    "mix_step/bank",
    "mix_step/whitened",
    "extract",
    "search",
    "denoise",
    "head_only/l2",
    "head_only/mixbct",
    "head_only/sampled",
    "startup",
]
SMALL = {
    "train_step": {"IMAGES": 600},
    "mix_step": {"IMAGES": 600},
    "extract": {"IMAGES": 20, "BATCH": 10},
    "search": {"ROWS": 100},
    "denoise": {"ROWS": 200, "CLASSES": 10},
    "head_only": {"ROWS": 60, "CLASSES": 30, "BATCH": 16, "DIM": 8},
    "startup": {"TIMES": 1},
}


def test_all_of_them_write_their_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    command = importlib.import_module("benchmarks.__main__")
    in_turn = importlib.import_module("benchmarks.measure").in_turn
    for name, sizes in SMALL.items():
        module = importlib.import_module(f"benchmarks.{name}")
        for size, value in sizes.items():
            monkeypatch.setattr(module, size, value)
        monkeypatch.setattr(
            module,
            "in_turn",
            lambda *both, **_: in_turn(*both, for_seconds=0, warm_up=0, at_least=1),
            raising=name != "startup",
        )
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--json", str(tmp_path / "figures.json")])
    command.main()
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [figure["name"] for figure in figures] == NAMES
    for figure in figures:
        assert list(figure) == ["name", "value", "unit", "reference", "ratio"]
        assert min(figure["value"], figure["reference"], figure["ratio"]) > 0
    table = capsys.readouterr().out
    assert all(name in table for name in NAMES)


def test_bridges_at_a_small_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    module = importlib.import_module("benchmarks.bridge")
    in_turn = importlib.import_module("benchmarks.measure").in_turn
    for size, value in {"ROWS": 300, "NEW": 12, "OLD": 6}.items():
        monkeypatch.setattr(module, size, value)
    monkeypatch.setattr(
        module, "in_turn", lambda *both, **_: in_turn(*both, for_seconds=0, warm_up=0, at_least=1)
    )
    module._write(tmp_path)
    figures = module.measure(tmp_path)
    names = ["cca", "cca memory", "whiten", "whiten memory", "apply"]
    assert [figure.name for figure in figures] == [f"bridge/{name}" for name in names]
    assert all(min(figure.value, figure.reference) > 0 for figure in figures)


def test_switches_at_a_small_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    module = importlib.import_module("benchmarks.switch")
    for size, value in {"ROWS": 3000, "DIM": 8, "TIMES": 1}.items():
        monkeypatch.setattr(module, size, value)
    figures = module.run(tmp_path)
    names = ["prepare", "switch", "rollback", "replace_one"]
    assert [figure.name for figure in figures] == [f"switch/{name}" for name in names]
    assert all(min(figure.value, figure.reference) > 0 for figure in figures)


def test_an_evaluation_at_a_small_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    module = importlib.import_module("benchmarks.evaluate")
    in_turn = importlib.import_module("benchmarks.measure").in_turn
    for size, value in {"QUERIES": 90, "ITEMS": 80, "CLASSES": 20, "MANY_CLASSES": 40}.items():
        monkeypatch.setattr(module, size, value)
    monkeypatch.setattr(
        module, "in_turn", lambda *both, **_: in_turn(*both, for_seconds=0, warm_up=0, at_least=1)
    )
    figures = module.run(tmp_path)
    assert [figure.name for figure in figures] == ["evaluate", "evaluate memory"]
    assert all(min(figure.value, figure.reference) > 0 for figure in figures)


def test_exported_files_at_a_small_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    module = importlib.import_module("benchmarks.onnx")
    for size, value in {"SMALL": 16, "OTHERS": {}, "COMPARED": 6}.items():
        monkeypatch.setattr(module, size, value)
    figures = module.run(tmp_path)
    names = [f"onnx/{name}/{size}" for name in ("small", "small query") for size in (1, 3, 64)]
    assert [figure.name for figure in figures] == names
    assert all(0 <= figure.value < 1e-6 for figure in figures)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it takes minutes and leaves a table")
def test_training_at_the_size_of_the_field_runs_in_the_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    module = importlib.import_module("benchmarks.gpu")
    small = dataclasses.replace(module.SMALL, seconds=0.0, batches=(8,))
    monkeypatch.setattr(module, "SMALL", small)
    figures = module.run(tmp_path)
    methods = ["ArcFace", "MixBCT replace", "MixBCT skip", "MixBCT bank"]
    assert [figure.name for figure in figures] == [
        *(f"gpu/{method}, batch 8" for method in methods),
        "gpu/decoding",
    ]
    assert all(min(figure.value, figure.ratio) > 0 for figure in figures)
    (page,) = tmp_path.glob("gpu-*.md")
    text = page.read_text()
    assert all(f"| {method}, batch 8 | " in text for method in methods)
    assert "50 classes" in text
    assert "Decoding alone: " in text


def test_pairs_change_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    measure = importlib.import_module("benchmarks.measure")
    calls: list[str] = []
    pairs = measure.in_turn(
        lambda: calls.append("m"),
        lambda: calls.append("r"),
        for_seconds=0,
        warm_up=1,
        at_least=4,
    )
    assert "".join(calls) == "mr" + "mr" + "rm" + "mr" + "rm"
    assert len(pairs) == 4


def test_figures_are_medians_over_the_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    measure = importlib.import_module("benchmarks.measure")
    pairs = [(1.0, 2.0), (4.0, 4.0), (30.0, 10.0)]
    assert measure.time_figure("x", "s", pairs) == measure.Figure("x", 4.0, "s", 4.0, 1.0)
    rate = measure.rate_figure("x", "images/s", pairs, 8)
    assert rate == measure.Figure("x", 2.0, "images/s", 2.0, 1.0)


def test_an_unknown_name_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    command = importlib.import_module("benchmarks.__main__")
    monkeypatch.setattr(sys, "argv", ["benchmarks", "serach"])
    with pytest.raises(SystemExit):
        command.main()
    assert (
        "no benchmark serach; choose from train_step, mix_step, extract" in capsys.readouterr().err
    )


def test_many_classes_at_a_small_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    module = importlib.import_module("benchmarks.sharded_head")
    monkeypatch.setattr(module, "SIZES", {50: (8, 4), 300: (4, 6)})
    monkeypatch.setattr(module, "SECONDS", 0)
    figures = module.run(tmp_path)
    assert [figure.name for figure in figures] == [
        f"sharded_head/{classes}{sampled}{memory}"
        for classes in (50, 300)
        for sampled in ("", "/sampled")
        for memory in ("", "/memory")
    ]
    assert all(figure.ratio > 0 for figure in figures if figure.unit == "s/step")


def test_two_processes_at_a_small_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    module = importlib.import_module("benchmarks.two_processes")
    in_turn = importlib.import_module("benchmarks.measure").in_turn
    for name, value in {"CLASSES": 20, "STEPS": 1, "BATCH": 8}.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(
        module, "in_turn", lambda *both, **_: in_turn(*both, for_seconds=0, warm_up=0, at_least=1)
    )
    (figure,) = module.run(tmp_path)
    assert (figure.name, figure.unit) == ("two_processes", "images/s")
    assert figure.ratio > 0


def test_a_backfill_at_a_small_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    module = importlib.import_module("benchmarks.backfill")
    for name, value in {"IMAGES": 30, "TIMES": 1}.items():
        monkeypatch.setattr(module, name, value)
    (figure,) = module.run(tmp_path)
    assert (figure.name, figure.unit) == ("backfill", "images/s")
    assert figure.ratio > 0
