"""The methods, by the name that a recipe gives them."""

from collections.abc import Mapping

from mixbct.methods.advbct import AdvBCT
from mixbct.methods.bct import BCT
from mixbct.methods.independent import Independent
from mixbct.methods.l2 import L2
from mixbct.methods.method import Features, Method, OldRows, Progress, StepPlan, Task
from mixbct.methods.mixbct import MixBCT
from mixbct.methods.nccl import NCCL
from mixbct.methods.unibct import UniBCT

METHODS: Mapping[str, type[Method]] = {
    "independent": Independent,
    "l2": L2,
    "weakened_l2": L2,
    "bct": BCT,
    "unibct": UniBCT,
    "nccl": NCCL,
    "advbct": AdvBCT,
    "mixbct": MixBCT,
}

__all__ = ["METHODS", "Features", "Method", "OldRows", "Progress", "StepPlan", "Task"]
