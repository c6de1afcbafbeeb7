"""A whole upgrade, from a split to a gallery that the new model searches.

    OUT/old, OUT/new, OUT/independent   the training runs (model/ inside)
    OUT/bank                            the old model's features of the new training set
    OUT/model                           the new model as it is deployed, with the best bridge
    OUT/result.json, OUT/gate.json      the evaluation and the gate's verdict
    OUT/edge.json                       there when the gate passed
    OUT/gallery                         indexed by the old model, searched by the new one
    OUT/report.html                     all of it for people

With `resume`, each step takes up what an earlier run of the same upgrade left.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mixbct.backbones.model import EmbeddingModel, load_model, read_manifest, save_with_bridge
from mixbct.data.source import Source
from mixbct.distributed import open_device
from mixbct.errors import FeatureError, RecipeError
from mixbct.evaluation.gate import edge_from
from mixbct.features.denoise import denoise
from mixbct.features.extract import embed_source, extract
from mixbct.files import write_atomically
from mixbct.gallery.gallery import Gallery
from mixbct.recipe import CompatibleSettings, DataSettings, Recipe
from mixbct.report.page import write_report
from mixbct.schemas.gate import Edge, GateOutcome
from mixbct.schemas.record import Record
from mixbct.schemas.result import ModelCost, Result
from mixbct.training.run import train
from mixbct.workflows.adapt import BESIDE, SHARE, beside_own, fit_bridge
from mixbct.workflows.evaluate import HeldOutSet, evaluate_models
from mixbct.workflows.progress import Stage, silent
from mixbct.workflows.rows import open_rows, open_training_rows
from mixbct.workflows.verdict import decide


class Switch(Record):
    """A gallery before and after its query model was switched."""

    rows: int
    vectors_unchanged: bool
    rank1_before: float
    rank1_after: float


class Upgrade(Record):
    """What an upgrade leaves; the files are in its folder."""

    result: Result
    gate: GateOutcome
    switch: Switch | None
    """None where the gate did not pass, and so nothing was switched."""


def run_upgrade(
    old_recipe: Recipe,
    new_recipe: Recipe,
    independent_recipe: Recipe,
    out: Path,
    *,
    title: str,
    language: str = "",
    resume: bool = False,
    stage: Stage = silent,
) -> Upgrade:
    """Train the three models, judge the new one, and switch a gallery to it.

    The recipes' `data` sections say what is trained on; the split of the new one also holds the
    test set. The old model's bank is made where `new_recipe.method.bank` says. A new
    model that was trained whitened is deployed, and judged, behind a bridge that is fitted to it.
    Where the training items do not determine one, it stays as it was trained.
    """
    if not isinstance(new_recipe.method, CompatibleSettings) or new_recipe.data.split is None:
        raise RecipeError(
            f"recipe {new_recipe.name!r} must have a method with an old bank, such as 'mixbct', "
            "and a data.split, which holds the test set"
        )
    run = _Run(HeldOutSet(new_recipe.data.path, new_recipe.data.split), out, resume, stage)
    costs: dict[str, ModelCost] = {}
    old, costs["old"] = run.train("old", old_recipe)
    run.make_bank(old, new_recipe.data, new_recipe.method.bank)
    new, costs["new"] = run.train("new", new_recipe)
    independent, costs["independent"] = run.train("independent", independent_recipe)
    deployed = run.deploy(old, new, whitened=new_recipe.method.whiten is not None)
    device = new_recipe.train.device
    new = load_model(deployed, device, trust_code=True)
    result = evaluate_models(
        run.data,
        old,
        new,
        independent,
        title=title,
        language=language,
        seed=new_recipe.seed,
        costs=costs,
        earlier=out / "result.json" if resume else None,
        device=open_device(device),
        stage=stage,
    )
    write_atomically(out / "result.json", result.to_json())
    outcome = decide(out / "result.json", result)
    switch = None
    if outcome.passed:
        switch = run.switch_gallery(old, new, deployed, edge_from(result, outcome))
    write_report(out / "report.html", result, outcome)
    return Upgrade(result=result, gate=outcome, switch=switch)


@dataclass(frozen=True)
class _Run:
    """The steps of one upgrade."""

    data: HeldOutSet
    out: Path
    resume: bool
    stage: Stage

    def train(self, role: str, recipe: Recipe) -> tuple[EmbeddingModel, ModelCost]:
        rows, _ = open_training_rows(recipe)
        with self.stage(f"train the {recipe.name} model") as tick:
            cost = train(
                recipe,
                rows,
                self.out / role,
                resume=self.resume,
                progress=lambda report: tick(report.images, report.images_in_all),
            )
        # what recipes name is their writer's word
        return load_model(self.out / role, recipe.train.device, trust_code=True), cost

    def make_bank(self, old: EmbeddingModel, data: DataSettings, path: Path) -> None:
        rows, _ = open_rows(data.path, old.preprocessing, data.split, data.part)
        with self.stage("extract the old model's bank") as tick:
            bank = extract(old, rows, path, resume=self.resume, progress=tick)
        if bank.credible() is None:
            denoise(bank)

    def deploy(self, old: EmbeddingModel, new: EmbeddingModel, whitened: bool) -> Path:
        """Return the folder of the new model as it is deployed.

        One that was trained against the whitened bank is compared in the space that it was trained
        in and in that of `BESIDE`, side by side. That is no choice by cross-validation: the
        training classes, which it has learned, would prefer the bridge that it was trained with.
        """
        trained, folder = self.out / "new" / "model", self.out / "model"
        if not whitened:
            return trained
        if self.resume and folder.exists():
            there = read_manifest(folder)[1]
            target = there.bridge and there.bridge.target
            if (there.contract, target) == (new.contract, old.contract):
                return folder
        shutil.rmtree(folder, ignore_errors=True)
        try:
            items = self.data.items(new, old, self.stage)
            with self.stage("fit the new model's bridge"):
                bridge = beside_own(new.bridge, fit_bridge(BESIDE, items, SHARE), items)
        except FeatureError:
            return trained
        save_with_bridge(trained, folder, bridge)
        return folder

    def switch_gallery(
        self, old: EmbeddingModel, new: EmbeddingModel, deployed: Path, edge: Edge
    ) -> Switch:
        """Index the test gallery with the old model, search it, switch, and search again.

        The gallery is written to `out`/gallery; one that is there is replaced. It embeds queries
        with the model folder `deployed`.
        """
        path = self.out / "gallery"
        shutil.rmtree(path, ignore_errors=True)
        items = self.data.part(old, "gallery")
        with (
            Gallery.create(path, old.contract, self.out / "old" / "model") as gallery,
            self.stage("build the gallery with the old model, switch it to the new one") as tick,
        ):
            gallery.enrol(items.keys(), _names(items), embed_source(old, items), old.contract)
            before, rank1_before = gallery.vectors_digest(), self._rank1(gallery, old)
            tick(1, 2)
            gallery.switch(new.contract, edge, model=deployed)
            rank1_after = self._rank1(gallery, new)
            tick(2, 2)
            return Switch(
                rows=len(items),
                vectors_unchanged=gallery.vectors_digest() == before,
                rank1_before=rank1_before,
                rank1_after=rank1_after,
            )

    def _rank1(self, gallery: Gallery, model: EmbeddingModel) -> float:
        """Return the share of queries whose nearest gallery row has their label."""
        queries = self.data.part(model, "query")
        hits = gallery.search(embed_source(model, queries), model.contract, k=1)
        right = [hits.of(query)[0].label == name for query, name in enumerate(_names(queries))]
        return float(np.mean(right))


def _names(source: Source) -> list[str]:
    """Return the class name of each item."""
    classes = source.classes()
    return [classes[label] for label in source.labels()]
