"""IJB templates: many images of one person as one vector, and the scores of template pairs.

The protocols are those of IJB-B and IJB-C (Whitelam et al., "IARPA Janus Benchmark-B", 2017; Maze
et al., "IARPA Janus Benchmark-C", 2018).

A template's vector is Σ_media mean_{images of the media} (score · feature), normalised, where the
feature is summed with that of the flipped image and the score is the face detector's (as the
published IJB scripts of VGGFace2 and ArcFace do it; raw features, so their norm counts too).
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int32, Int64, Integer
from torch import Tensor

from mixbct.data.bank import normalise
from mixbct.data.ijb import Subjects
from mixbct.errors import DataError, FeatureError
from mixbct.evaluation.scores import Embeddings, check_dimensions

_BLOCK_BYTES = 128 * 2**20
_TABLE = 2**24  # ids below this are looked up in a table


@dataclass(frozen=True)
class Templates:
    """Template vectors by id.

    Args:
        ids: [t] ascending.
        features: [t, d], every row of Euclidean norm 1.
    """

    ids: Int64[np.ndarray, " t"]
    features: Float32[np.ndarray, "t d"]

    def of(self, some: Subjects) -> Embeddings:
        """Return the vectors of some templates, labelled by their subjects."""
        return Embeddings(self.features[self.rows(some.templates)], some.subjects)

    def rows(self, ids: Int64[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
        """Return the row of each id.

        Raises:
            DataError: an id is not there, or there is none.
        """
        if not len(ids):
            raise DataError("there is no template to compare")
        highest = max(int(ids.max()), int(self.ids[-1]))
        if highest < _TABLE and min(int(ids.min()), int(self.ids[0])) >= 0:
            table = np.full(highest + 1, -1, np.int32)
            table[self.ids] = np.arange(len(self.ids), dtype=np.int32)
            rows = _look_up(table, ids)
        else:
            rows = np.searchsorted(self.ids, ids).clip(max=len(self.ids) - 1).astype(np.int32)
            rows[self.ids[rows] != ids] = -1
        if rows.min() >= 0:
            return rows
        missing = np.unique(ids[rows < 0])
        raise DataError(
            f"{len(missing)} templates have no image, the first of them {missing[0]}; the images' "
            "templates and those that are compared must come from one protocol"
        )


def pool_templates(
    features: Float[np.ndarray, "n d"],
    templates: Int64[np.ndarray, " m"],
    media: Int64[np.ndarray, " k"],
    scores: Float32[np.ndarray, " n"] | None = None,
) -> Templates:
    """Pool image features into template vectors.

    One weighted sum a template: an image weighs its score divided by how many images of the
    template its media has. Float32 features in writable memory are read in place, others copied.

    Args:
        features: [n, d] raw features.
        templates: [n] template id of each image, in any order.
        media: [n] media id of each image; images of one video share it.
        scores: [n] of the face detector; None weighs all images alike.

    Raises:
        FeatureError: the counts differ, or a template's vector is zero or not finite.
        DataError: a score is negative, or all of a template are 0.
    """
    if not len(features) == len(templates) == len(media) > 0:
        raise FeatureError(
            f"{len(features)} features with {len(templates)} template and {len(media)} media ids: "
            "expected as many of each, and at least one"
        )
    order = np.lexsort((media, templates))
    template, medium = templates[order], media[order]
    new_template = np.concatenate([[True], template[1:] != template[:-1]])
    new_media = new_template | np.concatenate([[True], medium[1:] != medium[:-1]])
    of_media = np.cumsum(new_media) - 1
    weights = 1 / np.bincount(of_media)[of_media]
    starts = np.flatnonzero(new_template)
    if scores is not None:
        weights = weights * scores[order]
        # a template's least score is not below 0, its highest above
        good = np.minimum.reduceat(weights, starts) >= 0
        good &= np.maximum.reduceat(weights, starts) > 0
        if not good.all():
            raise DataError(
                "a detector's score is negative or no number, or all of a template are 0 (template "
                f"{template[starts][~good][0]}): leave out images in which no face was found"
            )
    sums = F.embedding_bag(
        torch.from_numpy(order),
        torch.from_numpy(np.require(features, np.float32, ["C", "W"])),
        torch.from_numpy(starts),
        mode="sum",
        per_sample_weights=torch.from_numpy(weights.astype(np.float32)),
    )
    ids = template[starts]
    return Templates(ids, normalise(sums.numpy(), [f"template {i}" for i in ids]))


def template_scores(
    gallery: Templates, probe: Templates, pairs: Int64[np.ndarray, "p 2"]
) -> Float32[np.ndarray, " p"]:
    """Return the cosine of each template pair, in the order of the pairs.

    The scores are picked out of blocks of the product of all templates that occur on one side
    with all that occur on the other: with hundreds of pairs a template that takes a fraction of
    the time of gathering two rows a pair, and no more than a block is held.

    Args:
        gallery: where the first template of each pair is looked up (the old model's, in a
            cross-test).
        probe: where the second one is.
        pairs: template ids.

    Raises:
        FeatureError: the sides differ in dimension.
        DataError: a template is on neither side.
    """
    dims = probe.features.shape[1], gallery.features.shape[1]
    check_dimensions(*dims, "probes", "gallery templates")
    left, row = _occurring(gallery, pairs[:, 0])
    right, column = _occurring(probe, pairs[:, 1])
    per_block = max(1, min(len(left), _BLOCK_BYTES // (4 * len(right))))
    blocks = -(-len(left) // per_block)
    block = row // per_block
    # a radix sort where there are few blocks
    narrow = block.numpy().astype(np.min_scalar_type(blocks))
    order = torch.from_numpy(np.argsort(narrow, kind="stable"))
    ends = np.cumsum(np.bincount(narrow, minlength=blocks)).tolist()
    # a block has fewer than 2^31 entries
    place = block.mul_(-per_block).add_(row).mul_(len(right)).add_(column)
    scores = torch.empty(len(pairs))
    buffer = torch.empty(per_block, len(right))
    starts = range(0, len(left), per_block)
    for start, chosen in zip(starts, order.tensor_split(ends[:-1]), strict=True):
        part = left[start : start + per_block]
        product = torch.mm(part, right.T, out=buffer[: len(part)])
        scores[chosen] = product.view(-1)[place[chosen]]
    return np.asarray(scores.numpy())


def _look_up(
    table: Int32[np.ndarray, " t"], places: Integer[np.ndarray, " n"]
) -> Int32[np.ndarray, " n"]:
    """Return `table[places]`; torch does it on all cores."""
    rows = torch.from_numpy(np.require(places, requirements="W"))
    return np.asarray(torch.from_numpy(table)[rows].numpy())


def _occurring(
    templates: Templates, ids: Int64[np.ndarray, " p"]
) -> tuple[Float32[Tensor, "k d"], Int32[Tensor, " p"]]:
    """Return the vectors of the templates that occur among `ids`, and which of these each id is."""
    rows = templates.rows(ids)
    occurs = np.bincount(rows, minlength=len(templates.ids)) > 0
    among = np.cumsum(occurs, dtype=np.int32) - np.int32(1)
    return torch.from_numpy(templates.features[occurs]), torch.from_numpy(_look_up(among, rows))
