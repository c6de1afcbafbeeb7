"""A gallery's vectors as files for other engines: mapped, normalised, in parts, with a manifest.

Each contract is a folder, since each lives in a space of its own: rows are as a search compares
them, behind the edge's bridge, and what the bridge does to queries lies beside them as plain
arrays. A part is `part-N.npy` (float32 [n, d]) with `part-N.jsonl` (id, key and label a line), or
`part-N.parquet` with all of it. Or rows of one contract become a bank, from which bridges and
evaluations start.
"""

import json
from collections.abc import Collection
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32
from pydantic import Field

from mixbct.data.foreign_bank import write_bank
from mixbct.data.source import unseen
from mixbct.errors import ContractError, GalleryError
from mixbct.features.bridged import through
from mixbct.files import folder_written_whole, refuse_existing, sha256_file
from mixbct.gallery.records import RowBlock, Tick
from mixbct.gallery.rules import require_tied, rows_in, side_of, with_edges
from mixbct.gallery.snapshot import Snapshot
from mixbct.reading import needing_extra
from mixbct.schemas.contract import Contract
from mixbct.schemas.data import BankManifest
from mixbct.schemas.record import Document, Record

Form = Literal["numpy", "parquet"]
_BLOCKS = 8
"""Of the store's, a part."""


class ExportedPart(Record):
    """Some rows of a contract."""

    files: dict[str, str] = Field(description="SHA-256, by name")
    rows: int


class ExportedContract(Record):
    """The rows of one contract, as queries of the query model meet them."""

    contract: Contract
    folder: str
    dim: int = Field(description="of the rows as they are written, and of queries")
    rows: int
    query_map: bool = Field(
        description="whether queries go through query-matrix.npy, and query-offset.npy if it is "
        "there, and are normalised again"
    )
    threshold: float | None = Field(description="of the edge; none for the query model's own rows")
    parts: tuple[ExportedPart, ...]


class ExportManifest(Document):
    """What was exported; `manifest.json` in its folder."""

    file: Literal["gallery export"] = "gallery export"
    gallery: str
    query_model: Contract
    form: Form
    contracts: tuple[ExportedContract, ...]


def export_files(
    snapshot: Snapshot, place: str, out: Path, form: Form, progress: Tick = unseen
) -> ExportManifest:
    """Write all rows of a gallery to a folder, which is whole or not there.

    Args:
        snapshot: of the gallery.
        place: where the gallery is, for people.
        out: the folder; there is none yet.
        form: of the parts.
        progress: called with (rows written, rows in all).

    Raises:
        GalleryError: something is at `out`, or pyarrow is not installed.
        ContractError: the query model is not tied to a stored contract.
        DiskFullError: nothing is left of it.
    """
    refuse_existing(out, GalleryError)
    query = snapshot.query_model().contract
    require_tied(snapshot, query)
    total, done, exported = rows_in(snapshot), 0, []
    with folder_written_whole(out) as folder:
        for (contract, rows), edge in with_edges(snapshot, query):
            side, asked = side_of(edge), edge.bridge.query if edge and edge.bridge else None
            inside = folder / contract.id
            inside.mkdir()
            if asked:
                matrix, offset = asked.arrays
                np.save(inside / "query-matrix.npy", matrix)
                if offset is not None:
                    np.save(inside / "query-offset.npy", offset)
            parts: list[ExportedPart] = []
            blocks = snapshot.blocks(contract)
            while some := list(islice(blocks, _BLOCKS)):
                ids, keys, labels, vectors = zip(*some, strict=True)
                names = [*chain(*keys)]
                mapped = through(side, np.concatenate(vectors), names)
                part = RowBlock(np.concatenate(ids), names, [*chain(*labels)], mapped)
                files = _write(inside, f"part-{len(parts):05}", part, form)
                digests = {file.name: sha256_file(file) for file in files}
                parts.append(ExportedPart(files=digests, rows=len(names)))
                done += len(names)
                progress(done, total)
            exported.append(
                ExportedContract(
                    contract=contract,
                    folder=contract.id,
                    dim=side.target_dim if side else contract.dim,
                    rows=rows,
                    query_map=asked is not None,
                    threshold=edge.threshold if edge else None,
                    parts=tuple(parts),
                )
            )
        manifest = ExportManifest(
            gallery=place, query_model=query, form=form, contracts=tuple(exported)
        )
        (folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    return manifest


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


def _write(folder: Path, name: str, part: RowBlock, form: Form) -> list[Path]:
    if form == "parquet":
        with needing_extra("parquet", "Parquet", GalleryError):
            import pyarrow
            import pyarrow.parquet
        flat = pyarrow.array(part.vectors.ravel())
        lists = pyarrow.FixedSizeListArray.from_arrays(flat, part.vectors.shape[1])
        columns = {"id": part.ids, "key": part.keys, "label": part.labels, "vector": lists}
        columns["label"] = pyarrow.array(part.labels, pyarrow.string())
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / f"{name}.parquet")
        return [folder / f"{name}.parquet"]
    np.save(folder / f"{name}.npy", part.vectors)
    named = zip(part.ids.tolist(), part.keys, part.labels, strict=True)
    lines = (json.dumps({"id": id, "key": key, "label": label}) + "\n" for id, key, label in named)
    (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return [folder / f"{name}.npy", folder / f"{name}.jsonl"]
