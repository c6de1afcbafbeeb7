"""Import of weights that came from elsewhere: a file becomes a model folder with its contract.

`.pth`, `.pt` and `.bin` files are pickles; they are read by torch's restricted reader, which builds
tensors and plain containers and refuses everything else, so nothing in them is executed.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixbct.backbones.model import (
    build_backbone,
    build_with_weights,
    contract_of,
    read_tensors,
    save_model,
)
from mixbct.backbones.onnx import EMBEDDING, ONNX, OnnxEncoder, OnnxFile
from mixbct.errors import ModelError
from mixbct.files import folder_written_whole, refuse_existing
from mixbct.reading import failing_as, file_size
from mixbct.schemas.model import Contract, ModelManifest, Preprocessing

WRAPPERS = ("state_dict", "state_dict_backbone", "model", "backbone")
"""Keys under which training checkpoints keep the weights; the second is arcface_torch's."""

PREFIXES = ("module.", "_orig_mod.", "backbone.", "model.")
"""What all names begin with where a model was wrapped when its weights were saved."""


def import_weights(
    file: Path, out: Path, *, name: str, backbone: str, dim: int, preprocessing: Preprocessing
) -> ModelManifest:
    """Write the model folder `out` from a state dict: `.safetensors`, or else a torch file.

    Args:
        file: the weights; what all names begin with is taken off (`PREFIXES`).
        out: a folder that is not there yet.
        name: of the contract, for people.
        backbone: a name of `mixbct.backbones`, or `package.module:factory`.
        dim: of the embedding.
        preprocessing: what the model was trained with.

    Raises:
        ModelError: the file cannot be read without executing something, its names or shapes are
            not the backbone's, or `out` is there already.
    """
    refuse_existing(out, ModelError)
    state = _read_state(file)
    with torch.device("cpu" if ":" in backbone else "meta"):
        expected = build_backbone(backbone, dim, preprocessing, {}).state_dict()
    state = _without_prefix(state, expected)
    module = build_with_weights(backbone, dim, preprocessing, {}, state, file)
    contract = contract_of(name, module, preprocessing, dim)
    manifest = ModelManifest(backbone=backbone, contract=contract)
    save_model(out, manifest, module)
    return manifest


def import_onnx(
    file: Path, out: Path, *, name: str, preprocessing: Preprocessing, output: str | None = None
) -> ModelManifest:
    """Write the model folder `out` around an ONNX file; its digest stands in the contract.

    Args:
        file: the graph; weights that it keeps in files beside it are taken along.
        out: a folder that is not there yet.
        name: of the contract, for people.
        preprocessing: what the model was trained with.
        output: the name of the output to take, where the graph has several.

    A file that mixbct exported says what it is: it becomes a model of the contract that it has
    inherited, whatever is said of its name and preprocessing.

    Raises:
        ModelError: the file is not an encoder that can be used (see `OnnxFile`, `OnnxEncoder`),
            or `out` is there already.
    """
    refuse_existing(out, ModelError)
    read = OnnxFile.read(file, output)
    inherited = read.inherited()
    if inherited is not None and isinstance(inherited.preprocessing, Preprocessing):
        preprocessing, read = inherited.preprocessing, replace(read, output=EMBEDDING)
    encoder = OnnxEncoder(read, preprocessing.size, preprocessing.channels)
    if encoder.outputs == 1:  # whether it was named makes no other space
        read = replace(read, output=None)
    said: dict[str, str | bool] = {"output": read.output or "", "prepares": inherited is not None}
    options: dict[str, int | float | str | bool] = {k: v for k, v in said.items() if v}
    made = Contract(name=name, weights=read.digest(), preprocessing=preprocessing, dim=encoder.dim)
    manifest = ModelManifest(backbone=ONNX, options=options, contract=inherited or made)
    with folder_written_whole(out) as folder:
        read.write(folder)
        (folder / "model.json").write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def _read_state(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name."""
    if file.suffix.lower() == ".safetensors":
        return read_tensors(file)
    file_size(file, "file of weights", ModelError)
    said = (
        f"{file} is not a torch file of tensors alone, and nothing else is loaded, since a pickle "
        "can run code; where it is yours, save `model.state_dict()` by itself"
    )
    with failing_as(ModelError, said):  # a damaged pickle can raise anything
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    for _ in WRAPPERS:  # one may lie in another, but a file can also hold itself
        if isinstance(content, Mapping):
            inside = (content[key] for key in WRAPPERS if key in content)
            content = next((one for one in inside if isinstance(one, Mapping)), content)
    found = f"a {type(content).__name__}"
    if isinstance(content, Mapping):
        if all(isinstance(key, str) and _plain(value) for key, value in content.items()):
            return dict(content)
        found = f"more than tensors, under the keys {', '.join(map(str, content))[:200]}"
    raise ModelError(f"{file} holds {found}; expected a state dict: names and tensors")


def _plain(value: object) -> bool:
    """Return whether it is a tensor of real numbers that are all there."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not (value.is_quantized or value.is_complex())
    )


def _without_prefix(state: dict[str, Tensor], expected: Collection[str]) -> dict[str, Tensor]:
    """Take off what all names begin with, one wrapper after another."""
    while state and not state.keys() & set(expected):
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state
