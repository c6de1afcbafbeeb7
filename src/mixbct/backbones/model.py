"""An embedding model on disk: backbone weights, preprocessing and contract in one folder.

model.json             backbone, options, contract, head, classes, bridge (`ModelManifest`)
backbone.safetensors   the weights, or backbone.onnx: a frozen encoder, graph and all
head.safetensors       the classifier it was trained with, where there is one
"""

import hashlib
import importlib
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mixbct.backbones.iresnet import IResNet
from mixbct.backbones.linear import LinearBackbone, ResidualMap
from mixbct.backbones.mobilefacenet import MobileFaceNet
from mixbct.backbones.onnx import FILE, ONNX, OnnxEncoder, OnnxFile
from mixbct.backbones.small import SmallResNet
from mixbct.backbones.trust import TRUSTED
from mixbct.backbones.vit import VisionTransformer
from mixbct.distributed import open_device
from mixbct.errors import ModelError, not_ending
from mixbct.files import folder_written_whole, refuse_existing
from mixbct.reading import failing_as, file_size, shown
from mixbct.schemas.bridge import Bridge
from mixbct.schemas.model import Contract, Input, ModelManifest, Preprocessing, VectorInput
from mixbct.schemas.record import read_record

Options = Mapping[str, int | float | str | bool]
State = Mapping[str, Tensor]

BACKBONES: Mapping[str, Callable[..., nn.Module]] = {
    "small": SmallResNet,
    "iresnet18": partial(IResNet, (2, 2, 2, 2)),
    "iresnet34": partial(IResNet, (3, 4, 6, 3)),
    "iresnet50": partial(IResNet, (3, 4, 14, 3)),
    "iresnet100": partial(IResNet, (3, 13, 30, 3)),
    "iresnet200": partial(IResNet, (6, 26, 60, 6)),
    "mobilefacenet": MobileFaceNet,
    "vit_t": partial(VisionTransformer, 256),
    "vit_s": partial(VisionTransformer, 512),
    "vit_b": partial(VisionTransformer, 512, depth=24),
}
VECTOR_BACKBONES: Mapping[str, Callable[..., nn.Module]] = {
    "linear": LinearBackbone,
    "residual": ResidualMap,
}
"""Heads over the vectors of a frozen encoder."""

Batch = UInt8[Tensor, "b h w c"] | Float32[Tensor, "b inputs"]
"""What a source reads: images, or vectors."""
Inputs = Float[Tensor, "b c h w"] | Float[Tensor, "b inputs"]
"""What a backbone takes."""


def build_backbone(name: str, dim: int, takes: Input, options: Options) -> nn.Module:
    """Build a backbone from its name, or from `package.module:factory`.

    A factory is called with `dim=`, `size=`, `channels=` and the recipe's options, and returns a
    module that maps float [B, C, H, W] to [B, dim]. Over vectors it is called with `dim=`,
    `inputs=` and the options, and maps float [B, inputs] to [B, dim].

    Raises:
        ModelError: the name is unknown, or the factory cannot be imported, refuses the options, or
            ends otherwise than by an `Exception`.
    """
    if isinstance(takes, VectorInput):
        known, shape, over = VECTOR_BACKBONES, {"inputs": takes.dim}, str(takes)
    else:
        known, shape, over = BACKBONES, {"size": takes.size, "channels": takes.channels}, "images"
    factory = known.get(name)
    if factory is None:
        if ":" not in name:
            raise ModelError(
                f"there is no backbone {name!r} over {over}; choose one of {', '.join(known)}, or "
                "name a factory as package.module:function"
            )
        factory = import_factory(name, "backbone")
    given = ", ".join(f"{key} {value}" for key, value in {"dim": dim, **shape}.items())
    said = f"backbone {name!r} does not take {given} and options {dict(options)}"
    wrong = TypeError, ValueError, RuntimeError, ArithmeticError, MemoryError
    with not_ending(f"the backbone factory {name!r}"), failing_as(ModelError, said, *wrong):
        module = factory(dim=dim, **shape, **options)
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"the backbone factory {name!r} gave a {type(module).__name__}, expected a torch module"
        )
    # convolutions on CPU take two thirds of the time with channels last
    channels_last: nn.Module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return channels_last


def build_with_weights(
    name: str, dim: int, takes: Input, options: Options, state: State, where: Path
) -> nn.Module:
    """Build a backbone and give it weights, which must have exactly its names and shapes.

    One of mixbct's own is built of shapes alone and takes the tensors as they are, so that a
    dimension that the weights do not have takes no memory. (Counters of batches may be missing.)

    Raises:
        ModelError: names or shapes differ from those in `where`, and it begins to list them; or
            see `build_backbone`.
    """
    own, double = ":" not in name, is_double(state.values())
    with torch.device("meta" if own else "cpu"):
        backbone = build_backbone(name, dim, takes, options)
    if double:
        backbone.double()
    said = f"the weights in {where} are not those of {name!r} with dim {dim} over {takes}"
    with failing_as(ModelError, said):
        backbone.load_state_dict(state, assign=own)
    if own:
        dtype = torch.float64 if double else torch.float32
        backbone.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return backbone


def import_factory(name: str, what: str) -> Callable[..., Any]:
    """Import what a person named as `package.module:factory`; `what` it makes is for errors.

    Raises:
        ModelError: it cannot be imported, or called.
    """
    module, _, attribute = name.partition(":")
    said = f"the {what} factory {name!r}"
    # a module of the person's own can fail in any way
    with not_ending(said), failing_as(ModelError, f"{said} cannot be imported", Exception):
        factory = getattr(importlib.import_module(module), attribute)
    if not callable(factory):
        raise ModelError(f"{said} is not callable")
    return factory  # type: ignore[no-any-return]


def to_inputs(batch: Batch, takes: Input, dtype: torch.dtype = torch.float32) -> Inputs:
    """Return what a backbone takes, as `dtype`: vectors of norm 1, or normalised images.

    Those are (value − mean) / std, channels first in shape, last in memory.
    """
    if isinstance(takes, VectorInput):
        return F.normalize(batch.to(dtype))
    return batch.permute(0, 3, 1, 2).to(dtype).sub_(takes.mean).div_(takes.std)


def forward(backbone: nn.Module, inputs: Inputs, dim: int) -> Float[Tensor, "b d"]:
    """Return the embeddings of normalised images, or vectors.

    Raises:
        ModelError: the backbone gave something else than [b, dim].
    """
    features: Tensor = backbone(inputs)
    if features.shape != (len(inputs), dim):
        raise ModelError(
            f"backbone {type(backbone).__name__} gave {tuple(features.shape)} for {len(inputs)} "
            f"inputs, expected {(len(inputs), dim)}: does it heed dim?"
        )
    return features


class EmbeddingModel:
    """A backbone in evaluation mode with the contract of its vectors."""

    def __init__(self, backbone: nn.Module, manifest: ModelManifest) -> None:
        self.backbone = backbone.eval()
        self.manifest = manifest
        self.contract = manifest.contract
        self.takes = _takes(manifest)
        self._given = self.takes
        if manifest.backbone == ONNX and manifest.options.get("prepares"):
            # an exported graph, which takes pixels as they are
            self._given = self.preprocessing.model_copy(update={"mean": 0.0, "std": 1.0})
        self.bridge = manifest.bridge
        tensors = [*backbone.parameters(), *backbone.buffers()]
        # an ONNX encoder has none, and computes in main memory
        self.device = tensors[0].device if tensors else torch.device("cpu")
        self.dtype = torch.float64 if is_double(tensors) else torch.float32

    @property
    def preprocessing(self) -> Preprocessing:
        """Return how images become the backbone's input.

        Raises:
            ModelError: it takes vectors.
        """
        if isinstance(self.takes, VectorInput):
            raise ModelError(
                f"{self.contract} is a head over {self.takes}, not a model of images: embed the "
                "images with that encoder, and its bank with the head (`mixbct extract`)"
            )
        return self.takes

    @torch.inference_mode()
    def embed(self, batch: Batch) -> Float[Tensor, "b d"]:
        """Return the raw (not normalised) embeddings of a batch, float32, on the model's device."""
        inputs = to_inputs(batch.to(self.device), self._given, self.dtype)
        return forward(self.backbone, inputs, self.contract.dim).float()


def _takes(manifest: ModelManifest) -> Input:
    takes = manifest.contract.preprocessing
    if takes is None:
        raise ModelError(
            f"the manifest of {manifest.contract} does not say what the model takes: its contract "
            "is one of vectors that came from elsewhere"
        )
    return takes


def contract_of(name: str, backbone: nn.Module, takes: Input, dim: int) -> Contract:
    """Return the contract of a backbone's vectors."""
    weights = weights_digest(backbone.state_dict())
    return Contract(name=name, weights=weights, preprocessing=takes, dim=dim)


def save_model(
    path: Path, manifest: ModelManifest, backbone: nn.Module, head: State | None = None
) -> None:
    """Write a model folder, whole or not at all; the manifest has the contract of the backbone."""
    with folder_written_whole(path) as folder:
        save_file(state_copy(backbone.state_dict()), folder / "backbone.safetensors")
        if head:
            save_file(state_copy(head), folder / "head.safetensors")
        (folder / "model.json").write_text(manifest.to_json(), encoding="utf-8")


def save_with_bridge(path: Path, out: Path, bridge: Bridge) -> None:
    """Write a copy of a model folder that carries a bridge; its vectors are the same.

    Raises:
        ContractError: the bridge is not one of this model's queries.
        ModelError: there is no model, or `out` is there already.
    """
    folder, manifest = read_manifest(path)
    refuse_existing(out, ModelError)
    bridge.check(manifest.contract, bridge.target)
    mapped = manifest.model_copy(update={"bridge": bridge})
    with folder_written_whole(out) as partial:
        for file in folder.iterdir():
            shutil.copyfile(file, partial / file.name)
        (partial / "model.json").write_text(mapped.to_json(), encoding="utf-8")


def read_manifest(path: Path) -> tuple[Path, ModelManifest]:
    """Return the model folder that `path` is, or is the run of, and its manifest; no weights.

    Raises:
        ModelError: there is no model, or its manifest is malformed.
    """
    # the path's own method raises where a name is too long; reading it says so
    folder = path / "model" if os.path.exists(path / "model" / "model.json") else path  # noqa: PTH110
    return folder, read_record(folder / "model.json", ModelManifest, ModelError, "model")


def load_model(path: Path, device: str = "cpu", trust_code: bool = False) -> EmbeddingModel:
    """Load a model folder, or the `model/` folder of a training run.

    Args:
        path: the folder.
        device: where it computes.
        trust_code: run the code that the folder names where its backbone is not one of mixbct's.

    Raises:
        ModelError: it is not there, does not load, its weights are not those of its contract, or
            it names code and nobody said that it may run; or there is no such device, or none
            that has the model's numbers.
    """
    target = open_device(device)
    folder, manifest = read_manifest(path)
    contract, name = manifest.contract, manifest.backbone
    if ":" in name and not (trust_code or TRUSTED.get()):
        raise ModelError(
            f"{folder} names code of its own for its backbone, {name!r}, and code that a folder "
            "names is run on your word alone: add --trust-code (`trust_code=True`) if it is yours"
        )
    takes = _takes(manifest)
    if name == ONNX:
        output = manifest.options.get("output")
        file = OnnxFile.read(folder / FILE, None if output is None else str(output))
        inherited = file.inherited() if manifest.options.get("prepares") else None
        weights = file.digest() if inherited is None else inherited.weights
    else:
        state = read_tensors(folder / "backbone.safetensors")
        weights = weights_digest(state)
        if is_double(state.values()):
            open_device(device, torch.float64)
    if weights != contract.weights:
        raise ModelError(
            f"the weights of {folder} are not those of its contract {contract}: the file "
            "was changed since"
        )
    if name != ONNX:
        backbone = build_with_weights(name, contract.dim, takes, manifest.options, state, folder)
    elif isinstance(takes, VectorInput):
        raise ModelError(f"the ONNX encoder of {folder} cannot be a head over {takes}")
    else:
        backbone = OnnxEncoder(file, takes.size, takes.channels)
    return EmbeddingModel(backbone.to(target), manifest)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, whose header is held against its size.

    Raises:
        ModelError: it is missing or damaged.
    """
    file_size(path, "file of weights", ModelError)
    with failing_as(ModelError, f"the weights in {shown(path)} do not load as safetensors"):
        return load_file(path)


def weights_digest(state: State) -> str:
    """Return the SHA-256 of a state dict: names, dtypes, shapes and values in name order."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def state_copy(state: State) -> dict[str, Tensor]:
    """Return a copy in main memory, one tensor each: safetensors refuses shared memory."""
    plain = torch.contiguous_format
    return {k: v.detach().cpu().clone(memory_format=plain) for k, v in state.items()}


def is_double(tensors: Iterable[Tensor]) -> bool:
    """Return whether all numbers that are no whole ones are float64; a model computes in those."""
    return {tensor.dtype for tensor in tensors if tensor.is_floating_point()} == {torch.float64}
