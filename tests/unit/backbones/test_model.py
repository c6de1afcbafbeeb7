"""A model folder holds exactly one model, and nothing in it is ever executed."""

import io
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mixbct.backbones.model import (
    BACKBONES,
    EmbeddingModel,
    build_backbone,
    contract_of,
    load_model,
    read_manifest,
    save_model,
    to_inputs,
    weights_digest,
)
from mixbct.errors import ModelError
from mixbct.schemas.model import ModelManifest, Preprocessing

PRE = Preprocessing(size=16, channels=1)
OPTIONS = {"width": 4}


def images(count: int = 5) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (count, 16, 16, 1), dtype=np.uint8))


def save(path: Path, backbone: nn.Module, name: str = "small", dim: int = 6) -> ModelManifest:
    manifest = ModelManifest(
        backbone=name,
        options=OPTIONS if name == "small" else {},
        contract=contract_of("old", backbone, PRE, dim),
        head="arcface",
        classes=("a", "b", "c"),
        data_digest="digest",
    )
    save_model(path, manifest, backbone, {"weight": torch.randn(3, dim)})
    return manifest


@pytest.fixture
def backbone() -> nn.Module:
    torch.manual_seed(0)
    built = build_backbone("small", 6, PRE, OPTIONS)
    built(torch.randn(8, 1, 16, 16))  # moves the running statistics
    return built


@pytest.fixture
def folder(tmp_path: Path, backbone: nn.Module) -> Path:
    save(tmp_path / "run" / "model", backbone)
    return tmp_path / "run" / "model"


FACTORIES = """
import torch
from torch import nn

class Flat(nn.Module):
    def __init__(self, dim, size, channels, bias=True, tied=False, extra=0):
        super().__init__()
        self.linear = nn.Linear(size * size * channels, dim + extra, bias=bias)
        if tied:
            self.same = self.linear
    def forward(self, x):
        return self.linear(x.flatten(1))

def flat(dim, size, channels, **options):
    return Flat(dim, size, channels, **options)

def wrong_shape(dim, size, channels):
    return Flat(dim, size, channels, extra=1)

def refuses(dim, size, channels):
    raise ValueError("not today")

def no_module(dim, size, channels):
    return [dim]

number = 3


def leaves(dim, **options):
    raise SystemExit(0)
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "my_backbones.py").write_text(FACTORIES)
    (tmp_path / "leaving.py").write_text("raise SystemExit('at import')")
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_backbones"
    import sys

    sys.modules.pop("my_backbones", None)


def test_a_saved_model_comes_back_bit_for_bit(backbone: nn.Module, folder: Path) -> None:
    model = load_model(folder)
    state = model.backbone.state_dict()
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(state[name], tensor)
        assert state[name].dtype == tensor.dtype
    assert not model.backbone.training
    expected = backbone.eval()(to_inputs(images(), PRE))
    assert torch.equal(model.embed(images()), expected)
    assert model.contract.dim == 6
    assert model.contract.weights == weights_digest(backbone.state_dict())
    manifest = model.manifest
    assert (manifest.backbone, manifest.options) == ("small", OPTIONS)
    assert (manifest.head, manifest.classes) == ("arcface", ("a", "b", "c"))
    assert manifest.data_digest == "digest"
    assert sorted(p.name for p in folder.iterdir()) == [
        "backbone.safetensors",
        "head.safetensors",
        "model.json",
    ]


def test_a_run_stands_for_its_model(folder: Path) -> None:
    assert load_model(folder.parent).contract == load_model(folder).contract
    assert read_manifest(folder.parent)[0] == folder


def test_saving_again_replaces_the_folder(backbone: nn.Module, folder: Path) -> None:
    (folder / "stale").touch()
    save(folder, backbone)
    assert not (folder / "stale").exists()
    load_model(folder)


def test_images_are_normalised_by_the_contract() -> None:
    pre = Preprocessing(size=16, channels=1, mean=100.0, std=50.0)
    values = to_inputs(images(), pre)
    assert values.shape == (5, 1, 16, 16)
    assert values.dtype == torch.float32
    expected = (images().double().permute(0, 3, 1, 2) - 100) / 50
    torch.testing.assert_close(values.double(), expected)


def test_the_digest_sees_names_values_shapes_and_types() -> None:
    state = {"a": torch.arange(6.0), "b": torch.ones(2)}
    digest = weights_digest(state)
    assert weights_digest(dict(reversed(state.items()))) == digest
    assert weights_digest({"a": state["a"].view(2, 3).t().contiguous().t(), "b": state["b"]}) != (
        digest
    )
    grid = torch.arange(12.0).view(1, 3, 2, 2)
    memory = grid.contiguous(memory_format=torch.channels_last)
    assert weights_digest({"a": memory}) == weights_digest({"a": grid})
    for other in (
        {"a": torch.arange(6.0), "c": torch.ones(2)},
        {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2)},
        {"a": torch.arange(6.0).double(), "b": torch.ones(2)},
        {"a": torch.arange(6.0), "b": torch.tensor([1.0, 1.0000001])},
        {"a": torch.arange(6.0)},
    ):
        assert weights_digest(other) != digest


def test_changed_weights_are_seen(folder: Path) -> None:
    state = load_file(folder / "backbone.safetensors")
    state["embedding.weight"][0, 0] += 1e-6
    save_file(state, folder / "backbone.safetensors")
    with pytest.raises(ModelError, match=r"not those of its contract old .*changed since"):
        load_model(folder)


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"{}"])
def test_damaged_weights_are_refused(folder: Path, content: bytes) -> None:
    (folder / "backbone.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"the weights in .* do not load"):
        load_model(folder)


def test_missing_or_other_weights_are_refused(folder: Path) -> None:
    state = load_file(folder / "backbone.safetensors")
    save_file({**state, "embedding.weight": torch.zeros(2, 2)}, folder / "backbone.safetensors")
    with pytest.raises(ModelError, match="not those of its contract"):
        load_model(folder)
    (folder / "backbone.safetensors").unlink()
    with pytest.raises(ModelError, match="there is no file of weights at"):
        load_model(folder)
    shutil.rmtree(folder)
    with pytest.raises(ModelError, match="there is no model at"):
        load_model(folder)


class Bomb:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.target, "w")


@pytest.mark.parametrize("writer", [pickle.dump, torch.save])
def test_a_pickle_is_never_executed(folder: Path, tmp_path: Path, writer) -> None:  # type: ignore[no-untyped-def]
    target = tmp_path / "executed"
    buffer = io.BytesIO()
    writer(Bomb(str(target)), buffer)
    (folder / "backbone.safetensors").write_bytes(buffer.getvalue())
    with pytest.raises(ModelError, match="do not load"):
        load_model(folder)
    assert not target.exists()


def test_unknown_backbones_are_named_with_the_choices() -> None:
    with pytest.raises(
        ModelError, match="there is no backbone 'resnet999' over images; choose one of small"
    ):
        build_backbone("resnet999", 6, PRE, {})
    assert list(BACKBONES) == [
        *("small", "iresnet18", "iresnet34", "iresnet50", "iresnet100", "iresnet200"),
        *("mobilefacenet", "vit_t", "vit_s", "vit_b"),
    ]


@pytest.mark.parametrize(
    "options",
    [{"wdith": 4}, {"dim": 3}, {"width": "wide"}, {"width": -1}, {"width": 2.5}, {"width": 0}],
)
def test_wrong_options_are_named(options: dict[str, int | float | str | bool]) -> None:
    with pytest.raises(ModelError, match=f"backbone 'small' does not take.*{next(iter(options))}"):
        build_backbone("small", 6, PRE, options)


def test_a_factory_of_ones_own(tmp_path: Path, factories: str) -> None:
    backbone = build_backbone(f"{factories}:flat", 6, PRE, {"bias": False})
    save(tmp_path / "model", build_backbone(f"{factories}:flat", 6, PRE, {}), f"{factories}:flat")
    assert backbone.linear.bias is None
    assert load_model(tmp_path / "model", trust_code=True).embed(images()).shape == (5, 6)


def test_tied_weights_can_be_saved(tmp_path: Path, factories: str) -> None:
    name = f"{factories}:flat"
    backbone = build_backbone(name, 6, PRE, {"tied": True})
    contract = contract_of("m", backbone, PRE, 6)
    manifest = ModelManifest(backbone=name, options={"tied": True}, contract=contract)
    save_model(tmp_path / "model", manifest, backbone)
    model = load_model(tmp_path / "model", trust_code=True)
    assert torch.equal(model.backbone.linear.weight, backbone.linear.weight)  # type: ignore[union-attr,arg-type]
    assert not (tmp_path / "model" / "head.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no_such_package:f", "cannot be imported"),
        ("my_backbones:missing", "cannot be imported"),
        (":f", "cannot be imported"),
        (".relative:f", "cannot be imported"),
        ("my_backbones:number", "is not callable"),
        ("my_backbones:no_module", "gave a list, expected a torch module"),
        ("my_backbones:refuses", "not today"),
        ("my_backbones:leaves", r"ended with SystemExit\(0\)"),
        ("leaving:any", r"ended with SystemExit\('at import'\)"),
    ],
)
def test_factories_that_cannot_be_used(factories: str, name: str, says: str) -> None:
    with pytest.raises(ModelError, match=f"{name}.*{says}"):
        build_backbone(name, 6, PRE, {})


def test_a_wrong_output_shape_is_named(tmp_path: Path, factories: str) -> None:
    name = f"{factories}:wrong_shape"
    manifest = save(tmp_path / "m", build_backbone(name, 6, PRE, {}), name)
    model = EmbeddingModel(build_backbone(name, 6, PRE, {}), manifest)
    with pytest.raises(ModelError, match=r"gave \(5, 7\) for 5 inputs, expected \(5, 6\)"):
        model.embed(images())


@pytest.mark.parametrize("device", ["banana", "cuda:99"])
def test_a_device_that_is_not_there(folder: Path, device: str) -> None:
    with pytest.raises(ModelError, match=f"the device '{device}' cannot be used here"):
        load_model(folder, device)


def test_a_device_without_the_models_numbers(
    tmp_path: Path, backbone: nn.Module, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zeros = torch.zeros

    def without_float64(*size: object, dtype: torch.dtype | None = None, **more: object):  # type: ignore[no-untyped-def]
        if dtype == torch.float64:  # as torch says it of Apple's
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework")
        return zeros(*size, dtype=dtype, **more)

    save(tmp_path / "double", backbone.double())
    monkeypatch.setattr(torch, "zeros", without_float64)
    load_model(folder)
    with pytest.raises(ModelError, match=r"'cpu' cannot be used here: .* float64"):
        load_model(tmp_path / "double")
