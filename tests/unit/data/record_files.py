"""Record files written by hand, with struct alone, as the format's description has it."""

import io
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

MAGIC = 0xCED7230A


def part(payload: bytes, kind: int = 0) -> bytes:
    """Return one part: magic, kind and length, payload, zeros up to a multiple of four."""
    return struct.pack("<II", MAGIC, kind << 29 | len(payload)) + payload + bytes(-len(payload) % 4)


def payload(label: float | Sequence[float], image: bytes, number: int = 0) -> bytes:
    """Return flag, label, id, id2, the labels where there are several, and the image."""
    if isinstance(label, int | float):
        return struct.pack("<IfQQ", 0, label, number, 0) + image
    floats = struct.pack(f"<{len(label)}f", *label)
    return struct.pack("<IfQQ", len(label), 0.0, number, 0) + floats + image


def write(folder: Path, records: dict[int, bytes], index: bool = True) -> Path:
    """Write framed records under their keys as train.rec and train.idx; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    offsets = np.cumsum([0, *map(len, records.values())])
    (folder / "train.rec").write_bytes(b"".join(records.values()))
    if index:
        lines = [f"{key}\t{offset}\n" for key, offset in zip(records, offsets[:-1], strict=True)]
        (folder / "train.idx").write_text("".join(lines))
    return folder


def jpeg(seed: int, size: int = 8) -> bytes:
    """Return a small noisy JPEG."""
    rng = np.random.default_rng(seed)
    file = io.BytesIO()
    pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", quality=80)
    return file.getvalue()


def faces(folder: Path, counts: Sequence[int] = (3, 1, 2), header: str = "insightface") -> Path:
    """Write classes of `counts` images with a header as insightface, as others, or with none."""
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    images = {key: part(payload(label, jpeg(key), key)) for key, label in enumerate(labels, 1)}
    end = len(labels) + 1
    if header == "none":  # as im2rec counts, from 0
        rows = enumerate(labels)
        return write(folder, {i: part(payload(label, jpeg(i + 1), i)) for i, label in rows})
    if header == "others":
        return write(folder, {0: part(payload([end, len(counts)], b"")), **images})
    starts = np.cumsum([1, *counts])
    people = {
        end + i: part(payload([float(starts[i]), float(starts[i + 1])], b"", end + i))
        for i in range(len(counts))
    }
    first = {0: part(payload([end, end + len(counts)], b""))}
    return write(folder, {**first, **images, **people})
