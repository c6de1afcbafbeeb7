"""LFW through a real ONNX encoder: the ten-fold accuracy on all 6,000 pairs, beside 0.99.

The encoder is `model/fr_feature.onnx` of the npm package faceplugin-face-recognition-js 0.0.1
(MIT): MIXBCT_LFW_ONNX names the file, or npm fetches it into the cache. The aligned images and the
list of pairs come from the folder that MIXBCT_SHARED names (`shared` beside the repository). Takes
minutes.
"""

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from rich.console import Console

from benchmarks.measure import Figure
from mixbct.backbones.foreign import import_onnx
from mixbct.backbones.model import load_model
from mixbct.files import sha256_file, write_atomically
from mixbct.schemas import Preprocessing
from mixbct.workflows.protocols import evaluate_pairs

PACKAGE = "faceplugin-face-recognition-js"
VERSION = "0.0.1"
MEMBER = "package/model/fr_feature.onnx"
SHA256 = "87aacdfe57510db2af90c0251df680e8eec88f122ee94712121d09bcaaaf3581"
EXPECTED = 0.99


def run(folder: Path) -> list[Figure]:
    """Return the accuracy; where something is missing, say so on standard error and return none."""
    here = Path(__file__).resolve().parents[1]
    shared = Path(os.environ.get("MIXBCT_SHARED") or here.parent / "shared") / "data"
    images, pairs = shared / "lfw_aligned_112.tar", shared / "lfw_pairs.txt"
    try:
        for file in (images, pairs):
            if not file.exists():
                raise FileNotFoundError(f"there is no {file}: set MIXBCT_SHARED")
        encoder = find_encoder()
    except (OSError, subprocess.CalledProcessError) as error:
        Console(stderr=True).print(f"lfw: left out, since {error}", markup=False)
        return []
    with tarfile.open(images) as tar:
        tar.extractall(folder, filter="data")
    preprocessing = Preprocessing(size=112, channels=3, mean=127, std=128)
    import_onnx(encoder, folder / "model", name="faceplugin", preprocessing=preprocessing)
    found = evaluate_pairs(pairs, load_model(folder / "model"), data=folder / "data")
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
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mixbct" / "npm"
    encoder = cache / "fr_feature.onnx"
    if encoder.exists() and sha256_file(encoder) == SHA256:
        return encoder
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError(
            f"there is no npm to fetch {PACKAGE} with: set MIXBCT_LFW_ONNX to its fr_feature.onnx"
        )
    cache.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [npm, "pack", "--silent", f"{PACKAGE}@{VERSION}"],
        cwd=cache,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    with tarfile.open(cache / f"{PACKAGE}-{VERSION}.tgz") as tar:
        member = tar.extractfile(MEMBER)
        write_atomically(encoder, member.read() if member else b"")
    if sha256_file(encoder) != SHA256:
        raise OSError(f"{encoder} is not the file that this benchmark was written for")
    return encoder
