"""The old model as the training set sees it: its bank, and what methods need of it."""

from pathlib import Path

import numpy as np

from mixbct.data.bank import FeatureBank
from mixbct.data.source import Source
from mixbct.errors import BankError
from mixbct.features.prototypes import class_means, class_stats, prototypes
from mixbct.methods import METHODS, OldRows, Task
from mixbct.methods.method import Need
from mixbct.recipe import CompatibleSettings, Recipe


def open_task(recipe: Recipe, source: Source) -> tuple[FeatureBank | None, Task]:
    """Return the old bank that a recipe names, and exactly what its method needs of it.

    Raises:
        BankError: see `open_old_bank`.
    """
    labels = source.labels()
    if not isinstance(recipe.method, CompatibleSettings):
        return None, Task(labels, recipe.train.batch)
    needs = METHODS[recipe.method.name].needs
    bank, old = open_old_bank(recipe.method.bank, source, recipe.model.dim, needs)
    directions = stats = None
    if needs & {"prototypes", "class_stats"}:
        means, counts = class_means(old.read, old.labels, len(source.classes()))
        if "prototypes" in needs:
            directions = prototypes(means, counts)
        if "class_stats" in needs:
            stats = class_stats(old.read, old.labels, means, counts)
    return bank, Task(labels, recipe.train.batch, old, directions, stats)


def open_old_bank(
    path: Path, source: Source, dim: int, needs: frozenset[Need]
) -> tuple[FeatureBank, OldRows]:
    """Open a bank and tie it to the training set.

    A bank extracted from exactly these training images is paired with them row by row; any
    other takes part by the names of its classes.

    Raises:
        BankError: its dimension is not the new model's, it shares no class with the training
            set, or it was not denoised or is not paired, and that is needed.
    """
    bank = FeatureBank(path)
    if bank.manifest.dim != dim:
        raise BankError(
            f"the bank {path} holds {bank.manifest.dim}-d features of {bank.manifest.contract}, "
            f"but the new model is to have {dim}: set model.dim = {bank.manifest.dim}"
        )
    credible = None
    if "credible" in needs:
        credible = bank.credible()
        if credible is None:
            raise BankError(
                f"the bank {path} was not denoised: run `mixbct denoise {path}` "
                "(with --keep 1 to keep every feature)"
            )
    index = {name: i for i, name in enumerate(source.classes())}
    classes = np.array([index.get(name, -1) for name in bank.classes()], dtype=np.int64)
    labels = classes[bank.labels]
    if (labels < 0).all():
        raise BankError(
            f"the bank {path} shares no class name with the training data: its classes are "
            f"{', '.join(bank.classes()[:3])}, …; the data's are "
            f"{', '.join(source.classes()[:3])}, …"
        )
    paired = bank.manifest.data_digest == source.digest()
    if "paired_old" in needs and not paired:
        raise BankError(
            f"this method compares each image's new feature with its old one, but the bank {path} "
            "was not extracted from these training images: extract one from them, or choose a "
            "method that takes any bank, such as 'mixbct' with draw = 'bank'"
        )
    return bank, OldRows(labels, paired, bank.read, credible)
