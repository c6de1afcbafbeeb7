"""One process of the bench: `python -m mixbct.workflows.bench.worker SPEC.json`.

A process of its own gives each cell its threads, and a cell that dies takes no other with it. What
a cell needs of other models (the old one, its bank, the independent one) is made by the first that
needs it, under a lock. Everything is resumed that an earlier process left.
"""

import contextlib
import fcntl
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from mixbct.adapters import mlp
from mixbct.backbones.model import EmbeddingModel, load_model
from mixbct.distributed import device_name
from mixbct.errors import FeatureError, MixbctError, RecipeError
from mixbct.evaluation.bootstrap import Replicates
from mixbct.evaluation.gate import CARRIED, FEW, GateSettings
from mixbct.evaluation.scores import Embeddings, Pair
from mixbct.evaluation.upgrade import CALIBRATED, CARRIED_FAR, evaluate_upgrade
from mixbct.features.denoise import denoise
from mixbct.features.extract import extract
from mixbct.files import write_atomically
from mixbct.report.names import BASELINE, CROSS, INDEPENDENT, SELF
from mixbct.schemas.bench import METRICS, BenchCell, CellCost
from mixbct.schemas.record import now, read_record, record_there
from mixbct.schemas.result import FREE, Estimate, ModelCost
from mixbct.training.run import train
from mixbct.workflows.across import across, bridges_between
from mixbct.workflows.adapt import BESIDE, SHARE, PairedItems, beside_own, fit_bridge
from mixbct.workflows.bench.draws import write_draws
from mixbct.workflows.bench.merged import rank_merged
from mixbct.workflows.bench.recipe import MLP, RANK_MERGE
from mixbct.workflows.bench.specs import CellSpec, Trained
from mixbct.workflows.evaluate import FITTING, HeldOutSet, embed_pair, versions
from mixbct.workflows.progress import silent
from mixbct.workflows.rivals import with_old_queries
from mixbct.workflows.rows import open_training_rows

HALF = "new/50 % new"
PAIRED = ((CROSS, BASELINE), (SELF, "independent/independent"))
"""The differences that a cell keeps, and behind each bridge the first of them."""
DEVICE = "device"
KINDS = {"whiten": 0.3, "cca": 0.1, BESIDE: SHARE}
"""The bridges behind which a trained model is judged as well, and their shrinkage."""


def run_cell(spec: CellSpec) -> BenchCell:
    """Train or fit, embed, compare, judge."""
    path, method = spec.old_model.recipe.data.path, spec.cell.method
    validated = spec.cell.part == "validation"
    data = HeldOutSet(path, spec.split, judged="validation_" if validated else "")
    old_model, _ = _train(spec.old_model)
    old = embed_pair(data, old_model, "old", silent)
    independent = (spec.free or spec).model
    assert independent is not None
    model, cost = _train(independent)
    new = free = embed_pair(data, model, "independent", silent)
    cross: Pair | None = None
    mapped: dict[str, Pair] = {}
    if method == RANK_MERGE:
        merged, drawn = rank_merged(old, free, 0.5, 0, spec.replicates)
        return _cell(spec, figures={HALF: merged}, drawn=_shown({HALF: drawn}))
    if method != INDEPENDENT:
        if spec.model is None:
            items = data.items(model, old_model)
            cross, cost = _adapt(method, items, Pair(new.query, old.gallery))
        else:
            _make_bank(spec, data, old_model)
            model, cost = _train(spec.model)
            new = embed_pair(data, model, "new", silent)
            cross = across(bridges_between(model, old_model), new.query, old.gallery)
    if spec.model is not None:
        mapped = _bridged(method == INDEPENDENT, data, old_model, model, old, new)
    # one seed for all cells: the drawn classes are the same, and cells can be paired
    behind = [f"{name}/old" for name in mapped]
    found = evaluate_upgrade(
        old,
        new,
        free,
        mapped,
        cross=cross,
        seed=0,
        replicates=spec.replicates,
        mixed=(0.5,),
        calibrated=(*CALIBRATED, *behind),
    )
    crossed = {CROSS: "", **{f"{name}/old": name.removesuffix("new") for name in mapped}}
    failed = []
    for name, start in crossed.items():
        halves = found.calibrations[name]
        reached = halves.unseen.rate_above(halves.set_on.threshold(CARRIED_FAR))
        if reached > GateSettings().far_tolerance * CARRIED_FAR:
            failed.append(f"{start}{CARRIED}")
    if not all(point.resolved for point in found.combinations[CROSS].operating_points):
        failed.append(FEW)
    # what is not the new model's is the independent cell's to keep
    kept = [CROSS, SELF, HALF, *behind, *([] if spec.free else [BASELINE])]
    figures = {name: found.combinations[name].metrics() for name in kept} | {
        f"{pair.of} − {pair.minus}": pair.metrics
        for pair in found.differences
        if (pair.of, pair.minus) in (*PAIRED, *((name, BASELINE) for name in behind))
    }
    return _cell(
        spec,
        figures={name: {m: _rounded(one[m]) for m in METRICS} for name, one in figures.items()},
        update_gain=found.update_gain,
        gate_failed=tuple(failed),
        cost=cost,
        drawn=_shown({name: found.replicates[name] for name in kept}),
    )


def _bridged(
    alone: bool,
    data: HeldOutSet,
    old_model: EmbeddingModel,
    model: EmbeddingModel,
    old: Pair,
    new: Pair,
) -> dict[str, Pair]:
    """Return the old and a new model's sides as they meet behind bridges, by the queries' name.

    What the training items do not determine is left out; `alone`: the new model is independent.
    """
    sides: dict[str, Pair] = {}
    with contextlib.suppress(FeatureError):
        items = data.items(model, old_model)
        ways = {kind: fit_bridge(kind, items, share) for kind, share in KINDS.items()}
        both = ways[BESIDE]
        if model.bridge or alone:
            # the one is whitened already, the other in no space of the old one's
            del ways["whiten"]
        if not alone:
            both = ways[f"own + {BESIDE}"] = beside_own(model.bridge, both, items)
        sides = {f"{k}: new": across([way], new.query, old.gallery) for k, way in ways.items()}
        if alone:
            way = fit_bridge(FREE, data.items(old_model, old_model))
            sides[FREE] = across([way], old.query, old.gallery)
        _, sides["both queries: new"] = with_old_queries(both, new, old, items)
    return sides


def _cell(spec: CellSpec, **found: object) -> BenchCell:
    """Return the record of a cell, with what was found."""
    # of a failed cell not its device: that may be what failed
    device = spec.model.recipe.train.device if spec.model else "cpu"
    on = {} if "error" in found else {DEVICE: device_name(device)}
    return spec.cell.model_copy(update={**found, "versions": versions() | on, "created": now()})


def _rounded(figure: Estimate) -> Estimate:
    """Return a figure as precisely as another machine finds it again."""
    return Estimate(**{end: round(value, 6) for end, value in figure})


def _shown(drawn: Mapping[str, Mapping[str, Replicates]]) -> dict[str, Replicates]:
    """Return the replicates of what tables show: of self-tests mAP alone."""
    return {
        f"{name} {metric}": one[metric]
        for name, one in drawn.items()
        for metric in (METRICS if name.endswith("/old") else METRICS[:1])
    }


def failed_cell(spec: CellSpec, error: str) -> None:
    """Leave the record of a cell that has no figures."""
    write_atomically(spec.out, _cell(spec, error=error).to_json())


def _make_bank(spec: CellSpec, data: HeldOutSet, old: EmbeddingModel) -> None:
    """Make the old model's denoised bank of the new training set."""
    with _claimed(spec.old_model):
        bank = extract(old, data.part(old, FITTING), spec.bank, dtype="float32", resume=True)
        if bank.credible() is None:
            denoise(bank, spec.denoising.keep, spec.denoising.columns)


def _adapt(name: str, items: PairedItems, sides: Pair) -> tuple[Pair, CellCost]:
    """Return a model's queries and the old gallery as they meet, and what the fit took."""
    began, cpu_began = time.perf_counter(), time.process_time()
    if name == MLP:
        mapped = mlp.fit(items.pairs)(sides.query.features)
        sides = Pair(Embeddings(mapped, sides.query.labels), sides.gallery)
    else:
        sides = across([fit_bridge(name, items)], sides.query, sides.gallery)
    cost = CellCost(
        seconds=time.perf_counter() - began,
        cpu_seconds=time.process_time() - cpu_began,
        peak_memory=_peak_memory(),
    )
    return sides, cost


@contextlib.contextmanager
def _claimed(model: Trained) -> Iterator[None]:
    """Keep others out of a model's folder."""
    model.folder.mkdir(parents=True, exist_ok=True)
    with (model.folder / "lock").open("wb") as lock:
        # a bench that was killed leaves its processes running: wait for them, do not join in
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _train(model: Trained) -> tuple[EmbeddingModel, CellCost]:
    """Train a model, or take what was trained; the cost of a run lies beside it."""
    run, recipe = model.folder / "run", model.recipe
    with _claimed(model):
        # over all processes that had a hand in it
        path = run / "spent.json"
        spent = record_there(path, CellCost, RecipeError, "record of CPU time") or CellCost()
        # the plan was compared; the recipe as it was run may name other folders, a device
        if not (run / "cost.json").exists():
            began = time.process_time()
            _forget_peak()
            try:
                train(recipe, open_training_rows(recipe)[0], run, resume=True)
            finally:
                spent = CellCost(
                    cpu_seconds=spent.cpu_seconds + time.process_time() - began,
                    peak_memory=max(spent.peak_memory, _peak_memory()),
                )
                write_atomically(path, spent.to_json())
        cost = read_record(run / "cost.json", ModelCost, RecipeError, "training cost")
    found = load_model(run, recipe.train.device, trust_code=True)
    return found, spent.model_copy(update=dict(cost))


def _forget_peak() -> None:
    """Let the most bytes be counted from here on, where Linux lets a process say so."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def _peak_memory() -> int:
    """Return the most bytes that this process held; what it was forked from does not count."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="utf-8").splitlines()
        return int(next(li for li in lines if li.startswith("VmHWM")).split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(path: Path) -> None:
    """Make the cell that the spec at `path` describes."""
    spec = read_record(path, CellSpec, RecipeError, "spec")
    cell = run_cell(spec)
    # the cell last: where it is, its replicates are those of its figures
    if cell.part == "test":
        write_draws(spec.draws, cell.drawn)
    write_atomically(spec.out, cell.to_json())


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except MixbctError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
