"""The old model's feature bank as the training set sees it."""

from pathlib import Path

import numpy as np

from mixbct.data.bank import FeatureBank
from mixbct.data.source import Source
from mixbct.errors import BankError
from mixbct.methods import OldRows


def open_old_bank(path: Path, source: Source, dim: int) -> tuple[FeatureBank, OldRows]:
    """Open a bank and tie it to the training set.

    A bank extracted from exactly these training images is paired with them row by row; any
    other takes part by the names of its classes.

    Raises:
        BankError: its dimension is not the new model's, it was not denoised, or it shares no
            class with the training set.
    """
    bank = FeatureBank(path)
    if bank.manifest.dim != dim:
        raise BankError(
            f"the bank {path} holds {bank.manifest.dim}-d features of {bank.manifest.contract}, "
            f"but the new model is to have {dim}: set model.dim = {bank.manifest.dim}"
        )
    credible = bank.credible()
    if credible is None:
        raise BankError(
            f"the bank {path} was not denoised: run `mixbct denoise {path}` "
            "(with --keep 1 to keep every feature)"
        )
    index = {name: i for i, name in enumerate(source.classes())}
    classes = np.array([index.get(name, -1) for name in bank.classes()], dtype=np.int64)
    if (classes < 0).all():
        raise BankError(
            f"the bank {path} shares no class name with the training data: its classes are "
            f"{', '.join(bank.classes()[:3])}, …; the data's are "
            f"{', '.join(source.classes()[:3])}, …"
        )
    paired = bank.manifest.data_digest == source.digest()
    return bank, OldRows(classes[bank.labels], credible, paired)
