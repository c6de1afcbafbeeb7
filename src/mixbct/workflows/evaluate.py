"""From model folders and a split to a `Result`: embed, map, compare, describe."""

import base64
import io
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import torch
from jaxtyping import Float32, Int64
from PIL import Image

import mixbct
from mixbct.data import open_source
from mixbct.data.bank import normalise
from mixbct.data.bank_source import encoder_of
from mixbct.data.source import Source
from mixbct.data.split import open_part
from mixbct.distributed import row_rng
from mixbct.errors import ResultError
from mixbct.evaluation.bootstrap import REPLICATES
from mixbct.evaluation.scores import Embeddings
from mixbct.evaluation.upgrade import Pair, evaluate_upgrade
from mixbct.features.extract import embed_source
from mixbct.features.stored import Embedder, StoredVectors
from mixbct.schemas.bridge import Bridge
from mixbct.schemas.record import read_record
from mixbct.schemas.result import Example, Match, ModelCost, Result
from mixbct.workflows.across import across, bridge_between
from mixbct.workflows.choose import fit_maps
from mixbct.workflows.progress import Stage, silent

EXAMPLES = 12
TOP = 5


@dataclass(frozen=True)
class HeldOutSet:
    """What models are compared on: a source, its split, and the names of the parts."""

    path: Path
    split: Path
    query: str = "query"
    gallery: str = "gallery"
    fitting: str = "new_train"
    """The part on which the maps of the independent model are fitted."""

    def part(self, model: Embedder, name: str) -> Source:
        """Open a part as `model` wants its images, or vectors."""
        return open_part(open_source(self.path, model.takes), self.split, name)

    def facts(self, query: Source, gallery: Source, replicates: int) -> dict[str, str | int]:
        """Return what a result says of the set that it was measured on."""
        return {
            "source": str(self.path),
            "query digest": query.digest(),
            "gallery digest": gallery.digest(),
            "queries": len(query),
            "gallery": len(gallery),
            "classes": len(query.classes()),
            "bootstrap replicates": replicates,
        }


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
    stage: Stage = silent,
) -> Result:
    """Compare an old and a new model, and an independent one where there is one, on a test set.

    Args:
        data: the images, or the bank that a head takes; queries and gallery share no image.
        old: the deployed model. Stored vectors can stand for it, and for the others.
        new: the model that is to search the old gallery.
        independent: the contrast, trained without regard to the old model.
        title: of the report.
        language: of the class names, such as `ja`; it decides the forms of Chinese characters.
        seed: of the bootstrap, the mixed galleries and the choice of examples.
        replicates: of the bootstrap.
        adapters: names in `mixbct.adapters.ADAPTERS` to fit between the independent and the old
            model, and to search the old gallery with.
        via: the generations between old and new, newest first, where the bridge of `new` leads
            through theirs.
        bridge: between new and old, in the place of the one that `new` carries.
        costs: of the models, by role.
        stage: opens a stage of the progress display.
    """
    pairs = {"old": embed_pair(data, old, "old", stage), "new": embed_pair(data, new, "new", stage)}
    mapped: dict[str, Pair] = {}
    if independent is not None:
        pairs["independent"] = embed_pair(data, independent, "independent", stage)
        sides = pairs["independent"].query, pairs["old"].gallery
        mapped = _bridged(data, adapters, *sides, independent, old, stage)
    used = bridge_between(new, old, via, bridge)
    cross = across([used] if used else [], pairs["new"].query, pairs["old"].gallery)
    query, gallery = data.part(new, data.query), data.part(new, data.gallery)
    with stage("compare every combination") as tick:
        combinations = 7 + 2 * (independent is not None) + len(mapped)
        started = 0

        def on_combination(name: str) -> None:
            nonlocal started
            tick(started, combinations)
            started += 1

        figures = evaluate_upgrade(
            pairs["old"],
            pairs["new"],
            pairs.get("independent"),
            mapped,
            cross=cross,
            seed=seed,
            replicates=replicates,
            progress=on_combination,
        )
        tick(started, started)
    models = {"old": old.contract, "new": new.contract}
    if independent is not None:
        models["independent"] = independent.contract
    return Result(
        title=title,
        versions=versions(),
        seed=seed,
        data=data.facts(query, gallery, replicates) | ({"language": language} if language else {}),
        models=models,
        bridge=used,
        combinations=figures.combinations,
        differences=figures.differences,
        update_gain=figures.update_gain,
        negative_flips=figures.negative_flips,
        carried_threshold=figures.carried_threshold,
        costs=costs or {},
        examples=()
        if encoder_of(gallery) is not None
        else _examples(query, gallery, pairs["old"], cross, seed),
    )


def earlier_result(
    path: Path,
    data: HeldOutSet,
    old: Embedder,
    new: Embedder,
    independent: Embedder | None,
    seed: int,
    replicates: int = REPLICATES,
    adapters: Sequence[str] = ("procrustes",),
    via: Sequence[Embedder] = (),
    bridge: Bridge | None = None,
) -> Result | None:
    """Return the result at `path` if the same evaluation by these versions would give it again."""
    if not path.exists():
        return None
    result = read_record(path, Result, ResultError, "result")
    models = {"old": old, "new": new} | ({"independent": independent} if independent else {})
    same = (
        {role: model.contract.id for role, model in models.items()}
        == {role: contract.id for role, contract in result.models.items()}
        and data.part(new, data.query).digest() == result.data.get("query digest")
        and data.part(new, data.gallery).digest() == result.data.get("gallery digest")
        and seed == result.seed
        and replicates == result.data.get("bootstrap replicates")
        and result.bridge == bridge_between(new, old, via, bridge)
        and versions() == result.versions
        and (independent is None or {f"{a}/old" for a in adapters} <= result.combinations.keys())
    )
    return result if same else None


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
    sides = []
    for name in (data.query, data.gallery):
        part = data.part(model, name)
        with stage(f"embed {name} ({role})") as tick:
            features = embed_source(model, part, progress=tick)
        sides.append((normalise(features, part.keys()), part))
    # the two parts number their classes each for itself; names tie them
    names = sorted({name for _, part in sides for name in part.classes()})
    index = {name: i for i, name in enumerate(names)}
    embeddings = [
        Embeddings(
            features,
            np.array([index[n] for n in part.classes()], dtype=np.int64)[part.labels()],
        )
        for features, part in sides
    ]
    return Pair(*embeddings)


def _bridged(
    data: HeldOutSet,
    adapters: Sequence[str],
    queries: Embeddings,
    gallery: Embeddings,
    independent: Embedder,
    old: Embedder,
    stage: Stage,
) -> dict[str, Pair]:
    """Fit bridges from the independent to the old model on training images; return what meets.

    None where there are fewer images than dimensions, which do not determine a map, or where
    vectors of them were not stored.
    """
    roles = {"independent": independent, "old": old}
    parts = {role: data.part(model, data.fitting) for role, model in roles.items()}
    for role, model in roles.items():
        if isinstance(model, StoredVectors) and not model.holds(parts[role]):
            return {}
    if len(parts["old"]) < max(independent.contract.dim, old.contract.dim):
        return {}
    fitted_on = []
    for (role, model), part in zip(roles.items(), parts.values(), strict=True):
        with stage(f"embed {data.fitting} ({role}, for the bridges)") as tick:
            fitted_on.append(normalise(embed_source(model, part, progress=tick), part.keys()))
    mapped = {}
    for name in adapters:
        with stage(f"fit {name}"):
            new_side, old_side = fitted_on
            maps = fit_maps(name, new_side, old_side, parts["old"].labels())
        bridge = Bridge(
            kind=name,
            source=independent.contract,
            target=old.contract,
            query=maps[0],
            gallery=maps[1],
        )
        mapped[name] = across([bridge], queries, gallery)
    return mapped


def _examples(
    query: Source, gallery: Source, old: Pair, cross: Pair, seed: int
) -> tuple[Example, ...]:
    """Choose queries at random from those of which one of the top five is wrong, before or after.

    At most one a class, so that the sheet shows many.
    """
    pool = row_rng(seed).permutation(len(query))[: 50 * EXAMPLES].astype(np.int64)
    before = _top(old.query.features[pool], old.gallery.features)
    after = _top(cross.query.features[pool], cross.gallery.features)
    labels = old.query.labels[pool]
    wrong = (old.gallery.labels[before[1]] != labels[:, None]).any(1)
    wrong |= (old.gallery.labels[after[1]] != labels[:, None]).any(1)
    mated = np.isin(labels, old.gallery.labels)
    chosen: list[int] = []
    seen: set[int] = set()
    for place in np.flatnonzero(wrong & mated):
        if len(chosen) < EXAMPLES and labels[place] not in seen:
            seen.add(int(labels[place]))
            chosen.append(int(place))
    rows = np.unique(np.concatenate([before[1][chosen], after[1][chosen]]))
    images = {int(r): data_uri(i) for r, i in zip(rows, gallery.read(rows), strict=True)}
    gallery_keys, gallery_labels = gallery.keys(), gallery.labels()
    query_keys, query_labels = query.keys(), query.labels()

    def matches(found: tuple[np.ndarray, np.ndarray], place: int) -> tuple[Match, ...]:
        return tuple(
            Match(
                key=gallery_keys[row],
                label=gallery.classes()[gallery_labels[row]],
                score=float(score),
                image=images[int(row)],
            )
            for score, row in zip(found[0][place], found[1][place], strict=True)
        )

    return tuple(
        Example(
            key=query_keys[pool[place]],
            label=query.classes()[query_labels[pool[place]]],
            image=data_uri(query.read(pool[[place]])[0]),
            before=matches(before, place),
            after=matches(after, place),
        )
        for place in chosen
    )


def _top(
    queries: Float32[np.ndarray, "q d"], gallery: Float32[np.ndarray, "g d"]
) -> tuple[Float32[np.ndarray, "q k"], Int64[np.ndarray, "q k"]]:
    scores, rows = faiss.knn(
        queries, gallery, min(TOP, len(gallery)), metric=faiss.METRIC_INNER_PRODUCT
    )
    return scores, rows


def data_uri(image: np.ndarray) -> str:
    """Return an image [h, w, c] as a PNG data URI, at most 64 pixels wide."""
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    picture.thumbnail((64, 64))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
