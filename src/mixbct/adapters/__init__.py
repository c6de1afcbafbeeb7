"""Maps fitted after training, from one model's space into another's."""

from collections.abc import Mapping

from mixbct.adapters.adapter import Adapter, LinearAdapter
from mixbct.adapters.mlp import ResidualMLP
from mixbct.adapters.procrustes import Procrustes
from mixbct.adapters.ridge import Ridge

ADAPTERS: Mapping[str, type[Adapter]] = {
    "procrustes": Procrustes,
    "ridge": Ridge,
    "mlp": ResidualMLP,
}

LINEAR_ADAPTERS: Mapping[str, type[LinearAdapter]] = {"procrustes": Procrustes, "ridge": Ridge}
"""Those that a model can carry as its query map."""
