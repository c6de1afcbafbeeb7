"""What the face protocols print as JSON: figures of pairs and of IJB, a layout's counts."""

from typing import Literal

from pydantic import Field

from mixbct.schemas.model import Contract
from mixbct.schemas.record import Count, Document, Record, now
from mixbct.schemas.result import Curve, Share


class RatePoint(Record):
    """What is accepted at one threshold: TAR at a FAR (1:1), or TPIR at an FPIR (1:N)."""

    wanted: Share = Field(description="the FAR or FPIR asked for")
    measured: Share = Field(description="the FAR or FPIR at the threshold")
    rate: Share = Field(description="the TAR or TPIR at the threshold")
    threshold: float = Field(description="accept a score above this")
    resolved: bool = Field(description="false where there are fewer than 1/wanted impostors")


class Verification(Record):
    """1:1 figures over genuine and impostor pairs."""

    genuine_pairs: Count
    impostor_pairs: Count
    auc: Share = Field(description="area under the ROC curve; ties count one half")
    points: tuple[RatePoint, ...]
    """The largest TAR whose measured FAR does not exceed the wanted one."""
    nearest_points: tuple[RatePoint, ...]
    """The TAR at the measured FAR nearest to the wanted one, as in published code."""
    roc: Curve = Field(description="TAR (y) over FAR (x)")


class Fold(Record):
    """One fold: the threshold is the best one of the others."""

    threshold: float = Field(description="accept a score above this")
    accuracy: Share


class GallerySearch(Record):
    """1:N figures of all probes against one gallery."""

    gallery: str
    templates: Count
    mated_probes: Count
    non_mated_probes: Count
    points: tuple[RatePoint, ...] = Field(description="TPIR at FPIR; FPIR of non-mated probes")
    ranks: dict[str, Share] = Field(description="rank-k → share of mated probes")


class Identification(Record):
    """1:N figures: each gallery's, and over both."""

    galleries: tuple[GallerySearch, ...]
    tpir: dict[str, Share] = Field(description="TPIR@FPIR, the mean over the galleries")
    ranks: dict[str, Share] = Field(description="rank-k, pooled over the galleries' mated probes")


class ProtocolResult(Document):
    """What every protocol's result says: one set under one combination of models."""

    created: str = Field(default_factory=now)
    versions: dict[str, str]
    data: dict[str, str | int]
    models: dict[str, Contract]
    """By side: gallery (also the first of a pair), query (also the probes)."""
    flip: bool = Field(description="features were summed with those of the flipped image")
    bridge: str | None = None
    """Digest of the bridge that the two sides were compared through."""
    verification: Verification


class PairsResult(ProtocolResult):
    """A verification set: accuracy over folds."""

    kind: Literal["pairs"] = "pairs"
    accuracy: Share = Field(description="mean over the folds")
    accuracy_deviation: float = Field(description="standard deviation over the folds")
    folds: tuple[Fold, ...]


class IjbResult(ProtocolResult):
    """IJB-B, IJB-C or a set laid out like them."""

    kind: Literal["ijb"] = "ijb"
    identification: Identification


class LayoutCounts(Record):
    """What `mixbct data ijb-layout` wrote."""

    images: Count
    subjects: Count
    galleries: tuple[Count, Count] = Field(description="templates, one a subject, of G1 and G2")
    probes: Count = Field(description="probe templates")
    genuine_pairs: Count
    impostor_pairs: Count
