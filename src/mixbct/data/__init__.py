"""Data sources: what can be trained on and searched, from image files to arrays in memory maps."""

import json
from pathlib import Path

from mixbct.data.array import ArraySource
from mixbct.data.folder import FolderSource
from mixbct.data.records import RecordSource
from mixbct.data.source import Source
from mixbct.errors import DataError
from mixbct.schemas import Preprocessing


def open_source(
    path: Path, preprocessing: Preprocessing | None = None, skip_bad: bool = False
) -> Source:
    """Open a folder of class folders, an image array or a record file, whichever `path` is.

    Args:
        path: of the folder, of the array, or of the record file or its folder.
        preprocessing: what a model wants; None for a source that is looked at, split or checked.
        skip_bad: leave out damaged records of a record file. (Of the other two every image has
            to be decoded to find damage: see `readable_rows`.)

    Raises:
        DataError: `path` is missing or something else, or an array's size or number of
            channels is not what `preprocessing` asks for.
    """
    if not path.exists():
        raise DataError(
            f"there is no data at {path}; expected a folder of class folders, a folder with "
            "train.rec and train.idx, or an image array such as `mixbct data glyphs` makes"
        )
    if path.suffix == ".rec" or any(path.glob("*.rec")):
        return RecordSource(
            path, preprocessing or Preprocessing(size=112, channels=3), skip_bad=skip_bad
        )
    if not (path / "manifest.json").exists():
        return FolderSource(path, preprocessing or Preprocessing(size=32, channels=3))
    kind = _kind(path / "manifest.json")
    if kind != "image-array":
        raise DataError(f"{path} holds a {kind}, not images; name the folder that holds the images")
    source = ArraySource(path)
    if preprocessing is None:
        return source
    has = (source.manifest.size, source.manifest.channels)
    wanted = (preprocessing.size, preprocessing.channels)
    if has != wanted:
        raise DataError(
            f"{path} holds images of size {has[0]} with {has[1]} channels, but size {wanted[0]} "
            f"with {wanted[1]} channels is asked for; set model.size and model.channels to match"
        )
    return source


def _kind(manifest: Path) -> str:
    try:
        content = json.loads(manifest.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{manifest} cannot be read: {error}") from error
    kind = content.get("kind") if isinstance(content, dict) else None
    return kind if isinstance(kind, str) else "manifest of an unknown kind"
