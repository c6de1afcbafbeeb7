"""A frozen encoder from an ONNX file: it embeds, and cannot be trained.

onnxruntime computes, on the CPU, with as many threads as torch uses, each on images of its own: a
thread is then never waiting for another. It is an optional extra: `pip install 'mixbct[onnx]'`.
A graph is looked at before it is run: what decides its vectors is read, and digested, once, files
of weights beside it included, and what may never end (a Loop) is refused.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float
from pydantic import ValidationError
from torch import Tensor, nn

from mixbct.errors import ModelError
from mixbct.reading import failing_as, needing_extra, read_bytes, shown
from mixbct.schemas.contract import Contract

ONNX: Final = "onnx"
"""What a manifest calls this backbone."""

FILE: Final = "backbone.onnx"
"""Its file in a model folder."""

_ENDING: Final = ("If", "Scan")
"""Operators with a graph inside that always end; Loop and the decoders need not."""

EMBEDDING: Final = "embedding"
"""The output of a file that mixbct exported which is the model's vector."""

_CONTRACT, _GRAPH = "mixbct.contract", "mixbct.graph"

Value = tuple[str, str, list[int | str | None]]
"""Name, type and shape of an input or output."""

_MOST_NODES: Final = 10**6
_MOST_BYTES: Final = 2**30


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX graph as it was read, with the weights that it keeps in files beside it.

    Attributes:
        content: of the .onnx file.
        output: the name of the output that is taken, where there are several.
        beside: content of the other files, by name.
    """

    content: bytes
    output: str | None = None
    beside: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, output: str | None = None) -> "OnnxFile":
        """Read the graph and every file of weights that it names, from its own folder.

        Raises:
            ModelError: a package or a file is missing, it is no ONNX file, or it might never end.
        """
        content = read_bytes(path, "ONNX file", ModelError)
        names = sorted(_weights_beside(content, path))
        for name in names:
            if Path(name).name != name or name in (FILE, "model.json"):
                raise ModelError(
                    f"{path} keeps weights in {name!r}; they are read from its own folder alone: "
                    "save it again with the weights inside, or in a file beside it"
                )
        beside = {n: read_bytes(path.parent / n, "file of weights", ModelError) for n in names}
        return cls(content, output, beside)

    def digest(self) -> str:
        """Return the SHA-256 of all that decides the vectors; of the file, where that is all."""
        graph = hashlib.sha256(self.content).hexdigest()
        if not self.beside and self.output is None:
            return graph
        weights = {name: hashlib.sha256(part).hexdigest() for name, part in self.beside.items()}
        return hashlib.sha256(json.dumps([graph, weights, self.output]).encode()).hexdigest()

    def inherited(self) -> Contract | None:
        """Return the contract whose vectors the graph gives by its own word; see `inherit`."""
        model = import_package("onnx").ModelProto.FromString(self.content)
        claimed = {entry.key: entry.value for entry in model.metadata_props}
        if self.output not in (None, EMBEDDING) or _CONTRACT not in claimed:
            return None
        try:
            contract = Contract.model_validate_json(claimed[_CONTRACT])
        except ValidationError:
            return None
        ending = _claim(contract, claimed.get(_GRAPH, ""))
        graph = hashlib.sha256(self.content.removesuffix(ending)).hexdigest()
        return contract if graph == claimed.get(_GRAPH) and not self.beside else None

    def write(self, folder: Path) -> None:
        """Write all files into a model folder."""
        for name, content in {FILE: self.content, **self.beside}.items():
            (folder / name).write_bytes(content)


def inherit(content: bytes, contract: Contract) -> bytes:
    """Return a graph whose output `EMBEDDING` gives vectors under a contract, and which says so.

    What it says ends the file, which protobuf allows, behind the digest of all that comes before.
    """
    return content + _claim(contract, hashlib.sha256(content).hexdigest())


def _claim(contract: Contract, graph: str) -> bytes:
    onnx = import_package("onnx")
    said = {_CONTRACT: contract.model_dump_json(), _GRAPH: graph}
    entries = [onnx.StringStringEntryProto(key=key, value=value) for key, value in said.items()]
    claim: bytes = onnx.ModelProto(metadata_props=entries).SerializeToString()
    return claim


class OnnxEncoder(nn.Module):
    """Map float32 [B, C, size, size] to [B, dim]; `dim` is found by embedding a black image.

    The graph must have one input of float32 images, channels first or last, and one output of
    [B, dim] or [B, dim, 1, …], or several of which one is named; the first dimension of both is
    the batch, free or fixed. Where it is fixed, images go through in batches of that size, the
    last one filled up.

    Args:
        file: what was read.
        size: height and width of the input.
        channels: 1 or 3.

    Raises:
        ModelError: onnxruntime is missing, or the file is not such a graph.
    """

    def __init__(self, file: OnnxFile, size: int, channels: int) -> None:
        super().__init__()
        self._session, inputs, outputs = _open_session(file)
        kinds = ("tensor(float)", "tensor(float16)", "tensor(double)")
        if len(inputs) != 1 or inputs[0][1] != kinds[0]:
            raise ModelError(
                f"the ONNX model takes {_described(inputs)}; expected one input of float32 images: "
                "export it with that alone"
            )
        self.outputs = len(outputs)
        chosen = [one for one in outputs if file.output in (None, one[0])]
        if len(chosen) != 1 or chosen[0][1] not in kinds:
            asked = f", and {file.output!r} was asked for" if file.output else ""
            raise ModelError(
                f"the ONNX model gives {_described(outputs)}{asked}; expected one output of "
                "embeddings: name it with --output"
            )
        (self._input, _, shape), self._output = inputs[0], chosen[0][0]
        self._channels_last = not _fits(shape, (channels, size, size))
        if self._channels_last and not _fits(shape, (size, size, channels)):
            raise ModelError(
                f"the ONNX model takes {shape}; expected a batch of {channels} × {size} × {size}, "
                "channels first or last: set --size and --channels as it was exported"
            )
        self._batch = shape[0] if isinstance(shape[0], int) else None
        batch = 1 if self._batch is None else self._batch
        if not 0 < 4 * batch * channels * size**2 <= _MOST_BYTES:
            raise ModelError(
                f"the ONNX model takes batches of {batch} × {channels} × {size} × {size}; expected "
                f"at least one image, and no more than {_MOST_BYTES >> 20} MB of them: export it "
                "with a free or a smaller batch"
            )
        self.dim = self.forward(torch.zeros(1, channels, size, size)).shape[1]

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Return the raw embeddings, in main memory."""
        inputs = images.cpu()
        if self._channels_last:
            inputs = inputs.permute(0, 2, 3, 1)
        threads = torch.get_num_threads()
        step = self._batch or math.ceil(len(inputs) / threads)
        parts = [inputs[start : start + step] for start in range(0, len(inputs), step)]
        with ThreadPoolExecutor(threads) as pool:
            return torch.cat(list(pool.map(self._run, parts)))

    def _run(self, images: Tensor) -> Tensor:
        count = len(images)
        if self._batch is not None and count < self._batch:
            images = torch.cat([images, images.new_zeros(self._batch - count, *images.shape[1:])])
        with failing_as(ModelError, f"the ONNX model does not run on {len(images)} images"):
            (out,) = self._session.run([self._output], {self._input: images.contiguous().numpy()})
        # what is dropped are ones at the end; tokens or a map of features are no vector
        if out.shape[:1] != (len(images),) or out.size != len(out) * max(out.shape[1:2], default=0):
            raise ModelError(
                f"the ONNX model gave {self._output} {list(out.shape)} for {len(images)} images; "
                "expected one vector an image: name the output that is pooled with --output, or "
                "export it with the pooling (a class token, a mean over tokens) inside"
            )
        return torch.from_numpy(out[:count]).flatten(1).float()


def import_package(name: str) -> Any:
    """Return a package of the extra `onnx`.

    Raises:
        ModelError: it is not installed.
    """
    with needing_extra("onnx", "an ONNX model", ModelError):
        return __import__(name)


def _weights_beside(content: bytes, path: Path) -> set[str]:
    """Return the names of the files in which a graph keeps weights; refuse one that may not end."""
    onnx = import_package("onnx")
    with failing_as(ModelError, f"the ONNX model {shown(path)} does not load"):
        model = onnx.load_model_from_string(content)
    bodies = {(one.domain, one.name): one for one in model.functions}

    @cache
    def nodes(domain: str | bytes, name: str | bytes) -> int:
        """Return how many nodes a call comes to once every function is put in its place."""
        inside = _parts(bodies[domain, name], onnx.NodeProto) if (domain, name) in bodies else ()
        return 1 + sum(nodes(node.domain, node.op_type) for node in inside)

    try:
        count = sum(nodes(n.domain, n.op_type) for n in _parts(model.graph, onnx.NodeProto))
    except RecursionError:
        count = _MOST_NODES + 1
    if count > _MOST_NODES:
        raise ModelError(f"the ONNX model {shown(path)} has over {_MOST_NODES:,} nodes, or no end")
    for node in _parts(model, onnx.NodeProto):
        if node.op_type not in _ENDING and any(a.HasField("g") or a.graphs for a in node.attribute):
            raise ModelError(
                f"the ONNX model {shown(path)} holds the operator {node.op_type}, which repeats a "
                "graph and need never end: export it without (an encoder of images has none)"
            )
    return {
        str(entry.value)
        for tensor in _parts(model, onnx.TensorProto)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }


def _parts(message: Any, kind: type) -> Iterator[Any]:
    """Yield every part of a protobuf message that is of a kind, at any depth."""
    if isinstance(message, kind):
        yield message
    for described, value in message.ListFields():
        if described.message_type is not None:
            for one in [value] if hasattr(value, "ListFields") else value:
                yield from _parts(one, kind)


def _open_session(file: OnnxFile) -> tuple[Any, list[Value], list[Value]]:
    """Return a session, and what its inputs and outputs are."""
    onnxruntime = import_package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # fatal; errors are raised all the same
    parts = list(file.beside.values())
    with failing_as(ModelError, "the ONNX model does not load"):
        if parts:
            # from what was digested: left to itself, onnxruntime reads from the current folder
            sizes = [len(part) for part in parts]
            options.add_external_initializers_from_files_in_memory(list(file.beside), parts, sizes)
        # without a fallback, which would print and try the same again
        session = onnxruntime.InferenceSession(
            file.content, options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
        inputs, outputs = (
            [(value.name, value.type, value.shape) for value in side]
            for side in (session.get_inputs(), session.get_outputs())
        )
    return session, inputs, outputs


def _described(values: list[Value]) -> str:
    return ", ".join(f"{name} {kind} {shape}" for name, kind, shape in values) or "nothing"


def _fits(shape: Sequence[int | str | None], image: tuple[int, int, int]) -> bool:
    """Say whether images of this shape, after the batch, go into an input of `shape`."""
    return len(shape) == 4 and all(
        not isinstance(found, int) or found == wanted
        for found, wanted in zip(shape[1:], image, strict=True)
    )
