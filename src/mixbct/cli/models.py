"""`mixbct import-model`."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from mixbct.backbones.foreign import import_onnx, import_weights
from mixbct.cli.options import Out
from mixbct.cli.output import tell
from mixbct.errors import ModelError
from mixbct.schemas.model import Preprocessing
from mixbct.schemas.record import made_of


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
