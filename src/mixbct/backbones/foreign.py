"""Import of weights that came from elsewhere: a file becomes a model folder with its contract.

`.pth` and `.pt` files are pickles; they are read by torch's restricted reader, which builds
tensors and plain containers and refuses everything else, so nothing in them is executed.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mixbct.backbones.model import build_backbone, save_model
from mixbct.backbones.onnx import FILE, ONNX, OnnxEncoder
from mixbct.errors import ModelError
from mixbct.files import folder_written_whole
from mixbct.schemas.model import Contract, ModelManifest, Preprocessing

WRAPPERS = ("state_dict", "state_dict_backbone")
"""Keys under which training checkpoints keep the weights; the second is arcface_torch's."""

SHOWN = 5


def import_weights(
    file: Path, out: Path, *, name: str, backbone: str, dim: int, preprocessing: Preprocessing
) -> ModelManifest:
    """Write the model folder `out` from a state dict: `.safetensors`, or else a torch file.

    Args:
        file: the weights; a leading `module.` of every name is taken off.
        out: a folder that is not there yet.
        name: of the contract, for people.
        backbone: a name of `mixbct.backbones`, or `package.module:factory`.
        dim: of the embedding.
        preprocessing: what the model was trained with.

    Raises:
        ModelError: the file cannot be read without executing something, its names or shapes are
            not the backbone's, or `out` is there already.
    """
    _refuse_existing(out)
    module = build_backbone(backbone, dim, preprocessing, {})
    state = _read_state(file)
    expected = module.state_dict()
    if problems := _differences(state, expected):
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ModelError(
            f"the weights in {file} are not those of {backbone!r} with dim {dim}, size "
            f"{preprocessing.size} and {preprocessing.channels} channels:\n  "
            + "\n  ".join(problems[:SHOWN])
            + more
        )
    module.load_state_dict(state)
    return save_model(out, name, backbone, {}, preprocessing, dim, module, None, {}, (), "")


def import_onnx(file: Path, out: Path, *, name: str, preprocessing: Preprocessing) -> ModelManifest:
    """Write the model folder `out` around an ONNX file; its SHA-256 stands in the contract.

    Raises:
        ModelError: the file is not an encoder that can be used (see `OnnxEncoder`), or `out` is
            there already.
    """
    _refuse_existing(out)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}") from error
    encoder = OnnxEncoder(content, preprocessing.size, preprocessing.channels)
    manifest = ModelManifest(
        backbone=ONNX,
        contract=Contract(
            name=name,
            weights=hashlib.sha256(content).hexdigest(),
            preprocessing=preprocessing,
            dim=encoder.dim,
        ),
    )
    with folder_written_whole(out) as folder:
        (folder / FILE).write_bytes(content)
        (folder / "model.json").write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise ModelError(f"{out} is there already: choose another --out")


def _read_state(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name, without `module.`."""
    try:
        content: Any
        if file.suffix == ".safetensors":
            content = load_file(file)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"there are no weights at {file}") from None
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise ModelError(
            f"{file} is not a torch file of tensors alone, and nothing else is loaded, since a "
            "pickle can run code; where it is yours, save `model.state_dict()` by itself "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
        ) from error
    if isinstance(content, Mapping):
        content = next((content[key] for key in WRAPPERS if key in content), content)
    if not isinstance(content, Mapping):
        raise ModelError(
            f"{file} holds a {type(content).__name__}; expected a state dict: names and tensors"
        )
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
        raise ModelError(
            f"{file} holds more than tensors, under the keys {', '.join(map(str, content))[:200]}; "
            "expected a state dict: names and tensors"
        )
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def _differences(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Say, a line each, which names are missing, have another shape, or are not expected."""
    lines = [f"missing: {name}" for name in expected if name not in found]
    lines += [
        f"{name}: found {tuple(found[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    return lines + [f"not expected: {name}" for name in found if name not in expected]
