"""One process of the bench: `python -m mixbct.workflows.bench.worker SPEC.json`.

A process of its own gives each cell its threads and its peak of memory, and a cell that dies
takes no other with it. Everything is resumed that an earlier process left.
"""

import fcntl
import resource
import shutil
import sys
import time
from pathlib import Path

import numpy as np

from mixbct.adapters import ADAPTERS
from mixbct.backbones.model import EmbeddingModel, load_model
from mixbct.data import open_source
from mixbct.data.bank import FeatureBank
from mixbct.data.source import Selection
from mixbct.data.split import open_part
from mixbct.distributed import device_name
from mixbct.errors import MixbctError, RecipeError
from mixbct.evaluation.gate import judge
from mixbct.evaluation.scores import Embeddings
from mixbct.evaluation.upgrade import Pair, UpgradeFigures, evaluate_upgrade
from mixbct.features.denoise import denoise
from mixbct.features.extract import extract
from mixbct.files import write_atomically
from mixbct.recipe import Recipe
from mixbct.schemas.bench import METRICS, BenchCell, CellCost, Part, pack_replicates
from mixbct.schemas.record import Record, read_record
from mixbct.schemas.result import Estimate, ModelCost, Result
from mixbct.training.run import train
from mixbct.workflows.across import queries_across
from mixbct.workflows.bench.merged import rank_merged
from mixbct.workflows.bench.recipe import INDEPENDENT, RANK_MERGE, is_adapter
from mixbct.workflows.bench.specs import CellSpec, OldSpec, bank_name, prefix
from mixbct.workflows.evaluate import versions

FITTING = "new_train"
SIDES = ("query", "gallery")
HALF = "new/50 % new"
DEVICE = "device"


class _Spent(Record):
    cpu_seconds: float
    peak_memory: int


def make_old(spec: OldSpec) -> None:
    """Train an old model, embed what it is asked about, and denoise its banks."""
    data = spec.recipe.data
    _train(spec.recipe, spec.folder / "run")
    model = load_model(spec.folder / "run", spec.recipe.train.device, trust_code=True)
    for scenario, split in spec.splits.items():
        for denoising in spec.denoising:
            rows = _rows(data.path, split, FITTING, model)
            path = spec.folder / bank_name(scenario, denoising)
            bank = extract(model, rows, path, dtype="float32", resume=True)
            if bank.credible() is None:
                denoise(bank, denoising.keep, denoising.columns)
        for part in spec.parts:
            _embed(model, data.path, split, part, spec.folder)


def run_cell(spec: CellSpec) -> BenchCell:
    """Train or fit, embed, compare, judge."""
    if spec.method == RANK_MERGE:
        return _merged(spec)
    old_model = load_model(spec.old_folder / "run", trust_code=True)
    old = _pair(spec.old_folder, spec.part)
    independent = _pair(spec.independent, spec.part) if spec.independent else None
    cross: Embeddings | None
    if is_adapter(spec.method):
        model, cost, new, cross = _adapter(spec)
    else:
        model, cost, new = _trained(spec)
        cross = queries_across(model, old_model, new.query)
    figures = evaluate_upgrade(
        old,
        new,
        independent or new,
        cross=cross,
        seed=0,  # one for all cells: the drawn classes are the same, and cells can be paired
        replicates=spec.replicates,
        mixed=(0.5,),
    )
    result = Result(
        title=spec.title,
        versions=versions(),
        seed=spec.seed,
        data={
            "source": str(spec.data),
            "queries": len(new.query),
            "gallery": len(new.gallery),
            "classes": len(new.query.classes),
            "bootstrap replicates": spec.replicates,
        },
        models={"old": old_model.contract, "new": model.contract},
        combinations=figures.combinations,
        differences=figures.differences,
        update_gain=figures.update_gain,
        negative_flips=figures.negative_flips,
        carried_threshold=figures.carried_threshold,
    )
    outcome = judge(result)
    return _outline(spec).model_copy(
        update={
            "figures": _figures(figures),
            "update_gain": figures.update_gain,
            "gate_passed": outcome.passed,
            "gate_failed": tuple(check.name for check in outcome.checks if not check.passed),
            "cost": cost,
            "versions": _versions(spec),
            "replicates": _replicates(spec, figures),
        }
    )


def _merged(spec: CellSpec) -> BenchCell:
    """Merge ranks on the half re-enrolled gallery; there is no other figure of it."""
    assert spec.independent is not None
    sides = _pair(spec.old_folder, spec.part), _pair(spec.independent, spec.part)
    figures, drawn = rank_merged(*sides, 0.5, 0, spec.replicates)
    return _outline(spec).model_copy(
        update={
            "figures": {HALF: figures},
            "versions": _versions(spec),
            "replicates": {HALF: {name: pack_replicates(one) for name, one in drawn.items()}},
        }
    )


def failed_cell(spec: CellSpec, error: str) -> BenchCell:
    """Return the record of a cell that has no figures."""
    # not its device: that may be what failed
    return _outline(spec).model_copy(update={"error": error, "versions": versions()})


def _outline(spec: CellSpec) -> BenchCell:
    trained = spec.recipe.method.model_dump(exclude={"bank", "old_model"}) if spec.recipe else {}
    return BenchCell(
        id=spec.id,
        bench=spec.bench,
        part=spec.part,
        method=spec.method,
        old=spec.old,
        scenario=spec.scenario,
        seed=spec.seed,
        trial=spec.trial,
        settings=trained | {key: value for key, value in spec.settings.items() if key != "method"},
        plan=spec.plan(),
    )


def _trained(spec: CellSpec) -> tuple[EmbeddingModel, CellCost, Pair]:
    assert spec.recipe is not None
    cost = _train(spec.recipe, spec.folder / "run")
    model = load_model(spec.folder / "run", spec.recipe.train.device, trust_code=True)
    _embed(model, spec.data, spec.split, spec.part, spec.folder)
    if spec.method == INDEPENDENT:
        # for the adapters
        rows = _rows(spec.data, spec.split, FITTING, model)
        extract(model, rows, spec.folder / FITTING, dtype="float32", resume=True)
    return model, cost, _pair(spec.folder, spec.part)


def _adapter(spec: CellSpec) -> tuple[EmbeddingModel, CellCost, Pair, Embeddings]:
    assert spec.independent is not None
    model = load_model(spec.independent / "run", trust_code=True)
    new = _pair(spec.independent, spec.part)
    source, target = FeatureBank(spec.independent / FITTING), FeatureBank(spec.bank)
    began, cpu_began = time.perf_counter(), time.process_time()
    adapter = ADAPTERS[spec.method].fit(source.all(), target.all())
    cost = CellCost(
        seconds=time.perf_counter() - began,
        cpu_seconds=time.process_time() - cpu_began,
        images=0,
        steps=0,
        peak_memory=_peak_memory(),
    )
    cross = Embeddings(adapter.transform(new.query.features), new.query.labels)
    return model, cost, new, cross


def _train(recipe: Recipe, folder: Path) -> CellCost:
    """Train, or take what was trained; the cost of a run lies beside it."""
    source = open_part(
        open_source(recipe.data.path, recipe.model.preprocessing()),
        recipe.data.split or Path(),
        recipe.data.part,
    )
    # over all processes that had a hand in it
    path = folder / "spent.json"
    before = read_record(path, _Spent, RecipeError, "record of CPU time") if path.exists() else None
    spent = before or _Spent(cpu_seconds=0.0, peak_memory=0)
    began = time.process_time()
    if (folder / "cost.json").exists():
        # the plan was compared; the recipe as it was run may name other folders, another device
        cost = read_record(folder / "cost.json", ModelCost, RecipeError, "training cost")
    else:
        try:
            cost = train(recipe, source, folder, resume=True)
        finally:
            spent = _Spent(
                cpu_seconds=spent.cpu_seconds + time.process_time() - began,
                peak_memory=max(spent.peak_memory, _peak_memory()),
            )
            write_atomically(path, spent.to_json())
    return CellCost(
        seconds=cost.seconds,
        cpu_seconds=spent.cpu_seconds,
        images=cost.images,
        steps=cost.steps,
        peak_memory=spent.peak_memory,
    )


def _rows(data: Path, split: Path, part: str, model: EmbeddingModel) -> Selection:
    return open_part(open_source(data, model.preprocessing), split, part)


def _embed(model: EmbeddingModel, data: Path, split: Path, part: Part, folder: Path) -> None:
    for side in SIDES:
        name = prefix(part) + side
        rows = _rows(data, split, name, model)
        extract(model, rows, folder / name, dtype="float32", resume=True)


def _pair(folder: Path, part: Part) -> Pair:
    banks = [FeatureBank(folder / (prefix(part) + side)) for side in SIDES]
    # queries and gallery number their classes each for itself; names tie them
    names = sorted({name for bank in banks for name in bank.classes()})
    index = {name: i for i, name in enumerate(names)}
    return Pair(
        *(
            Embeddings(
                bank.all(),
                np.array([index[name] for name in bank.classes()], dtype=np.int64)[bank.labels],
            )
            for bank in banks
        )
    )


def _figures(figures: UpgradeFigures) -> dict[str, dict[str, Estimate]]:
    chosen = {
        name: {metric: combination.metrics()[metric] for metric in METRICS}
        for name, combination in figures.combinations.items()
    }
    for of, minus in (("new/old", "old/old"), ("new/new", "independent/independent")):
        paired = next(d for d in figures.differences if (d.of, d.minus) == (of, minus))
        chosen[f"{of} − {minus}"] = {metric: paired.metrics[metric] for metric in METRICS}
    return chosen


def _replicates(spec: CellSpec, figures: UpgradeFigures) -> dict[str, dict[str, str]]:
    """Pack what other cells are paired with; old/old is the independent cell's to keep."""
    names = ["new/old", "new/new", HALF]
    if spec.method == INDEPENDENT:
        names.append("old/old")
    return {
        name: {metric: pack_replicates(figures.replicates[name][metric]) for metric in METRICS}
        for name in names
    }


def _versions(spec: CellSpec) -> dict[str, str]:
    """Return what a cell was made with, and on."""
    return versions() | {DEVICE: device_name(spec.recipe.train.device if spec.recipe else "cpu")}


def _peak_memory() -> int:
    """Return the most bytes that this process held; what it was forked from does not count."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(li for li in status.read_text().splitlines() if li.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(path: Path) -> None:
    """Do what the spec at `path` says."""
    spec: OldSpec | CellSpec
    if '"kind": "old"' in path.read_text():
        spec = read_record(path, OldSpec, RecipeError, "spec")
    else:
        spec = read_record(path, CellSpec, RecipeError, "spec")
    with path.with_suffix(".lock").open("w") as lock:
        # a bench that was killed leaves its processes running: wait for them, do not join in
        fcntl.flock(lock, fcntl.LOCK_EX)
        made_by = spec.folder / "plan.txt"
        if made_by.exists() and made_by.read_text() != spec.plan():
            shutil.rmtree(spec.folder)
        write_atomically(made_by, spec.plan())
        if isinstance(spec, OldSpec):
            make_old(spec)
        else:
            write_atomically(spec.out, run_cell(spec).to_json())


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except MixbctError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
