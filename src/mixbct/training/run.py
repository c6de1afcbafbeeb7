"""A training run as a folder: started, resumed, stopped, finished.

recipe.json    the recipe as it was run
steps.jsonl    losses and learning rate over the steps
checkpoints/   the newest two; gone once the run is finished
model/         the finished model (see mixbct.backbones.model)
start.json     of a head that chose its start: which, and what training added
cost.json      seconds, images and steps

Of several processes the first writes all that, but for the rows of the heads that each owns in a
checkpoint; all of them need the same folder.
"""

import contextlib
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from types import FrameType

from mixbct.backbones.model import contract_of, save_model
from mixbct.data.source import Source
from mixbct.distributed import ALONE, World
from mixbct.errors import BadImageError, CheckpointError, DiskFullError, ModelError, StoppedError
from mixbct.files import write_atomically
from mixbct.recipe import Recipe
from mixbct.schemas.model import ModelManifest
from mixbct.schemas.record import read_record
from mixbct.schemas.result import ModelCost
from mixbct.training.checkpoint import finished_checkpoints, latest_checkpoint
from mixbct.training.log import EVERY, StepLog, StepReport
from mixbct.training.start import hold_out
from mixbct.training.task import input_of
from mixbct.training.trainer import Trainer

OnStep = Callable[[StepReport], None]

SIGNALS = (signal.SIGINT, signal.SIGTERM)
Handler = Callable[[int, FrameType | None], None]


def train(
    recipe: Recipe,
    source: Source,
    out: Path,
    *,
    resume: bool = False,
    progress: OnStep | None = None,
    world: World = ALONE,
) -> ModelCost:
    """Train what `recipe` says on `source` and leave the model in `out`/model.

    With `resume` a run that was stopped goes on from its newest checkpoint, one that was never
    begun begins, and one that is finished returns at once.

    Raises:
        CheckpointError: `out` holds a run and `resume` is not set, or it is a run of another
            recipe or other data.
        StoppedError: Ctrl-C, SIGTERM or `train.stop_after`; the state is saved. Before the first
            step, and at a second signal, nothing is: what was saved before is intact.
        TrainingDivergedError: a loss became NaN or infinite.
    """
    stopped = f"stopped; what {out} holds is intact: run the same command again, with --resume"
    with signals_as_stopped(stopped):
        checkpoints, finished = out / "checkpoints", (out / "cost.json").exists()
        first = world.rank == 0
        # a run that saved nothing yet has nothing to lose
        if (finished or finished_checkpoints(checkpoints)) and (out / "recipe.json").exists():
            _check_begun(out, recipe, resume)
        if finished:
            _check_data(out, recipe, source)
            if first:
                shutil.rmtree(checkpoints, ignore_errors=True)
            return read_record(out / "cost.json", ModelCost, CheckpointError, "training cost")
        held_out = hold_out(recipe, source)
        trainer = Trainer(recipe, held_out.rest if held_out else source, world)
        head_start = trainer.begin()
        learned = [trainer.backbone, trainer.method] if head_start and held_out else []
        began = deepcopy([each.state_dict() for each in learned])
        at_start = held_out.judge(trainer.embed, trainer.gallery_map()) if held_out else None
        if (path := latest_checkpoint(checkpoints, world)) is not None:
            trainer.load(path)
        if first:
            write_atomically(out / "recipe.json", recipe.to_json())
        with stop_on_signal() as stop_asked:
            _run(trainer, out, stop_asked, progress)
            # from here on the work is done, and a stop would only lose time
            cost = ModelCost(seconds=trainer.seconds, images=trainer.images, steps=trainer.steps)
            if not first:
                world.wait()  # waits until the model is written
                return cost
            head_name: str | None = recipe.head.name
            classifier = trainer.state.whole_head(checkpoints)
            if head_start and held_out:
                at_end = held_out.judge(trainer.embed, trainer.gallery_map())
                figures = {"held_out": held_out.classes, "at_start": at_start, "at_end": at_end}
                head_start = head_start.model_copy(update=figures)
                if head_start.kept:
                    for each, state in zip(learned, began, strict=True):
                        each.load_state_dict(state)
                    head_name, classifier = None, {}  # it belongs to the trained head
            if head_start:
                write_atomically(out / "start.json", head_start.to_json())
            model, backbone = recipe.model, trainer.backbone
            contract = contract_of(recipe.name, backbone, trainer.takes, model.dim)
            manifest = ModelManifest(
                backbone=model.backbone,
                options=model.options,
                contract=contract,
                head=head_name,
                classes=trainer.source.classes(),
                data_digest=source.digest(),
                bridge=trainer.bridge_from(contract),
                old_part=trainer.old_part,
            )
            save_model(out / "model", manifest, backbone, classifier)
            write_atomically(out / "cost.json", cost.to_json())
            shutil.rmtree(checkpoints, ignore_errors=True)
            world.wait()
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
    trainer: Trainer, out: Path, stop_asked: Callable[[], bool], progress: OnStep | None
) -> None:
    """Step to the end, or to where a stop is asked for."""
    settings = trainer.recipe.train
    checkpoints = out / "checkpoints"
    world = trainer.world
    log = StepLog(out, trainer.step) if world.rank == 0 else None
    saved = trainer.step
    stepping = False
    before = time.perf_counter()
    try:
        for batch in trainer.batches():
            stepping = True
            report = trainer.take_step(batch)
            stepping = False
            now = time.perf_counter()
            trainer.seconds += now - before
            before = now
            last = report.step == report.steps
            if log and (report.step % EVERY == 0 or last):
                rate = trainer.optimizer.param_groups[0]["lr"]
                log.write(report.step, {**report.losses, "lr": rate})
            if progress:
                progress(report)
            stop = not last and world.any_true(stop_asked() or report.step == settings.stop_after)
            every = settings.checkpoint_every
            if last or stop or (every and report.step % every == 0):
                saved = report.step  # what cannot be saved now cannot be saved below
                trainer.save(checkpoints)
            if stop:
                raise StoppedError(
                    f"stopped after step {report.step} of {report.steps}, saved in {checkpoints}: "
                    "go on with the same command and --resume"
                )
    except BadImageError:
        raise  # to go on without the image is to go on with other data
    except Exception:
        # a disk that went away, say: between two steps the state is whole, and is kept, unless
        # other processes would have to save their part of it
        if not stepping and trainer.step > saved and world.size == 1:
            with contextlib.suppress(DiskFullError, OSError):
                trainer.save(checkpoints)
        raise
    finally:
        if log:
            log.close()


@contextlib.contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether a stop was asked for.

    The first signal is a request; a second one acts at once, as if this were not here. Outside
    the main thread, where signals cannot be caught, nothing is asked for.
    """
    asked = threading.Event()
    with contextlib.ExitStack() as stack:

        def on_signal(number: int, frame: FrameType | None) -> None:
            asked.set()
            stack.close()

        stack.enter_context(_handled_by(on_signal))
        yield asked.is_set


@contextlib.contextmanager
def signals_as_stopped(message: str) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM act at once, and end in a `StoppedError` that says `message`.

    So does whatever a library makes of the exception that interrupts it.
    """
    asked = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        asked.set()
        raise KeyboardInterrupt

    try:
        with _handled_by(on_signal):
            yield
    except (KeyboardInterrupt, Exception) as error:
        if asked.is_set() or isinstance(error, KeyboardInterrupt):
            raise StoppedError(message) from None
        raise


@contextlib.contextmanager
def _handled_by(handler: Handler) -> Iterator[None]:
    """Handle the signals for a while, where this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
