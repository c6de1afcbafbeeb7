"""Data sources: what can be trained on and searched, from image files to banks of vectors."""

import json
from pathlib import Path

from mixbct.data.array import ArraySource
from mixbct.data.bank import FeatureBank
from mixbct.data.folder import FolderSource
from mixbct.data.records import RecordSource
from mixbct.data.source import Source
from mixbct.errors import BankError, DataError
from mixbct.reading import read_bytes, reason, shown
from mixbct.schemas.model import Input, Preprocessing, VectorInput


def open_source(path: Path, wanted: Input | None = None, skip_bad: bool = False) -> Source:
    """Open a folder of class folders, an image array, a record file or a feature bank.

    Args:
        path: of the folder, of the array, of the bank, or of the record file or its folder.
        wanted: what a model takes; None for a source that is looked at, split or checked.
        skip_bad: leave out damaged records of a record file. (Of the other two every image has
            to be decoded to find damage: see `readable_rows`.)

    Raises:
        DataError: `path` is missing or something else, holds images where vectors are wanted or
            vectors where images are, or an array's size or number of channels is not what is
            wanted.
        BankError: a bank is damaged, or of another encoder than the one that is wanted.
    """
    kind = _kind(path)
    if kind == "feature-bank" and (wanted is None or isinstance(wanted, VectorInput)):
        bank = FeatureBank(path)
        contract = bank.manifest.contract
        if wanted is not None and contract.id != wanted.encoder:
            raise BankError(
                f"the model takes {wanted}, but the bank {path} holds those of {contract}: "
                "name a bank that this encoder made"
            )
        return bank
    if isinstance(wanted, VectorInput):
        raise DataError(
            f"{path} holds images, but the model takes {wanted}: name a feature bank that this "
            "encoder made (`mixbct extract`)"
        )
    if kind == "records":
        return RecordSource(path, wanted or Preprocessing(size=112, channels=3), skip_bad=skip_bad)
    if kind == "folder":
        return FolderSource(path, wanted or Preprocessing(size=32, channels=3))
    if kind != "image-array":
        raise DataError(f"{path} holds a {kind}, not images; name the folder that holds the images")
    array = ArraySource(path)
    size, channels = array.manifest.size, array.manifest.channels
    if wanted is not None and (size, channels) != (wanted.size, wanted.channels):
        raise DataError(
            f"{path} holds images of size {size} with {channels} channels, not size {wanted.size} "
            f"with {wanted.channels} channels; set model.size and model.channels to match"
        )
    return array


def holds_vectors(path: Path) -> bool:
    """Return whether `path` is a feature bank."""
    return (path / "manifest.json").exists() and _kind(path) == "feature-bank"


def _kind(path: Path) -> str:
    """Return what lies at a path: `records`, a `folder`, or what its manifest says."""
    manifest = path / "manifest.json"
    try:
        path.stat()
        if path.suffix.lower() == ".rec" or any(path.glob("*.rec")):
            return "records"
        if not manifest.exists():
            return "folder"
        content = json.loads(read_bytes(manifest, "manifest", DataError))
    except FileNotFoundError:
        raise DataError(
            f"there is no data at {shown(path)}; expected a folder of class folders, a folder with "
            "train.rec and train.idx, or an image array such as `mixbct data glyphs` makes"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{shown(manifest)} cannot be read: {reason(error)}") from error
    kind = content.get("kind") if isinstance(content, dict) else None
    return kind if isinstance(kind, str) else "manifest of an unknown kind"
