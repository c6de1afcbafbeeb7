"""From the model folders of several generations to a matrix: embed each once, compare all."""

from collections.abc import Sequence

import torch

from mixbct.backbones.model import EmbeddingModel
from mixbct.errors import DataError
from mixbct.evaluation.bootstrap import REPLICATES
from mixbct.evaluation.scores import CPU
from mixbct.evaluation.upgrade import evaluate_generations
from mixbct.schemas.bridge import Bridge
from mixbct.schemas.generations import GenerationsResult
from mixbct.workflows.across import across, bridges_between
from mixbct.workflows.evaluate import HeldOutSet, embed_pair, versions
from mixbct.workflows.progress import Stage, silent


def compare_generations(
    data: HeldOutSet,
    models: Sequence[EmbeddingModel],
    bridges: Sequence[Bridge] = (),
    seed: int = 0,
    replicates: int = REPLICATES,
    device: torch.device = CPU,
    stage: Stage = silent,
) -> GenerationsResult:
    """Compare every version's queries with its own gallery and with all earlier ones.

    Args:
        data: the images; queries and gallery share no image.
        models: version 1 first, each trained against the one before.
        bridges: that were fitted between two of them, in the place of the models' own.
        seed: of the bootstrap.
        replicates: of the bootstrap.
        device: where scores are computed; models bring their own.
        stage: opens a stage of the progress display.

    Raises:
        ContractError: a version's bridge leads to another model than the version before, or one
            that was given ties no two of these models, or does so the wrong way round.
        DataError: there are fewer than two versions, or one was trained on classes of the test set.
        FeatureError: versions differ in dimension and have no bridge, or bridges do not follow
            each other.
    """
    if len(models) < 2:
        raise DataError(f"name at least 2 versions, the oldest first, not {len(models)}")
    standings = data.standings({f"v{n}": model for n, model in enumerate(models, 1)})
    ways = _ways(models, bridges)
    pairs = [embed_pair(data, model, f"version {n}", stage) for n, model in enumerate(models, 1)]
    with stage("compare every pair of versions") as tick:
        figures = evaluate_generations(
            {(i, j): across(way, pairs[i].query, pairs[j].gallery) for (i, j), way in ways.items()},
            seed=seed,
            replicates=replicates,
            device=device,
            progress=tick,
        )
    return GenerationsResult(
        versions=versions(),
        seed=seed,
        data=data.facts(models[0], replicates),
        trained_apart=standings,
        models=tuple(model.contract for model in models),
        mapped=tuple(i > 0 and bool(ways[i, i - 1]) for i in range(len(models))),
        **figures._asdict(),
    )


def _ways(
    models: Sequence[EmbeddingModel], bridges: Sequence[Bridge]
) -> dict[tuple[int, int], list[Bridge]]:
    """Return the bridges from each version's queries to every gallery up to its own, from 0."""
    place = {model.contract.id: number for number, model in enumerate(models)}
    for each in bridges:
        i, j = place.get(each.source.id, -1), place.get(each.target.id, -1)
        if not 0 <= j < i:
            # it cannot be taken; say so as of the two that it ties, or of the newest and oldest
            newer, older = (max(i, j), min(i, j)) if min(i, j) >= 0 else (len(models) - 1, 0)
            each.check(models[newer].contract, models[older].contract)
    return {
        (i, j): bridges_between(models[i], models[j], models[i - 1 : j : -1], bridges)
        if i > j
        else []
        for i in range(len(models))
        for j in range(i, -1, -1)
    }
