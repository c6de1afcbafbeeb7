"""What a run is given: what its backbone takes, and the old model as the training set sees it.

That is the old bank, and what methods need of it; and a digest of all that must not change.
"""

import difflib
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from mixbct.adapters.whiten import whitening
from mixbct.backbones.model import read_manifest, read_tensors
from mixbct.data.bank import FeatureBank, encoder_of, root_digest
from mixbct.data.source import Rows, Selection, Source, root_of
from mixbct.distributed import ALONE, World
from mixbct.errors import BankError, DataError, FeatureError, ModelError, RecipeError
from mixbct.features.bridged import ReadRows, through
from mixbct.features.prototypes import ClassDirections, class_means, class_stats, prototypes
from mixbct.methods import METHODS, OldRows, Task
from mixbct.methods.method import Need
from mixbct.reading import failing_as, read_lines_of, wrong_line
from mixbct.recipe import BCTSettings, CompatibleSettings, Recipe
from mixbct.schemas.linear_map import LinearMap
from mixbct.schemas.model import Input, OldPart, VectorInput


def open_task(
    recipe: Recipe, source: Source, world: World = ALONE
) -> tuple[FeatureBank | None, Task, OldPart | None]:
    """Return the old bank that a recipe names, exactly what its method needs of it, and how much
    of the bank that is.

    Raises:
        BankError: see `open_old_bank` and `open_old_classifier`.
        ModelError: see `open_old_classifier`.
    """
    labels = source.labels()
    if not isinstance(recipe.method, CompatibleSettings):
        return None, Task(labels, recipe.train.batch, world=world), None
    needs = METHODS[recipe.method.name].needs
    dim = recipe.model.dim if recipe.method.query_map is None else None
    bank, old = open_old_bank(recipe.method.bank, source, dim, needs, recipe.method.label_map)
    if recipe.method.whiten is not None:
        old = whitened(old, bank.manifest.dim, recipe.method.whiten, world)
    directions = stats = None
    if needs & {"prototypes", "class_stats"}:
        means, counts = class_means(old.read, old.labels, len(source.classes()), world)
        directions = prototypes(means, counts) if "prototypes" in needs else None
        if "class_stats" in needs:
            stats = class_stats(old.read, old.labels, means, counts, world)
    weights = None
    if isinstance(recipe.method, BCTSettings) and recipe.method.old_model is not None:
        weights = open_old_classifier(recipe.method.old_model, bank, source, old.gallery_map)
    task = Task(labels, recipe.train.batch, old, directions, stats, weights, world)
    part = _part(bank, old, len(source.classes()))
    if part.classes < part.of_classes or part.training_classes < part.of_training_classes:
        logging.getLogger(__name__).warning("%s", part)
    return bank, task, part


def whitened(old: OldRows, dim: int, shrinkage: float, world: World = ALONE) -> OldRows:
    """Return the old rows behind a whitening that is fitted on those of training classes.

    An old space is seldom good as it lies, and stored vectors can be compared in a better one
    without being changed. A new model that is trained against the whitened rows searches the
    gallery through the same map, which therefore goes into its bridge.

    Args:
        old: the rows as they are.
        dim: their dimension.
        shrinkage: in (0, 1], towards leaving the space as it is.
        world: the processes that share the pass over the rows.

    Raises:
        BankError: the rows do not determine a whitening.
    """
    rows = np.flatnonzero(old.labels >= 0)
    with failing_as(BankError, "method.whiten", FeatureError):
        side = whitening(ReadRows(old.read, rows, dim), old.labels[rows], shrinkage, world)
    return replace(
        old, read=lambda chosen: through(side, old.read(chosen), chosen), gallery_map=side
    )


def open_old_classifier(
    path: Path, bank: FeatureBank, source: Source, behind: LinearMap | None = None
) -> ClassDirections:
    """Return the old model's class weights, as directions, for the training classes it knew.

    They are directions among the old features, and go through the same map as these (`behind`).

    Raises:
        ModelError: it was saved without its classifier, or that cannot be read.
        BankError: it is not the model that the bank came from.
    """
    folder, manifest = read_manifest(path)
    if manifest.contract.id != bank.manifest.contract.id:
        raise BankError(
            f"method.old_model is {manifest.contract}, but the bank {bank.path} came from "
            f"{bank.manifest.contract}: name the model that made the bank, or leave "
            "method.old_model out"
        )
    file = folder / "head.safetensors"
    advice = "leave method.old_model out to take class means instead"
    with failing_as(
        ModelError, f"{file} is not a readable classifier; {advice}", ModelError, KeyError
    ):
        weights = read_tensors(file)["weight"]
    if weights.shape != (len(manifest.classes), manifest.contract.dim):
        raise ModelError(
            f"{file} holds weights {tuple(weights.shape)}, but its model has "
            f"{len(manifest.classes)} classes and dimension {manifest.contract.dim}"
        )
    index = {name: i for i, name in enumerate(manifest.classes)}
    rows = torch.tensor([index.get(name, -1) for name in source.classes()])
    known = rows >= 0
    # normalised as float64: see `prototypes`
    directions = F.normalize(weights[rows].double()).float()
    if behind is not None:
        directions = torch.from_numpy(through(behind, directions.numpy()))
    return ClassDirections(directions * known[:, None], known)


def open_old_bank(
    path: Path,
    source: Source,
    dim: int | None,
    needs: frozenset[Need],
    label_map: Path | None = None,
) -> tuple[FeatureBank, OldRows]:
    """Open a bank and tie it to the training set.

    A bank extracted from exactly these training images, or from all those that they were chosen
    from, is paired with them row by row; any other takes part by the names of its classes, or by
    a label map.

    Args:
        path: of the bank.
        source: the training images.
        dim: the new model's dimension; None where a query map leads from any to the bank's.
        needs: of the method.

    Raises:
        BankError: its dimension is not `dim`, it shares no class with the training
            set, or it was not denoised or is not paired, and that is needed; or it is paired
            and there is a label map.
        DataError: see `read_label_map`.
    """
    bank = FeatureBank(path)
    if dim is not None and bank.manifest.dim != dim:
        kind = "prefix" if dim > bank.manifest.dim else "projection"
        raise BankError(
            f"the bank {path} holds {bank.manifest.dim}-d features of {bank.manifest.contract}, "
            f"but the new model is to have {dim}: set model.dim = {bank.manifest.dim}, or "
            f"method.query_map = {kind!r} to meet them through a map"
        )
    credible = bank.credible() if "credible" in needs else None
    if "credible" in needs and credible is None:
        raise BankError(
            f"the bank {path} was not denoised: run `mixbct denoise {path}` "
            "(with --keep 1 to keep every feature)"
        )
    rows = _rows_of_same_images(bank, source)
    if rows is not None and label_map is not None:
        raise BankError(
            f"the bank {path} is of the training images, row by row: leave method.label_map out"
        )
    labels = _training_classes(bank, source, label_map)[bank.labels()]
    if (labels < 0).all():
        raise BankError(
            f"the bank {path} shares no class name with the training data: its classes are "
            f"{', '.join(bank.classes()[:3])}, …; the data's are "
            f"{', '.join(source.classes()[:3])}, …; tie them with method.label_map"
        )
    if "paired_old" in needs and rows is None:
        raise BankError(
            f"this method compares each image's new feature with its old one, but the bank {path} "
            "was not extracted from these training images: extract one from them, or choose a "
            "method that takes any bank, such as 'mixbct' with draw = 'bank'"
        )
    if rows is None:
        return bank, OldRows(labels, False, bank.read, credible)
    kept = None if credible is None else credible[rows]
    return bank, OldRows(labels[rows], True, lambda chosen: bank.read(rows[chosen]), kept)


def _part(bank: FeatureBank, old: OldRows, training_classes: int) -> OldPart:
    """Count what takes part of the bank: credible features of training classes."""
    used = old.labels >= 0
    if old.credible is not None:
        used &= old.credible
    met = np.unique(old.labels[used])
    return OldPart(
        # paired classes go by one name on both sides; of others several can be one training class
        classes=len(met) if old.paired else len(np.unique(bank.labels()[used])),
        of_classes=len(np.unique(bank.labels())),
        features=int(used.sum()),
        of_features=len(bank),
        training_classes=len(met),
        of_training_classes=training_classes,
    )


def _rows_of_same_images(bank: FeatureBank, source: Source) -> Rows | None:
    """Return the bank's row of each training row, or None where it is not of all of them.

    Images are told by their keys where bank and training set were chosen from the same source,
    whatever was left out of each.
    """
    manifest = bank.manifest
    if manifest.data_digest == source.digest():
        return np.arange(len(source))
    if isinstance(source, Selection) and manifest.data_digest == source.source.digest():
        return source.rows
    if (manifest.source_digest or manifest.data_digest) != root_digest(source):
        return None
    keys = source.keys()
    row_of = {key: row for row, key in enumerate(bank.keys())}
    rows = np.array([row_of.get(key, -1) for key in keys], dtype=np.int64)
    return rows if rows.min() >= 0 else None


def _training_classes(bank: FeatureBank, source: Source, label_map: Path | None) -> Rows:
    """Return the training class of each of the bank's classes, −1 for none."""
    names: Sequence[str | None] = bank.classes()
    if label_map is not None:
        # a map may name classes of the data of which this part has no row
        tied = read_label_map(label_map, bank.classes(), root_of(source).classes())
        names = [tied.get(name) for name in bank.classes()]
    index = {name: i for i, name in enumerate(source.classes())}
    return np.array([-1 if n is None else index.get(n, -1) for n in names], dtype=np.int64)


def read_label_map(path: Path, old: Sequence[str], new: Sequence[str]) -> Mapping[str, str]:
    """Read lines of an old class name, a tab and a training class name.

    Several old classes may be the same training class. Old classes that are not named take no
    part, whatever they are called.

    Args:
        path: a UTF-8 text file.
        old: the names of the bank's classes.
        new: the names of all classes of the training data, whichever part is trained on.

    Raises:
        DataError: the file cannot be read or is empty, a line is not two names, a name is not
            among the bank's or the data's, or an old class is named twice; it has the line.
    """
    lines = read_lines_of(path, "label map")
    found: dict[str, str] = {}
    known = (("the old bank", old, set(old)), ("the training data", new, set(new)))
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        names = [name.strip(" ") for name in line.split("\t")]
        if len(names) != 2:
            form = "an old class, one tab and a training class"
            raise DataError(wrong_line(path, number, form, line))
        for name, (where, there, quick) in zip(names, known, strict=True):
            if name not in quick:
                close = difflib.get_close_matches(name, there, 1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise DataError(f"{path}, line {number}: {where} has no class {name!r}{hint}")
        if names[0] in found:
            raise DataError(f"{path}, line {number}: the old class {names[0]!r} is named twice")
        found[names[0]] = names[1]
    if not found:
        raise DataError(f"the label map {path} is empty")
    return found


def input_of(recipe: Recipe, source: Source) -> Input:
    """Return what the backbone takes: the recipe's images, or the vectors that the source holds.

    Raises:
        RecipeError: a setting that means nothing for vectors is set.
    """
    encoder = encoder_of(source)
    if encoder is None:
        return recipe.model.preprocessing()
    for name, section in (("data", recipe.data), ("model", recipe.model)):
        for field in ("shift", "flip", "size", "channels"):
            default = type(section).model_fields.get(field)
            if default is not None and getattr(section, field) != default.default:
                raise RecipeError(
                    f"{name}.{field} means nothing for {source}, which holds vectors: leave it out"
                )
    return encoder.as_input()


def inputs_digest(source: Source, takes: Input, bank: FeatureBank | None, task: Task) -> str:
    """Return what must not change on resuming: the images, and what is known of the old model."""
    of_data = source.digest()
    if isinstance(takes, VectorInput):
        of_data += f" by {takes.encoder}"
    if bank is None or task.old is None:
        return of_data
    bank_record = bank.manifest.model_dump_json(exclude={"created"})
    digest = hashlib.sha256(f"{of_data}\n{bank_record}\n".encode())
    weights = None if task.old_classifier is None else task.old_classifier.values.numpy()
    for array in (task.old.labels, task.old.credible, weights):
        digest.update(b"" if array is None else array.tobytes())
    return digest.hexdigest()
