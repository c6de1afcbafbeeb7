"""What an evaluation of several generations writes: a matrix of query and gallery versions."""

from typing import Literal

from pydantic import Field

from mixbct.schemas.model import Contract
from mixbct.schemas.record import Document, Record, now
from mixbct.schemas.result import DifferenceEstimate, Share, ShareEstimate, Standings


class VersionPair(Record):
    """One version's queries against a gallery of the same or of an earlier one."""

    query: int = Field(gt=0, description="version, counted from 1")
    gallery: int = Field(gt=0, description="version, at most `query`")
    metrics: dict[str, ShareEstimate]
    gains: dict[str, DifferenceEstimate]
    """M(query, gallery) − M(gallery, gallery), paired; none on the diagonal."""

    def compatible(self, metric: str) -> bool:
        """Return whether M(query, gallery) > M(gallery, gallery), the criterion of the field."""
        return self.gains[metric].value > 0


class Summary(Record):
    """What one metric says over all versions 1 … T (Biondi et al., "CoReS", TPAMI 2023)."""

    compatible: Share
    """Share of the T(T − 1)/2 pairs i > j with M(i, j) > M(j, j)."""
    surely_compatible: Share
    """Share of them whose paired difference has its whole interval above 0."""
    mean_cross: ShareEstimate = Field(description="mean of M(i, j) over the pairs i > j")
    mean: ShareEstimate = Field(description="mean of M(i, j) over the T(T + 1)/2 pairs i ≥ j")


class GenerationsResult(Document):
    """Every version against the gallery of every earlier one."""

    kind: Literal["generations"] = "generations"
    created: str = Field(default_factory=now)
    versions: dict[str, str]
    seed: int
    data: dict[str, str | int]
    models: tuple[Contract, ...] = Field(description="version 1 first")
    mapped: tuple[bool, ...]
    """Whether a version's queries reach the version before through a bridge."""
    trained_apart: Standings = Field({})
    """By version: v1, v2, …"""
    pairs: tuple[VersionPair, ...]
    summary: dict[str, Summary] = Field(description="by metric")

    def pair(self, query: int, gallery: int) -> VersionPair:
        """Return the pair of two versions, counted from 1, `gallery` at most `query`."""
        return next(p for p in self.pairs if (p.query, p.gallery) == (query, gallery))
