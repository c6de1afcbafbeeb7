"""The example's foreign encoder: TensorFlow.js weights, the network, and its way into mixbct."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

from mixbct.backbones.model import load_model
from mixbct.cli.verbs import app
from mixbct.errors import ModelError

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))

from examples.face_encoders import dlib_resnet  # noqa: E402
from examples.face_encoders.tfjs_weights import read_weights  # noqa: E402


def write_group(folder: Path, entries: list[dict], data: bytes, parts: int = 1) -> Path:
    """Write a manifest of one group whose bytes are cut into some files."""
    edges = np.linspace(0, len(data), parts + 1).astype(int)
    paths = [f"shard{i}.bin" for i in range(parts)]
    for path, start, end in zip(paths, edges[:-1], edges[1:], strict=True):
        (folder / path).write_bytes(data[start:end])
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps([{"weights": entries, "paths": paths}]))
    return manifest


def small_group() -> tuple[list[dict], bytes]:
    entries = [
        {
            **{"name": "a", "shape": [2, 3], "dtype": "float32"},
            "quantization": {"dtype": "uint8", "scale": 0.25, "min": -3.0},
        },
        {"name": "b", "shape": [2], "dtype": "float32"},
        {
            **{"name": "c", "shape": [1, 2], "dtype": "float32"},
            "quantization": {"dtype": "uint16", "scale": 0.001, "min": 5.0},
        },
    ]
    data = bytes([0, 1, 2, 3, 200, 255])
    data += np.array([1.5, -2.25], "<f4").tobytes() + bytes([1, 0, 0, 2])
    return entries, data


@pytest.mark.parametrize("parts", [1, 4])
def test_quantised_weights_value_by_value(tmp_path: Path, parts: int) -> None:
    entries, data = small_group()
    found = read_weights(write_group(tmp_path, entries, data, parts))
    assert list(found) == ["a", "b", "c"]
    assert all(array.dtype == np.float32 for array in found.values())
    for row in range(2):
        for column in range(3):
            assert found["a"][row, column] == -3 + 0.25 * data[3 * row + column]
    assert found["b"].tolist() == [1.5, -2.25]
    # 1 and 512, the low byte first
    np.testing.assert_allclose(found["c"], [[5.001, 5.512]], rtol=1e-6)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    entries, data = small_group()
    with pytest.raises(ModelError, match="c ends at byte 18, but there are 17"):
        read_weights(write_group(tmp_path, entries, data[:-1]))
    with pytest.raises(ModelError, match="20 bytes, but the arrays take 18"):
        read_weights(write_group(tmp_path, entries, data + b"xx"))
    for broken in ({"shape": [-1, -2]}, {"shape": "six"}, {"shape": [2.5]}):
        with pytest.raises(ModelError, match="not a TensorFlow"):
            read_weights(write_group(tmp_path, [entries[0] | broken, *entries[1:]], data))
    with pytest.raises(ModelError, match="a is int32 stored as int32"):
        read_weights(write_group(tmp_path, [{**entries[1], "name": "a", "dtype": "int32"}], data))
    (tmp_path / "manifest.json").write_text("[3]")
    with pytest.raises(ModelError, match="not a TensorFlow"):
        read_weights(tmp_path / "manifest.json")
    with pytest.raises(ModelError, match=r"none\.json cannot be read"):
        read_weights(tmp_path / "none.json")
    (tmp_path / "secret").write_bytes(b"x" * 8)
    (tmp_path / "inside").mkdir()
    group = {"weights": [{**entries[1]}], "paths": ["../secret"]}
    (tmp_path / "inside/manifest.json").write_text(json.dumps([group]))
    with pytest.raises(ModelError, match="cannot be read"):
        read_weights(tmp_path / "inside/manifest.json")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of the whole network with random 8-bit weights."""
    rng = np.random.default_rng(0)
    entries: list[dict] = []

    def add(name: str, shape: list[int], low: float, high: float) -> None:
        quantised = {"dtype": "uint8", "scale": (high - low) / 255, "min": low}
        entries.append(
            {"name": name, "shape": shape, "dtype": "float32", "quantization": quantised}
        )

    def convolution(name: str, side: int, inside: int, outside: int) -> None:
        bound = (3 / (side * side * inside)) ** 0.5
        add(f"{name}/conv/filters", [side, side, inside, outside], -bound, bound)
        add(f"{name}/conv/bias", [outside], -0.1, 0.1)
        add(f"{name}/scale/weights", [outside], 0.7, 1.3)
        add(f"{name}/scale/biases", [outside], -0.1, 0.1)

    convolution("conv32_down", 7, 3, 32)
    for name, (inside, outside, _) in dlib_resnet.BLOCKS.items():
        convolution(f"{name}/conv1", 3, inside, outside)
        convolution(f"{name}/conv2", 3, outside, outside)
    add("fc", [256, 128], -0.1, 0.1)
    size = sum(int(np.prod(entry["shape"])) for entry in entries)
    data = rng.integers(0, 256, size, dtype=np.uint8).tobytes()
    return write_group(tmp_path_factory.mktemp("weights"), entries, data, parts=2)


def reference(arrays: dict[str, np.ndarray], chip: torch.Tensor) -> torch.Tensor:
    """The network step by step as its JavaScript has it, on [b, 3, 150, 150] of 0 to 255."""

    def convolve(x: torch.Tensor, name: str, stride: int, padding: int) -> torch.Tensor:
        part = {
            key: torch.from_numpy(arrays[f"{name}/{key}"]).double()
            for key in ("conv/filters", "conv/bias", "scale/weights", "scale/biases")
        }
        filters = part["conv/filters"].permute(3, 2, 0, 1)
        y = F.conv2d(x, filters, part["conv/bias"], stride, padding)
        return y * part["scale/weights"].view(-1, 1, 1) + part["scale/biases"].view(-1, 1, 1)

    mean = torch.tensor([122.782, 117.001, 104.298], dtype=torch.float64)
    x = (chip.double() - mean.view(3, 1, 1)) / 255
    x = F.max_pool2d(convolve(x, "conv32_down", 2, 0).relu(), 3, 2)
    for name in dlib_resnet.BLOCKS:
        if "down" not in name:
            y = convolve(convolve(x, f"{name}/conv1", 1, 1).relu(), f"{name}/conv2", 1, 1)
            x = (x + y).relu()
            continue
        y = convolve(convolve(x, f"{name}/conv1", 2, 0).relu(), f"{name}/conv2", 1, 1)
        pooled = F.avg_pool2d(x, 2, 2)
        if pooled.shape[2:] != y.shape[2:]:
            y = torch.cat([y, y.new_zeros(*y.shape[:2], 1, y.shape[3])], dim=2)
            y = torch.cat([y, y.new_zeros(*y.shape[:3], 1)], dim=3)
        if pooled.shape[1] != y.shape[1]:
            pooled = torch.cat([pooled, torch.zeros_like(pooled)], dim=1)
        x = (pooled + y).relu()
    return x.mean(dim=(2, 3)) @ torch.from_numpy(arrays["fc"]).double()


def crop(image: np.ndarray, side: int = 150) -> np.ndarray:
    """Cut the network's square out of an aligned face, pixel by pixel; black outside."""
    size = len(image)
    padded = np.zeros((size + 2, size + 2, 3))
    padded[1:-1, 1:-1] = image
    out = np.zeros((side, side, 3))
    width = dlib_resnet.CROP_SIDE * size
    left, top = (size * centre - width / 2 for centre in dlib_resnet.CROP_CENTRE)
    for row in range(side):
        for column in range(side):
            # pixels have their centres at halves; one pixel of black on every side
            y = top + (row + 0.5) / side * width + 0.5
            x = left + (column + 0.5) / side * width + 0.5
            i, j = int(np.floor(y)), int(np.floor(x))
            if not (0 <= i <= size and 0 <= j <= size):
                continue
            a, b = y - i, x - j
            out[row, column] = (1 - a) * ((1 - b) * padded[i, j] + b * padded[i, j + 1]) + a * (
                (1 - b) * padded[i + 1, j] + b * padded[i + 1, j + 1]
            )
    return out


def test_the_crop_puts_eyes_and_mouth_where_the_network_learnt_them() -> None:
    # the usual template of 112 × 112: eyes, and the middle of the mouth
    points = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.1396, 92.2848]])
    side = 112 * dlib_resnet.CROP_SIDE
    corner = 112 * np.array(dlib_resnet.CROP_CENTRE) - side / 2
    np.testing.assert_allclose((points.mean(0) - corner) / side, [0.5, 0.43], atol=1e-3)
    to_mouth = np.linalg.norm(points[:2] - points[2], axis=1).mean()
    assert to_mouth / side == pytest.approx(0.45, abs=1e-3)


def test_from_the_manifest_to_a_model_folder(made: Path, tmp_path: Path) -> None:
    """By the documented commands; then what the model says is what the reference says."""
    words = [sys.executable, "-m", "examples.face_encoders.dlib_resnet"]
    weights = tmp_path / "dlib.safetensors"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    subprocess.run([*words, made, weights], check=True, cwd=ROOT, env=environment)
    out = tmp_path / "old"
    factory = "examples.face_encoders.dlib_resnet:encoder"
    words = ["import-model", str(weights), "--backbone", factory, "--dim", "128"]
    words += ["--mean", "0", "--std", "255", "--out", str(out)]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0

    images = np.random.default_rng(1).integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
    found = load_model(out, trust_code=True).embed(torch.from_numpy(images)).double()
    chips = np.stack([crop(image) for image in images]).transpose(0, 3, 1, 2)
    expected = reference(read_weights(made), torch.from_numpy(chips))
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_what_it_is_not_is_refused(made: Path) -> None:
    with pytest.raises(ValueError, match="dim 128 and 3 channels"):
        dlib_resnet.encoder(dim=512, size=112, channels=3)
    arrays = read_weights(made)
    del arrays["conv64_1/conv2/conv/bias"]
    with pytest.raises(ModelError, match="there is no 'conv64_1/conv2/conv/bias'"):
        dlib_resnet.state_from(arrays)
