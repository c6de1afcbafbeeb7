import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import LostError, outcomes, run_world
from torch import nn

from mixbct.backbones.model import EmbeddingModel, build_backbone, to_inputs
from mixbct.data import bank_writer as bank_module
from mixbct.data.bank import FeatureBank
from mixbct.data.source import Source
from mixbct.distributed import World
from mixbct.errors import BankError, FeatureError
from mixbct.features.extract import embed_source, extract
from mixbct.schemas.model import Contract, ModelManifest, Preprocessing

PRE = Preprocessing(size=16, channels=1)
DIM = 5


class Memory(Source):
    """Images in memory as a source; it notes which rows were read."""

    def __init__(self, count: int = 23, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.images = rng.integers(0, 256, (count, 16, 16, 1), dtype=np.uint8)
        self.seed = seed
        self.rows_read: list[int] = []
        keys = [f"image {i}" for i in range(count)]
        super().__init__("memory", keys, rng.integers(0, 4, count), ("a", "b", "c", "d"))

    def read(self, rows: np.ndarray) -> np.ndarray:
        self.rows_read += rows.tolist()
        return self.images[rows]

    def digest(self) -> str:
        return f"memory {self.seed}"


class Poisoned(nn.Module):
    """Gives NaN, or zeros, for images whose first pixel is black."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value
        self.linear = nn.Linear(256, DIM)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        black = images[:, 0, 0, 0] == -1
        return torch.where(black[:, None], self.value, self.linear(images.flatten(1)))


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_module, "CHUNK", 10)


def model(backbone: nn.Module | None = None) -> EmbeddingModel:
    torch.manual_seed(0)
    if backbone is None:
        backbone = build_backbone("small", DIM, PRE, {"width": 4})
        backbone(torch.randn(16, 1, 16, 16))  # moves the running statistics
    contract = Contract(name="m", weights="w", preprocessing=PRE, dim=DIM)
    return EmbeddingModel(backbone, ModelManifest(backbone="small", contract=contract))


def forwarded(embedder: EmbeddingModel, source: Memory) -> np.ndarray:
    """Forward the images one by one: batch normalisation in training would show."""
    rows = [
        embedder.backbone.eval()(to_inputs(torch.from_numpy(i[None]), PRE)).detach()
        for i in source.images
    ]
    return torch.cat(rows).numpy()


@pytest.mark.parametrize("batch", [1, 7, 10, 512])
def test_the_bank_holds_what_the_model_gives(tmp_path: Path, batch: int) -> None:
    source, embedder = Memory(), model()
    ticks: list[tuple[int, int]] = []
    bank = extract(
        embedder,
        source,
        tmp_path / "bank",
        dtype="float32",
        batch=batch,
        progress=lambda done, total: ticks.append((done, total)),
    )
    np.testing.assert_allclose(bank.features, forwarded(embedder, source), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(bank.labels(), source.labels())
    assert bank.keys() == source.keys()
    assert source.rows_read == list(range(23))
    manifest = bank.manifest
    assert (manifest.data_digest, manifest.rows, manifest.dim) == ("memory 0", 23, DIM)
    assert manifest.contract == embedder.contract
    assert manifest.classes == source.classes()
    assert ticks == sorted(set(ticks))
    assert ticks[-1] == (23, 23)


def test_embedding_in_memory_is_the_same(tmp_path: Path) -> None:
    source, embedder = Memory(), model()
    bank = extract(embedder, source, tmp_path / "bank", dtype="float32", batch=10)
    ticks: list[tuple[int, int]] = []
    features = embed_source(embedder, source, batch=10, progress=lambda d, t: ticks.append((d, t)))
    np.testing.assert_array_equal(features, bank.features)
    assert ticks == [(10, 23), (20, 23), (23, 23)]


def test_half_precision_is_the_default(tmp_path: Path) -> None:
    source, embedder = Memory(), model()
    bank = extract(embedder, source, tmp_path / "bank")
    assert bank.features.dtype == np.float16
    np.testing.assert_array_equal(bank.features, embed_source(embedder, source).astype(np.float16))


def test_resuming_reads_what_is_missing_alone(tmp_path: Path) -> None:
    source, embedder = Memory(), model()
    whole = extract(embedder, source, tmp_path / "whole", batch=4)

    class StopError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done > 12:
            raise StopError

    with pytest.raises(StopError):
        extract(embedder, source, tmp_path / "bank", batch=4, progress=stop)
    with pytest.raises(BankError, match="--resume"):
        extract(embedder, source, tmp_path / "bank", batch=4)
    with pytest.raises(BankError, match="begun with other data"):
        extract(embedder, Memory(seed=1), tmp_path / "bank", batch=4, resume=True)
    again = Memory()
    first: list[int] = []
    bank = extract(
        embedder,
        again,
        tmp_path / "bank",
        batch=4,
        resume=True,
        progress=lambda done, total: first.append(done),
    )
    assert again.rows_read == list(range(10, 23))
    assert first[0] == 14
    np.testing.assert_array_equal(bank.features, whole.features)


def test_a_finished_bank_is_taken_as_it_is_or_refused(tmp_path: Path) -> None:
    source, embedder = Memory(), model()
    created = extract(embedder, source, tmp_path / "bank").manifest.created
    again = Memory()
    assert extract(embedder, again, tmp_path / "bank", resume=True).manifest.created == created
    assert again.rows_read == []
    with pytest.raises(BankError, match="there already"):
        extract(embedder, source, tmp_path / "bank")
    for other in ({"source": Memory(seed=1)}, {"dtype": "float32"}):
        with pytest.raises(BankError, match="there already"):
            extract(
                **(
                    {"model": embedder, "source": source, "out": tmp_path / "bank", "resume": True}
                    | other
                )
            )  # type: ignore[arg-type]


@pytest.mark.parametrize(("value", "says"), [(float("nan"), "NaN"), (0.0, "zero vectors")])
def test_bad_features_name_their_images(tmp_path: Path, value: float, says: str) -> None:
    source = Memory()
    source.images[:, 0, 0, 0] = 255
    source.images[[12, 17], 0, 0, 0] = 127  # (127 - 127.5) / 127.5, not black yet
    source.images[[13, 18], 0, 0, 0] = 0
    with pytest.raises(FeatureError, match=f"{says}.*2 of 10 .*image 13, image 18"):
        extract(model(Poisoned(value)), source, tmp_path / "bank")
    with pytest.raises(BankError, match="unfinished"):
        FeatureBank(tmp_path / "bank")


def test_processes_take_turns_at_one_bank_and_any_number_goes_on(tmp_path: Path) -> None:
    """Begun by three of which one is killed after its first chunk, finished by two."""
    source, embedder = Memory(67), model()
    alone = extract(embedder, source, tmp_path / "alone")

    def begin(world: World) -> None:
        def kill(done: int, total: int) -> None:
            if world.rank == 1 and done > 30:  # its second chunk
                os.kill(os.getpid(), signal.SIGKILL)

        extract(embedder, source, tmp_path / "bank", progress=kill, world=world)

    ends = [how for how, _ in outcomes(3, begin)]
    assert ends == ["exit 3", "killed", "exit 3"]
    done = {path.name for path in (tmp_path / "bank.partial/done").iterdir()}
    assert {"000001"} <= done < {f"{chunk:06d}" for chunk in range(7)}

    def finish(world: World) -> list[int]:
        fresh = Memory(67)
        extract(embedder, fresh, tmp_path / "bank", resume=True, world=world)
        return fresh.rows_read

    read = run_world(2, finish)
    left = [row for row in range(67) if f"{row // 10:06d}" not in done]
    assert sorted([*read[0], *read[1]]) == left
    bank = FeatureBank(tmp_path / "bank")
    np.testing.assert_array_equal(bank.features, alone.features)
    assert bank.manifest.digests == alone.manifest.digests
    assert run_world(2, finish) == [[], []]
    with pytest.raises(LostError, match="is there already"):
        run_world(2, lambda world: extract(embedder, source, tmp_path / "bank", world=world) and 0)
