"""An encoder of texts: `package.module:factory`, or a sentence-transformers model.

A factory is called without arguments and gives `list[str] → float32 [n, d]`. Naming it runs its
code, which is the person's own word on a command line; no file names one.
"""

import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from mixbct.backbones.model import import_factory, weights_digest
from mixbct.data.foreign_bank import declared_contract
from mixbct.data.source import Texts
from mixbct.errors import ModelError, not_ending
from mixbct.reading import failing_as, needing_extra

SENTENCES = "sentence-transformers"
Encode = Callable[[list[str]], Any]


class TextEncoder:
    """What a factory gave, with the contract of its vectors.

    Args:
        name: `package.module:factory`, or `sentence-transformers:MODEL`, a folder or a name of the
            hub's.
        contract: a declared name for what it makes; None: NAME@VERSION. The version is what the
            encoder says (`.version`), or else its module (`__version__`), or else the package
            that was installed; of a sentence-transformers model it is a digest of weights,
            pooling, vocabulary and longest text.
        device: of a sentence-transformers model; a factory chooses for itself.

    Raises:
        ModelError: it cannot be imported or fails, or nothing tells its version.
    """

    def __init__(self, name: str, contract: str | None = None, device: str = "cpu") -> None:
        module, _, model = name.partition(":")
        told: str | None
        self._name = name
        if module == SENTENCES:
            self._encode, told = _sentences(model, device)
            name = f"{module}:{Path(model).name}"
        else:
            self._encode, told = _made(name, module)
        if contract is None and told is None:
            raise ModelError(
                f"nothing tells which version of {name} this is: give its module a __version__ "
                "that changes whenever the vectors do, or name the contract (--contract)"
            )
        found = self._vectors(["dimension"])
        self.contract = declared_contract(contract or f"{name}@{told}", found.shape[1])

    def embed(self, texts: Texts) -> Float32[np.ndarray, "n d"]:
        """Return the raw vectors of texts.

        Raises:
            ModelError: the encoder fails, or gives something else.
        """
        return self._vectors(texts.tolist(), self.contract.dim)

    def _vectors(self, texts: list[str], dim: int | None = None) -> Float32[np.ndarray, "n d"]:
        said = f"the encoder {self._name}"
        with not_ending(said), failing_as(ModelError, f"{said} fails"):
            found = np.asarray(self._encode(texts), dtype=np.float32)
        if found.ndim != 2 or found.shape != (len(texts), dim or found.shape[1]) or not found.size:
            raise ModelError(
                f"the encoder {self._name} gave {list(found.shape)} for {len(texts)} texts, "
                f"expected [{len(texts)}, {dim or 'dimensions'}]"
            )
        return found


def _made(name: str, module: str) -> tuple[Encode, str | None]:
    """Return what a factory makes, and its version where something tells it."""
    package = module.partition(".")[0]
    with failing_as(ModelError, f"the encoder factory {name!r} cannot be imported"):
        there = importlib.util.find_spec(package)
    if there is None:
        sys.path.append(str(Path.cwd()))  # a module of the person's own that is not installed
    factory = import_factory(name, "encoder")
    said = f"the encoder factory {name!r}"
    with not_ending(said), failing_as(ModelError, f"{said} fails"):
        encode: Encode = factory()
    if not callable(encode):
        raise ModelError(f"{said} gave {encode!r:.80}, no list[str] → vectors")
    told = getattr(encode, "version", None)
    told = told or getattr(sys.modules[module], "__version__", None)
    told = told or next(map(version, packages_distributions().get(package, ())), None)
    return encode, None if told is None else str(told)


def _sentences(model: str, device: str) -> tuple[Encode, str]:
    """Return a sentence-transformers model's encoding, and a digest of what decides its vectors."""
    with needing_extra("text", SENTENCES, ModelError):
        from sentence_transformers import SentenceTransformer
    with failing_as(ModelError, f"{SENTENCES} cannot load {model!r}"):
        loaded = SentenceTransformer(model, device=device)
        weights = {f"{number:06}": each for number, each in enumerate(loaded.parameters())}
        pooling = [str(each.pooling_mode) for each in loaded if hasattr(each, "pooling_mode")]
        tokenizer = getattr(loaded.tokenizer, "backend_tokenizer", None)
        words = tokenizer.to_str() if tokenizer else sorted(loaded.tokenizer.get_vocab().items())
        modules = [type(each).__name__ for each in loaded]
        prompts = loaded.prompts, loaded.default_prompt_name
        decides = weights_digest(weights), pooling, modules, words, loaded.max_seq_length, prompts
    digest = hashlib.sha256(json.dumps(decides).encode()).hexdigest()
    return partial(loaded.encode, show_progress_bar=False), digest[:16]
