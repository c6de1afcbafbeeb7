"""Face protocols from model files and data: embed with one or two models, and judge.

With a gallery model the first image (or template) of each pair and the galleries are its own, and
the rest is the model's: the cross-test of an upgrade. Without one it is a self-test. Where there is
a bridge, the vectors of images, or of whole templates, meet through it: the one that is named, or
the one that the model carries.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from mixbct.backbones.model import EmbeddingModel
from mixbct.data.bank import normalise
from mixbct.data.ijb import IjbImages, read_layout
from mixbct.data.pairs import PairSet, read_pairs_bin, read_pairs_text
from mixbct.data.source import Selection, Source, readable_rows
from mixbct.errors import DataError, FeatureError
from mixbct.evaluation.identification import identify
from mixbct.evaluation.pairs import fold_accuracies, pair_similarities
from mixbct.evaluation.roc import verification
from mixbct.evaluation.scores import check_dimensions
from mixbct.evaluation.templates import Templates, pool_templates, template_scores
from mixbct.features.bridged import through
from mixbct.features.extract import embed_source
from mixbct.schemas.bridge import Bridge, load_bridge
from mixbct.schemas.model import Preprocessing
from mixbct.schemas.protocols import IjbResult, PairsResult
from mixbct.workflows.across import bridge_between
from mixbct.workflows.evaluate import versions
from mixbct.workflows.progress import Stage, silent

PAIR_FARS = (1e-4, 1e-3, 1e-2, 1e-1)


def evaluate_pairs(
    pairs: Path,
    model: EmbeddingModel,
    gallery_model: EmbeddingModel | None = None,
    *,
    data: Path | None = None,
    bridge: Path | None = None,
    flip: bool = False,
    stage: Stage = silent,
) -> PairsResult:
    """Return the 1:1 figures of a verification set.

    Args:
        pairs: a `.bin` set, or a list of pairs such as LFW's `pairs.txt`.
        model: of the second image of each pair, and of the first where there is no other.
        gallery_model: of the first image of each pair.
        data: the folder that a list of pairs names images of.
        bridge: the file of one from the model to the gallery model; None: the model's own.
        flip: sum features with those of the flipped image.
        stage: opens a stage of the progress display.

    Raises:
        DataError: the set cannot be read, or has only genuine or only impostor pairs.
        ContractError: the bridge does not lead from the model to the gallery model.
        FeatureError: the models differ in dimension, and there is no bridge.
        ModelError: the bridge cannot be read.
    """
    between = _open_bridge(bridge, model, gallery_model)
    found = open_pairs(pairs, data, model.preprocessing)
    used, places = np.unique(found.pairs, return_inverse=True)

    def side(of: EmbeddingModel, images: Source, what: str) -> Float32[np.ndarray, "n d"]:
        with stage(f"embed {what}") as tick:
            return embed_source(of, Selection(images, used), progress=tick, flip=flip)

    first = second = side(model, found.images, "images")
    if gallery_model is not None:
        images = open_pairs(pairs, data, gallery_model.preprocessing).images
        first = side(gallery_model, images, "images (gallery)")
    if between is not None:
        first = through(between.gallery, normalise(first))
        second = through(between.query, normalise(second))
    scores = pair_similarities(first, second, places.reshape(-1, 2))
    folds = fold_accuracies(scores, found.same, found.folds)
    accuracies = [fold.accuracy for fold in folds]
    return PairsResult(
        **_said(model, gallery_model, between, flip),
        data={"pairs": str(pairs), "images": len(used), "digest": found.images.digest()},
        accuracy=float(np.mean(accuracies)),
        accuracy_deviation=float(np.std(accuracies)),
        folds=folds,
        verification=verification(scores[found.same], scores[~found.same], PAIR_FARS),
    )


def open_pairs(pairs: Path, data: Path | None, preprocessing: Preprocessing) -> PairSet:
    """Open a verification set with its images as a model wants them.

    Raises:
        DataError: a list of pairs comes without its folder of images, or cannot be read.
    """
    if pairs.suffix.lower() == ".bin":
        return read_pairs_bin(pairs, preprocessing)
    if data is None:
        raise DataError(f"{pairs} is a list of pairs; name the folder of the images with --data")
    return read_pairs_text(pairs, data, preprocessing)


def evaluate_ijb(
    data: Path,
    model: EmbeddingModel,
    gallery_model: EmbeddingModel | None = None,
    *,
    bridge: Path | None = None,
    flip: bool = False,
    skip_bad: bool = False,
    stage: Stage = silent,
    tell: Callable[[Sequence[object], str], object] = lambda names, what: None,
) -> IjbResult:
    """Return the 1:1 and 1:N figures of a set in the layout of IJB-B or IJB-C.

    Args:
        data: the folder with `loose_crop` and `meta`.
        model: of the probes, and of the galleries where there is no other.
        gallery_model: of the galleries and of the first template of each pair.
        bridge: the file of one from the model to the gallery model; None: the model's own.
        flip: sum features with those of the flipped image.
        skip_bad: leave out images without a face or that cannot be read, and templates that lose
            all of theirs; the result counts them.
        stage: opens a stage of the progress display.
        tell: is told what was left out, and what it is.

    Raises:
        DataError: the layout cannot be read or lacks genuine, impostor, mated or non-mated trials.
        BadImageError: an image cannot be read.
        ContractError: the bridge does not lead from the model to the gallery model.
        FeatureError: the models differ in dimension, and there is no bridge.
        ModelError: the bridge cannot be read.
    """
    between = _open_bridge(bridge, model, gallery_model)
    with stage("read the layout"):
        layout = read_layout(data, skip_bad)
    if skip_bad:
        with stage("decode") as tick:
            images = IjbImages(layout, model.preprocessing)
            layout = layout.keep(readable_rows(images, progress=tick)[0])
        tell(layout.skipped, "images without a face or that cannot be read")
        lost = "templates, with their pairs and searches, since no image is left of them"
        tell(layout.lost, lost)

    def side(of: EmbeddingModel, what: str) -> Templates:
        images = IjbImages(layout, of.preprocessing)
        with stage(f"embed images ({what} model)") as tick:
            features = embed_source(of, images, progress=tick, flip=flip)
        return pool_templates(features, layout.templates, layout.media, layout.scores)

    probe = gallery = side(model, "probe")
    if gallery_model is not None:
        gallery = side(gallery_model, "gallery")
    if between is not None:
        probe = Templates(probe.ids, through(between.query, probe.features))
        gallery = Templates(gallery.ids, through(between.gallery, gallery.features))
    with stage("compare templates"):
        scores = template_scores(gallery, probe, layout.pairs)
        galleries = {name: gallery.of(each) for name, each in layout.galleries.items()}
        return IjbResult(
            **_said(model, gallery_model, between, flip),
            data={
                "layout": str(data),
                "images": len(layout.names),
                "templates": len(probe.ids),
                "digest": IjbImages(layout, model.preprocessing).digest(),
                "images_left_out": len(layout.skipped),
                "templates_left_out": len(layout.lost),
            },
            verification=verification(scores[layout.same], scores[~layout.same]),
            identification=identify(probe.of(layout.probes), galleries, device=model.device),
        )


def _open_bridge(
    path: Path | None, model: EmbeddingModel, gallery_model: EmbeddingModel | None
) -> Bridge | None:
    """Return the bridge at `path`, or the model's own; refuse models that do not meet."""
    if gallery_model is None:
        if path is not None:
            raise FeatureError(
                f"the bridge {path} leads to a gallery model: name that with --gallery-model"
            )
        return None
    found = bridge_between(model, gallery_model, given=load_bridge(path) if path else None)
    if found is None:
        dims = model.contract.dim, gallery_model.contract.dim
        check_dimensions(*dims, "the model's vectors", "the gallery model's")
    return found


def _said(
    model: EmbeddingModel, gallery_model: EmbeddingModel | None, bridge: Bridge | None, flip: bool
) -> dict[str, Any]:
    """Return what every protocol's result says of the models."""
    return {
        "versions": versions(),
        "models": {"gallery": (gallery_model or model).contract, "query": model.contract},
        "flip": flip,
        "bridge": bridge and bridge.digest(),
    }
