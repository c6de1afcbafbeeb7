"""A query map fitted afterwards, for a model that was trained without regard to the old one.

What comes of it is the same model with a map, to be judged, gated and put into service as one that
was trained compatibly. It takes images without labels.
"""

from pathlib import Path

from mixbct.adapters import LINEAR_ADAPTERS
from mixbct.backbones.model import load_model, save_with_query_map
from mixbct.data.bank import normalise
from mixbct.errors import ModelError
from mixbct.features.extract import embed_source
from mixbct.schemas.model import ModelManifest, QueryMap
from mixbct.workflows.progress import Stage, silent
from mixbct.workflows.rows import open_rows


def fit_query_map(
    new: Path,
    old: Path,
    out: Path,
    data: Path,
    split: Path | None = None,
    part: str | None = None,
    *,
    adapter: str = "procrustes",
    device: str = "cpu",
    stage: Stage = silent,
) -> ModelManifest:
    """Fit a map from the new model's space into the old one's and write `new` with it to `out`.

    Args:
        new: folder or run of the model that is to search.
        old: folder or run of the model whose vectors are stored.
        out: the model folder to write.
        data: images; both models embed all of them.
        split: use only a part of it.
        part: that part; none: `new_train`.
        adapter: `procrustes` or `ridge`.
        device: where to embed.
        stage: opens a stage of the progress display.

    Raises:
        ModelError: a model is missing, `out` is there already, or there is no such linear adapter.
        FeatureError: there are too few images for a map.
    """
    if adapter not in LINEAR_ADAPTERS:
        raise ModelError(
            f"a model cannot carry the map {adapter!r}: choose one of {', '.join(LINEAR_ADAPTERS)}"
        )
    models = {"new": load_model(new, device), "old": load_model(old, device)}
    features = {}
    for role, model in models.items():
        rows, _ = open_rows(data, model.takes, split, part)
        with stage(f"embed the images ({role})") as tick:
            features[role] = normalise(embed_source(model, rows, progress=tick), rows.keys())
    with stage(f"fit {adapter}"):
        fitted = LINEAR_ADAPTERS[adapter].fit(features["new"], features["old"])
    query_map = QueryMap(to=models["old"].contract, map=fitted.linear_map())
    return save_with_query_map(new, out, query_map)
