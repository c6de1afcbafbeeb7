"""A gallery's vectors as files for other engines: mapped, normalised, in parts, with a manifest.

Each contract is a folder, since each lives in a space of its own: rows are as a search compares
them, behind the edge's bridge, and what the bridge does to queries lies beside them as plain
arrays. A part is `part-N.npy` (float32 [n, d]) with `part-N.jsonl` (id, key and label a line), or
`part-N.parquet` with all of it.
"""

import json
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from mixbct.errors import GalleryError
from mixbct.features.bridged import through
from mixbct.files import folder_written_whole, refuse_existing, sha256_file
from mixbct.gallery.records import RowBlock, Tick
from mixbct.gallery.rules import edges_from, require_tied
from mixbct.gallery.snapshot import Snapshot
from mixbct.reading import needing_extra
from mixbct.schemas.contract import Contract
from mixbct.schemas.linear_map import LinearMap
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
    snapshot: Snapshot, place: str, out: Path, form: Form, progress: Tick | None = None
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
    edges, stored = edges_from(snapshot, query), snapshot.contracts()
    total, done, exported = sum(each.rows for each in stored), 0, []
    with folder_written_whole(out) as folder:
        for contract, rows in stored:
            edge = edges.get(contract.id)
            bridge = edge.bridge if edge else None
            side, asked = (bridge.gallery, bridge.query) if bridge else (None, None)
            inside = folder / contract.id
            inside.mkdir()
            if asked:
                _write_map(inside, asked)
            parts: list[ExportedPart] = []
            blocks = snapshot.blocks(contract)
            while some := list(islice(blocks, _BLOCKS)):
                part = _mapped(some, side)
                files = _write(inside, f"part-{len(parts):05}", part, form)
                digests = {file.name: sha256_file(file) for file in files}
                parts.append(ExportedPart(files=digests, rows=len(part.ids)))
                done += len(part.ids)
                if progress:
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


def _mapped(blocks: list[RowBlock], side: LinearMap | None) -> RowBlock:
    ids, keys, labels, vectors = zip(*blocks, strict=True)
    names = [key for each in keys for key in each]
    rows = through(side, np.concatenate(vectors), names)
    return RowBlock(np.concatenate(ids), names, [name for each in labels for name in each], rows)


def _write_map(folder: Path, query: LinearMap) -> None:
    matrix, offset = query.arrays
    np.save(folder / "query-matrix.npy", matrix)
    if offset is not None:
        np.save(folder / "query-offset.npy", offset)


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
