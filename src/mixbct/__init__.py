"""Upgrade an embedding model without re-indexing.

The names below are the public surface; each is imported from its module when it is first used.
"""

import os
from importlib import import_module
from importlib.metadata import version
from typing import Any

__version__ = version("mixbct")

# read when NumPy is first imported: its threads would stay awake for 30 ms after a product, on the
# cores that torch's need next
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")

_HOME = {
    "ADAPTERS": "mixbct.adapters",
    "EmbeddingModel": "mixbct.backbones.model",
    "FeatureBank": "mixbct.data.bank",
    "Gallery": "mixbct.gallery",
    "METHODS": "mixbct.methods",
    "MixbctError": "mixbct.errors",
    "denoise": "mixbct.features.denoise",
    "edge_from": "mixbct.evaluation.gate",
    "embed_source": "mixbct.features.extract",
    "evaluate_models": "mixbct.workflows.evaluate",
    "extract": "mixbct.features.extract",
    "judge": "mixbct.evaluation.gate",
    "load_model": "mixbct.backbones.model",
    "load_recipe": "mixbct.recipe",
    "make_split": "mixbct.data.split",
    "open_rows": "mixbct.workflows.rows",
    "open_source": "mixbct.data",
    "train": "mixbct.training.run",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mixbct' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
