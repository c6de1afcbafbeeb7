"""The recipe: one TOML file that says everything about a training run.

A recipe is parsed into frozen, strict models: an unknown key, a value of the wrong type or
out of range is an error that names the key, the file and what is allowed. Paths are taken
relative to the folder in which the command runs. `extends = "base.toml"` takes another recipe,
beside this one, as the ground on which this one's keys are laid. `method.ratio=0.5` style
overrides apply before the recipe is checked; `method.ratio=` takes a key out. Every field below is
read by the trainer; a test holds that.
"""

import hashlib
import operator
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mixbct.errors import RecipeError
from mixbct.reading import parse_toml
from mixbct.recipe_parsing import read_extended, settings_of, variant_of
from mixbct.schemas.model import Preprocessing
from mixbct.schemas.record import absent

_NO_TEXT = re.compile("[\0\ud800-\udfff]")


class Settings(BaseModel):
    """Base of every section."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Place = Annotated[Path, Field(strict=False)]
"""A file or folder, written as text."""


class DataSettings(Settings):
    """What is trained on."""

    path: Place = Field(description="a folder of class folders, an image array, or a feature bank")
    split: Place | None = Field(None, description="a split folder; none: every row")
    part: str = Field("new_train", description="which part of the split")
    shift: int = Field(0, ge=0, le=1024, description="random shift of up to so many pixels")
    flip: bool = Field(False, description="random horizontal flip")


class ModelSettings(Settings):
    """The backbone, over images, or over the vectors of a feature bank."""

    backbone: str = Field("small", description="a name of mixbct.backbones, or package.module:f")
    dim: int = Field(128, gt=0, le=65_536, description="dimension of the embedding")
    size: int = Field(32, gt=0, le=16_384, description="input height and width in pixels")
    channels: Literal[1, 3] = Field(3, description="1: grey, 3: RGB")
    options: dict[str, Annotated[int, Field(ge=-(2**63), lt=2**63)] | float | str | bool] = {}
    """Passed to the backbone by name."""
    start: Literal["auto", "procrustes", "ridge", "random"] = "auto"
    """Of a backbone over vectors, where there is an old bank."""

    def preprocessing(self) -> Preprocessing:
        """Return how images become this model's input."""
        return Preprocessing(size=self.size, channels=self.channels)


class ArcFaceSettings(Settings):
    """Additive angular margin (Deng et al., CVPR 2019)."""

    name: Literal["arcface"]
    scale: float = Field(64.0, gt=0, description="s, that cosines are multiplied by")
    margin: float = Field(0.5, ge=0, lt=1.5707, description="radians")
    sample: float = Field(1.0, gt=0, le=1, description="share of the classes a step looks at")


class CosFaceSettings(Settings):
    """Additive cosine margin (Wang et al., CVPR 2018)."""

    name: Literal["cosface"]
    scale: float = Field(64.0, gt=0, description="s, that cosines are multiplied by")
    margin: float = Field(0.4, ge=0, lt=1, description="taken from the right cosine")
    sample: float = Field(1.0, gt=0, le=1, description="share of the classes a step looks at")


class SoftmaxSettings(Settings):
    """A linear classifier with bias over features that are not normalised."""

    name: Literal["softmax"]


class IndependentSettings(Settings):
    """Classification alone: the old model, or the new one that ignores it."""

    name: Literal["independent"]


class CompatibleSettings(Settings):
    """Base of the methods that look at the old model."""

    bank: Place = Field(description="the old model's feature bank")
    label_map: Place | None = None
    """Lines of an old class, a tab, its training class."""
    query_map: Literal["prefix", "projection"] | None = None
    """How new features meet old ones of another dimension."""
    whiten: float | None = Field(None, gt=0, le=1, exclude_if=absent)
    """Compare with old features behind their whitening, with this share of shrinkage."""
    full_weight: float = Field(0.1, ge=0)
    """With a query map: w, of the full features' classification loss."""


class L2Settings(CompatibleSettings):
    """L2 regression of each new feature to its old one."""

    name: Literal["l2"]
    weight: float = Field(10.0, ge=0, description="λ")
    squared: bool = False
    """d² in the place of the distance d."""


class WeakenedL2Settings(CompatibleSettings):
    """L2 regression with a slack."""

    name: Literal["weakened_l2"]
    weight: float = Field(10.0, ge=0, description="λ")
    slack: float = Field(0.2, ge=0, description="δ: a distance that costs nothing")


class BCTSettings(CompatibleSettings):
    """BCT (Shen et al., CVPR 2020)."""

    name: Literal["bct"]
    old_model: Place | None = Field(None, description="its folder, for the old class weights")
    weight: float = Field(1.0, ge=0, description="of the influence loss")
    scaled: bool = Field(True, description="false: cosines without the head's scale")


class UniBCTSettings(CompatibleSettings):
    """UniBCT (Zhang et al., IJCAI 2022)."""

    name: Literal["unibct"]
    weight: float = Field(1.0, ge=0, description="of the influence loss")
    spread: float = Field(0.9, ge=0, lt=1, description="λ: how far old features move")
    temperature: float = Field(0.05, gt=0, description="τ of the graph")
    graph: Literal["rows", "columns"] = "rows"
    """Softmax of the affinities over rows, or over columns as in the published code."""
    refresh: list[Annotated[int, Field(ge=0)]] = [1, 5, 10, 20]
    """Epochs, from 0, before which P is refined anew."""
    start: int = Field(0, ge=0, description="the epoch at which the influence loss begins")


class NCCLSettings(CompatibleSettings):
    """NCCL (Wu et al., AAAI 2022)."""

    name: Literal["nccl"]
    queue: int = Field(8192, gt=0, le=2**24, description="old features to contrast with")
    temperature: float = Field(1.0, gt=0, description="τ")
    weight: float = Field(1.0, ge=0, description="a, of the contrast of features")
    logit_weight: float = Field(0.01, ge=0, description="b, of the contrast of logits")


class AdvBCTSettings(CompatibleSettings):
    """AdvBCT (Pan et al., CVPR 2023)."""

    name: Literal["advbct"]
    threshold: float = Field(0.4, ge=0, le=2, description="t, towards which boundaries stretch")
    boundary_weight: float = Field(4.0, ge=0, description="of the distance beyond a boundary")
    adversarial_weight: float = Field(4.0, ge=0, description="at first; it fades to 2/epochs of it")
    mean_over: Literal["batch", "outside"] = "batch"
    """What the boundary loss is divided by: all rows, or those outside as in the published code."""


class MixBCTSettings(CompatibleSettings):
    """MixBCT (Liang et al., arXiv 2308.06948)."""

    name: Literal["mixbct"]
    draw: Literal["replace", "skip", "bank"] = "bank"
    """Old rows in the place of forwarded images, of images that are not read, or beside all."""
    ratio: float = Field(0.3, ge=0, lt=1, description="α: old rows as a share of the mixed batch")
    old_weight: float | None = Field(None, gt=0)
    """Of the old rows' mean beside the new rows'; none: one mean of all."""
    contrast: float = Field(0.0, ge=0, description="weight of the contrast with old rows; 0: none")
    temperature: float = Field(0.05, gt=0, description="τ of the contrast")
    partner: Literal["class", "own"] = "class"
    """Of the contrast: an old row of an image's class, or the image's own."""
    negatives: int = Field(1024, ge=0, le=2**20, description="old rows contrasted beside partners")
    readout: float = Field(0.0, ge=0, exclude_if=operator.not_)
    """With a contrast: weight of reading each partner off its new feature by a linear map."""
    gallery_map: Literal["projection"] | None = Field(None, exclude_if=absent)
    """Old rows go through a linear map, too, trained along; it begins as the identity."""


class SGDSettings(Settings):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"]
    lr: float = Field(0.1, gt=0, description="learning rate at the start")
    momentum: float = Field(0.9, ge=0, lt=1)
    """Share of the last step that is kept."""
    weight_decay: float = Field(5e-4, ge=0, description="added to the gradient, times the weight")


class AdamWSettings(Settings):
    """Adam with decoupled weight decay."""

    name: Literal["adamw"]
    lr: float = Field(1e-3, gt=0, description="learning rate at the start")
    weight_decay: float = Field(0.05, ge=0, description="taken from the weight itself")


BY_NAME = Field(discriminator="name")
HeadSettings = Annotated[ArcFaceSettings | CosFaceSettings | SoftmaxSettings, BY_NAME]
OptimizerSettings = Annotated[SGDSettings | AdamWSettings, BY_NAME]
OfFeatures = IndependentSettings | L2Settings | WeakenedL2Settings | AdvBCTSettings
OfCosines = BCTSettings | UniBCTSettings | NCCLSettings | MixBCTSettings
"""Methods that mix old and new features, or hold both against class weights."""
MethodSettings = Annotated[OfFeatures | OfCosines, BY_NAME]


class TrainSettings(Settings):
    """The loop."""

    epochs: int = Field(gt=0, le=1_000_000, description="passes over the training part")
    batch: int = Field(128, gt=1, description="images a step, of all processes together")
    power: float = Field(1.0, gt=0, description="of the polynomial decay of the learning rate")
    warmup_steps: int = Field(0, ge=0, description="over which the learning rate rises from 0")
    clip: float | None = Field(5.0, gt=0, description="largest norm of the backbone's gradient")
    checkpoint_every: int = Field(0, ge=0, description="steps; 0: only when stopped")
    stop_after: int | None = Field(None, gt=0, description="stop, saved, after so many steps")
    device: str = "cpu"
    """`cpu`, `cuda` or `cuda:0`, as torch names it."""
    threads: int | None = Field(None, gt=0, le=1024, description="part of bit-exactness")
    shared_statistics: bool = Field(False, exclude_if=operator.not_)
    """Batch normalisation over the rows of all processes, not of each."""
    precision: Literal["float32", "float64", "bf16"] = "float32"
    """With float64 the figures are the same on any machine; it is slow on most GPUs. With bf16 the
    backbone multiplies in bfloat16; features, head and weights are float32."""
    compile: bool = Field(False, exclude_if=operator.not_)
    """Let torch compile the backbone: minutes at the start, faster steps."""


class Recipe(Settings):
    """A training run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="of the run's folder")
    seed: int = Field(0, ge=0, lt=2**63, description="of everything that is random")
    data: DataSettings
    model: ModelSettings = ModelSettings()
    head: HeadSettings
    method: MethodSettings
    optimizer: OptimizerSettings
    train: TrainSettings

    def to_json(self) -> str:
        """Return the recipe as indented JSON."""
        return self.model_dump_json(indent=1) + "\n"

    def digest(self) -> str:
        """Return what must not change between a run and its resumption; a device may."""
        free = {"train": {"stop_after", "checkpoint_every", "device"}}
        return hashlib.sha256(self.model_dump_json(exclude=free).encode()).hexdigest()

    @model_validator(mode="after")
    def _mixing_needs_a_cosine(self) -> "Recipe":
        if isinstance(self.method, OfCosines) and isinstance(self.head, SoftmaxSettings):
            raise ValueError(
                f"method {self.method.name!r} mixes old and new features, or holds both against "
                "class weights, so its head must normalise them: set head.name to 'arcface' or "
                "'cosface'"
            )
        return self


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe from TOML, with those that it extends, and apply `key=value` overrides.

    Args:
        path: the TOML file.
        overrides: such as `train.epochs=3` or `data.path=photos`. A value is read as TOML,
            and as a plain string where it is not valid TOML.

    Raises:
        RecipeError: the file, or one that it extends, is missing or not TOML; recipes extend each
            other in a circle; a key is unknown, a value not allowed.
    """
    return parse_recipe(*read_overridden(path, overrides))


def read_overridden(path: Path, overrides: list[str] | None = None) -> tuple[dict[str, Any], str]:
    """Return a recipe as a dictionary, see `load_recipe`, and what names it in errors."""
    content, files = read_extended(path)
    bases = f" (with {', '.join(map(str, files[1:]))})" if len(files) > 1 else ""
    return apply_overrides(content, overrides or []), f"{path}{bases}"


def parse_recipe(content: dict[str, Any], origin: str) -> Recipe:
    """Check a recipe that is already a dictionary; `origin` names it in errors."""
    return settings_of(Recipe, content, f"{origin} is not a valid recipe")


def apply_overrides(content: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Set each `key=value` in a recipe that is still a dictionary, and return it.

    `key=` takes the key out. Where a section gets another `name`, which comes before all else, keys
    that mean nothing to that name are taken out.

    Raises:
        RecipeError: an override is not key=value, or names a value where a section is expected.
    """
    for override in sorted(overrides, key=lambda text: not _split(text)[0].endswith(".name")):
        key, text = _split(override)
        *folders, last = key.split(".")
        table = content
        for folder in folders:
            table = table.setdefault(folder, {})
            if not isinstance(table, dict):
                raise RecipeError(f"--set {override!r}: {folder!r} is a value, not a section")
        if not text:
            table.pop(last, None)
            continue
        try:
            table[last] = parse_toml(f"value = {text}")["value"]
        except ValueError:
            table[last] = text
        if folders and last == "name" and (known := _known_keys(folders[-1], table["name"])):
            for unknown in table.keys() - known:
                del table[unknown]
    return content


def _split(override: str) -> tuple[str, str]:
    key, separator, text = override.partition("=")
    if not separator or not key.strip() or _NO_TEXT.search(override):
        raise RecipeError(f"--set {override!r}: expected key=value in UTF-8, as in train.epochs=3")
    return key.strip(), text


def _known_keys(section: str, name: object) -> set[str]:
    """Return the keys of a section that goes by a name; none where nothing goes by it."""
    variant = variant_of(getattr(Recipe.model_fields.get(section), "annotation", None), name)
    return set(variant.model_fields) if variant else set()
