"""Extraction: a source through a model into a feature bank, resumable chunk by chunk."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32

from mixbct.backbones.model import EmbeddingModel
from mixbct.data.bank import FeatureBank
from mixbct.data.bank_source import root_digest
from mixbct.data.bank_writer import BankWriter, plan_of
from mixbct.data.loader import read_ahead
from mixbct.data.source import Source
from mixbct.features.stored import Embedder, StoredVectors
from mixbct.schemas.data import BankManifest

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


def extract(
    model: EmbeddingModel,
    source: Source,
    out: Path,
    *,
    dtype: Literal["float16", "float32"] = "float16",
    batch: int = 512,
    resume: bool = False,
    progress: Progress | None = None,
) -> FeatureBank:
    """Embed every image of `source`, in order and without augmentation, into a bank at `out`.

    Chunks of 8,192 rows are written and marked one by one; after a kill the same call with
    `resume` goes on with the first chunk that has no mark. With `resume`, a finished bank of
    the same model and data is returned as it is, and an unfinished one of more rows (of which some
    could not be read) hands over what is finished.

    Raises:
        BankError: see `BankWriter`.
        FeatureError: the model gave NaN, infinity, a zero vector or one that `dtype` cannot hold;
            it names the images.
        BadImageError: an image cannot be read.
    """
    manifest = BankManifest(
        contract=model.contract,
        data_digest=source.digest(),
        source_digest=root_digest(source),
        rows=len(source),
        dim=model.contract.dim,
        dtype=dtype,
        classes=source.classes(),
    )
    if resume and (out / "manifest.json").exists():
        bank = FeatureBank(out)
        if plan_of(bank.manifest) == plan_of(manifest):
            return bank
    keys = source.keys()
    writer = BankWriter(out, manifest, source.labels(), keys, resume)
    missing = writer.missing()
    done = len(source) - sum(len(chunk) for chunk in missing)
    pieces = [
        range(start, min(start + batch, chunk.stop))
        for chunk in missing
        for start in range(chunk.start, chunk.stop, batch)
    ]
    features = _embed(model, source, pieces)
    for chunk in missing:
        rows: list[np.ndarray] = []
        while sum(map(len, rows)) < len(chunk):
            rows.append(next(features))
            done += len(rows[-1])
            if progress:
                progress(done, len(source))
        writer.write(chunk, np.concatenate(rows), keys[chunk.start : chunk.stop])
    return writer.finish()


def embed_source(
    model: Embedder, source: Source, batch: int = 512, progress: Progress | None = None
) -> Float32[np.ndarray, "n d"]:
    """Embed every image of `source` in order, and return the raw features in memory.

    Stored vectors are looked up instead; see `StoredVectors`.
    """
    if isinstance(model, StoredVectors):
        return model.embed_source(source)
    pieces = [range(s, min(s + batch, len(source))) for s in range(0, len(source), batch)]
    features = np.empty((len(source), model.contract.dim), dtype=np.float32)
    for piece, rows in zip(pieces, _embed(model, source, pieces), strict=True):
        features[piece.start : piece.stop] = rows
        if progress:
            progress(piece.stop, len(source))
    return features


def _embed(
    model: EmbeddingModel, source: Source, pieces: list[range]
) -> Iterator[Float32[np.ndarray, "n d"]]:
    """Yield the features of each piece of rows; the next images are read meanwhile."""

    def read(piece: range) -> torch.Tensor:
        return torch.from_numpy(source.read(np.arange(piece.start, piece.stop)))

    for images in read_ahead(pieces, read):
        yield model.embed(images).cpu().numpy()
