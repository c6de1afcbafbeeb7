"""The sheet of a report: queries with what they find before and after the upgrade."""

import base64

import faiss
import numpy as np
from jaxtyping import UInt8

from mixbct.data.images import image_of, png_of
from mixbct.data.source import Source
from mixbct.distributed import row_rng
from mixbct.evaluation.scores import Pair
from mixbct.schemas.result import Example, Match

EXAMPLES = 12
TOP = 5


def choose_examples(
    query: Source, gallery: Source, old: Pair, cross: Pair, seed: int
) -> tuple[Example, ...]:
    """Choose queries at random from those of which one of the top five is wrong, before or after.

    At most one a class, so that the sheet shows many.
    """
    pool = row_rng(seed).permutation(len(query))[: 50 * EXAMPLES].astype(np.int64)
    k, inner = min(TOP, len(gallery)), faiss.METRIC_INNER_PRODUCT
    before, after = (
        faiss.knn(sides.query.features[pool], sides.gallery.features, k, metric=inner)
        for sides in (old, cross)
    )
    labels = old.query.labels[pool]
    wrong = (old.gallery.labels[np.concatenate([before[1], after[1]], 1)] != labels[:, None]).any(1)
    wrong &= np.isin(labels, old.gallery.labels)
    places = np.flatnonzero(wrong)
    first_of_class = np.sort(np.unique(labels[places], return_index=True)[1])
    chosen = places[first_of_class[:EXAMPLES]]
    rows = np.unique(np.concatenate([before[1][chosen], after[1][chosen]]))
    images = dict(zip(rows.tolist(), map(_data_uri, gallery.read(rows)), strict=True))
    keys, names, classes = gallery.keys(), gallery.classes(), gallery.labels()
    query_keys, query_names, query_classes = query.keys(), query.classes(), query.labels()

    def matches(found: tuple[np.ndarray, np.ndarray], place: int) -> tuple[Match, ...]:
        return tuple(
            Match(key=keys[row], label=names[classes[row]], score=score, image=images[row])
            for score, row in zip(found[0][place].tolist(), found[1][place].tolist(), strict=True)
        )

    return tuple(
        Example(
            key=query_keys[pool[place]],
            label=query_names[query_classes[pool[place]]],
            image=_data_uri(query.read(pool[[place]])[0]),
            before=matches(before, place),
            after=matches(after, place),
        )
        for place in chosen.tolist()
    )


def _data_uri(image: UInt8[np.ndarray, "h w c"]) -> str:
    """Return an image as a PNG data URI, at most 64 pixels wide."""
    picture = image_of(image)
    picture.thumbnail((64, 64))
    return "data:image/png;base64," + base64.b64encode(png_of(picture, optimize=True)).decode()
