"""A cell's bootstrap replicates on disk: a byte each, on a scale from their least to their largest.

The classes drawn are every cell's, so that any two figures can be paired. A byte is a hundredth of
what a bootstrap interval is wide, and a published cell takes some kilobytes: a line of JSON that
names the figures, and the bytes of one after another, deflated.
"""

import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mixbct.errors import ResultError
from mixbct.evaluation.bootstrap import Replicates
from mixbct.files import write_atomically
from mixbct.reading import read_bytes, shown
from mixbct.schemas.record import Record

LARGEST, MISSING = 254, 255
"""The last place on the scale, and what stands for a replicate without a figure."""

Draws = Mapping[str, Replicates]
"""`combination metric` → replicates."""


class _Scales(Record):
    """What the bytes mean: the least and the largest replicate of each figure."""

    ends: dict[str, tuple[float, float]]


def write_draws(path: Path, drawn: Draws) -> None:
    """Write replicates, all of one number."""
    values = np.array(list(drawn.values()))
    ends = np.stack([np.nanmin(values, axis=1), np.nanmax(values, axis=1)], axis=1)
    span = np.diff(ends)
    places = LARGEST * (values - ends[:, :1]) / np.where(span > 0, span, 1)
    content = np.nan_to_num(places, nan=MISSING).round().astype(np.uint8).tobytes()
    scales = _Scales(ends=dict(zip(drawn, map(tuple, ends.tolist()), strict=True)))
    write_atomically(path, scales.model_dump_json().encode() + b"\n" + zlib.compress(content, 9))


def read_draws(path: Path) -> Draws:
    """Return replicates as they were written; nothing where there is no such file.

    Raises:
        ResultError: the file is damaged.
    """
    if not path.exists():
        return {}
    head, _, body = read_bytes(path, "replicates", ResultError).partition(b"\n")
    try:
        names, ends = zip(*_Scales.model_validate_json(head).ends.items(), strict=True)
        places = np.frombuffer(zlib.decompress(body), np.uint8).reshape(len(names), -1)
    except (ValueError, zlib.error) as error:
        raise ResultError(
            f"{shown(path)} does not hold replicates: delete it, and add --replicates"
        ) from error
    low, high = np.array(ends).T[:, :, None]
    values = np.where(places == MISSING, np.nan, low + (high - low) * (places / LARGEST))
    return dict(zip(names, values, strict=True))
