"""Weights as TensorFlow.js stores them: a JSON manifest beside binary files.

The manifest is a list of groups. Each lists its arrays (name, shape, dtype), whose values stand one
after the other in the group's files (`paths`), taken as one. A quantised array is stored as
unsigned integers q that mean min + scale · q.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from mixbct.errors import ModelError

STORED = {"uint8": np.dtype("u1"), "uint16": np.dtype("<u2"), "float32": np.dtype("<f4")}


def read_weights(manifest: Path) -> dict[str, np.ndarray]:
    """Return every array by name, as float32.

    Args:
        manifest: such as `face_recognition_model-weights_manifest.json`; its files lie beside it.

    Raises:
        ModelError: a file is missing, is no manifest, holds another dtype, or has more or fewer
            bytes than the arrays take.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        groups: list[dict[str, Any]] = json.loads(manifest.read_text(encoding="utf-8"))
        for group in groups:
            # files beside the manifest and nowhere else
            files = [manifest.parent / Path(name).name for name in group["paths"]]
            data = b"".join(file.read_bytes() for file in files)
            used = 0
            for entry in group["weights"]:
                values, used = _read_array(entry, data, used)
                arrays[entry["name"]] = values
            if used != len(data):
                raise ModelError(f"{manifest}: {len(data)} bytes, but the arrays take {used}")
    except OSError as error:
        raise ModelError(f"{error.filename} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{manifest} is not a TensorFlow.js weights manifest: {error!r}"
        ) from error
    return arrays


def _read_array(entry: dict[str, Any], data: bytes, start: int) -> tuple[np.ndarray, int]:
    """Return the array at a place of its group's bytes, and where the next one begins."""
    quantised = entry.get("quantization")
    called = (quantised or entry)["dtype"]
    if entry["dtype"] != "float32" or called not in STORED:
        raise ModelError(
            f"{entry['name']} is {entry['dtype']} stored as {called}; expected float32 stored as "
            f"one of {', '.join(STORED)}"
        )
    count = math.prod(entry["shape"])
    end = start + count * STORED[called].itemsize
    if end > len(data):
        raise ModelError(f"{entry['name']} ends at byte {end}, but there are {len(data)}")
    values = np.frombuffer(data, STORED[called], count, start).astype(np.float32)
    if quantised:
        values = values * np.float32(quantised["scale"]) + np.float32(quantised["min"])
    return values.reshape(entry["shape"]), end
