"""The methods, by the name that a recipe gives them."""

from collections.abc import Callable, Mapping
from typing import Any

from mixbct.methods.independent import Independent
from mixbct.methods.method import Features, Method, OldRows, StepPlan, Task
from mixbct.methods.mixbct import MixBCT

METHODS: Mapping[str, Callable[[Any, Task], Method]] = {
    "independent": Independent,
    "mixbct": MixBCT,
}

__all__ = ["METHODS", "Features", "Method", "OldRows", "StepPlan", "Task"]
