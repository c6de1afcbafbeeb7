"""From model folders and a split to a `Result`: embed, map, compare, describe."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import torch

import mixbct
from mixbct.data import open_source
from mixbct.data.bank import normalise
from mixbct.data.bank_source import encoder_of
from mixbct.data.source import Selection, Source
from mixbct.data.split import skips_bad
from mixbct.distributed import row_rng
from mixbct.errors import DataError, FeatureError, ResultError
from mixbct.evaluation.bootstrap import REPLICATES
from mixbct.evaluation.scores import CPU, Embeddings, Pair
from mixbct.evaluation.upgrade import evaluate_upgrade
from mixbct.features.extract import embed_source
from mixbct.features.stored import Embedder, StoredVectors
from mixbct.schemas.bridge import Bridge
from mixbct.schemas.model import Input, VectorInput
from mixbct.schemas.record import record_there
from mixbct.schemas.result import ModelCost, Result, Standing
from mixbct.workflows.across import across, bridge_between
from mixbct.workflows.adapt import PairedItems
from mixbct.workflows.choose import Pairs, told_apart
from mixbct.workflows.examples import choose_examples
from mixbct.workflows.progress import Stage, silent
from mixbct.workflows.rivals import find_rivals, rivals_of
from mixbct.workflows.rows import rows_of

FITTING = "new_train"
"""The part on which bridges are fitted."""
MOST_FITTED = 20_000
"""Items of it that are embedded for that: more would not change a figure, but cost."""


@dataclass(frozen=True)
class HeldOutSet:
    """What models are compared on: a source, and its split into queries, gallery and the rest.

    A source is opened once for all models that take the same input, and so is each part.
    """

    path: Path
    split: Path
    skip_bad: bool = False
    """Leave out images that cannot be read; `left_out` then names them."""
    other_classes: bool = False
    """Class names of the set that a model was trained on mean other classes here."""
    judged: Literal["", "validation_"] = ""
    """What the names of the query and gallery parts begin with."""
    left_out: set[str] = field(default_factory=set, init=False, compare=False)
    _vectors: dict[str, np.ndarray] = field(default_factory=dict, init=False, compare=False)
    _sources: dict[Input | None, Source] = field(default_factory=dict, init=False, compare=False)
    _parts: dict[tuple[Input | None, str], Selection] = field(
        default_factory=dict, init=False, compare=False
    )

    def part(self, model: Embedder, name: str) -> Source:
        """Return the query, gallery or fitting part as `model` wants its images, or vectors."""
        wanted = model.takes
        name = name if name == FITTING else f"{self.judged}{name}"
        if (wanted, name) not in self._parts:
            if wanted not in self._sources:
                skip_bad = self.skip_bad or skips_bad(self.split)
                self._sources[wanted] = open_source(self.path, wanted, skip_bad)
            rows, bad = rows_of(self._sources[wanted], self.split, name, self.skip_bad)
            self.left_out.update(bad)
            self._parts[wanted, name] = rows
        return self._parts[wanted, name]

    def items(self, source: Embedder, target: Embedder, stage: Stage = silent) -> PairedItems:
        """Return the training items that a bridge is fitted on, as two models see them.

        Whole classes, drawn at random, of no more than `MOST_FITTED` items.

        Raises:
            FeatureError: they are fewer than dimensions, which do not determine a map, or vectors
                of them were not stored.
        """
        sides = []
        for model in (source, target):
            part = self._fitting(model)
            if isinstance(model, StoredVectors) and not model.holds(part):
                raise FeatureError(f"vectors of {FITTING} by {model.contract} were not stored")
            if len(part) < model.contract.dim:
                raise FeatureError(
                    f"the {len(part)} items of {FITTING} do not determine a map of "
                    f"{model.contract.dim} dimensions"
                )
            known, name = self._vectors, model.contract.id
            if name not in known:
                with stage(f"embed {FITTING} ({model.contract.name}, for the bridges)") as tick:
                    features = embed_source(model, part, progress=tick)
                known[name] = normalise(features, part.keys())
            sides.append(known[name])
        contracts = source.contract, target.contract
        pairs = Pairs(sides[0], sides[1], told_apart(part.labels()))
        return PairedItems(contracts, pairs, str(self.path), part.digest())

    def _fitting(self, model: Embedder) -> Source:
        part = self.part(model, FITTING)
        if len(part) <= MOST_FITTED:
            return part
        labels = part.labels()
        order = row_rng(0, len(part)).permutation(len(part.classes()))
        kept = order[np.bincount(labels)[order].cumsum() <= MOST_FITTED]
        return Selection(part, np.flatnonzero(np.isin(labels, kept)))

    def facts(self, model: Embedder, replicates: int) -> dict[str, str | int]:
        """Return what a result says of the set that it was measured on."""
        query, gallery = self.part(model, "query"), self.part(model, "gallery")
        facts: dict[str, str | int] = {
            "source": str(self.path),
            "query digest": query.digest(),
            "gallery digest": gallery.digest(),
            "queries": len(query),
            "gallery": len(gallery),
            "classes": len(query.classes()),
            "bootstrap replicates": replicates,
        }
        return facts | ({"images left out": len(self.left_out)} if self.left_out else {})

    def standings(self, models: Mapping[str, Embedder]) -> dict[str, Standing]:
        """Return, by role, how the classes that a model was trained on stand to those tested on.

        Raises:
            DataError: a model was trained on some of them, going by their names.
        """
        return {role: self._standing(role, model) for role, model in models.items()}

    def _standing(self, role: str, model: Embedder) -> Standing:
        if isinstance(model, StoredVectors) or not model.manifest.classes:
            return "unknown"
        parts = ("query", "gallery")
        tested = {name for part in parts for name in self.part(model, part).classes()}
        known = sorted(tested & set(model.manifest.classes))
        if known and not self.other_classes:
            raise DataError(
                f"{len(known)} of the {len(tested)} test classes ({', '.join(known[:3])}"
                f"{', …' if len(known) > 3 else ''}) are among those that {role} "
                f"({model.contract}) was trained on, so it would be judged on what it has learned: "
                "name the split that it was trained with, or, where these names mean other "
                "classes than in its training, add --other-classes"
            )
        if known:
            return "declared"
        return "head" if isinstance(model.takes, VectorInput) else "apart"


def evaluate_models(
    data: HeldOutSet,
    old: Embedder,
    new: Embedder,
    independent: Embedder | None = None,
    *,
    title: str,
    language: str = "",
    seed: int = 0,
    replicates: int = REPLICATES,
    adapters: Sequence[str] = ("procrustes",),
    via: Sequence[Embedder] = (),
    bridge: Bridge | None = None,
    costs: dict[str, ModelCost] | None = None,
    earlier: Path | None = None,
    device: torch.device = CPU,
    stage: Stage = silent,
) -> Result:
    """Compare an old and a new model, and an independent one where there is one, on a test set.

    What the new model must be worth more than stands beside it (see `mixbct.workflows.rivals`).

    Args:
        data: the images, or the bank that a head takes; queries and gallery share no image.
        old: the deployed model. Stored vectors can stand for it, and for the others.
        new: the model that is to search the old gallery.
        independent: the contrast, trained without regard to the old model.
        title: of the report.
        language: of the class names, such as `ja`; it decides the forms of Chinese characters.
        seed: of the bootstrap, the mixed galleries and the choice of examples.
        replicates: of the bootstrap.
        adapters: names in `mixbct.adapters.OF_STRANGERS` to fit between the independent and the
            old model, and to search the old gallery with.
        via: the generations between old and new, newest first, where the bridge of `new` leads
            through theirs.
        bridge: between new and old, in the place of the one that `new` carries.
        costs: of the models, by role.
        earlier: a result that is returned if the same evaluation by these versions would give it
            again; there may be none.
        device: where scores are computed; models bring their own.
        stage: opens a stage of the progress display.

    Raises:
        DataError: a model was trained on classes of the test set, or the set cannot be read.
        ContractError: a bridge leads to another model than `old`, or from another than `new`.
        ResultError: `earlier` cannot be read.
    """
    models = {"old": old, "new": new} | ({"independent": independent} if independent else {})
    between = bridge_between(new, old, via, bridge)
    known: dict[str, Any] = {
        "versions": versions(),
        "seed": seed,
        "models": {role: model.contract for role, model in models.items()},
        "bridge": between,
        "trained_apart": data.standings(models),
        "data": data.facts(new, replicates) | ({"language": language} if language else {}),
    }
    if earlier and (found := record_there(earlier, Result, ResultError, "result")):
        wanted = {f"{name}/old" for name in rivals_of(models, adapters)}
        same = all(getattr(found, name) == value for name, value in known.items())
        if same and wanted <= found.combinations.keys() | found.left_out.keys():
            return found
    pairs = {role: embed_pair(data, model, role, stage) for role, model in models.items()}
    rivals = find_rivals(models, pairs, between, adapters, data.items, stage)
    cross = across([between] if between else [], pairs["new"].query, pairs["old"].gallery)
    with stage("compare every combination") as tick:
        figures = evaluate_upgrade(
            pairs["old"],
            pairs["new"],
            pairs.get("independent"),
            rivals.sides,
            cross=cross,
            seed=seed,
            replicates=replicates,
            device=device,
            progress=tick,
        )
    query, gallery = data.part(new, "query"), data.part(new, "gallery")
    return Result(
        title=title,
        **known,
        **figures.content(),
        chosen=rivals.chosen,
        old_queries=rivals.old_queries,
        left_out=rivals.left_out,
        costs=costs or {},
        examples=()
        if encoder_of(gallery) is not None
        else choose_examples(query, gallery, pairs["old"], cross, seed),
    )


def versions() -> dict[str, str]:
    """Return the versions that a figure may depend on."""
    return {
        "mixbct": mixbct.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "faiss": faiss.__version__,
        "machine": platform.machine(),
    }


def embed_pair(data: HeldOutSet, model: Embedder, role: str, stage: Stage) -> Pair:
    """Return what a model makes of the queries and of the gallery; both know classes alike."""
    parts = {name: data.part(model, name) for name in ("query", "gallery")}
    # the two parts number their classes each for itself; names tie them
    names = sorted({name for part in parts.values() for name in part.classes()})
    index = {name: i for i, name in enumerate(names)}
    sides = []
    for name, part in parts.items():
        with stage(f"embed {name} ({role})") as tick:
            features = embed_source(model, part, progress=tick)
        numbers = np.array([index[n] for n in part.classes()], dtype=np.int64)
        sides.append(Embeddings(normalise(features, part.keys()), numbers[part.labels()]))
    return Pair(*sides)
