"""Foreign weights load exactly or not at all, and nothing in them is executed."""

import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mixbct.backbones.foreign import import_weights
from mixbct.backbones.model import build_backbone, load_model, state_copy, to_inputs
from mixbct.cli import main
from mixbct.errors import ModelError
from mixbct.schemas.model import Preprocessing

PRE = Preprocessing(size=16, channels=3, mean=127, std=128)
NORM = "embedding_norm."
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(0)
    model = build_backbone("small", 8, PRE, {})
    model(torch.randn(4, 3, 16, 16))  # moves the running statistics
    return state_copy(model.state_dict())


def load(file: Path, out: Path, backbone: str = "small", dim: int = 8) -> None:
    import_weights(file, out, name="old", backbone=backbone, dim=dim, preprocessing=PRE)


def refusal(file: Path, *options: str | int) -> str:
    with pytest.raises(ModelError) as caught:
        load(file, file.parent / "out", *options)  # type: ignore[arg-type]
    assert not (file.parent / "out").exists()
    return str(caught.value)


def named(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def prefixed(state: State) -> State:
    return named("module.", state)


def old_format(state: State, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("name", "save", "wrap"),
    [
        ("backbone.pth", torch.save, dict),
        ("backbone.pt", torch.save, prefixed),
        ("checkpoint_gpu_0.pt", torch.save, lambda s: {"epoch": 3, "state_dict_backbone": s}),
        ("last.pth", torch.save, lambda s: {"state_dict": prefixed(s)}),
        ("backbone.safetensors", save_file, prefixed),
        ("BACKBONE.SAFETENSORS", save_file, dict),
        ("BACKBONE.PTH", torch.save, dict),
        ("pytorch_model.BIN", torch.save, lambda s: named("backbone.", s)),
        ("compiled.pt", torch.save, lambda s: named("_orig_mod.", s)),
        ("wrapped.pt", torch.save, lambda s: named("module._orig_mod.model.", s)),
        ("lightning.ckpt", torch.save, lambda s: {"state_dict": named("model.", s), "epoch": 1}),
        ("twice.pt", torch.save, lambda s: {"model": {"state_dict": s}, "state_dict": 3}),
        ("old format.pth", old_format, lambda s: OrderedDict(named("module.", s))),
    ],
)
def test_weights_come_in_unchanged(
    tmp_path: Path,
    state: State,
    name: str,
    save: Callable[..., None],
    wrap: Callable[[State], object],
) -> None:
    save(wrap(state), tmp_path / name)
    load(tmp_path / name, tmp_path / "out")
    model = load_model(tmp_path / "out")
    found = model.backbone.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in state.items())
    assert (model.contract.name, model.contract.dim) == ("old", 8)
    assert model.preprocessing == PRE
    assert (model.manifest.head, model.manifest.classes) == (None, ())
    images = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)
    oracle = build_backbone("small", 8, PRE, {}).eval()
    oracle.load_state_dict(state)
    assert torch.equal(model.embed(images), oracle(to_inputs(images, PRE)))


def test_an_iresnet_comes_in(tmp_path: Path) -> None:
    expected = build_backbone("iresnet18", 8, PRE, {}).state_dict()
    torch.save(prefixed(expected), tmp_path / "backbone.pth")
    load(tmp_path / "backbone.pth", tmp_path / "out", "iresnet18")
    found = load_model(tmp_path / "out").backbone.state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


@pytest.mark.parametrize("save", [torch.save, save_file])
def test_counters_of_batches_may_be_missing(
    tmp_path: Path, state: State, save: Callable[..., None]
) -> None:
    # weights from before torch 0.4.1, or from another program: torch itself takes them
    without = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    assert len(without) < len(state)
    file = tmp_path / ("w.safetensors" if save is save_file else "w.pth")
    save(named("module.", without), file)
    load(file, tmp_path / "out")
    oracle = build_backbone("small", 8, PRE, {})
    torch.nn.Module.load_state_dict(oracle, without, strict=False)
    images = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)
    expected = oracle.eval()(to_inputs(images, PRE))
    assert torch.equal(load_model(tmp_path / "out").embed(images), expected)


def test_double_weights_stay_double(tmp_path: Path, state: State) -> None:
    double = {k: v.double() if v.is_floating_point() else v for k, v in state.items()}
    torch.save(double, tmp_path / "w.pt")
    load(tmp_path / "w.pt", tmp_path / "out")
    assert load_model(tmp_path / "out").dtype == torch.float64


@pytest.mark.parametrize(
    "odd",
    [
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros(2, 2).to_sparse(),
        torch.zeros(2, device="meta"),
    ],
)
def test_odd_tensors_are_no_weights(tmp_path: Path, state: State, odd: Tensor) -> None:
    torch.save({**state, NORM + "bias": odd}, tmp_path / "w.pth")
    assert "holds more than tensors" in refusal(tmp_path / "w.pth")


def test_a_file_that_holds_itself(tmp_path: Path, state: State) -> None:
    circle: dict[str, object] = {}
    circle["state_dict"] = circle
    torch.save(circle, tmp_path / "w.pth")
    assert "holds more than tensors, under the keys state_dict" in refusal(tmp_path / "w.pth")


def test_wrong_names_and_shapes_are_listed(tmp_path: Path, state: State) -> None:
    wrong = {k: v for k, v in state.items() if k not in (NORM + "bias", NORM + "weight")}
    wrong["norm.bias"] = state[NORM + "bias"]
    wrong["blocks.0.conv.weight"] = torch.zeros(32, 1, 3, 3)
    torch.save(wrong, tmp_path / "w.pth")
    message = refusal(tmp_path / "w.pth")
    assert "w.pth are not those of 'small' with dim 8 over 16 px, RGB" in message
    assert f'Missing key(s) in state_dict: "{NORM}weight", "{NORM}bias".' in message
    assert 'Unexpected key(s) in state_dict: "norm.bias".' in message
    assert "size mismatch for blocks.0.conv.weight: copying a param with shape" in message


def test_of_many_differences_the_first_few_are_listed(tmp_path: Path, state: State) -> None:
    torch.save(state, tmp_path / "w.pth")
    message = refusal(tmp_path / "w.pth", "iresnet18")
    assert "Missing key(s) in state_dict: " in message
    assert len(message) < 600 + len(str(tmp_path))
    message = refusal(tmp_path / "w.pth", "small", 9)
    assert "size mismatch for embedding.weight" in message


class Bomb:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.target, "w")


@pytest.mark.parametrize("writer", [torch.save, pickle.dump])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_pickle_is_never_executed(
    tmp_path: Path, state: State, writer: Callable[..., None], name: str
) -> None:
    target = tmp_path / "executed"
    with (tmp_path / name).open("wb") as file:
        writer({**state, "extra": Bomb(str(target))}, file)
    message = refusal(tmp_path / name)
    assert "nothing else is loaded" in message or "do not load as safetensors" in message
    assert not target.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02.", b"\x00" * 50])
def test_what_is_no_torch_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    assert "w.pth is not a torch file of tensors alone" in refusal(tmp_path / "w.pth")


def test_what_is_no_state_dict(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "w.pth")
    assert "holds a Tensor; expected a state dict" in refusal(tmp_path / "w.pth")
    torch.save({"epoch": 3, "optimizer": {}}, tmp_path / "w.pth")
    assert "holds more than tensors, under the keys epoch, optimizer" in refusal(tmp_path / "w.pth")
    assert "there is no file of weights at" in refusal(tmp_path / "none.pth")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "w.pth")
    assert "there is no backbone 'r50'" in refusal(tmp_path / "w.pth", "r50")


def test_a_folder_that_is_there_is_kept(tmp_path: Path, state: State) -> None:
    torch.save(state, tmp_path / "w.pth")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(ModelError, match="out is there already"):
        load(tmp_path / "w.pth", tmp_path / "out")
    assert (tmp_path / "out" / "mine").exists()


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["mixbct", "import-model", *words])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_the_verb(
    tmp_path: Path,
    state: State,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    torch.save(state, tmp_path / "our-old.pth")
    words = [str(tmp_path / "our-old.pth"), "--out", str(tmp_path / "out")]
    assert run(monkeypatch, *words) == 2
    assert "add --backbone and --dim" in capsys.readouterr().err
    words += ["--backbone", "small", "--dim", "8", "--size", "16"]
    assert run(monkeypatch, *words, "--channels", "2") == 2
    assert "channels: Input should be 1 or 3" in capsys.readouterr().err
    assert run(monkeypatch, *words, "--mean", "127", "--std", "128") == 0
    out = capsys.readouterr().out
    assert out.startswith("our-old (")
    assert f"next: mixbct extract {tmp_path / 'out'} --data DATA" in out
    model = load_model(tmp_path / "out")
    assert model.preprocessing == PRE
    assert model.embed(torch.from_numpy(np.zeros((1, 16, 16, 3), np.uint8))).shape == (1, 8)
    assert run(monkeypatch, str(tmp_path / "m.onnx"), *words[1:-2]) == 2
    assert "leave --backbone and --dim out" in capsys.readouterr().err
