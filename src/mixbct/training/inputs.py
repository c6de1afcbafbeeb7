"""What a run is fed with: what its backbone takes, and a digest of all that must not change."""

import hashlib

from mixbct.data.bank import FeatureBank, encoder_of
from mixbct.data.source import Source
from mixbct.errors import RecipeError
from mixbct.methods import Task
from mixbct.recipe import Recipe
from mixbct.schemas.model import Input, VectorInput


def input_of(recipe: Recipe, source: Source) -> Input:
    """Return what the backbone takes: the recipe's images, or the vectors that the source holds.

    Raises:
        RecipeError: a setting that means nothing for vectors is set.
    """
    encoder = encoder_of(source)
    if encoder is None:
        return recipe.model.preprocessing()
    for name, section in (("data", recipe.data), ("model", recipe.model)):
        for field in ("shift", "flip", "size", "channels"):
            default = type(section).model_fields.get(field)
            if default is not None and getattr(section, field) != default.default:
                raise RecipeError(
                    f"{name}.{field} means nothing for {source}, which holds vectors: leave it out"
                )
    return encoder.as_input()


def inputs_digest(source: Source, takes: Input, bank: FeatureBank | None, task: Task) -> str:
    """Return what must not change on resuming: the images, and what is known of the old model."""
    of_data = source.digest()
    if isinstance(takes, VectorInput):
        of_data += f" by {takes.encoder}"
    if bank is None or task.old is None:
        return of_data
    bank_record = bank.manifest.model_dump_json(exclude={"created"})
    digest = hashlib.sha256(f"{of_data}\n{bank_record}\n".encode())
    weights = None if task.old_classifier is None else task.old_classifier.values.numpy()
    for array in (task.old.labels, task.old.credible, weights):
        digest.update(b"" if array is None else array.tobytes())
    return digest.hexdigest()
