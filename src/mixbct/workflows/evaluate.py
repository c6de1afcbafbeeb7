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
from mixbct.adapters.moments import Pairs
from mixbct.data import holds_vectors, open_source
from mixbct.data.bank import FeatureBank, encoder_of, normalise
from mixbct.data.source import Selection, Source
from mixbct.data.split import divide, skips_bad
from mixbct.distributed import row_rng
from mixbct.errors import DataError, FeatureError, ResultError
from mixbct.evaluation.bootstrap import REPLICATES
from mixbct.evaluation.scores import CPU, Embeddings, Pair
from mixbct.evaluation.upgrade import evaluate_upgrade
from mixbct.evaluation.worth import worth
from mixbct.features.extract import Embedder, StoredVectors, embed_source
from mixbct.schemas.bridge import Bridge
from mixbct.schemas.model import Input, VectorInput
from mixbct.schemas.record import record_there
from mixbct.schemas.result import ModelCost, Result, Standing
from mixbct.workflows.across import across, bridge_between
from mixbct.workflows.adapt import PairedItems
from mixbct.workflows.choose import told_apart
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
    split: Path | None = None
    """None: all of it is a test set, of which a share of each class are queries."""
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
                skip_bad = self.skip_bad or (self.split is not None and skips_bad(self.split))
                self._sources[wanted] = open_source(self.path, wanted, skip_bad)
            named = name if self.split else None
            rows, bad = rows_of(self._sources[wanted], self.split, named, self.skip_bad)
            self.left_out.update(bad)
            parts = {name: rows}
            if self.split is None:
                parts = {part: Selection(rows, some) for part, some in divide(rows).items()}
                if name not in parts:
                    raise FeatureError(
                        f"{self.path} is a test set as a whole: name a --split, of whose part "
                        f"{FITTING} something can be fitted"
                    )
            self._parts.update({(wanted, part): some for part, some in parts.items()})
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
                known[name] = normalise(features, part.keys)
            sides.append(known[name])
        contracts = source.contract, target.contract
        pairs = Pairs(sides[0], sides[1], told_apart(part.labels()))
        return PairedItems(contracts, pairs, part.classes(), str(self.path), part.digest())

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
        facts |= {} if self.split else {"queries are": "a share of each class, drawn at random"}
        return facts | ({"images left out": len(self.left_out)} if self.left_out else {})

    def standings(
        self, models: Mapping[str, Embedder], bridge: Bridge | None = None
    ) -> dict[str, Standing]:
        """Return, by role, how the classes that a model was trained on stand to those tested on.

        A bridge that was fitted afterwards has a role of its own, `bridge`.

        Raises:
            DataError: a model was trained, or the bridge fitted, on some of them, going by their
                names.
        """
        found = {role: self._standing(role, model) for role, model in models.items()}
        if bridge and bridge.fit:
            fitted = f"bridge ({bridge.kind}) was fitted on", bridge.fit.classes
            any_model = next(iter(models.values()))
            found["bridge"] = self._apart(*fitted, any_model) if fitted[1] else "unnamed"
        return found

    def _standing(self, role: str, model: Embedder) -> Standing:
        if isinstance(model, StoredVectors) or not model.manifest.classes:
            return "unknown"
        said = f"{role} ({model.contract}) was trained on"
        standing = self._apart(said, model.manifest.classes, model)
        return "head" if standing == "apart" and isinstance(model.takes, VectorInput) else standing

    def _apart(self, said: str, learned: Sequence[str], model: Embedder) -> Standing:
        parts = ("query", "gallery")
        tested = {name for part in parts for name in self.part(model, part).classes()}
        known = sorted(tested & set(learned))
        if known and not self.other_classes:
            raise DataError(
                f"{len(known)} of the {len(tested)} test classes ({', '.join(known[:3])}"
                f"{', …' if len(known) > 3 else ''}) are among those that {said}, so it would be "
                "judged on what it has learned: name the split that it was made with, or test "
                "items of other classes, or, where these names mean other classes than there, add "
                "--other-classes"
            )
        return "declared" if known else "apart"


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
    backfill: bool = False,
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
        backfill: also judge in which order old rows are best embedded again.
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
        "trained_apart": data.standings(models, between),
        "data": data.facts(new, replicates) | ({"language": language} if language else {}),
    }
    if earlier and (found := record_there(earlier, Result, ResultError, "result")):
        wanted = {f"{name}/old" for name in rivals_of(models, adapters)}
        same = all(getattr(found, name) == value for name, value in known.items())
        whole = found.calibrations and (found.backfill or not backfill)
        if same and whole and wanted <= found.combinations.keys() | found.left_out.keys():
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
            names=class_names(data, new),
            backfill=backfill,
            device=device,
            progress=tick,
        )
    query, gallery = data.part(new, "query"), data.part(new, "gallery")
    result = Result(
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
    return result.model_copy(update={"worth": worth(result)})


def bank_with_labels(*paths: Path) -> Path:
    """Return that of some banks by which others can be compared: the first that has labels.

    Raises:
        DataError: one is no bank, or none has labels.
    """
    if models := [path for path in paths if not holds_vectors(path)]:
        raise DataError(
            f"{models[0]} is no feature bank: name the images that it is to embed (--data), and "
            "their split (--split)"
        )
    for path in paths:
        if FeatureBank(path).classes():
            return path
    raise DataError(
        f"neither {' nor '.join(map(str, paths))} has labels. A bridge is fitted without, but what "
        "it is worth shows only on items of which it is known which are of one class: take a few "
        "hundred items of 30 classes at least that it was not fitted on, and make banks of them "
        "with `mixbct data bank --labels`"
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


def class_names(data: HeldOutSet, model: Embedder) -> list[str]:
    """Return the names of the classes of queries and gallery, by the labels of `embed_pair`."""
    return sorted({n for part in ("query", "gallery") for n in data.part(model, part).classes()})


def embed_pair(data: HeldOutSet, model: Embedder, role: str, stage: Stage) -> Pair:
    """Return what a model makes of the queries and of the gallery; both know classes alike."""
    parts = {name: data.part(model, name) for name in ("query", "gallery")}
    # the two parts number their classes each for itself; names tie them
    names = class_names(data, model)
    index = {name: i for i, name in enumerate(names)}
    sides = []
    for name, part in parts.items():
        with stage(f"embed {name} ({role})") as tick:
            features = embed_source(model, part, progress=tick)
        numbers = np.array([index[n] for n in part.classes()], dtype=np.int64)
        sides.append(Embeddings(normalise(features, part.keys), numbers[part.labels()]))
    return Pair(*sides)
