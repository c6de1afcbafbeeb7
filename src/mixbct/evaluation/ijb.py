"""The IJB-B and IJB-C protocols, 1:1 and 1:N, from pooled templates.

Whitelam et al., "IARPA Janus Benchmark-B", 2017; Maze et al., "IARPA Janus Benchmark-C", 2018.
"""

import numpy as np
import torch
from jaxtyping import Bool, Int64

from mixbct.data.ijb import Subjects
from mixbct.evaluation.identification import FPIRS, identify
from mixbct.evaluation.roc import FARS, verification
from mixbct.evaluation.scores import CPU, Embeddings
from mixbct.evaluation.templates import Templates, template_scores
from mixbct.schemas.protocols import Identification, Verification


def verify_templates(
    gallery: Templates,
    probe: Templates,
    pairs: Int64[np.ndarray, "p 2"],
    same: Bool[np.ndarray, " p"],
    fars: tuple[float, ...] = FARS,
) -> Verification:
    """Return the 1:1 figures.

    Args:
        gallery: templates by the model of the first side (the old one in a cross-test).
        probe: templates by the model of the second side; `gallery` again for a self-test.
        pairs: template ids.
        same: whether a pair is of one subject.
        fars: false-accept rates in (0, 1].

    Raises:
        FeatureError: the sides differ in dimension.
        DataError: a template has no image, or there are only genuine or only impostor pairs.
    """
    scores = template_scores(gallery, probe, pairs)
    return verification(scores[same], scores[~same], fars)


def identify_templates(
    gallery: Templates,
    probe: Templates,
    galleries: dict[str, Subjects],
    probes: Subjects,
    fpirs: tuple[float, ...] = FPIRS,
    device: torch.device = CPU,
) -> Identification:
    """Return the 1:N figures.

    Args:
        gallery: templates by the model of the galleries (the old one in a cross-test).
        probe: templates by the model of the probes.
        galleries: G1 and G2, by name.
        probes: all probes; one is mated to the gallery that holds its subject.
        fpirs: false-positive identification rates in (0, 1].
        device: where scores are computed.

    Raises:
        FeatureError: the sides differ in dimension.
        DataError: a template has no image, or all or none of the probes are mated to a gallery.
    """

    def side(templates: Templates, of: Subjects) -> Embeddings:
        return Embeddings(templates.features[templates.rows(of.templates)], of.subjects)

    sides = {name: side(gallery, each) for name, each in galleries.items()}
    return identify(side(probe, probes), sides, fpirs, device)
