"""LFW through a real ONNX encoder: the ten-fold accuracy on all 6,000 pairs, beside 0.99.

The encoder is `model/fr_feature.onnx` of the npm package faceplugin-face-recognition-js 0.0.1
(MIT): MIXBCT_LFW_ONNX names the file, or npm fetches it into the cache. The aligned images and the
list of pairs come from the folder that MIXBCT_SHARED names (`shared` beside the repository). Takes
minutes.
"""

import os
import subprocess
import tarfile
from pathlib import Path

from rich.console import Console

from benchmarks.measure import Figure
from benchmarks.npm import fetch
from mixbct.backbones.foreign import import_onnx
from mixbct.backbones.model import load_model
from mixbct.schemas.model import Preprocessing
from mixbct.workflows.protocols import Sides, evaluate_pairs

PACKAGE = "faceplugin-face-recognition-js"
VERSION = "0.0.1"
MEMBER = "model/fr_feature.onnx"
SHA256 = "87aacdfe57510db2af90c0251df680e8eec88f122ee94712121d09bcaaaf3581"
PREPROCESSING = Preprocessing(size=112, channels=3, mean=127, std=128)
EXPECTED = 0.99


def run(folder: Path) -> list[Figure]:
    """Return the accuracy; where something is missing, say so on standard error and return none."""
    try:
        images, pairs = find_images()
        encoder = find_encoder()
    except (OSError, subprocess.CalledProcessError) as error:
        Console(stderr=True).print(f"lfw: left out, since {error}", markup=False)
        return []
    with tarfile.open(images) as tar:
        tar.extractall(folder, filter="data")
    import_onnx(encoder, folder / "model", name="faceplugin", preprocessing=PREPROCESSING)
    found = evaluate_pairs(pairs, Sides(load_model(folder / "model")), folder / "data")
    return [Figure("lfw", found.accuracy, "accuracy", EXPECTED, found.accuracy / EXPECTED)]


def find_encoder() -> Path:
    """Return the encoder's file, fetched where it is not there yet.

    Raises:
        OSError: it is not there and cannot be fetched.
        subprocess.CalledProcessError: npm failed.
    """
    if named := os.environ.get("MIXBCT_LFW_ONNX"):
        if not Path(named).exists():
            raise FileNotFoundError(f"MIXBCT_LFW_ONNX names {named}, which is not there")
        return Path(named)
    (encoder,) = fetch(PACKAGE, VERSION, {MEMBER: SHA256})
    return encoder


def find_images() -> tuple[Path, Path]:
    """Return the archive of aligned images, and the list of pairs.

    Raises:
        OSError: they are not there.
    """
    here = Path(__file__).resolve().parents[1]
    shared = Path(os.environ.get("MIXBCT_SHARED") or here.parent / "shared") / "data"
    files = shared / "lfw_aligned_112.tar", shared / "lfw_pairs.txt"
    for file in files:
        if not file.exists():
            raise FileNotFoundError(f"there is no {file}: set MIXBCT_SHARED")
    return files
