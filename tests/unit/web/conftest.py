"""A gallery of images, two models and an edge between them, behind the application."""

import contextlib
import socket
import threading

import numpy as np
import pytest
import torch
import uvicorn
from fastapi.testclient import TestClient
from PIL import Image

from mixbct.backbones.model import build_backbone, contract_of, load_model, save_model
from mixbct.data import open_source
from mixbct.features.extract import embed_source
from mixbct.gallery import Gallery
from mixbct.schemas.calibration import Calibration
from mixbct.schemas.gate import Edge
from mixbct.schemas.model import ModelManifest, Preprocessing
from mixbct.web.app import make_app
from mixbct.web.encoders import Encoders, Pictures
from mixbct.web.observed import HitCounts, Observed
from mixbct.web.server import Bounded
from mixbct.web.serving import Serving

PREPROCESSING = Preprocessing(size=32, channels=1)
HERE = "http://127.0.0.1:8000"


def save_small_model(path, seed):
    torch.manual_seed(seed)
    backbone = build_backbone("small", 8, PREPROCESSING, {"width": 2})
    contract = contract_of(path.name, backbone, PREPROCESSING, 8)
    manifest = ModelManifest(backbone="small", options={"width": 2}, contract=contract)
    save_model(path, manifest, backbone)
    return load_model(path)


class Made:
    """Models `old` and `new`, the source of images, vectors of `old`, and the edge."""

    def __init__(self, folder):
        self.folder, self.models = folder, folder / "models"
        self.models.mkdir()
        self.old = save_small_model(self.models / "old", 1)
        self.new = save_small_model(self.models / "new", 2)
        rng = np.random.default_rng(0)
        for name in range(4):
            (folder / "data" / f"class{name}").mkdir(parents=True)
            for i in range(3):
                pixels = rng.integers(0, 256, (40, 60), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "data" / f"class{name}" / f"{i}.png")
        self.source = open_source(folder / "data", PREPROCESSING)
        self.vectors = {m.contract.name: embed_source(m, self.source) for m in (self.old, self.new)}
        counts = Calibration(
            pairs=1000, classes=4, scores=(-1.0, 0.0, 1.0), accepted=(1000, 300, 1)
        )
        self.edge = Edge(
            from_contract=self.new.contract,
            to_contract=self.old.contract,
            result_digest="0" * 64,
            threshold=0.5,
            far=0.1,
            old_queries=0.5,
            calibrations=dict.fromkeys(("new/old", "new/new", "old/old", "new+old/old"), counts),
        )
        (folder / "edge.json").write_text(self.edge.to_json())

    def image(self, key):
        return (self.folder / "data" / key).read_bytes()

    def fill(self, gallery):
        """Enrol every image by the old model."""
        labels = [self.source.classes()[label] for label in self.source.labels()]
        gallery.enrol(self.source.keys(), labels, self.vectors["old"], self.old.contract)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("web"))


@pytest.fixture
def gallery(made, tmp_path):
    with Gallery.create(tmp_path / "gallery", made.old.contract, made.models / "old") as opened:
        made.fill(opened)
        yield opened


@pytest.fixture
def serving_of(made):
    def make(gallery, count=None, both=False):
        return Serving(
            gallery,
            Encoders(gallery),
            Pictures(made.folder / "data"),
            Observed(),
            HitCounts(count),
            both,
            made.models,
        )

    return make


@pytest.fixture
def client_of(serving_of):
    """Return a client of a gallery's server, which is let go of at the test's end."""
    opened = []

    def make(gallery, token=None, **settings):
        app = make_app(serving_of(gallery, **settings), token)
        client = TestClient(app, base_url=HERE)
        client.__enter__()
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def client(client_of, gallery):
    return client_of(gallery)


@pytest.fixture
def upgrade(made):
    """Switch a server to the new model."""

    def switch(client, **more):
        asked = {"model": "new", "edges": [made.edge.model_dump(mode="json")]}
        return client.post("/v1/upgrade/apply", json=asked, **more)

    return switch


@pytest.fixture
def serve(serving_of):
    """Serve a gallery on a port of its own, in a thread; return the address."""
    with contextlib.ExitStack() as stack:

        def start(gallery, token=None, **settings):
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            app = make_app(serving_of(gallery, **settings), token)
            config = uvicorn.Config(app, http=Bounded, log_config=None, access_log=False, ws="none")
            server = uvicorn.Server(config)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
            thread.start()
            stack.callback(thread.join)
            stack.callback(setattr, server, "should_exit", True)
            return f"http://127.0.0.1:{listening.getsockname()[1]}"

        yield start
