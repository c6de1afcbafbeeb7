"""From the model folders of several generations to a matrix: embed each once, compare all."""

from collections.abc import Sequence
from itertools import pairwise

from mixbct.backbones.model import EmbeddingModel
from mixbct.errors import DataError
from mixbct.evaluation.bootstrap import REPLICATES
from mixbct.evaluation.generations import evaluate_generations
from mixbct.schemas.generations import GenerationsResult
from mixbct.workflows.across import map_to
from mixbct.workflows.evaluate import HeldOutSet, embed_pair, versions
from mixbct.workflows.progress import Stage, silent


def compare_generations(
    data: HeldOutSet,
    models: Sequence[EmbeddingModel],
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
    stage: Stage = silent,
) -> GenerationsResult:
    """Compare every version's queries with its own gallery and with all earlier ones.

    Args:
        data: the images; queries and gallery share no image.
        models: version 1 first, each trained against the one before.
        seed: of the bootstrap.
        replicates: of the bootstrap.
        stage: opens a stage of the progress display.

    Raises:
        ContractError: a version's query map leads to another model than the version before.
        DataError: there are fewer than two versions, or one was trained on classes of the test set.
        FeatureError: neighbouring versions differ in dimension and have no map.
    """
    if len(models) < 2:
        raise DataError(f"name at least 2 versions, the oldest first, not {len(models)}")
    standings = data.standings({f"v{n}": model for n, model in enumerate(models, 1)})
    maps = [map_to(new, old) for old, new in pairwise(models)]
    pairs = [
        embed_pair(data, model, f"version {number}", stage)
        for number, model in enumerate(models, 1)
    ]
    with stage("compare every pair of versions") as tick:
        figures = evaluate_generations(pairs, maps, seed=seed, replicates=replicates, progress=tick)
    return GenerationsResult(
        versions=versions(),
        seed=seed,
        data=data.facts(models[0], replicates),
        trained_apart=standings,
        models=tuple(model.contract for model in models),
        mapped=(False, *(down is not None for down in maps)),
        pairs=figures.pairs,
        summary=figures.summary,
    )
