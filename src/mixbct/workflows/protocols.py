"""Face protocols from model files and data: embed with one or two models, and judge.

With a gallery model the first image (or template) of each pair and the galleries are its own, and
the rest is the model's: the cross-test of an upgrade. Without one it is a self-test. Where there is
a bridge, the vectors of images, or of whole templates, meet through it: the one that is named, or
the one that the model carries.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
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
from mixbct.evaluation.protocols import fold_accuracies, identify, pair_similarities, verification
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

Vectors = Float32[np.ndarray, "_ _"]

PAIR_FARS = (1e-4, 1e-3, 1e-2, 1e-1)


@dataclass(frozen=True)
class Sides:
    """The models of a protocol's two sides, and how their vectors come to meet.

    Args:
        model: of queries: the second image of each pair, or the probes; where there is no other,
            of both sides.
        gallery_model: of the first image, or template, of each pair, and of the galleries.
        file: of a bridge from the model to the gallery model; None: the model's own.
        flip: sum features with those of the flipped image.
        stage: opens a stage of the progress display.
    """

    model: EmbeddingModel
    gallery_model: EmbeddingModel | None = None
    file: Path | None = None
    flip: bool = False
    stage: Stage = silent

    @cached_property
    def bridge(self) -> Bridge | None:
        """Return the bridge between both; None: they meet as they are.

        Raises:
            ContractError: the bridge does not lead from the model to the gallery model.
            FeatureError: the models differ in dimension, and there is no bridge.
            ModelError: the bridge cannot be read.
        """
        if self.gallery_model is None:
            if self.file is not None:
                raise FeatureError(
                    f"the bridge {self.file} leads to a gallery model: name that with "
                    "--gallery-model"
                )
            return None
        given = load_bridge(self.file) if self.file else None
        if (found := bridge_between(self.model, self.gallery_model, given=given)) is None:
            dims = self.model.contract.dim, self.gallery_model.contract.dim
            check_dimensions(*dims, "the model's vectors", "the gallery model's")
        return found

    def embed(self, one: Callable[[EmbeddingModel], Vectors]) -> tuple[Vectors, Vectors]:
        """Return the gallery's vectors and the queries' as they meet; `one` gives a model's."""
        query = one(self.model)
        gallery = query if self.gallery_model is None else one(self.gallery_model)
        if self.bridge is None:
            return gallery, query
        sides = (self.bridge.gallery, gallery), (self.bridge.query, query)
        gallery, query = (through(side, normalise(vectors)) for side, vectors in sides)
        return gallery, query

    def images(self, model: EmbeddingModel, images: Source) -> Vectors:
        """Return what a model makes of images, raw."""
        with self.stage(f"embed images ({model.contract.name})") as tick:
            return embed_source(model, images, progress=tick, flip=self.flip)

    def said(self) -> dict[str, Any]:
        """Return what every protocol's result says of the models."""
        gallery = (self.gallery_model or self.model).contract
        return {
            "versions": versions(),
            "models": {"gallery": gallery, "query": self.model.contract},
            "flip": self.flip,
            "bridge": self.bridge and self.bridge.digest(),
        }


def evaluate_pairs(pairs: Path, sides: Sides, data: Path | None = None) -> PairsResult:
    """Return the 1:1 figures of a verification set.

    Args:
        pairs: a `.bin` set, or a list of pairs such as LFW's `pairs.txt`.
        sides: the models.
        data: the folder that a list of pairs names images of.

    Raises:
        DataError: the set cannot be read, or has only genuine or only impostor pairs.
        MixbctError: see `Sides.bridge`.
    """
    said = sides.said()
    found = open_pairs(pairs, data, sides.model.preprocessing)
    used, places = np.unique(found.pairs, return_inverse=True)

    def images(model: EmbeddingModel) -> Vectors:
        opened = open_pairs(pairs, data, model.preprocessing).images
        return sides.images(model, Selection(opened, used))

    scores = pair_similarities(*sides.embed(images), places.reshape(-1, 2))
    folds = fold_accuracies(scores, found.same, found.folds)
    accuracies = [fold.accuracy for fold in folds]
    return PairsResult(
        **said,
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
    sides: Sides,
    skip_bad: bool = False,
    tell: Callable[[Sequence[object], str], object] = lambda names, what: None,
) -> IjbResult:
    """Return the 1:1 and 1:N figures of a set in the layout of IJB-B or IJB-C.

    Args:
        data: the folder with `loose_crop` and `meta`.
        sides: the models.
        skip_bad: leave out images without a face or that cannot be read, and templates that lose
            all of theirs; the result counts them.
        tell: is told what was left out, and what it is.

    Raises:
        DataError: the layout cannot be read or lacks genuine, impostor, mated or non-mated trials.
        BadImageError: an image cannot be read.
        MixbctError: see `Sides.bridge`.
    """
    said = sides.said()
    with sides.stage("read the layout"):
        layout = read_layout(data, skip_bad)
    if skip_bad:
        with sides.stage("decode") as tick:
            images = IjbImages(layout, sides.model.preprocessing)
            layout = layout.keep(readable_rows(images, progress=tick)[0])
        tell(layout.skipped, "images without a face or that cannot be read")
        lost = "templates, with their pairs and searches, since no image is left of them"
        tell(layout.lost, lost)

    def templates(model: EmbeddingModel) -> Vectors:
        features = sides.images(model, IjbImages(layout, model.preprocessing))
        return pool_templates(features, layout.templates, layout.media, layout.scores).features

    ids = np.unique(layout.templates)
    gallery, probe = (Templates(ids, vectors) for vectors in sides.embed(templates))
    with sides.stage("compare templates"):
        scores = template_scores(gallery, probe, layout.pairs)
        galleries = {name: gallery.of(each) for name, each in layout.galleries.items()}
        return IjbResult(
            **said,
            data={
                "layout": str(data),
                "images": len(layout.names),
                "templates": len(ids),
                "digest": IjbImages(layout, sides.model.preprocessing).digest(),
                "images_left_out": len(layout.skipped),
                "templates_left_out": len(layout.lost),
            },
            verification=verification(scores[layout.same], scores[~layout.same]),
            identification=identify(probe.of(layout.probes), galleries, device=sides.model.device),
        )
