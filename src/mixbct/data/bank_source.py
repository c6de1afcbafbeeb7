"""A stored feature bank as a source: normalised vectors in the place of images.

It stands for the images that it was extracted from: same keys, same labels, same digest. So a
split of the images is a split of the bank, and a bank of a new encoder and one of the old model
are paired row by row where both are of the same images.
"""

import numpy as np
from jaxtyping import Float32, Int64

from mixbct.data.bank import FeatureBank
from mixbct.data.source import ListedSource, Rows, Source, root_of
from mixbct.errors import BankError
from mixbct.schemas.model import Contract, VectorInput


class BankSource(ListedSource):
    """A feature bank to train a head on, to extract from, to split.

    Args:
        bank: an open bank.
        wanted: what a head takes; None for a bank that is looked at, split or trained on.

    Raises:
        BankError: the bank is of another encoder than the head wants.
    """

    def __init__(self, bank: FeatureBank, wanted: VectorInput | None = None) -> None:
        self.bank = bank
        contract = bank.manifest.contract
        if wanted is not None and contract.id != wanted.encoder:
            raise BankError(
                f"the model takes {wanted}, but the bank {bank.path} holds those of {contract}: "
                "name a bank that this encoder made"
            )
        rows = np.zeros(len(bank), np.int64)  # the labels are looked up when they are asked for
        super().__init__(f"feature bank {bank.path}", bank.keys(), rows, bank.classes())

    def labels(self) -> Int64[np.ndarray, " n"]:
        """Return the label of every row; see `FeatureBank.labels` for a bank that has none."""
        return self.bank.labels

    def read(self, rows: Rows) -> Float32[np.ndarray, "n d"]:
        """Return the normalised vectors of `rows`, in that order.

        Raises:
            FeatureError: one holds NaN or infinity, or is zero.
        """
        return self.bank.read(rows)

    def digest(self) -> str:
        """Return the digest of the images (or keys and labels) that the bank was made of."""
        return self.bank.manifest.data_digest


def encoder_of(source: Source) -> Contract | None:
    """Return the contract of the vectors that a source holds, or None where it holds images."""
    whole = root_of(source)
    return whole.bank.manifest.contract if isinstance(whole, BankSource) else None


def root_digest(source: Source) -> str:
    """Return the digest of all that the rows of a source were chosen from, by whatever steps."""
    root = root_of(source)
    chosen_from = root.bank.manifest.source_digest if isinstance(root, BankSource) else None
    return chosen_from or root.digest()
