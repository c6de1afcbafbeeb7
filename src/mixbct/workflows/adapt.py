"""Fit a bridge from a new model's queries to an old model's stored rows, without training.

What it is fitted on are the same items by both models: the rows that two feature banks share by
their keys, or images that both models embed. What comes of it is a file, and a copy of the new
model's folder that carries it, to be judged, gated and put into service like a trained model.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from mixbct.adapters import SHRUNK
from mixbct.adapters.moments import Pairs, beside, moments
from mixbct.backbones.model import save_with_bridge
from mixbct.data import holds_vectors
from mixbct.data.bank import FeatureBank, normalise, refuse_other_items
from mixbct.data.source import Rows
from mixbct.errors import BankError, ModelError
from mixbct.features.bridged import ReadRows
from mixbct.features.extract import embed_source, open_embedder
from mixbct.files import refuse_existing, write_atomically
from mixbct.schemas.bridge import IDENTITY, Bridge, BridgeFit, Candidate
from mixbct.schemas.contract import Contract
from mixbct.schemas.linear_map import LinearMap
from mixbct.workflows.choose import choose, fit_maps, told_apart
from mixbct.workflows.progress import Stage, silent
from mixbct.workflows.rows import open_rows, rows_of

CHOOSE = "choose"
BESIDE, SHARE = "whiten_cca", 0.1
"""The bridge beside a trained model's own way, and its shrinkage, as the bench found them best."""


@dataclass(frozen=True)
class PairedItems:
    """The same items as two models see them, and where they came from."""

    models: tuple[Contract, Contract]
    pairs: Pairs
    classes: tuple[str, ...]
    """Their names, none where the items have no labels."""
    data: str
    digest: str


Where = tuple[Path | None, Path | None, str | None]
"""Images, or a bank, that both models embed; a split of it; its part, by itself `new_train`."""


def adapt(
    source: Path,
    target: Path,
    out: Path,
    kind: str = CHOOSE,
    shrinkage: float | None = None,
    where: Where = (None, None, None),
    model_out: Path | None = None,
    device: str = "cpu",
    stage: Stage = silent,
) -> Bridge:
    """Fit a bridge, and write it to `out`.

    Args:
        source: feature bank, model folder or run of the new model, whose queries are to search.
        target: the same of the old model, whose vectors are stored.
        out: the bridge's file; one that is there already is replaced.
        kind: a name of `mixbct.adapters.ADAPTERS`, or `choose`: the best by cross-validation.
        shrinkage: of cca and whiten; None: their own.
        where: the items are; needed unless both are banks, which by themselves give all items that
            they share.
        model_out: also write a copy of the new model's folder that carries the bridge.
        device: where to embed.
        stage: opens a stage of the progress display.

    Raises:
        BankError: the banks share no key, or a key occurs twice.
        FeatureError: the items are too few, or do not determine a bridge of that kind.
        ModelError: a model is missing, needs images that were not named, or `model_out` is there.
    """
    banks = holds_vectors(source), holds_vectors(target)
    if model_out is not None and banks[0]:
        raise ModelError(
            f"{source} is a feature bank: to write {model_out}, name the model's folder"
        )
    if model_out is not None:
        refuse_existing(model_out, ModelError)
    if where[0] is not None:
        items = items_of_data(source, target, where[0], *where[1:], device, stage)
    elif all(banks):
        items = items_of_banks(FeatureBank(source), FeatureBank(target), *where[1:])
    else:
        raise ModelError(
            f"{target if banks[0] else source} is a model: name the images that it is to embed "
            "(--data), or feature banks of the same items by both models"
        )
    with stage(f"fit {kind}"):
        bridge = fit_bridge(kind, items, shrinkage)
    write_atomically(out, bridge.to_json())
    if model_out is not None:
        save_with_bridge(source, model_out, bridge)
    return bridge


def fit_bridge(kind: str, items: PairedItems, shrinkage: float | None = None) -> Bridge:
    """Return the bridge of a kind, or the best one; see `adapt`."""
    candidates: tuple[Candidate, ...] = ()
    if kind == CHOOSE:
        best, candidates = choose(items.pairs)
        kind, shrinkage = best.kind, best.shrinkage
    query, gallery = fit_maps(kind, items.pairs, shrinkage)
    return Bridge(
        kind=kind,
        source=items.models[0],
        target=items.models[1],
        query=query,
        gallery=gallery,
        fit=BridgeFit(
            items=items.pairs.source.shape[0],
            labelled=items.pairs.labels is not None,
            data=items.data,
            data_digest=items.digest,
            classes=items.classes,
            shrinkage=SHRUNK.get(kind) if shrinkage is None else shrinkage,
            candidates=candidates,
        ),
    )


def beside_own(own: Bridge | None, fitted: Bridge, items: PairedItems) -> Bridge:
    """Return the way that a model was trained to meet old rows, and a fitted one, as one bridge.

    Args:
        own: the bridge that the model carries; None: it meets old rows as they are.
        fitted: between the same models, to be compared with beside it.
        items: that it was fitted on.
    """
    found = moments(items.pairs)
    ways = (own.query, own.gallery) if own else (None, None)
    same = (LinearMap.of(np.eye(model.dim)) for model in items.models)
    query, gallery = (way or one for way, one in zip(ways, same, strict=True))
    assert fitted.query is not None
    assert fitted.gallery is not None
    return fitted.model_copy(
        update={
            "kind": f"{own.kind if own else IDENTITY} + {fitted.kind}",
            "query": beside((query, fitted.query), found.source_mean, found.source),
            "gallery": beside((gallery, fitted.gallery), found.target_mean, found.target),
        }
    )


def items_of_data(
    source: Path,
    target: Path,
    data: Path,
    split: Path | None,
    part: str | None,
    device: str = "cpu",
    stage: Stage = silent,
) -> PairedItems:
    """Return what two models, or banks in their place, make of the items of a data set."""
    models, sides = [], []
    for role, path in (("new", source), ("old", target)):
        model = open_embedder(path, device)
        rows, _ = open_rows(data, model.takes, split, part)
        with stage(f"embed the items ({role})") as tick:
            sides.append(normalise(embed_source(model, rows, progress=tick), rows.keys))
        models.append(model.contract)
    labels = told_apart(rows.labels()) if rows.classes() else None
    pairs = Pairs(sides[0], sides[1], labels)
    return PairedItems((models[0], models[1]), pairs, rows.classes(), str(data), rows.digest())


def items_of_banks(
    source: FeatureBank, target: FeatureBank, split: Path | None = None, part: str | None = None
) -> PairedItems:
    """Return the items that two banks share by their keys, in the order of the first.

    Raises:
        BankError: there is none, a key occurs twice in a bank, or they are other items.
    """
    banks = source, target
    chosen = np.arange(len(source))
    if split is not None or part is not None:
        chosen = rows_of(source, split, part)[0].rows
    rows = shared_rows(source, target, chosen)
    refuse_other_items(source, rows[0], target, rows[1], source.keys)
    sides = [ReadRows(b.read, r, b.manifest.dim) for b, r in zip(banks, rows, strict=True)]
    labels, classes = None, ()
    for bank, side in zip(banks, sides, strict=True):
        if labels is None and (names := bank.classes()):
            found = bank.labels()[side.rows]
            labels, classes = told_apart(found), tuple(names[i] for i in np.unique(found))
    pairs = Pairs(sides[0], sides[1], labels)
    models = source.manifest.contract, target.manifest.contract
    return PairedItems(models, pairs, classes, str(source.path), source.manifest.data_digest)


def shared_rows(
    first: FeatureBank, second: FeatureBank, chosen: Rows
) -> tuple[Int64[np.ndarray, " k"], Int64[np.ndarray, " k"]]:
    """Return, of `chosen` rows of a bank, those whose keys another has, and its rows of them.

    Raises:
        BankError: there is none, or a key occurs twice in a bank.
    """
    known = [(bank.manifest.digests or {}).get("keys.txt") for bank in (first, second)]
    if known[0] is not None and known[0] == known[1]:
        return chosen, chosen
    keys = first.keys(), second.keys()
    if keys[0] == keys[1]:
        return chosen, chosen
    for bank, names in zip((first, second), keys, strict=True):
        if len(set(names)) != len(names):
            ((twice, _),) = Counter(names).most_common(1)
            raise BankError(f"the key {twice!r} occurs twice in {bank.path}: items must be told")
    place = {key: row for row, key in enumerate(keys[1])}
    found = np.array([place.get(keys[0][row], -1) for row in chosen.tolist()], dtype=np.int64)
    if (found < 0).all():
        raise BankError(
            f"the banks {first.path} and {second.path} share no key (such as {keys[0][0]!r} and "
            f"{keys[1][0]!r}): extract both from the same data"
        )
    return chosen[found >= 0], found[found >= 0]
