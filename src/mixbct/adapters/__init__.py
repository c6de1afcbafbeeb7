"""Maps fitted after training, from one model's space into another's."""

from collections.abc import Mapping

from mixbct.adapters.procrustes import Procrustes

ADAPTERS: Mapping[str, type[Procrustes]] = {
    "procrustes": Procrustes,
}
