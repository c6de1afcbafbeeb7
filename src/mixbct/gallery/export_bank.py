"""A gallery's vectors of one contract as a bank, from which bridges and evaluations start."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from mixbct.data.bank_writer import BankWriter
from mixbct.data.source import digest_rows, unseen
from mixbct.errors import ContractError, GalleryError
from mixbct.gallery.store import Snapshot, Tick
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
    names = [key for _, key, _ in rows]
    classes = sorted({label for *_, label in rows if label}) if all(r[2] for r in rows) else []
    number_of = {label: number for number, label in enumerate(classes)}
    numbers = np.array([number_of[label or ""] for *_, label in rows if classes], dtype=np.int64)
    manifest = BankManifest(
        contract=own,
        data_digest=digest_rows(
            (key, label or "" if classes else "", "") for _, key, label in rows
        ),
        rows=len(rows),
        dim=own.dim,
        dtype="float32",
        classes=tuple(classes),
    )
    writer = BankWriter(out, manifest, numbers if classes else None, names, resume=True)
    for chunk in writer.missing():
        part = rows[chunk.start : chunk.stop]
        vectors = snapshot.vectors([id for id, *_ in part])
        writer.write(chunk, np.stack([vectors[id] for id, *_ in part]), [key for _, key, _ in part])
        progress(chunk.stop, len(rows))
    return writer.finish().manifest
