"""A training run as a folder: started, resumed, stopped, finished.

recipe.json    the recipe as it was run
steps.jsonl    losses and learning rate over the steps
checkpoints/   the newest checkpoint; gone once the run is finished
model/         the finished model (see mixbct.backbones.model)
cost.json      seconds, images and steps
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from mixbct.backbones.model import save_model
from mixbct.data.source import Source
from mixbct.errors import CheckpointError, ModelError, StoppedError
from mixbct.files import write_atomically
from mixbct.recipe import Recipe
from mixbct.schemas.model import ModelManifest
from mixbct.schemas.record import read_record
from mixbct.schemas.result import ModelCost
from mixbct.training.checkpoint import latest_checkpoint
from mixbct.training.log import EVERY, StepLog
from mixbct.training.stop import stop_on_signal
from mixbct.training.trainer import StepReport, Trainer, input_of


def train(
    recipe: Recipe,
    source: Source,
    out: Path,
    *,
    resume: bool = False,
    origin: str = "the recipe",
    progress: Callable[[StepReport], None] | None = None,
) -> ModelCost:
    """Train what `recipe` says on `source` and leave the model in `out`/model.

    With `resume` a run that was stopped goes on from its newest checkpoint, one that was never
    begun begins, and one that is finished returns at once.

    Raises:
        CheckpointError: `out` holds a run and `resume` is not set, or it is a run of another
            recipe or other data.
        StoppedError: Ctrl-C, SIGTERM or `train.stop_after`; the state is saved.
        TrainingDivergedError: a loss became NaN or infinite.
    """
    # a run that saved nothing yet has nothing to lose
    saved = (out / "cost.json").exists() or latest_checkpoint(out / "checkpoints")
    if saved and (out / "recipe.json").exists():
        _check_begun(out, recipe, resume)
    if (out / "cost.json").exists():
        _check_data(out, recipe, source)
        return read_record(out / "cost.json", ModelCost, CheckpointError, "training cost")
    trainer = Trainer(recipe, source, origin)
    checkpoints = out / "checkpoints"
    if (path := latest_checkpoint(checkpoints)) is not None:
        trainer.load(path)
    else:
        trainer.begin()
    write_atomically(out / "recipe.json", recipe.to_json())
    with stop_on_signal() as stop_asked:
        _run(trainer, out, checkpoints, stop_asked, progress)
        # from here on the work is done, and a stop would only lose time
        save_model(
            out / "model",
            recipe.name,
            recipe.model.backbone,
            recipe.model.options,
            trainer.takes,
            recipe.model.dim,
            trainer.backbone,
            recipe.head.name,
            trainer.head.state_dict(),
            source.classes(),
            source.digest(),
            trainer.bridge_from,
            trainer.old_part,
        )
    cost = ModelCost(seconds=trainer.seconds, images=trainer.images, steps=trainer.steps)
    write_atomically(out / "cost.json", cost.to_json())
    shutil.rmtree(checkpoints, ignore_errors=True)
    return cost


def _check_begun(out: Path, recipe: Recipe, resume: bool) -> None:
    if not resume:
        raise CheckpointError(
            f"{out} already holds a training run: add --resume to go on with it, or choose "
            "another --out"
        )
    begun = read_record(out / "recipe.json", Recipe, CheckpointError, "recipe")
    if begun.digest() != recipe.digest():
        raise CheckpointError(
            f"{out} holds a run of another recipe ({begun.name}): resume with the recipe it was "
            f"begun with (see {out / 'recipe.json'}), or choose another --out"
        )


def _check_data(out: Path, recipe: Recipe, source: Source) -> None:
    manifest = read_record(out / "model" / "model.json", ModelManifest, ModelError, "model")
    trained = manifest.data_digest, manifest.contract.preprocessing
    if trained != (source.digest(), input_of(recipe, source)):
        raise CheckpointError(
            f"the model in {out} was trained on other data: choose another --out to train anew"
        )


def _run(
    trainer: Trainer,
    out: Path,
    checkpoints: Path,
    stop_asked: Callable[[], bool],
    progress: Callable[[StepReport], None] | None,
) -> None:
    """Step to the end, or to where a stop is asked for."""
    settings = trainer.recipe.train
    log = StepLog(out, trainer.step)
    before = time.perf_counter()
    try:
        for batch in trainer.batches():
            report = trainer.take_step(batch)
            now = time.perf_counter()
            trainer.seconds += now - before
            before = now
            if progress:
                progress(report)
            last = report.step == report.steps
            if report.step % EVERY == 0 or last:
                rate = trainer.optimizer.param_groups[0]["lr"]
                log.write(report.step, {**report.losses, "lr": rate})
            if not last and (stop_asked() or report.step == settings.stop_after):
                trainer.save(checkpoints)
                raise StoppedError(
                    f"stopped after step {report.step} of {report.steps}, saved in {checkpoints}: "
                    "go on with the same command and --resume"
                )
            every = settings.checkpoint_every
            if last or (every and report.step % every == 0):
                trainer.save(checkpoints)
    finally:
        log.close()
