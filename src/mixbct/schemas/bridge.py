"""The bridge: how one model's queries and another model's stored rows come to be compared.

    score(q, g) = cos(A(q), B(g)),      A(q) = q M + b, and B likewise; either may be absent

Queries go through A, stored rows through B, both are normalised again, and their cosine is the
score. Stored rows are never changed: what they are compared with is derived from them. A bridge
leads one way, from queries under one contract to rows under another, and says so: where it is
used, both are compared with those at hand.
"""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from mixbct.errors import ContractError, ModelError
from mixbct.reading import read_bytes
from mixbct.schemas.contract import Contract
from mixbct.schemas.linear_map import LinearMap
from mixbct.schemas.record import Document, Record, absent, read_record

_LONGEST = 2**30
TRAINED = "trained"
IDENTITY = "identity"


class Candidate(Record):
    """What one kind of bridge reached on items that it was not fitted on."""

    kind: str = Field(description="old/old: the old model alone, as it is deployed")
    shrinkage: float | None = Field(None, exclude_if=absent)
    mean_average_precision: float
    true_accept_rate: float = Field(description="at a false-accept rate of 1e-3")


class BridgeFit(Record):
    """What a bridge was fitted on."""

    items: int
    labelled: bool = Field(description="whether the items' classes were known")
    data: str = Field("", description="where the items came from, for people")
    data_digest: str = ""
    classes: tuple[str, ...] = Field((), exclude_if=lambda found: not found)
    shrinkage: float | None = Field(None, exclude_if=absent)
    candidates: tuple[Candidate, ...] = ()
    """That it was chosen from, each judged on classes left out of its fit."""


class Bridge(Document):
    """A way to compare queries under `source` with stored rows under `target`."""

    file: Literal["bridge"] = "bridge"
    kind: str = Field(description="of the fit; trained: learned with the model")
    source: Contract = Field(description="of the queries: the new model's")
    target: Contract = Field(description="of the stored rows: the old model's")
    query: LinearMap | None = Field(None, description="A; none: queries stay as they are")
    gallery: LinearMap | None = Field(None, description="B; none: rows are compared as stored")
    fit: BridgeFit | None = Field(None, exclude_if=absent)

    @model_validator(mode="after")
    def _sides_meet(self) -> "Bridge":
        sides = ("queries", self.source, self.query), ("stored rows", self.target, self.gallery)
        for side, contract, mapped in sides:
            if mapped and mapped.source_dim != contract.dim:
                raise ValueError(
                    f"its map of {side} takes {mapped.source_dim} dimensions, but {contract} has "
                    f"{contract.dim}"
                )
        reached = [mapped.target_dim if mapped else contract.dim for _, contract, mapped in sides]
        if reached[0] != reached[1]:
            raise ValueError(
                f"queries reach {reached[0]} dimensions and stored rows {reached[1]}: they do not "
                "meet"
            )
        return self

    def __str__(self) -> str:
        """Say what it does to which side."""
        sides = {"queries": self.query, "stored rows": self.gallery}
        mapped = [f"{side} go through a map of {each}" for side, each in sides.items() if each]
        return f"{' and '.join(mapped) or 'both sides stay as they are'} ({self.kind})"

    def problem(self, source: Contract, target: Contract) -> str | None:
        """Return why queries under `source` may not search rows under `target` through this."""
        if (self.source.id, self.target.id) == (source.id, target.id):
            return None
        turned = (self.source.id, self.target.id) == (target.id, source.id)
        what = "was fitted the wrong way round" if turned else "is for other models"
        return (
            f"this bridge {what}: it takes queries by {self.source} to stored rows of "
            f"{self.target}, not queries by {source} to rows of {target}; fit one with `mixbct "
            f"adapt --from` a bank or model folder of {source.name} `--to` one of {target.name}"
        )

    def check(self, source: Contract, target: Contract) -> None:
        """Refuse queries and rows that the bridge does not tie.

        Raises:
            ContractError: it says so, and whether it is the wrong way round.
        """
        if problem := self.problem(source, target):
            raise ContractError(problem)


def load_bridge(path: Path) -> Bridge:
    """Read a bridge's file.

    Raises:
        ModelError: it is missing, damaged, or a map as earlier versions wrote it, which does not
            say what it leads from and to.
    """
    start = read_bytes(path, "bridge", ModelError, _LONGEST)[8:4096]
    if any(f'"{name}":{{"dtype"'.encode() in start for name in ("rotation", "weights")):
        raise ModelError(
            f"{path} is a map of an earlier version, which does not say between which models it "
            "leads: fit it anew with `mixbct adapt --from NEW-BANK --to OLD-BANK --out bridge.json`"
        )
    return read_record(path, Bridge, ModelError, "bridge")


class HadQueryMap(Document):
    """Base of what carries a bridge, and in earlier versions carried a query map instead."""

    @model_validator(mode="before")
    @classmethod
    def _bridge_of_its_query_map(cls, content: Any) -> Any:
        match content:
            case (
                {"query_map": dict(query), "models": {"new": source, "old": target}}
                | {"query_map": dict(query), "from_contract": source, "to_contract": target}
                | {"query_map": {"map": query, "to": target}, "contract": source}
            ):
                rest = {key: value for key, value in content.items() if key != "query_map"}
                bridge = {"kind": TRAINED, "source": source, "target": target, "query": query}
                return rest | {"bridge": bridge}
        return content


def without_numbers(bridge: Bridge) -> str:
    """Return the bridge as JSON for people: everything but the maps' numbers."""
    numbers = {"matrix", "offset"}
    content = bridge.model_dump(mode="json", exclude={"query": numbers, "gallery": numbers})
    return json.dumps(content, indent=1)
