"""ONNX encoders, made here: a linear map of the pixels, with channels first or last."""

import builtins
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from mixbct.backbones.foreign import import_onnx
from mixbct.backbones.model import load_model, to_inputs
from mixbct.backbones.onnx import OnnxEncoder, OnnxFile
from mixbct.cli import main
from mixbct.errors import ModelError
from mixbct.files import sha256_file
from mixbct.schemas.model import ModelManifest, Preprocessing

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
        expected = to_inputs(images(count), PRE).flatten(1).double().numpy() @ WEIGHT
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-4)


def test_free_height_and_width_and_trailing_ones() -> None:
    pool = helper.make_node("GlobalAveragePool", ["image"], ["vector"])
    content = model_of([pool], ["b", CHANNELS, "h", "w"], ["b", CHANNELS, 1, 1], {})
    encoder = OnnxEncoder(OnnxFile(content), SIZE, CHANNELS)
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
    with pytest.raises(ModelError, match=r"there is no ONNX file at .*backbone.onnx"):
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
            r"takes image tensor\(double\)",
        ),
        (
            model_of(
                [helper.make_node("ReduceMean", ["image"], ["vector"], keepdims=0)],
                ["N", CHANNELS, SIZE, SIZE],
                [],
                {},
            ),
            r"gave vector \[\] for 1 images",
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


def take_in(file: Path, out: Path, output: str | None = None) -> ModelManifest:
    return import_onnx(file, out, name="m", preprocessing=PRE, output=output)


def with_weights_beside(folder: Path, name: str = "m.data") -> Path:
    """Write an encoder as exporters of large models do: a graph, and its weights in a file."""
    folder.mkdir()
    model = onnx.load_from_string(linear_model(["N", CHANNELS, SIZE, SIZE]))
    onnx.save_model(
        model, folder / "m.onnx", save_as_external_data=True, location=name, size_threshold=0
    )
    return folder / "m.onnx"


def test_weights_beside_the_file_are_part_of_the_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = with_weights_beside(tmp_path / "here")
    assert WEIGHT.tobytes() not in file.read_bytes()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.data").write_bytes((WEIGHT + 1).tobytes())  # in the current folder: not read
    contract = take_in(file, tmp_path / "out").contract
    found = load_model(tmp_path / "out")
    expected = to_inputs(images(3), PRE).flatten(1).double().numpy() @ WEIGHT
    np.testing.assert_allclose(found.embed(images(3)).numpy(), expected, rtol=1e-5, atol=1e-4)
    assert contract.weights != sha256_file(file)
    monkeypatch.chdir(tmp_path / "here")
    other = with_weights_beside(tmp_path / "other", "n.data")
    (tmp_path / "other" / "n.data").rename(tmp_path / "other" / "m.data")
    shutil.copyfile(file, other)
    (tmp_path / "other" / "m.data").write_bytes((WEIGHT + 1).tobytes())
    assert take_in(other, tmp_path / "out2").contract.id != contract.id
    (tmp_path / "out" / "m.data").write_bytes((WEIGHT + 1).tobytes())
    with pytest.raises(ModelError, match="not those of its contract m"):
        load_model(tmp_path / "out")
    (tmp_path / "out" / "m.data").write_bytes(WEIGHT.tobytes()[:-4])
    with pytest.raises(ModelError, match="not those of its contract m"):
        load_model(tmp_path / "out")
    (tmp_path / "here" / "m.data").write_bytes(WEIGHT.tobytes()[:-4])
    with pytest.raises(ModelError, match="does not load"):
        take_in(file, tmp_path / "out3")
    (tmp_path / "here" / "m.data").unlink()
    with pytest.raises(ModelError, match=r"there is no file of weights at .*here/m.data"):
        take_in(file, tmp_path / "out3")


@pytest.mark.parametrize("name", ["../secret.bin", "/etc/hostname", "backbone.onnx", "model.json"])
def test_weights_elsewhere_are_not_read(tmp_path: Path, name: str) -> None:
    model = onnx.load(with_weights_beside(tmp_path / "in"), load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = name
    (tmp_path / "secret.bin").write_bytes(WEIGHT.tobytes())
    (tmp_path / "in" / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="read from its own folder alone"):
        take_in(tmp_path / "in" / "m.onnx", tmp_path / "out")


def endless_loop() -> bytes:
    """Return an encoder that adds zero to its images for ever."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go on"]),
            helper.make_node("Identity", ["before"], ["after"]),
        ],
        "body",
        [
            value("i", TensorProto.INT64, []),
            value("go", TensorProto.BOOL, []),
            value("before", TensorProto.FLOAT, None),
        ],
        [value("go on", TensorProto.BOOL, []), value("after", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("Loop", ["", "true", "image"], ["looped"], body=body),
        helper.make_node("Flatten", ["looped"], ["vector"]),
    ]
    return model_of(nodes, ["N", CHANNELS, SIZE, SIZE], ["N", 48], {"true": np.array(True)})


def in_branch() -> bytes:
    """Return an encoder that hides the loop in a branch."""
    inside = onnx.load_from_string(endless_loop()).graph
    branch = helper.make_graph(inside.node, "b", [], inside.output, inside.initializer)
    condition = {"yes": np.array(True)}
    node = helper.make_node("If", ["yes"], ["vector"], then_branch=branch, else_branch=branch)
    return model_of([node], ["N", CHANNELS, SIZE, SIZE], ["N", 48], condition)


def nested_functions(depth: int, circle: bool = False) -> bytes:
    """Return an encoder whose functions each call the one below twice: 2 ** depth nodes."""
    model = onnx.load_from_string(flat_model(["N", CHANNELS, SIZE, SIZE]))
    opset = [helper.make_opsetid("my", 1), helper.make_opsetid("", 17)]
    for level in range(depth):
        below = f"f{level - 1}" if level or not circle else f"f{depth - 1}"
        call = ("my", below) if level or circle else ("", "Identity")
        nodes = [
            helper.make_node(call[1], ["x"], ["y"], domain=call[0]),
            helper.make_node(call[1], ["y"], ["z"], domain=call[0]),
        ]
        model.functions.append(helper.make_function("my", f"f{level}", ["x"], ["z"], nodes, opset))
    model.graph.node[0].input[0] = "called"
    last = helper.make_node(f"f{depth - 1}", ["image"], ["called"], domain="my")
    model.graph.node.insert(0, last)
    model.opset_import.append(helper.make_opsetid("my", 1))
    content: bytes = model.SerializeToString()
    return content


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (endless_loop(), "holds the operator Loop, which repeats a graph and need never end"),
        (in_branch(), "holds the operator Loop"),
        (nested_functions(40), "over 1,000,000 nodes"),
        (nested_functions(2, circle=True), "or no end"),
        (linear_model([10**12, CHANNELS, SIZE, SIZE]), "takes batches of 1000000000000 × 3 × 4"),
        (linear_model([0, CHANNELS, SIZE, SIZE]), "expected at least one image"),
    ],
)
def test_what_would_not_end_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=says):
        take_in(tmp_path / "m.onnx", tmp_path / "out")


def test_functions_and_branches_that_end_come_in(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(nested_functions(3))
    assert take_in(tmp_path / "m.onnx", tmp_path / "out").contract.dim == SIZE * SIZE * CHANNELS


def two_outputs() -> bytes:
    """Return an encoder of tokens and of their mean, as transformers are exported."""
    nodes = [
        helper.make_node("Reshape", ["image", "shape"], ["tokens"]),
        helper.make_node("ReduceMean", ["tokens"], ["pooled"], axes=[1], keepdims=0),
    ]
    shape = {"shape": np.array([0, CHANNELS, SIZE * SIZE])}
    content = model_of(nodes, ["N", CHANNELS, SIZE, SIZE], ["N", CHANNELS, 16], shape)
    model = onnx.load_from_string(content)
    model.graph.output[0].name = "tokens"
    model.graph.output.append(
        helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["N", SIZE * SIZE])
    )
    content = model.SerializeToString()
    assert isinstance(content, bytes)
    return content


def test_of_several_outputs_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(two_outputs())
    with pytest.raises(ModelError, match=r"gives tokens .*, pooled .*: name it with --output"):
        take_in(tmp_path / "m.onnx", tmp_path / "out")
    with pytest.raises(ModelError, match=r"and 'mean' was asked for"):
        take_in(tmp_path / "m.onnx", tmp_path / "out", "mean")
    manifest = take_in(tmp_path / "m.onnx", tmp_path / "out", "pooled")
    model = load_model(tmp_path / "out")
    assert (model.contract, model.contract.dim) == (manifest.contract, SIZE * SIZE)
    expected = to_inputs(images(2), PRE).mean(1).flatten(1)
    torch.testing.assert_close(model.embed(images(2)), expected)
    # another output of the same file is another space
    file = OnnxFile((tmp_path / "m.onnx").read_bytes(), "tokens")
    assert file.digest() != manifest.contract.weights


def test_naming_the_only_output_makes_no_other_space(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(linear_model(["N", CHANNELS, SIZE, SIZE]))
    found = [take_in(tmp_path / "m.onnx", tmp_path / str(o), o) for o in (None, "vector")]
    assert found[0].contract == found[1].contract
    assert load_model(tmp_path / "vector").contract == found[0].contract


def test_tokens_are_no_vector(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(two_outputs())
    with pytest.raises(ModelError, match=r"gave tokens \[1, 3, 16\] for 1 images.*pooled"):
        take_in(tmp_path / "m.onnx", tmp_path / "out", "tokens")


def test_the_verb_takes_a_suffix_in_capitals_and_an_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "M.ONNX").write_bytes(two_outputs())
    words = ["import-model", str(tmp_path / "M.ONNX"), "--out", str(tmp_path / "out")]
    words += ["--size", "4", "--output", "pooled"]
    monkeypatch.setattr("sys.argv", ["mixbct", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code, capsys.readouterr().err
    assert load_model(tmp_path / "out").contract.dim == SIZE * SIZE


def test_missing_files_and_a_missing_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match=r"there is no ONNX file at .*none.onnx"):
        import_onnx(tmp_path / "none.onnx", tmp_path / "out", name="m", preprocessing=PRE)
    real = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name == "onnxruntime":
            raise ImportError(name)
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModelError, match=r"pip install 'mixbct\[onnx\]'"):
        OnnxEncoder(OnnxFile(linear_model(["N", CHANNELS, SIZE, SIZE])), SIZE, CHANNELS)
