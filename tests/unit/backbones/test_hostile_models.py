"""Model folders, state dicts and ONNX files that lie or are damaged: named errors, at no cost."""

import os
import random
import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.torch import save_file

from mixbct.backbones.foreign import import_onnx, import_weights
from mixbct.backbones.model import build_backbone, contract_of, load_model, save_model, state_copy
from mixbct.cli import main
from mixbct.errors import MixbctError, ModelError
from mixbct.schemas.model import ModelManifest, Preprocessing

PRE = Preprocessing(size=16, channels=1)
OPTIONS = {"width": 2}
MUTATIONS = 200
MOST_BYTES = 500 * 2**20
NUMBERS = ("10000000", "1e7", "-1", "0", "1" + "0" * 30, "NaN", "null", "Infinity", "9" * 5000)


def most_memory() -> int:
    """Return the most bytes that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def damage(content: bytes, draw: random.Random) -> bytes:
    """Flip bits, cut, insert, overwrite or repeat a few bytes."""
    damaged = bytearray(content)
    kind, place = draw.randrange(5), draw.randrange(len(damaged))
    if kind == 0:
        for _ in range(draw.randrange(1, 4)):
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
    elif kind == 1:
        del damaged[place:]
    elif kind == 2:
        damaged[place:place] = draw.randbytes(draw.randrange(1, 9))
    elif kind == 3:
        size = draw.choice((1, 2, 4, 8))
        damaged[place : place + size] = draw.choice((b"\xff", b"\0", b"9")) * size
    else:
        start = draw.randrange(len(damaged))
        damaged[place : place + 16] = damaged[start : start + 16]
    return bytes(damaged)


def lie(content: bytes, draw: random.Random) -> bytes:
    """Put another number in the place of one."""
    found = draw.choice(list(re.finditer(rb"\d+", content)))
    return content[: found.start()] + draw.choice(NUMBERS).encode() + content[found.end() :]


def damage_header(content: bytes, draw: random.Random) -> bytes:
    """Damage, or let lie, the header of a safetensors file; its length goes along or not."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = draw.choice((damage, lie))(content[8:end], draw)
    size = draw.choice((len(header), end - 8))
    return size.to_bytes(8, "little") + header + content[end:]


def survives(attempt: Callable[[], object]) -> bool:
    """Return whether something works; nothing but a named error may come of it."""
    try:
        attempt()
    except MixbctError:
        return False
    return True


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "model"
    backbone = build_backbone("small", 6, PRE, OPTIONS)
    contract = contract_of("old", backbone, PRE, 6)
    save_model(
        folder, ModelManifest(backbone="small", options=OPTIONS, contract=contract), backbone
    )
    return folder


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "model"))


@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model.json", damage),
        ("model.json", lie),
        ("backbone.safetensors", damage),
        ("backbone.safetensors", damage_header),
    ],
)
def test_damaged_model_folders(
    folder: Path, name: str, change: Callable[[bytes, random.Random], bytes]
) -> None:
    content = (folder / name).read_bytes()
    images = torch.zeros(2, 16, 16, 1, dtype=torch.uint8)
    before = most_memory()
    worked = 0
    for seed in range(MUTATIONS):
        (folder / name).write_bytes(change(content, random.Random(seed)))
        worked += survives(lambda: load_model(folder).embed(images))
    assert worked < MUTATIONS / 2
    assert most_memory() - before < MOST_BYTES


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["zip.pth", "old.pth", "w.safetensors"])
def test_damaged_state_dicts(tmp_path: Path, name: str) -> None:
    state = state_copy(build_backbone("small", 6, PRE, {}).state_dict())
    if name == "w.safetensors":
        save_file(state, tmp_path / name)
    else:
        torch.save(state, tmp_path / name, _use_new_zipfile_serialization=name == "zip.pth")
    content = (tmp_path / name).read_bytes()
    part = 3000  # where names and shapes are; a zip says at its end, too, what it holds
    before = most_memory()

    def take_in() -> None:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        import_weights(
            tmp_path / name, tmp_path / "out", name="m", backbone="small", dim=6, preprocessing=PRE
        )

    assert survives(take_in)
    for seed in range(MUTATIONS):
        draw = random.Random(seed)
        start = len(content) - part if name == "zip.pth" and seed % 2 else 0
        damaged = damage(content[start : start + part], draw)
        if name == "w.safetensors" and seed % 2:
            (tmp_path / name).write_bytes(damage_header(content, draw))
        else:
            (tmp_path / name).write_bytes(content[:start] + damaged + content[start + part :])
        survives(take_in)
    assert most_memory() - before < MOST_BYTES


def convolution(batch: int | str) -> bytes:
    """Return a small encoder with the operators of real ones."""
    weight = np.random.default_rng(0).normal(size=(5, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Reshape", ["p", "shape"], ["vector"]),
    ]
    weights = {"w": weight, "shape": np.array([-1, 5])}
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 4, 4])],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, [batch, 5])],
        [numpy_helper.from_array(one, name) for name, one in weights.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    made = helper.make_model(graph, opset_imports=opset, ir_version=8)
    onnx.checker.check_model(made)
    content = made.SerializeToString()
    assert isinstance(content, bytes)
    return content


@pytest.mark.timeout(120)
def test_damaged_onnx_files(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    contents = [convolution("N"), convolution(2)]
    before = most_memory()
    preprocessing = Preprocessing(size=4, channels=3)

    def take_in() -> None:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        import_onnx(tmp_path / "m.onnx", tmp_path / "out", name="m", preprocessing=preprocessing)

    for seed in range(MUTATIONS):
        damaged = damage(contents[seed % 2], random.Random(seed))
        (tmp_path / "m.onnx").write_bytes(damaged)
        survives(take_in)
    assert most_memory() - before < MOST_BYTES
    assert capfd.readouterr().out == ""


def test_a_dimension_that_the_weights_have_not_takes_no_memory(folder: Path) -> None:
    text = (folder / "model.json").read_text(encoding="utf-8")
    before = most_memory()
    for dim in ("10000000", "1" + "0" * 20):
        changed = text.replace('"dim": 6', f'"dim": {dim}')
        assert changed != text
        (folder / "model.json").write_text(changed, encoding="utf-8")
        with pytest.raises(ModelError, match=r"size mismatch for embedding.weight|does not take"):
            load_model(folder)
    weights = folder.parent / "w.safetensors"
    save_file(state_copy(build_backbone("small", 6, PRE, {}).state_dict()), weights)
    for dim in (10**7, 10**30):
        with pytest.raises(ModelError, match="dim"):
            import_weights(
                weights, folder.parent / "out", name="m", backbone="small", dim=dim,
                preprocessing=PRE,
            )  # fmt: skip
    assert most_memory() - before < 100 * 2**20


def test_what_is_no_file(folder: Path, tmp_path: Path) -> None:
    for stem in ("pipe", "folder"):
        for suffix in (".pth", ".safetensors", ".onnx"):
            path = tmp_path / (stem + suffix)
            path.mkdir() if stem == "folder" else os.mkfifo(path)
        with pytest.raises(ModelError, match="file of weights: it is "):
            import_weights(
                tmp_path / f"{stem}.pth", tmp_path / "out", name="m", backbone="small", dim=6,
                preprocessing=PRE,
            )  # fmt: skip
        with pytest.raises(ModelError, match="file of weights: it is "):
            import_weights(
                tmp_path / f"{stem}.safetensors", tmp_path / "out", name="m", backbone="small",
                dim=6, preprocessing=PRE,
            )  # fmt: skip
        with pytest.raises(ModelError, match="cannot be read as a ONNX file: it is "):
            import_onnx(tmp_path / f"{stem}.onnx", tmp_path / "out", name="m", preprocessing=PRE)
    (folder / "backbone.safetensors").unlink()
    os.mkfifo(folder / "backbone.safetensors")
    with pytest.raises(ModelError, match="file of weights: it is "):
        load_model(folder)
    with pytest.raises(ModelError, match="File name too long"):
        load_model(tmp_path / ("long" * 100))


CODE = """
from pathlib import Path
Path("ran").touch()
def f(**given):
    Path("ran").touch()
"""


@pytest.mark.parametrize("name", ["payload:f", "torch.hub:load", "os:system"])
def test_code_that_a_folder_names_is_not_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    for file in ("payload.py", "hubconf.py"):
        (folder / file).write_text(CODE, encoding="utf-8")
    text = (folder / "model.json").read_text(encoding="utf-8")
    text = text.replace('"backbone": "small"', f'"backbone": "{name}"')
    text = text.replace(
        '"width": 2', '"repo_or_dir": ".", "model": "f", "source": "local", "command": "touch ran"'
    )
    (folder / "model.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=f"names code of its own .*'{name}'.*add --trust-code"):
        load_model(folder)
    assert not (folder / "ran").exists()


OWN = """
from mixbct.backbones.small import SmallResNet
def f(dim, size, channels):
    return SmallResNet(dim, size, channels, width=2)
"""


def mixbct(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    monkeypatch.setattr("sys.argv", ["mixbct", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_a_persons_word_lets_code_run(
    tmp_path: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "hostile_backbones.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    torch.save(build_backbone("small", 6, PRE, OPTIONS).state_dict(), tmp_path / "w.pth")
    words = [tmp_path / "w.pth", "--out", tmp_path / "own", "--backbone", "hostile_backbones:f"]
    words += ["--dim", "6", "--size", "16", "--channels", "1"]
    assert mixbct(monkeypatch, "import-model", *words) == 0
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("L", (16, 16), ord(name)).save(tmp_path / "data" / name / "1.png")
    extract = ["extract", tmp_path / "own", "--data", tmp_path / "data", "--out", tmp_path / "bank"]
    assert mixbct(monkeypatch, *extract) == 2
    assert "add --trust-code" in capsys.readouterr().err
    assert mixbct(monkeypatch, *extract, "--trust-code") == 0
    # a word holds for one command
    assert mixbct(monkeypatch, *extract[:-1], tmp_path / "again") == 2
    assert mixbct(monkeypatch, "extract", folder, *extract[2:-1], tmp_path / "other") == 0


def test_a_gallery_compares_contracts_before_it_loads(
    tmp_path: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Image.new("L", (16, 16)).save("query.png")
    assert mixbct(monkeypatch, "gallery", "init", "gallery", "--model", folder) == 0
    (tmp_path / "payload.py").write_text(CODE, encoding="utf-8")
    text = (folder / "model.json").read_text(encoding="utf-8")
    text = text.replace('"small"', '"payload:f"').replace('"dim": 6', '"dim": 7')
    (folder / "model.json").write_text(text, encoding="utf-8")
    capsys.readouterr()
    for trust in ([], ["--trust-code"]):
        assert mixbct(monkeypatch, "gallery", "search", "gallery", "query.png", *trust) == 2
        assert "now holds old" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
