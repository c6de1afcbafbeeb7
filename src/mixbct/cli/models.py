"""`mixbct import-model` and `mixbct export`: models from elsewhere, and for elsewhere."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from mixbct.backbones.foreign import import_onnx, import_weights
from mixbct.backbones.model import load_model
from mixbct.cli.options import Out, TrustCode
from mixbct.cli.output import tell
from mixbct.errors import ModelError
from mixbct.export.onnx import MODEL, export_onnx
from mixbct.schemas.bridge import load_bridge
from mixbct.schemas.model import Preprocessing
from mixbct.schemas.record import made_of
from mixbct.workflows.rows import open_rows


def import_model(
    weights: Annotated[
        Path, Argument(help="A state dict (.pth, .pt, .safetensors) or .onnx file.")
    ],
    out: Out,
    backbone: str | None = Option(None, help="A name of mixbct.backbones, or package.module:f."),
    dim: int | None = Option(None, min=1, help="Dimension of the embedding."),
    size: int = Option(112, min=1, help="Input height and width in pixels."),
    channels: int = Option(3, help="1: grey, 3: RGB."),
    mean: float = Option(127.5, help="Taken off each value of 0 to 255 …"),
    std: float = Option(127.5, help="… which is then divided by this."),
    name: str | None = Option(None, help="Of the model [the file's name]."),
    output: str | None = Option(None, help="Of an .onnx file: the output with the embeddings."),
) -> None:
    """Make a model folder from weights that came from elsewhere, for instance an old model.

    An .onnx file brings its architecture along; for a state dict say --backbone and --dim. The
    defaults are those of insightface: 112 × 112 RGB, (x − 127.5) / 127.5.
    """
    asked = {"size": size, "channels": channels, "mean": mean, "std": std}
    preprocessing = made_of(Preprocessing, ModelError, "the model's input", asked)
    called = name or weights.stem
    if weights.suffix.lower() == ".onnx":
        if backbone is not None or dim is not None:
            raise typer.BadParameter("an .onnx file says both: leave --backbone and --dim out")
        manifest = import_onnx(
            weights, out, name=called, preprocessing=preprocessing, output=output
        )
    elif output is not None:
        raise typer.BadParameter("only an .onnx file has outputs to choose from: leave it out")
    elif backbone is None or dim is None:
        raise typer.BadParameter(
            "a state dict does not say what it belongs to: add --backbone and --dim, for instance "
            "--backbone iresnet50 --dim 512"
        )
    else:
        manifest = import_weights(
            weights, out, name=called, backbone=backbone, dim=dim, preprocessing=preprocessing
        )
    contract = manifest.contract
    said = f"{contract}: {manifest.backbone}, {contract.dim} dimensions, in {out}"
    tell(manifest, said, then=("extract", out, "--data", "DATA", "--out", f"{out}-bank"))


def export(
    model: Annotated[Path, Argument(help="A model folder, or a training run.")],
    data: Annotated[Path, Option(help="Real images: the file is held against the model on them.")],
    out: Out,
    format: Literal["onnx"] = Option("onnx", help="Of the exported file."),
    split: Path | None = Option(None, help="Only a part of this split of --data."),
    part: str | None = Option(None, help="That part [new_train]."),
    query: bool = Option(False, "--query", help="Add queries through the model's own bridge."),
    bridge: Path | None = Option(None, help="Add queries through this bridge."),
    unit: bool = Option(False, "--normalise", help="Give embeddings of norm 1."),
    int8: bool = Option(False, "--int8", help="Whole numbers: faster, other vectors."),
    trust_code: TrustCode = False,
) -> None:
    """Write a model as one ONNX file that takes pixels, for where no Python runs.

    The file is run on real images before it is kept, and inherits the model's contract where it
    gives the model's vectors, so that `import-model` makes a model of it whose edges hold.
    """
    loaded = load_model(model, trust_code=trust_code)
    through = load_bridge(bridge) if bridge else loaded.bridge if query else None
    if query and through is None:
        raise ModelError(f"{model} carries no bridge: leave --query out, or name one (--bridge)")
    images, _ = open_rows(data, loaded.preprocessing, split, part)
    report = export_onnx(loaded, images, out, bridge=through, unit=unit, int8=int8)
    file, outputs = out / MODEL, " and ".join(report.outputs)
    said = [
        f"{file}: {report.size_bytes / 1e6:.1f} MB, opset {report.opset}, outputs {outputs}",
        f"1 − cosine to {report.model} on {report.images} images: {report.mean:.2g} in the mean, "
        f"{report.farthest:.2g} at most",
    ]
    if report.from_float64:
        said.append("the model computes as float64, the file as float32")
    then: tuple[str | Path, ...] = ("import-model", file, "--out", f"{out}-model")
    if report.inherits:
        said.append("it has the model's contract")
    else:
        takes = loaded.preprocessing
        said.append("its vectors are others: they need an edge of their own (eval, then gate)")
        own = {"size": takes.size, "channels": takes.channels, "mean": 0, "std": 1}
        then += tuple(str(word) for key, value in own.items() for word in (f"--{key}", value))
        then += ("--output", "embedding") if len(report.outputs) > 1 else ()
    tell(report, *said, then=then)
