"""A gallery's vectors of one contract as a bank, from which bridges and evaluations start."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from mixbct.data.foreign_bank import write_bank
from mixbct.data.source import unseen
from mixbct.errors import ContractError, GalleryError
from mixbct.gallery.records import Tick
from mixbct.gallery.snapshot import Snapshot
from mixbct.schemas.data import BankManifest


def export_bank(
    snapshot: Snapshot,
    out: Path,
    contract: str | None = None,
    wanted: Collection[str] | None = None,
    progress: Tick = unseen,
) -> BankManifest:
    """Write rows as they are stored, mapped by nothing, with labels where every one has one.

    Args:
        snapshot: of the gallery.
        out: the bank's folder; what a kill left of it is gone on with.
        contract: the name of the rows' contract, where there are several.
        wanted: only these keys; others of them may not be there.
        progress: called with (rows written, rows in all).

    Raises:
        ContractError: there are rows of several contracts of that name, or of none.
        GalleryError: none of the wanted keys is there.
        BankError: something else is at `out`.
        DiskFullError: its size is reserved first.
    """
    found = [each for each, _ in snapshot.contracts() if contract in (None, each.name)]
    if len(found) != 1:
        held = ", ".join(str(each) for each, _ in snapshot.contracts())
        raise ContractError(
            f"a bank holds vectors of one contract: name one with --contract (there are "
            f"{held or 'no rows'})"
        )
    (own,), keep = found, None if wanted is None else frozenset(wanted)
    rows = [
        row
        for ids, keys, labels, _ in snapshot.blocks(own)
        for row in zip(ids.tolist(), keys, labels, strict=True)
        if keep is None or row[1] in keep
    ]
    if not rows:
        raise GalleryError(f"none of the keys names a row of {own}: expected one a line, as stored")

    def read(part: slice) -> Float32[np.ndarray, "n d"]:
        ids = [id for id, *_ in rows[part]]
        vectors = snapshot.vectors(ids)
        progress(part.stop, len(rows))
        return np.stack([vectors[id] for id in ids])

    labels = [label for *_, label in rows if label]
    known = labels if len(labels) == len(rows) else None
    return write_bank(out, own, [key for _, key, _ in rows], known, read, resume=True).manifest
