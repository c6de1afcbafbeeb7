"""Export to ONNX: pixels in, vectors out, and nothing of Python at run time.

One graph holds the preprocessing constants, the backbone and, where it is asked for, the query side
of a bridge; the batch is free. The file is run by onnxruntime on real images before it is kept. One
that gives the model's vectors inherits the model's contract: it stands in the file's metadata with
a digest of the graph, so that `import_onnx` makes a model of the same contract of it, whose edges
hold. One of whole numbers (int8) gives other vectors, and has a contract of its own.
"""

import contextlib
import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn

from mixbct.backbones.model import EmbeddingModel
from mixbct.backbones.onnx import ONNX, OnnxFile, import_package, inherit
from mixbct.data.bank import normalise
from mixbct.data.images import image_of, png_of, suffix_of
from mixbct.data.source import Images, Source
from mixbct.errors import DataError, ModelError
from mixbct.features.bridged import through
from mixbct.files import folder_written_whole, refuse_existing
from mixbct.reading import failing_as
from mixbct.schemas.bridge import Bridge
from mixbct.schemas.export import ExportReport
from mixbct.schemas.model import Preprocessing

MODEL: Final = "model.onnx"
"""The exported file in its folder."""

OPSET: Final = 20
FARTHEST: Final = 1e-4
"""Largest 1 − cosine to the model's vectors of a file that inherits its contract."""

Outputs = dict[str, np.ndarray]
"""Vectors float32 [n, d] by the name of the graph's output."""

_BATCHES: Final = (1, 3, 64)
_GOLDEN: Final = 8


def export_onnx(
    model: EmbeddingModel,
    images: Source,
    out: Path,
    *,
    bridge: Bridge | None = None,
    unit: bool = False,
    int8: bool = False,
) -> ExportReport:
    """Write the folder `out`: the graph, what must be done to an image before it, golden vectors.

    Args:
        model: a backbone over images; one of float64 is exported as float32.
        images: real ones, at least one; the first 64 are what the graph is held against, and the
            first 256 are what int8 takes its ranges from.
        out: a folder that is not there yet.
        bridge: adds the output `query`: the vector behind the bridge's query side, normalised.
        unit: give `embedding` normalised.
        int8: weights and activations of convolutions and products as whole numbers of 8 bits.

    Raises:
        ModelError: the model cannot be exported or the graph gives other vectors, an extra is
            missing, or `out` is there already.
        ContractError: the bridge is of another model's queries.
    """
    refuse_existing(out, ModelError)
    if model.manifest.backbone == ONNX:
        raise ModelError(f"{model.contract} is an ONNX model already: copy its file")
    if not len(images):
        raise DataError(f"{images} has no image to hold the exported graph against")
    if bridge is not None:
        bridge.check(model.contract, bridge.target)
    takes = model.preprocessing
    pixels = images.read(np.arange(min(len(images), max(_BATCHES))))
    content = _exported(_Graph(model.backbone, takes, bridge, unit), takes)
    if int8:
        content = _quantised(content, images)
    file = OnnxFile(content if int8 else inherit(content, model.contract))
    exact = _vectors(model, pixels, bridge)
    ran = _run(file.content, pixels)
    every = [np.einsum("nd,nd->n", exact[name][: len(v)], normalise(v)) for name, v in ran]
    cosines = np.concatenate(every)
    farthest = float(1 - cosines.min())
    if farthest > FARTHEST and not int8:
        raise ModelError(
            f"the exported graph gives other vectors than {model.contract}: 1 − cosine is up to "
            f"{farthest:.2g}, expected at most {FARTHEST:g}; nothing was kept"
        )
    report = ExportReport(
        model=model.contract,
        inherits=not int8,
        sha256=file.digest(),
        opset=OPSET,
        outputs=tuple(exact),
        size_bytes=len(file.content),
        from_float64=model.dtype == torch.float64,
        int8=int8,
        images=len(pixels),
        farthest=farthest,
        mean=float(1 - cosines.mean()),
        bridge=None if bridge is None else str(bridge),
    )
    with folder_written_whole(out) as folder:
        (folder / MODEL).write_bytes(file.content)
        (folder / "export.json").write_text(report.to_json(), encoding="utf-8")
        (folder / "PREPROCESSING.md").write_text(_described(takes, report), encoding="utf-8")
        _write_golden(folder / "golden", images, pixels, exact)
    return report


class _Graph(nn.Module):
    """What is exported: float32 pixels of 0 to 255, channels first, to the vectors by name."""

    def __init__(
        self, backbone: nn.Module, takes: Preprocessing, bridge: Bridge | None, unit: bool
    ) -> None:
        super().__init__()
        # a copy: `float` would change the model that was given
        self.backbone = copy.deepcopy(backbone).cpu().float().eval()
        self.mean, self.std, self.unit = takes.mean, takes.std, unit
        self.bridged = bridge is not None
        arrays = bridge.query.arrays if bridge and bridge.query else (None, None)
        self.matrix, self.offset = (
            None if array is None else torch.from_numpy(array.copy()) for array in arrays
        )

    def forward(self, images: Float[Tensor, "b c h w"]) -> tuple[Tensor, ...]:
        """Return [b, dim] and, with a bridge, [b, target dim] of norm 1."""
        embedding = self.backbone((images - self.mean) / self.std)
        direction = F.normalize(embedding)
        first = direction if self.unit else embedding
        if not self.bridged:
            return (first,)
        query = direction
        if self.matrix is not None:
            query = query @ self.matrix
        if self.offset is not None:
            query = query + self.offset
        return first, F.normalize(query)

    @property
    def outputs(self) -> list[str]:
        """Return the names of what `forward` gives."""
        return ["embedding", "query"][: 1 + self.bridged]


def _exported(graph: _Graph, takes: Preprocessing) -> bytes:
    import_package("onnxscript")
    example = torch.zeros(2, takes.channels, takes.size, takes.size)
    batch = torch.export.Dim("batch")
    said = "the backbone cannot be exported, as one that `torch.export` takes can be"
    with failing_as(ModelError, said), _quietly():  # one from elsewhere can fail in any way
        program: Any = torch.onnx.export(
            graph,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=graph.outputs,
            dynamic_shapes={"images": {0: batch}},
            verbose=False,
        )
    content: bytes = program.model_proto.SerializeToString(deterministic=True)
    return content


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep back what the exporters say of themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _quantised(content: bytes, images: Source) -> bytes:
    """Return the graph with 8-bit weights and activations, their ranges from real images."""
    quantization = __import__("onnxruntime.quantization", fromlist=["quantize_static"])
    rows = [np.arange(i, min(i + 32, len(images))) for i in range(0, min(len(images), 256), 32)]
    batches = iter([{"images": _as_inputs(images.read(some))} for some in rows])

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(batches, None)

    with tempfile.TemporaryDirectory() as folder, _quietly():
        exact, small = Path(folder) / "exact.onnx", Path(folder) / "small.onnx"
        exact.write_bytes(content)
        quantization.quantize_static(exact, small, Reader(), per_channel=True)
        return small.read_bytes()


def _as_inputs(pixels: Images) -> Float32[np.ndarray, "n c h w"]:
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32)


def _vectors(model: EmbeddingModel, pixels: Images, bridge: Bridge | None) -> Outputs:
    """Return what the model itself makes of images, by the names of the graph's outputs."""
    embedding = normalise(model.embed(torch.from_numpy(pixels)).cpu().numpy())
    if bridge is None:
        return {"embedding": embedding}
    return {"embedding": embedding, "query": through(bridge.query, embedding)}


def _run(content: bytes, pixels: Images) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what onnxruntime makes of the first 1, 3 and 64 images, a batch each, by output."""
    runtime = import_package("onnxruntime")
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    for size in _BATCHES:
        said = f"the exported graph does not run on {len(pixels[:size])} images"
        with failing_as(ModelError, said):
            found = session.run(None, {"images": _as_inputs(pixels[:size])})
        yield from zip(names, found, strict=True)


def _write_golden(folder: Path, images: Source, pixels: Images, vectors: Outputs) -> None:
    """Write a few images, as they are stored where that is a file each, and their vectors."""
    folder.mkdir()
    for row in range(min(_GOLDEN, len(pixels))):
        content = images.encoded(row) or png_of(image_of(pixels[row]))
        (folder / f"{row}{suffix_of(content)}").write_bytes(content)
    for name, rows in vectors.items():
        np.save(folder / f"{name}.npy", rows[:_GOLDEN])


def _described(takes: Preprocessing, report: ExportReport) -> str:
    """Return how an image becomes the graph's input, for who writes that in another language."""
    order = "RGB, in this order" if takes.channels == 3 else "luma: 0.299 R + 0.587 G + 0.114 B"
    text = Path(__file__).with_name("preprocessing.md").read_text("utf-8")
    return text.format(takes=takes, report=report, order=order, outputs=", ".join(report.outputs))
