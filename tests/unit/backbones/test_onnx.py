"""ONNX encoders, made here: a linear map of the pixels, with channels first or last."""

import builtins
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from mixbct.backbones.foreign import import_onnx
from mixbct.backbones.model import load_model, normalise_images
from mixbct.backbones.onnx import OnnxEncoder
from mixbct.errors import ModelError
from mixbct.files import sha256_file
from mixbct.schemas.model import Preprocessing

SIZE, CHANNELS, DIM = 4, 3, 5
PRE = Preprocessing(size=SIZE, channels=CHANNELS, mean=127, std=128)
WEIGHT = np.random.default_rng(0).normal(size=(SIZE * SIZE * CHANNELS, DIM)).astype(np.float32)
Dims = list[int | str | None]


def linear_model(shape: Dims, channels_last: bool = False) -> bytes:
    """Return an encoder: [b, …] → [b, DIM], the same map of pixels for either layout."""
    weight = WEIGHT.reshape(CHANNELS, SIZE, SIZE, DIM)
    if channels_last:
        weight = weight.transpose(1, 2, 0, 3)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["vector"]),
    ]
    return model_of(nodes, shape, [shape[0], DIM], {"weight": weight.reshape(-1, DIM)})


def model_of(
    nodes: list[onnx.NodeProto],
    shape: Dims,
    out: Dims,
    weights: dict[str, np.ndarray],
    dtype: int = TensorProto.FLOAT,
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("image", dtype, shape)],
        [helper.make_tensor_value_info("vector", dtype, out)],
        [numpy_helper.from_array(np.ascontiguousarray(w), name) for name, w in weights.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    content: bytes = helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    return content


def flat_model(shape: Dims, dtype: int = TensorProto.FLOAT) -> bytes:
    """Return what gives the pixels themselves."""
    node = helper.make_node("Flatten", ["image"], ["vector"])
    return model_of([node], shape, ["N", "pixels"], {}, dtype)


def images(count: int) -> torch.Tensor:
    rng = np.random.default_rng(count)
    return torch.from_numpy(rng.integers(0, 256, (count, SIZE, SIZE, CHANNELS), dtype=np.uint8))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("batch", ["N", None, 1, 3])
def test_a_folder_embeds_as_the_map_says(
    tmp_path: Path, batch: int | str | None, channels_last: bool
) -> None:
    image = [SIZE, SIZE, CHANNELS] if channels_last else [CHANNELS, SIZE, SIZE]
    (tmp_path / "m.onnx").write_bytes(linear_model([batch, *image], channels_last))
    manifest = import_onnx(tmp_path / "m.onnx", tmp_path / "out", name="old", preprocessing=PRE)
    assert (manifest.backbone, manifest.contract.dim) == ("onnx", DIM)
    assert manifest.contract.weights == sha256_file(tmp_path / "m.onnx")
    model = load_model(tmp_path / "out")
    assert model.contract == manifest.contract
    for count in (1, 3, 7):
        found = model.embed(images(count))
        assert found.dtype == torch.float32
        expected = normalise_images(images(count), PRE).flatten(1).double().numpy() @ WEIGHT
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-4)


def test_free_height_and_width_and_trailing_ones() -> None:
    pool = helper.make_node("GlobalAveragePool", ["image"], ["vector"])
    content = model_of([pool], ["b", CHANNELS, "h", "w"], ["b", CHANNELS, 1, 1], {})
    encoder = OnnxEncoder(content, SIZE, CHANNELS)
    assert encoder.dim == CHANNELS
    inputs = torch.randn(2, CHANNELS, SIZE, SIZE)
    torch.testing.assert_close(encoder(inputs), inputs.mean((2, 3)))


def test_changed_files_are_seen(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(linear_model(["N", CHANNELS, SIZE, SIZE]))
    import_onnx(tmp_path / "m.onnx", tmp_path / "out", name="old", preprocessing=PRE)
    stored = tmp_path / "out" / "backbone.onnx"
    content = stored.read_bytes()
    value = WEIGHT.tobytes()
    assert value in content
    stored.write_bytes(content.replace(value, (WEIGHT + 1).tobytes()))
    with pytest.raises(ModelError, match="not those of its contract old"):
        load_model(tmp_path / "out")
    stored.unlink()
    with pytest.raises(ModelError, match=r"the ONNX file of .* cannot be read"):
        load_model(tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "does not load"),
        (b"\x08\x01garbage", "does not load"),
        (flat_model(["N", 1, SIZE, SIZE]), r"takes \['N', 1, 4, 4\]; expected .* 3 × 4 × 4"),
        (flat_model(["N", CHANNELS, 8, 8]), "set --size and --channels"),
        (flat_model(["N", CHANNELS * SIZE * SIZE]), "expected a batch of"),
        (
            flat_model(["N", CHANNELS, SIZE, SIZE], TensorProto.DOUBLE),
            r"found the inputs \[.image tensor\(double\)",
        ),
        (
            model_of(
                [helper.make_node("ReduceMean", ["image"], ["vector"], keepdims=0)],
                ["N", CHANNELS, SIZE, SIZE],
                [],
                {},
            ),
            r"gave \(\) for 1 images",
        ),
        (
            model_of(
                [helper.make_node("MatMul", ["image", "w"], ["vector"])],
                ["N", CHANNELS, "h", "w"],
                ["N", CHANNELS, "h", 2],
                {"w": np.zeros((9, 2), np.float32)},
            ),
            "does not run on 1 images",
        ),
    ],
)
def test_what_is_no_encoder_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=says):
        import_onnx(tmp_path / "m.onnx", tmp_path / "out", name="m", preprocessing=PRE)
    assert not (tmp_path / "out").exists()


def test_weights_outside_the_file_are_not_read(tmp_path: Path) -> None:
    model = onnx.load_from_string(linear_model(["N", CHANNELS, SIZE, SIZE]))
    onnx.save_model(
        model, tmp_path / "m.onnx", save_as_external_data=True, location="data", size_threshold=0
    )
    assert (tmp_path / "data").exists()
    with pytest.raises(ModelError, match="does not load"):
        import_onnx(tmp_path / "m.onnx", tmp_path / "out", name="m", preprocessing=PRE)


def test_missing_files_and_a_missing_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match=r"none.onnx cannot be read: No such file"):
        import_onnx(tmp_path / "none.onnx", tmp_path / "out", name="m", preprocessing=PRE)
    real = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name == "onnxruntime":
            raise ImportError(name)
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModelError, match=r"pip install 'mixbct\[onnx\]'"):
        OnnxEncoder(linear_model(["N", CHANNELS, SIZE, SIZE]), SIZE, CHANNELS)
