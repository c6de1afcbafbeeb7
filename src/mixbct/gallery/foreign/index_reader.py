"""A program of its own that turns a FAISS index file back into vectors, on standard output.

FAISS reads files in C++, where a damaged one, or one of a kind whose vectors cannot be had back,
can end the process or ask for all memory. So this runs as a child with a limit on its memory, and
imports nothing of the package. It prints a line of JSON, and then, a block at a time, int64 ids and
float32 vectors.
"""

import json
import resource
import sys
from pathlib import Path
from typing import Any

import faiss
import numpy as np

_ROOM = 2**29
# an index that refines has a coarse one as well: its vectors are those of the fine one
_INSIDE = ("storage", "refine_index", "index")


def layers_of(index: faiss.Index) -> list[faiss.Index]:
    """Return an index and what it wraps, from the outside to where the vectors lie."""
    index = faiss.downcast_index(index)
    inside = [inner for name in _INSIDE if (inner := getattr(index, name, None)) is not None]
    return [index, *(layers_of(inside[0]) if inside else [])]


def lost_of(layers: list[faiss.Index]) -> str:
    """Return what of the original vectors the file does not hold, in words; nothing: all is there.

    It holds them where the innermost layer keeps as many float32 as the outermost has dimensions.
    """
    leaf, dim = layers[-1], layers[0].d
    chains = [layer.chain for layer in layers if hasattr(layer, "chain")]
    steps = [faiss.downcast_VectorTransform(c.at(i)) for c in chains for i in range(c.size())]
    lost = [
        f"only {step.d_out} of {step.d_in} dimensions were kept ({type(step).__name__})"
        for step in steps
        if step.d_out < step.d_in
    ]
    size = getattr(leaf, "code_size", None)
    if "Flat" not in type(leaf).__name__ or size != 4 * leaf.d:
        kept = f"in {size:,} bytes instead of {4 * dim:,}" if size else "in a shorter code"
        lost.append(f"each vector was quantised ({type(leaf).__name__}), {kept}")
    return "; ".join(lost)


def ids_of(index: faiss.Index) -> np.ndarray:
    """Return the id of every row, and make its vector to be had by it."""
    ivf: Any = faiss.try_extract_index_ivf(index)
    if ivf is None:
        return np.arange(index.ntotal)
    ivf = faiss.downcast_index(ivf)
    ivf.set_direct_map_type(2)  # a hash table, as `faiss.DirectMap.Hashtable` is
    lists = ivf.invlists
    found = [
        faiss.rev_swig_ptr(lists.get_ids(number), lists.list_size(number)).copy()
        for number in range(lists.nlist)
        if lists.list_size(number)
    ]
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


def main(path: str, size: int, batch: int) -> None:
    """Print the index of the file, of so many bytes, in blocks of so many rows."""
    statm = Path("/proc/self/statm")
    if statm.exists():  # elsewhere the limit is not kept
        used = int(statm.read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
        limit = used + _ROOM + 4 * size
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    owner = faiss.read_index(path, faiss.IO_FLAG_READ_ONLY)  # all that follow are views of it
    index = faiss.downcast_index(owner)
    layers = layers_of(index)
    if not 0 < 4 * index.d <= size:
        raise ValueError(f"it claims {index.d:,} dimensions, and has {size:,} bytes")
    inner, names = index, None
    if isinstance(index, faiss.IndexIDMap):
        inner, names = index.index, faiss.vector_to_array(index.id_map)
    ids = ids_of(inner)
    if len(ids) != index.ntotal or (names is not None and len(names) != len(ids)):
        raise ValueError(f"it claims {index.ntotal:,} vectors, and has {len(ids):,}")
    metrics = {faiss.METRIC_INNER_PRODUCT: "inner product", faiss.METRIC_L2: "Euclidean distance"}
    head = {
        "rows": len(ids),
        "dim": index.d,
        "kind": " > ".join(type(layer).__name__ for layer in layers),
        "metric": metrics.get(index.metric_type, f"number {index.metric_type}"),
        "lost": lost_of(layers),
    }
    out = sys.stdout.buffer
    out.write(json.dumps(head).encode() + b"\n")
    out.flush()
    for start in range(0, len(ids) if batch else 0, batch or 1):
        block = np.ascontiguousarray(ids[start : start + batch])
        vectors = inner.reconstruct_batch(block)
        named = block if names is None else names[block]
        out.write(named.astype(np.int64).tobytes() + vectors.astype(np.float32).tobytes())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
