"""The example finds what the gallery finds, without a line of mixbct."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mixbct.backbones.model import build_backbone, contract_of, load_model, save_model
from mixbct.data import open_source
from mixbct.export.onnx import export_onnx
from mixbct.features.extract import embed_source
from mixbct.gallery import Gallery
from mixbct.gallery.export import export_files
from mixbct.schemas.bridge import Bridge
from mixbct.schemas.contract import Contract
from mixbct.schemas.gate import Edge
from mixbct.schemas.linear_map import LinearMap
from mixbct.schemas.model import ModelManifest, Preprocessing

EXAMPLE = Path(__file__).parents[3] / "examples" / "onnx_search.py"
PRE = Preprocessing(size=32, channels=3)
OLD = Contract(name="old", weights="declared:old", preprocessing=None, dim=6)


def test_it_finds_what_the_gallery_finds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(12):
        place = tmp_path / "photos" / f"c{number % 3}" / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((40, 40), Image.Resampling.BICUBIC).save(place)
    torch.manual_seed(0)
    backbone = build_backbone("small", 8, PRE, {"width": 4})
    backbone.train()(torch.randn(16, 3, 32, 32))
    contract = contract_of("new", backbone, PRE, 8)
    save_model(
        tmp_path / "new",
        ModelManifest(backbone="small", options={"width": 4}, contract=contract),
        backbone,
    )
    model, photos = load_model(tmp_path / "new"), open_source(tmp_path / "photos", PRE)
    export_onnx(model, photos, tmp_path / "exported")
    query = LinearMap.of(rng.normal(size=(8, 5)), rng.normal(size=5))
    side = LinearMap.of(rng.normal(size=(6, 5)), rng.normal(size=5))
    bridge = Bridge(kind="cca", source=contract, target=OLD, query=query, gallery=side)
    edge = Edge(
        from_contract=contract,
        to_contract=OLD,
        result_digest="0" * 64,
        threshold=0.5,
        far=1e-3,
        bridge=bridge,
    )
    vectors = embed_source(model, photos)
    with Gallery.create(tmp_path / "gallery", OLD) as gallery:
        old = rng.normal(size=(20, 6)).astype(np.float32)
        gallery.enrol([f"old {i}" for i in range(20)], [None] * 20, old, OLD)
        gallery.switch(contract, edge)
        gallery.enrol(photos.keys()[1:], [None] * 11, vectors[1:], contract)
        expected = list(gallery.search(vectors[:1], contract, k=31).of(0))
        with gallery.read() as snapshot:
            export_files(snapshot, "gallery", tmp_path / "export", "numpy")
    photo = tmp_path / "photos" / photos.keys()[0]
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    found = subprocess.run(
        [sys.executable, EXAMPLE, tmp_path / "exported/model.onnx", tmp_path / "export", photo],
        env=clean,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    best = sorted(expected, key=lambda hit: -hit.score)[:5]
    assert [line.partition("  ")[2] for line in found] == [hit.key for hit in best]
    for line, hit in zip(found, best, strict=True):
        assert abs(float(line.partition("  ")[0]) - hit.score) < 2e-3
