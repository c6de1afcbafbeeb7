"""`mixbct generations V1 V2 V3`."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from mixbct.backbones.model import load_model
from mixbct.cli.options import Device, OtherClasses, Replicates, Seed, SkipBad
from mixbct.cli.output import name_skipped, progress_bar, tell
from mixbct.distributed import open_device
from mixbct.evaluation.gate import training_says
from mixbct.files import write_atomically
from mixbct.report.generations import generations_table
from mixbct.schemas.bridge import load_bridge
from mixbct.workflows.evaluate import HeldOutSet
from mixbct.workflows.generations import compare_generations


def generations(
    models: Annotated[
        list[Path],
        Argument(metavar="V1 V2 ...", help="Folders or runs of the versions, oldest first."),
    ],
    data: Annotated[Path, Option(help="A folder of class folders, or an image array.")],
    split: Annotated[Path, Option(help="A split folder.")],
    bridge: list[Path] | None = Option(
        None, help="A bridge between two of them, in the place of the models' own."
    ),
    out: Path = Option(Path("generations.json"), help="The file to write."),
    seed: Seed = 0,
    replicates: Replicates = 1000,
    device: Device = "cpu",
    other_classes: OtherClasses = False,
    skip_bad: SkipBad = False,
) -> None:
    """Compare every version's queries with the galleries of all versions before it."""
    held_out = HeldOutSet(data, split, skip_bad=skip_bad, other_classes=other_classes)
    versions = [load_model(path, device) for path in models]
    bridges = [load_bridge(path) for path in bridge or []]
    device_of_scores = open_device(device)
    found = compare_generations(
        held_out, versions, bridges, seed, replicates, device_of_scores, progress_bar
    )
    write_atomically(out, found.to_json())
    name_skipped(sorted(held_out.left_out))
    tables = (generations_table(found, metric) for metric in found.summary)
    then = ("eval", "--old", models[-2], "--new", models[-1], "--data", data, "--split", split)
    tell(found, *tables, training_says(found.trained_apart), then=then)
