"""FAISS index files: what comes back of each kind, and what damaged ones do."""

import json
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest

from mixbct.errors import ContractError, DataError, GalleryError
from mixbct.gallery.foreign import open_source
from mixbct.gallery.foreign.index_reader import __file__ as READER

ROWS, DIM = 60, 16
VECTORS = np.random.default_rng(2).normal(size=(ROWS, DIM)).astype(np.float32)
IDS = np.random.default_rng(3).permutation(1000)[:ROWS] - 20


def write(path: Path, kind: str, metric: int = faiss.METRIC_INNER_PRODUCT) -> str:
    index = faiss.index_factory(DIM, kind, metric)
    index.train(VECTORS)
    if kind.startswith("IDMap"):
        index.add_with_ids(VECTORS, IDS)
    else:
        index.add(VECTORS)
    faiss.write_index(index, str(path))
    return str(path)


EXACT = ["Flat", "IDMap,Flat", "IDMap2,HNSW8", "IVF4,Flat", "IDMap,RR16,IVF4,Flat"]
LOSSY = {
    "SQ8": "in 16 bytes instead of 64",
    "IVF4,PQ4x4": "in 2 bytes instead of 64",
    "PCA8,Flat": "only 8 of 16 dimensions",
}


@pytest.mark.parametrize("kind", [*EXACT, *LOSSY])
def test_what_comes_back(tmp_path: Path, kind: str) -> None:
    source = open_source(write(tmp_path / "old.index", kind), "old")
    found = {}
    for batch in source.read(25):
        found |= dict(zip(batch.keys, batch.vectors, strict=True))
    ids = IDS if kind.startswith("IDMap") else np.arange(ROWS)
    assert found.keys() == {str(id) for id in ids}
    assert source.rows == ROWS
    there = np.stack([found[str(id)] for id in ids])
    assert "inner product" in source.notes[0]
    if kind in LOSSY:
        assert LOSSY[kind] in source.notes[1]
        assert not np.allclose(there, VECTORS)
    else:
        assert len(source.notes) == 1
        assert np.allclose(there, VECTORS, atol=1e-5)


def test_files_of_keys_and_labels(tmp_path: Path) -> None:
    path = write(tmp_path / "old.index", "IDMap,Flat", faiss.METRIC_L2)
    some = IDS[:50]
    (tmp_path / "keys.txt").write_text("".join(f"{id}\tkey {id}\n" for id in some))
    (tmp_path / "labels.txt").write_text(
        "".join(f"{id}\t{'' if id % 2 else 'even'}\n" for id in IDS)
    )
    source = open_source(
        path, "old", keys=str(tmp_path / "keys.txt"), labels=str(tmp_path / "labels.txt")
    )
    (batch,) = source.read(100)
    assert batch.keys == [f"key {id}" for id in some]
    assert batch.labels == [None if id % 2 else "even" for id in some]
    assert np.array_equal(batch.vectors, VECTORS[:50])
    assert [*batch.bad.values()] == [[f"id {id}" for id in IDS[50:]]]
    assert "Euclidean" in source.notes[0]
    (tmp_path / "keys.txt").write_text("5\ta\n5\tb\n")
    with pytest.raises(DataError, match="an id twice"):
        open_source(path, "old", keys=str(tmp_path / "keys.txt"))
    plain = write(tmp_path / "plain.index", "Flat")
    (tmp_path / "keys.txt").write_text("".join(f"line {i}\n" for i in range(ROWS)))
    (batch,) = open_source(plain, "old", keys=str(tmp_path / "keys.txt")).read(100)
    assert batch.keys == [f"line {i}" for i in range(ROWS)]


def test_errors_have_names(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "old.index", "Flat"))
    with pytest.raises(ContractError, match="--contract NAME"):
        open_source(str(path))
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(GalleryError, match="cannot be read as a FAISS index"):
        open_source(str(path), "old")
    # the count of vectors, and of codes: both far beyond the file
    path.write_bytes(whole.replace(np.int64(ROWS).tobytes(), np.int64(2**40).tobytes()))
    with pytest.raises(GalleryError, match="cannot be read as a FAISS index"):
        open_source(str(path), "old")
    path.write_bytes(b"")
    with pytest.raises(GalleryError, match="cannot be read as a FAISS index"):
        open_source(str(path), "old")
    # of a kind that FAISS itself cannot turn back without ending the process
    with pytest.raises(GalleryError, match="cannot give its vectors back"):
        [*open_source(write(path, "IVF4,PQ8x4fs"), "old").read(10)]


FORKS = """
import importlib.util, json, os, resource, signal, sys, time
spec = importlib.util.spec_from_file_location("reader", sys.argv[1])
reader = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reader)
import numpy as np
rng, codes, slowest = np.random.default_rng(4), [], 0.0
for path in sys.argv[2:]:
    whole = open(path, "rb").read()
    for turn in range(60):
        content = bytearray(whole)
        # the beginning holds what everything else follows from
        most = len(whole) if turn % 2 else 200
        for at in rng.integers(0, most, rng.integers(1, 4)):
            content[at] = rng.choice([0, 1, 127, 255, rng.integers(0, 256)])
        with open(path, "wb") as file:
            file.write(content[: rng.integers(0, len(whole))] if turn % 5 == 0 else content)
        began = time.monotonic()
        child = os.fork()
        if not child:
            signal.alarm(10)
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1)
            os.dup2(silent, 2)
            try:
                reader.main(path, os.path.getsize(path), 25)
            except BaseException:
                os._exit(2)
            os._exit(0)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        slowest = max(slowest, time.monotonic() - began)
used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps({"codes": codes, "used": used}))
"""


def test_mutated_files_end_and_take_little_memory(tmp_path: Path) -> None:
    kinds = ["IDMap,Flat", "HNSW8", "IVF4,Flat", "PCA8,SQ8", "IVF4,PQ4x4"]
    paths = [write(tmp_path / f"{i}.index", kind) for i, kind in enumerate(kinds)]
    done = subprocess.run(
        [sys.executable, "-c", FORKS, READER, *paths],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
        env={"OMP_NUM_THREADS": "1"},
    )
    found = json.loads(done.stdout)
    assert len(found["codes"]) == 300
    assert found["codes"].count(0) < 200
    assert -14 not in found["codes"], "one ran for ten seconds"
    assert found["used"] < 600_000, "kilobytes"
