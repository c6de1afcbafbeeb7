"""A backfill of a gallery, beside the extraction of the same images alone, while a client searches.

The client, a process of its own, searches once a second. The gallery holds what another model
made of the items; each backfill begins at a copy of it, and the extraction has the machine alone.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.data import DIM, demo_model, image_source
from benchmarks.measure import Figure, rate_figure, seconds
from mixbct.data.source import Selection
from mixbct.features.extract import embed_source
from mixbct.gallery import Gallery
from mixbct.schemas.contract import Contract
from mixbct.schemas.gate import Edge
from mixbct.workflows.backfill import backfill

IMAGES = 20_000
TIMES = 5

_CLIENT = """
import sys, time
import numpy as np
from mixbct.gallery import Gallery
with Gallery.open(sys.argv[1]) as gallery:
    query = gallery.query_model().contract
    vector = np.random.default_rng(0).standard_normal((1, query.dim))
    gallery.search(vector, query)
    print("ready", flush=True)
    while True:
        time.sleep(1)
        gallery.search(vector, query)
"""


def run(folder: Path) -> list[Figure]:
    """Return backfill: images embedded and rows replaced a second."""
    source, model = image_source(folder / "images", IMAGES), demo_model()
    every = Selection(source, np.arange(IMAGES))
    old = Contract(name="old", weights="old", preprocessing=None, dim=DIM)
    rng = np.random.default_rng(2)
    edge = Edge(
        from_contract=model.contract,
        to_contract=old,
        result_digest="0" * 64,
        threshold=0.5,
        far=1e-3,
    )
    with Gallery.create(folder / "gallery", old) as gallery:
        names = [None] * IMAGES
        gallery.enrol(source.keys(), names, rng.standard_normal((IMAGES, DIM)), old)
        gallery.switch(model.contract, edge)
    pairs = []
    for number in range(TIMES):
        place = folder / f"gallery {number}"
        shutil.copytree(folder / "gallery", place)
        words = [sys.executable, "-c", _CLIENT, str(place)]
        client = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        try:
            if client.stdout is None or client.stdout.readline() != "ready\n":
                raise RuntimeError("the client did not begin to search")
            with Gallery.open(place) as gallery:
                measured = seconds(lambda gallery=gallery: backfill(gallery, model, source))
            if client.poll() is not None:
                raise RuntimeError("the client stopped searching")
        finally:
            client.kill()
            client.communicate()
        pairs.append((measured, seconds(lambda: embed_source(model, every))))
        shutil.rmtree(place)
    return [rate_figure("backfill", "images/s", pairs, IMAGES)]
