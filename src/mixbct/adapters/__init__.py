"""Maps fitted after training, from one model's space into another's."""

from collections.abc import Mapping

from mixbct.adapters.adapter import Adapter
from mixbct.adapters.mlp import ResidualMLP
from mixbct.adapters.procrustes import Procrustes
from mixbct.adapters.ridge import Ridge

ADAPTERS: Mapping[str, type[Adapter]] = {
    "procrustes": Procrustes,
    "ridge": Ridge,
    "mlp": ResidualMLP,
}
