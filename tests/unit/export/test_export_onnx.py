"""An exported file gives the model's vectors, and says whose they are as long as it is whole."""

import builtins
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from mixbct.backbones.foreign import import_onnx
from mixbct.backbones.model import (
    EmbeddingModel,
    build_backbone,
    contract_of,
    load_model,
    save_model,
)
from mixbct.backbones.onnx import OnnxFile
from mixbct.cli import main
from mixbct.data import open_source
from mixbct.data.bank import normalise
from mixbct.errors import ContractError, ModelError
from mixbct.export.onnx import export_onnx
from mixbct.features.bridged import through
from mixbct.schemas.bridge import Bridge
from mixbct.schemas.linear_map import LinearMap
from mixbct.schemas.model import Contract, ModelManifest, Preprocessing

PRE = Preprocessing(size=32, channels=3, mean=120.0, std=60.0)
OLD = Contract(name="old", weights="declared:old", preprocessing=None, dim=5)


def save(path: Path, name: str, pre: Preprocessing, dim: int, double: bool = False) -> Path:
    torch.manual_seed(3)
    options = {"width": 4} if name == "small" else {}
    backbone = build_backbone(name, dim, pre, options)
    if double:
        backbone.double()
    kind = torch.float64 if double else torch.float32
    # moves the running statistics
    backbone.train()(torch.randn(16, pre.channels, pre.size, pre.size, dtype=kind))
    contract = contract_of(name, backbone, pre, dim)
    save_model(path, ModelManifest(backbone=name, options=options, contract=contract), backbone)
    return path


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run a command in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["mixbct", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seventy JPEG files of smooth pictures, some turned by EXIF, none of the model's size."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(70):
        place = folder / f"class-{number % 7}" / f"{number}.jpg"
        place.parent.mkdir(exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        exif = Image.Exif()
        exif[274] = 6 if number % 5 == 0 else 1
        coarse.resize((60, 50), Image.Resampling.BICUBIC).save(place, exif=exif)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "small", "small", PRE, 12)


@pytest.fixture(scope="module")
def bridge(model: Path) -> Bridge:
    rng = np.random.default_rng(1)
    query = LinearMap.of(rng.normal(size=(12, 5)), rng.normal(size=5))
    return Bridge(kind="ridge", source=load_model(model).contract, target=OLD, query=query)


@pytest.fixture(scope="module")
def exported(
    model: Path, photos: Path, bridge: Bridge, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("exported") / "out"
    export_onnx(load_model(model), open_source(photos, PRE), out, bridge=bridge)
    return out


def test_onnxruntime_alone_gives_the_models_vectors(
    model: Path, photos: Path, bridge: Bridge, exported: Path
) -> None:
    loaded, source = load_model(model), open_source(photos, PRE)
    pixels = source.read(np.arange(64))
    expected = loaded.embed(torch.from_numpy(pixels)).numpy()
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    for size in (1, 3, 64):
        given = pixels[:size].transpose(0, 3, 1, 2).astype(np.float32)
        embedding, query = session.run(["embedding", "query"], {"images": given})
        np.testing.assert_allclose(embedding, expected[:size], rtol=1e-4, atol=1e-5)
        queries = through(bridge.query, normalise(expected[:size]))
        np.testing.assert_allclose(query, queries, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(query, axis=1), 1, rtol=1e-5)


def test_it_comes_back_under_the_same_contract(
    model: Path, photos: Path, exported: Path, tmp_path: Path
) -> None:
    # what is said of the preprocessing is the file's to say
    wrong = Preprocessing(size=112, channels=3)
    import_onnx(exported / "model.onnx", tmp_path / "back", name="other", preprocessing=wrong)
    before, after = load_model(model), load_model(tmp_path / "back")
    assert after.contract == before.contract
    pixels = torch.from_numpy(open_source(photos, PRE).read(np.arange(9)))
    torch.testing.assert_close(after.embed(pixels), before.embed(pixels), rtol=1e-4, atol=1e-5)


def test_a_changed_graph_inherits_nothing(exported: Path, tmp_path: Path) -> None:
    content = (exported / "model.onnx").read_bytes()
    changed = onnx.load_model_from_string(content)
    changed.graph.initializer[0].raw_data = bytes(len(changed.graph.initializer[0].raw_data))
    (tmp_path / "changed.onnx").write_bytes(changed.SerializeToString())
    assert OnnxFile(content).inherited() is not None
    assert OnnxFile(content, "query").inherited() is None
    assert OnnxFile(changed.SerializeToString()).inherited() is None
    pre = PRE.model_copy(update={"mean": 0.0, "std": 1.0})
    made = import_onnx(
        tmp_path / "changed.onnx", tmp_path / "m", name="m", preprocessing=pre, output="embedding"
    )
    assert made.contract.name == "m"


def test_a_claim_that_is_no_contract_is_none(exported: Path) -> None:
    model = onnx.load(exported / "model.onnx")
    for entry in model.metadata_props:
        if entry.key == "mixbct.contract":
            entry.value = '{"name": 3}'
    assert OnnxFile(model.SerializeToString()).inherited() is None


def test_a_model_folder_whose_file_was_changed_is_refused(exported: Path, tmp_path: Path) -> None:
    import_onnx(exported / "model.onnx", tmp_path / "m", name="m", preprocessing=PRE)
    file = tmp_path / "m" / "backbone.onnx"
    model = onnx.load(file)
    model.graph.initializer[0].raw_data = bytes(len(model.graph.initializer[0].raw_data))
    file.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="not those of its contract"):
        load_model(tmp_path / "m")


def test_what_lies_beside_it_is_enough_to_do_it_elsewhere(exported: Path, model: Path) -> None:
    report = json.loads((exported / "export.json").read_text())
    assert report["inherits"]
    assert report["outputs"] == ["embedding", "query"]
    assert report["farthest"] < 1e-6
    assert report["images"] == 64
    golden = sorted((exported / "golden").glob("*.jpg"), key=lambda path: int(path.stem))
    assert len(golden) == 8
    # the files as they were stored, turned and scaled as the page says
    pixels = []
    for path in golden:
        image = Image.open(path)
        if image.getexif().get(274) == 6:
            image = image.transpose(Image.Transpose.ROTATE_270)
        pixels.append(np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)))
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    given = np.stack(pixels).transpose(0, 3, 1, 2).astype(np.float32)
    embedding, query = session.run(["embedding", "query"], {"images": given})
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, np.load(exported / "golden" / "embedding.npy"), atol=1e-4)
    np.testing.assert_allclose(query, np.load(exported / "golden" / "query.npy"), atol=1e-4)
    assert "(120)" in (exported / "PREPROCESSING.md").read_text()


@pytest.mark.parametrize(
    ("name", "size", "double"),
    [("iresnet18", 32, False), ("vit_t", 32, False), ("small", 16, True)],
)
def test_every_kind_of_backbone(
    name: str, size: int, double: bool, photos: Path, tmp_path: Path
) -> None:
    pre = Preprocessing(size=size, channels=1 if double else 3)
    loaded = load_model(save(tmp_path / "model", name, pre, 16, double))
    report = export_onnx(loaded, open_source(photos, pre), tmp_path / "out", unit=True)
    assert report.inherits
    assert report.farthest < 1e-5
    assert report.from_float64 is double
    assert loaded.dtype == (torch.float64 if double else torch.float32)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    given = np.zeros((2, pre.channels, size, size), np.float32)
    (unit,) = session.run(None, {"images": given})
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-5)


def test_whole_numbers_are_another_model(
    model: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    asked = ["export", str(model), "--data", str(photos), "--out", str(out), "--int8", "--json"]
    assert run(monkeypatch, *asked) == 0
    report = json.loads(capsys.readouterr().out)
    assert not report["inherits"]
    assert 1e-6 < report["mean"] < report["farthest"] < 0.2
    assert OnnxFile((out / "model.onnx").read_bytes()).inherited() is None
    pre = PRE.model_copy(update={"mean": 0.0, "std": 1.0})
    made = import_onnx(out / "model.onnx", tmp_path / "m", name="m", preprocessing=pre)
    assert made.contract.id != report["model"]
    assert not list(out.parent.glob("*.int8"))


class _Other(torch.nn.Module):
    """What does not do the same twice."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(dim))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.rand_like(images.flatten(1)[:, : len(self.weight)]) * self.weight


def test_a_graph_that_gives_other_vectors_is_not_kept(photos: Path, tmp_path: Path) -> None:
    backbone = _Other(6)
    contract = contract_of("random", backbone, PRE, 6)
    manifest = ModelManifest(backbone="elsewhere:random", contract=contract)
    loaded = EmbeddingModel(backbone, manifest)
    with pytest.raises(ModelError, match="gives other vectors"):
        export_onnx(loaded, open_source(photos, PRE), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_named_refusals(model: Path, photos: Path, bridge: Bridge, tmp_path: Path) -> None:
    loaded, source = load_model(model), open_source(photos, PRE)
    (tmp_path / "there").mkdir()
    with pytest.raises(ModelError, match="is there already"):
        export_onnx(loaded, source, tmp_path / "there")
    other = bridge.model_copy(
        update={"source": bridge.source.model_copy(update={"weights": "another"})}
    )
    with pytest.raises(ContractError, match="other models"):
        export_onnx(loaded, source, tmp_path / "out", bridge=other)


@pytest.mark.parametrize("missing", ["onnxscript", "onnx"])
def test_without_the_extra(
    missing: str,
    model: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hide: Callable[[str], None],
) -> None:
    hide(missing)
    with pytest.raises(ModelError, match=r"pip install 'mixbct\[onnx\]'"):
        export_onnx(load_model(model), open_source(photos, PRE), tmp_path / "out")


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    real = builtins.__import__

    def hidden(name: str) -> None:
        def without(asked: str, *rest: object, **named: object) -> object:
            if asked.partition(".")[0] == name:
                raise ImportError(asked)
            return real(asked, *rest, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(builtins, "__import__", without)

    return hidden


def test_the_command(
    model: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["export", str(model), "--data", str(photos), "--out", str(tmp_path / "out")]
    assert run(monkeypatch, *words, "--query") == 2
    assert "carries no bridge" in capsys.readouterr().err
    assert run(monkeypatch, *words) == 0
    said = capsys.readouterr()
    assert "it has the model's contract" in said.out
    assert "torchvision" not in said.err
    following = said.out.splitlines()[-1].removeprefix("next: mixbct ").split()
    assert run(monkeypatch, *following) == 0
