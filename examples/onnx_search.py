"""Search an exported gallery with an exported model: onnxruntime, NumPy and Pillow, no mixbct.

mixbct export runs/new --data photos --out exported
mixbct gallery export runs/gallery --out export
python examples/onnx_search.py exported/model.onnx export photo.jpg
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

model, gallery, photo = map(Path, sys.argv[1:])
session = onnxruntime.InferenceSession(model)
_, channels, size, _ = session.get_inputs()[0].shape
image = ImageOps.exif_transpose(Image.open(photo)).convert("L" if channels == 1 else "RGB")
pixels = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR), np.float32)
inputs = pixels.reshape(1, size, size, channels).transpose(0, 3, 1, 2)
vector = session.run(["embedding"], {"images": inputs})[0][0]
hits = []
for each in json.loads((gallery / "manifest.json").read_text())["contracts"]:
    query, place = vector / np.linalg.norm(vector), gallery / each["folder"]
    if each["query_map"]:
        offset = place / "query-offset.npy"
        query = query @ np.load(place / "query-matrix.npy")
        query = query + np.load(offset) if offset.exists() else query
        query /= np.linalg.norm(query)
    for part in each["parts"]:
        lines, vectors = (place / name for name in sorted(part["files"]))
        keys = [json.loads(line)["key"] for line in lines.read_text().splitlines()]
        hits += zip((np.load(vectors) @ query).tolist(), keys, strict=True)
for score, key in sorted(hits, reverse=True)[:5]:
    print(f"{score:.4f}  {key}")
