"""Maps fitted after training, from one model's space into another's."""

from collections.abc import Mapping
from pathlib import Path

from mixbct.adapters.adapter import Adapter, LinearAdapter
from mixbct.adapters.mlp import ResidualMLP
from mixbct.adapters.procrustes import Procrustes
from mixbct.adapters.ridge import Ridge
from mixbct.errors import ModelError

ADAPTERS: Mapping[str, type[Adapter]] = {
    "procrustes": Procrustes,
    "ridge": Ridge,
    "mlp": ResidualMLP,
}

LINEAR_ADAPTERS: Mapping[str, type[LinearAdapter]] = {"procrustes": Procrustes, "ridge": Ridge}
"""Those that a model can carry as its query map."""


def load_adapter(path: Path) -> Adapter:
    """Read a fitted map of any kind; its arrays say which.

    Raises:
        ModelError: the file is missing, damaged, or no map of a kind in `ADAPTERS`.
    """
    problems = []
    for kind in ADAPTERS.values():
        try:
            return kind.load(path)
        except ModelError as error:
            problems.append(str(error))
    raise ModelError("; ".join(dict.fromkeys(problems)))
