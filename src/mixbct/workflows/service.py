"""What the command line and the server both do with a gallery beyond its own methods."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from mixbct.backbones.model import EmbeddingModel, load_model, read_manifest
from mixbct.data import holds_vectors
from mixbct.data.bank import FeatureBank, normalise
from mixbct.errors import ContractError, GalleryError
from mixbct.gallery import Gallery, Hits
from mixbct.gallery.records import QueryModel, UpgradePlan
from mixbct.gallery.rules import check_dimension
from mixbct.gallery.search import search
from mixbct.gallery.store import Tick
from mixbct.schemas.contract import Contract
from mixbct.schemas.gate import Edge


def load_query_model(
    gallery: Gallery, device: str, model: QueryModel | None = None, trust_code: bool = False
) -> EmbeddingModel:
    """Load a model from the folder that the gallery remembers.

    What is there is compared by its manifest first: nothing of another model is loaded.

    Args:
        gallery: it remembers.
        device: where the model computes.
        model: which; None: the query model.
        trust_code: see `load_model`.

    Raises:
        GalleryError: the gallery knows no folder, or it is gone.
        ContractError: another model is there now.
    """
    query = model or gallery.query_model()
    what = "query model"
    tell = f"tell where it is with `mixbct upgrade apply {gallery.place} MODEL`"
    if query.contract.id != gallery.query_model().contract.id:
        what, tell = "old model", "name its folder with --old-model"
    if query.folder is None or not query.folder.is_dir():
        place = f"is no longer at {query.folder}" if query.folder else "has no known folder"
        raise GalleryError(
            f"the {what} {query.contract} {place}; {tell}, or give its vectors in place of images"
        )
    _, manifest = read_manifest(query.folder)
    if manifest.contract.id != query.contract.id:  # before anything of the folder is loaded
        raise ContractError(
            f"{query.folder} now holds {manifest.contract}, not the {what} {query.contract}; {tell}"
        )
    return load_model(query.folder, device, trust_code)


def asked_model(model: Path | None, edges: Sequence[Edge]) -> tuple[Contract, Path | None]:
    """Return the contract of a model folder, or a bank, or what edges lead from; and the folder.

    Raises:
        GalleryError: neither is given.
        ModelError: there is no model.
    """
    if model is not None and holds_vectors(model):
        return FeatureBank(model).manifest.contract, None
    if model is not None:
        folder, manifest = read_manifest(model)
        return manifest.contract, folder
    if not edges:
        raise GalleryError("give the new query model's folder, or an edge that leads from it")
    return edges[0].from_contract, None


def apply_upgrade(
    gallery: Gallery,
    contract: Contract,
    folder: Path | None,
    edges: Sequence[Edge],
    progress: Tick | None = None,
) -> UpgradePlan:
    """Switch the query model once all that its searches need is built; return what was planned.

    Raises:
        ContractError: see `Gallery.switch`.
    """
    plan = gallery.plan(contract, *edges)
    gallery.prepare(contract, *edges, progress=progress)
    gallery.switch(contract, *edges, model=folder)
    return plan


def search_as(
    gallery: Gallery,
    vectors: Float[np.ndarray, "q d"],
    contract: Contract,
    k: int,
    far: float | None,
) -> Hits:
    """Return what another model than the query model finds, for a look at both side by side.

    Only rows of its own and those that a recorded edge leads to from it are searched. What it
    raises is what `Gallery.search` does, but for the switch.
    """
    check_dimension(vectors, contract)
    with gallery.read() as snapshot:
        return search(snapshot, normalise(vectors), contract, k, far, None)
