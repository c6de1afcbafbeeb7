"""What is known of a gallery in one state, and what is asked of a database that keeps it."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from mixbct.gallery.records import Switch
from mixbct.schemas.contract import Contract
from mixbct.schemas.linear_map import LinearMap


class State(NamedTuple):
    """A committed state; the token tells histories after one backup apart."""

    revision: int
    token: str


class Known(NamedTuple):
    """A contract that was recorded: its rows are in `rows_{number}`."""

    number: int
    contract: Contract
    rows: int

    @property
    def table(self) -> str:
        """The table of its rows."""
        return f"rows_{self.number}"


class Asked(NamedTuple):
    """What is asked of a search (`Snapshot.search`), of at most as many hits as rows."""

    known: Known
    queries: Float32[np.ndarray, "q d"]
    k: int
    side: LinearMap | None


class Facts(NamedTuple):
    """What is known of the gallery in one state."""

    state: State
    searched_by: str
    contracts: dict[str, Known]
    """By id."""
    switches: list[Switch]
    derived: dict[tuple[int, str], Any]
    """What a database keeps that is made of rows, by contract's number and digest of the side."""
