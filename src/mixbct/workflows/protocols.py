"""Face protocols from model files and data: embed with one or two models, and judge.

With a gallery model the first image (or template) of each pair and the galleries are its own, and
the rest is the model's: the cross-test of an upgrade. Without one it is a self-test. A query map
(an adapter's file) takes the model's vectors of images, or of whole templates, into the gallery
model's space.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float32

from mixbct.adapters import load_adapter
from mixbct.adapters.adapter import Adapter
from mixbct.backbones.model import EmbeddingModel
from mixbct.data.bank import normalise
from mixbct.data.ijb import IjbImages, read_layout
from mixbct.data.pairs import PairSet, read_pairs_text
from mixbct.data.pairs_bin import read_pairs_bin
from mixbct.data.source import Selection, Source
from mixbct.errors import DataError, FeatureError
from mixbct.evaluation.ijb import identify_templates, verify_templates
from mixbct.evaluation.pairs import fold_accuracies, pair_similarities, sum_views
from mixbct.evaluation.roc import verification
from mixbct.evaluation.templates import Templates, pool_templates
from mixbct.features.extract import embed_source
from mixbct.features.flip import embed_with_flip
from mixbct.files import sha256_file
from mixbct.schemas.model import Contract, Preprocessing
from mixbct.schemas.protocols import IjbResult, PairsResult
from mixbct.workflows.evaluate import versions
from mixbct.workflows.progress import Stage, silent

PAIR_FARS = (1e-4, 1e-3, 1e-2, 1e-1)


def evaluate_pairs(
    pairs: Path,
    model: EmbeddingModel,
    gallery_model: EmbeddingModel | None = None,
    *,
    data: Path | None = None,
    query_map: Path | None = None,
    flip: bool = False,
    stage: Stage = silent,
) -> PairsResult:
    """Return the 1:1 figures of a verification set.

    Args:
        pairs: a `.bin` set, or a list of pairs such as LFW's `pairs.txt`.
        model: of the second image of each pair, and of the first where there is no other.
        gallery_model: of the first image of each pair.
        data: the folder that a list of pairs names images of.
        query_map: the file of an adapter from the model's to the gallery model's space.
        flip: sum features with those of the flipped image.
        stage: opens a stage of the progress display.

    Raises:
        DataError: the set cannot be read, or has only genuine or only impostor pairs.
        FeatureError: the models differ in dimension, or the map does not lie between them.
        ModelError: the map cannot be read.
    """
    into_gallery = _open_map(query_map, model, gallery_model)
    found = open_pairs(pairs, data, model.preprocessing)
    used, places = np.unique(found.pairs, return_inverse=True)
    views = 1 + flip
    second = sum_views(_embed(model, Selection(found.images, used), "images", flip, stage), views)
    first = second
    if gallery_model is not None:
        source = open_pairs(pairs, data, gallery_model.preprocessing).images
        images = Selection(source, used)
        first = sum_views(_embed(gallery_model, images, "images (gallery)", flip, stage), views)
    if into_gallery is not None:
        second = into_gallery.transform(normalise(second))
    scores = pair_similarities(first, second, places.reshape(-1, 2))
    folds = fold_accuracies(scores, found.same, found.folds)
    accuracies = [fold.accuracy for fold in folds]
    return PairsResult(
        versions=versions(),
        data={"pairs": str(pairs), "images": len(used), "digest": found.images.digest()},
        models=_contracts(model, gallery_model),
        flip=flip,
        query_map=query_map and sha256_file(query_map),
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
    if pairs.suffix == ".bin":
        return read_pairs_bin(pairs, preprocessing)
    if data is None:
        raise DataError(f"{pairs} is a list of pairs; name the folder of the images with --data")
    return read_pairs_text(pairs, data, preprocessing)


def evaluate_ijb(
    data: Path,
    model: EmbeddingModel,
    gallery_model: EmbeddingModel | None = None,
    *,
    query_map: Path | None = None,
    flip: bool = False,
    stage: Stage = silent,
) -> IjbResult:
    """Return the 1:1 and 1:N figures of a set in the layout of IJB-B or IJB-C.

    Args:
        data: the folder with `loose_crop` and `meta`.
        model: of the probes, and of the galleries where there is no other.
        gallery_model: of the galleries and of the first template of each pair.
        query_map: the file of an adapter from the model's to the gallery model's space.
        flip: sum features with those of the flipped image.
        stage: opens a stage of the progress display.

    Raises:
        DataError: the layout cannot be read or lacks genuine, impostor, mated or non-mated trials.
        BadImageError: an image cannot be read.
        FeatureError: the models differ in dimension, or the map does not lie between them.
        ModelError: the map cannot be read.
    """
    into_gallery = _open_map(query_map, model, gallery_model)
    with stage("read the layout"):
        layout = read_layout(data)
    sides: list[Templates] = []
    for side, each in (("probe", model), ("gallery", gallery_model)):
        if each is None:
            sides.append(sides[0])
            continue
        images = IjbImages(layout, each.preprocessing)
        features = _embed(each, images, f"images ({side} model)", flip, stage)
        sides.append(
            pool_templates(features, layout.templates, layout.media, layout.scores, views=1 + flip)
        )
    probe, gallery = sides
    if into_gallery is not None:
        probe = Templates(probe.ids, into_gallery.transform(probe.features))
    with stage("compare templates"):
        return IjbResult(
            versions=versions(),
            data={
                "layout": str(data),
                "images": len(layout.names),
                "templates": len(probe.ids),
                "digest": IjbImages(layout, model.preprocessing).digest(),
            },
            models=_contracts(model, gallery_model),
            flip=flip,
            query_map=query_map and sha256_file(query_map),
            verification=verify_templates(gallery, probe, layout.pairs, layout.same),
            identification=identify_templates(gallery, probe, layout.galleries, layout.probes),
        )


def _open_map(
    path: Path | None, model: EmbeddingModel, gallery_model: EmbeddingModel | None
) -> Adapter | None:
    """Return the map at `path`; refuse models and maps whose dimensions do not meet."""
    query, gallery = model.contract.dim, (gallery_model or model).contract.dim
    if path is None:
        if query != gallery:
            raise FeatureError(
                f"the gallery model's vectors have dimension {gallery}, the model's {query}: they "
                "cannot be compared directly; fit a map with `mixbct adapt` and name it with "
                f"--query-map, or train the new model with dimension {gallery}"
            )
        return None
    if gallery_model is None:
        raise FeatureError(
            f"the map {path} leads into a gallery model's space: name that with --gallery-model"
        )
    found = load_adapter(path)
    if found.dims != (query, gallery):
        raise FeatureError(
            f"the map {path} leads from {found.dims[0]} to {found.dims[1]} dimensions; the model "
            f"has {query} and the gallery model {gallery}"
        )
    return found


def _contracts(model: EmbeddingModel, gallery_model: EmbeddingModel | None) -> dict[str, Contract]:
    return {"gallery": (gallery_model or model).contract, "query": model.contract}


def _embed(
    model: EmbeddingModel, source: Source, what: str, flip: bool, stage: Stage
) -> Float32[np.ndarray, "n w"]:
    with stage(f"embed {what}") as tick:
        if flip:
            return embed_with_flip(model, source, progress=tick)
        return embed_source(model, source, progress=tick)
