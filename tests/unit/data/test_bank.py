"""A bank is whole or it is not a bank, and nothing that was finished is lost."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from mixbct.backbones.model import EmbeddingModel, build_backbone
from mixbct.data import bank as bank_module
from mixbct.data import bank_writer as writer_module
from mixbct.data.bank import FeatureBank, normalise, partial_path
from mixbct.data.bank_writer import BankWriter
from mixbct.data.source import Source
from mixbct.errors import BankError, DataError, DiskFullError, FeatureError
from mixbct.features.extract import extract
from mixbct.schemas.data import BankManifest, DenoiseManifest
from mixbct.schemas.model import Contract, ModelManifest, Preprocessing

ROWS, DIM = 10, 3
LABELS = np.arange(ROWS) % 4
KEYS = [f"key {i}" for i in range(ROWS)]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "CHUNK", 4)


def manifest(dim: int = DIM, **update: object) -> BankManifest:
    contract = Contract(
        name="old", weights="w", preprocessing=Preprocessing(size=8, channels=1), dim=dim
    )
    plain = BankManifest(
        contract=contract,
        data_digest="d",
        rows=ROWS,
        dim=dim,
        dtype="float32",
        classes=("a", "b", "c", "d"),
    )
    return plain.model_copy(update=update)


def features(dtype: str = "float32") -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(dtype)
    assert isinstance(values, np.ndarray)
    return values


def writer(path: Path, resume: bool = False, **update: object) -> BankWriter:
    return BankWriter(path, manifest(**update), LABELS, KEYS, resume)


def write(target: BankWriter, chunks: list[range], values: np.ndarray | None = None) -> BankWriter:
    values = features() if values is None else values
    for chunk in chunks:
        rows = slice(chunk.start, chunk.stop)
        target.write(chunk, values[rows], KEYS[rows])
    return target


def whole(path: Path, **update: object) -> FeatureBank:
    target = writer(path, **update)
    return write(target, target.missing()).finish()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_is_written_is_read(tmp_path: Path, dtype: str) -> None:
    bank = whole(tmp_path / "bank", dtype=dtype)
    assert len(bank) == ROWS
    assert bank.features.dtype == dtype
    np.testing.assert_array_equal(bank.features, features().astype(dtype))
    np.testing.assert_array_equal(bank.labels(), LABELS)
    assert bank.keys() == KEYS
    assert bank.classes() == ("a", "b", "c", "d")
    assert isinstance(bank.features, np.memmap)
    names = {p.name for p in bank.path.iterdir()}
    assert names == {"manifest.json", "features.npy", "labels.npy", "keys.txt"}
    assert [p.name for p in tmp_path.iterdir()] == ["bank"]


def test_features_are_read_normalised(tmp_path: Path) -> None:
    bank = whole(tmp_path / "bank", dtype="float16")
    raw = features("float16").astype(np.float64)
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    np.testing.assert_allclose(bank.all(), unit, rtol=1e-6)
    np.testing.assert_allclose(bank.read(np.array([7, 2, 7])), unit[[7, 2, 7]], rtol=1e-6)


def test_normalised_rows_do_not_hang_on_the_order_of_a_sum() -> None:
    """What another processor adds in another order comes out with the same bits."""
    rows = np.random.default_rng(0).normal(size=(2000, 512)).astype(np.float32)
    order = np.random.default_rng(1).permutation(512)
    np.testing.assert_array_equal(normalise(rows[:, order]), normalise(rows)[:, order])


def test_normalising_takes_no_second_copy() -> None:
    rows = np.ones((50_000, 64), np.float16)
    tracemalloc.start()
    normalise(rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.2 * 50_000 * 64 * 4


def test_normalise_names_bad_rows() -> None:
    rows = np.ones((8, 2), np.float32)
    rows[[1, 2, 3, 4, 5, 6], 1] = np.nan
    with pytest.raises(FeatureError, match=r"NaN or infinity in 6 of 8 .*row 1, row 2.*row 5, …"):
        normalise(rows)
    with pytest.raises(FeatureError, match="row 101, row 102"):
        normalise(rows, range(100, 108))
    with pytest.raises(FeatureError, match=r"\(k1, k2"):
        normalise(rows, [f"k{i}" for i in range(8)])
    # over many blocks; what rows are called is asked for once one is bad, and not before
    many = np.ones((5 * bank_module._BLOCK, 2), np.float16)
    asked: list[str] = []

    def names() -> list[str]:
        asked.append("")
        return [f"k{i}" for i in range(len(many))]

    np.testing.assert_allclose(np.linalg.norm(normalise(many, names), axis=1), 1, rtol=1e-6)
    assert not asked
    many[[7, -1]] = np.inf
    with pytest.raises(FeatureError, match=r"infinity in 2 of 10240 features \(k7, k10239\)"):
        normalise(many, names)
    zero = np.array([[0, 0], [1, 0]], np.float32)
    with pytest.raises(FeatureError, match=r"zero vectors: 1 of 2 .*row 0"):
        normalise(zero)


def test_an_unfinished_bank_is_no_bank(tmp_path: Path) -> None:
    path = tmp_path / "bank"
    with pytest.raises(BankError, match="make one with `mixbct extract`"):
        FeatureBank(path)
    target = writer(path)
    write(target, target.missing()[:2])
    with pytest.raises(BankError, match=r"bank\.partial is an unfinished one.*--resume"):
        FeatureBank(path)
    with pytest.raises(BankError, match="there is no feature bank"):
        FeatureBank(partial_path(path))
    with pytest.raises(BankError, match="still lacks 1 chunks"):
        target.finish()
    assert not path.exists()


def test_resuming_keeps_finished_chunks(tmp_path: Path) -> None:
    path = tmp_path / "bank"
    first = writer(path)
    assert first.missing() == [range(0, 4), range(4, 8), range(8, 10)]
    write(first, [range(4, 8)])
    second = writer(path, resume=True, created="later")
    assert second.missing() == [range(0, 4), range(8, 10)]
    bank = write(second, second.missing()).finish()
    np.testing.assert_array_equal(bank.features, features())


def test_a_bank_that_is_begun_or_there_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "bank"
    write(writer(path), [range(0, 4)])
    with pytest.raises(BankError, match="add --resume"):
        writer(path)
    for other in ({"data_digest": "e"}, {"dtype": "float16"}, {"classes": ("a", "b", "c", "x")}):
        with pytest.raises(BankError, match="begun with other data or another model"):
            writer(path, resume=True, **other)
    contract = manifest().contract.model_copy(update={"weights": "v"})
    with pytest.raises(BankError, match="another model"):
        writer(path, resume=True, contract=contract)
    assert writer(path, resume=True).missing() == [range(4, 8), range(8, 10)]
    whole(tmp_path / "other")
    for resume in (False, True):
        with pytest.raises(BankError, match="is there already"):
            writer(tmp_path / "other", resume=resume)


@pytest.mark.parametrize(
    ("value", "dtype", "says"),
    [
        (np.nan, "float32", "NaN or infinity in 1 of 4"),
        (np.inf, "float32", "NaN or infinity"),
        (-np.inf, "float16", "NaN or infinity"),
        (70_000.0, "float16", "too small or too large for float16"),
    ],
)
def test_bad_values_are_named_and_their_chunk_stays_open(
    tmp_path: Path, value: float, dtype: str, says: str
) -> None:
    target = writer(tmp_path / "bank", dtype=dtype)
    bad = features()
    bad[6, 1] = value
    with pytest.raises(FeatureError, match=f"{says}.*key 6"):
        write(target, [range(4, 8)], bad)
    assert range(4, 8) in target.missing()


def test_zero_vectors_are_named(tmp_path: Path) -> None:
    bad = features()
    bad[[8, 9]] = 0
    with pytest.raises(FeatureError, match=r"zero vectors: 2 of 2 features .key 8, key 9"):
        write(writer(tmp_path / "bank"), [range(8, 10)], bad)
    bad[[8, 9]] = 1e-9  # becomes zero in float16
    with pytest.raises(FeatureError, match=r"2 of 2 .*key 9.*store them with --dtype float32"):
        write(writer(tmp_path / "half", dtype="float16"), [range(8, 10)], bad)


@pytest.mark.parametrize(
    ("norm", "kept"), [(1e-7, False), (1e-5, False), (1e-2, True), (1e3, True)]
)
def test_a_row_keeps_its_direction_or_is_refused(tmp_path: Path, norm: float, kept: bool) -> None:
    """Float16 has few bits near its ends: what is stored must point where the model pointed."""
    given = normalise(np.random.default_rng(0).normal(size=(ROWS, 512)))
    manifest_of = {"dtype": "float16", "dim": 512}
    if norm not in (1e-2, 1e3):
        with pytest.raises(FeatureError, match=r"would turn round \(key 0, .*--dtype float32"):
            write(writer(tmp_path / "bank", **manifest_of), [range(4)], given * norm)
        return
    target = writer(tmp_path / "bank", **manifest_of)
    bank = write(target, target.missing(), given * norm).finish()
    assert np.einsum("nd,nd->n", bank.all(), given).min() > 0.99999
    # what float32 cannot hold is said as well
    with pytest.raises(FeatureError, match=r"too large for float32.*scale them first"):
        write(writer(tmp_path / "b", dim=512), [range(4)], given.astype(np.float64) * 1e60)


def test_a_full_disk_shows_before_the_first_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def full(descriptor: int, offset: int, size: int) -> None:
        asked.append(size)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        with pytest.raises(DiskFullError, match="no space left"):
            writer(tmp_path / "bank")
    assert asked[0] >= ROWS * DIM * 4
    # as the message says: the same command can be run again
    whole(tmp_path / "bank")


def test_a_disk_that_fills_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bank"
    target = write(writer(path), [range(0, 4)])

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(writer_module, "sync_file", full)
        with pytest.raises(DiskFullError):
            write(target, [range(4, 8)])
    again = writer(path, resume=True)
    assert again.missing() == [range(4, 8), range(8, 10)]
    np.testing.assert_array_equal(write(again, again.missing()).finish().features, features())


def test_a_kill_between_the_steps_of_finishing(tmp_path: Path) -> None:
    path = tmp_path / "bank"
    target = writer(path)
    write(target, target.missing())
    # before the rename: the manifest is there, the name is not
    (partial_path(path) / "manifest.json").write_text(manifest().to_json())
    with pytest.raises(BankError, match="unfinished"):
        FeatureBank(path)
    shutil.copytree(partial_path(path), tmp_path / "late.partial")
    bank = writer(path, resume=True).finish()
    np.testing.assert_array_equal(bank.features, features())
    # after the rename: marks and plan still lie there, as an earlier version left them
    (tmp_path / "late.partial").rename(tmp_path / "late")
    np.testing.assert_array_equal(FeatureBank(tmp_path / "late").features, features())


@pytest.mark.parametrize("step", ["write_atomically", "rmtree", "unlink", "rename", "sync_file"])
def test_a_kill_at_any_step_of_finishing_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "bank"
    target = writer(path)
    write(target, target.missing())

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    owner = {"rmtree": shutil, "unlink": Path, "rename": Path}.get(step, writer_module)
    with monkeypatch.context() as patched:
        patched.setattr(owner, step, die)
        with pytest.raises(KeyboardInterrupt):
            target.finish()
    bank = FeatureBank(path) if path.exists() else writer(path, resume=True).finish()
    np.testing.assert_array_equal(bank.features, features())
    assert {p.name for p in path.iterdir()} == {
        "manifest.json",
        "features.npy",
        "labels.npy",
        "keys.txt",
    }
    assert [p.name for p in tmp_path.iterdir()] == ["bank"]


def test_rows_of_a_larger_extraction_are_taken_over(tmp_path: Path) -> None:
    """Two images could not be read, and all is extracted again without them."""
    path = tmp_path / "bank"
    write(writer(path, source_digest="all"), [range(4), range(8, 10)])
    left = [0, 1, 2, 3, 5, 7, 8, 9]
    keys, labels = [KEYS[row] for row in left], LABELS[left]
    smaller = {"rows": 8, "data_digest": "e"}

    def again(**update: object) -> BankWriter:
        return BankWriter(path, manifest(**smaller, **update), labels, keys, resume=True)

    for other in ({"source_digest": "others"}, {}, {"source_digest": "all", "dtype": "float16"}):
        with pytest.raises(BankError, match="begun with other data or another model"):
            again(**other)
    # a row that was finished is not among the new ones: it would be lost
    lost = manifest(rows=7, data_digest="f", source_digest="all")
    with pytest.raises(BankError, match="begun with other data"):
        BankWriter(path, lost, labels[1:], keys[1:], resume=True)
    target = again(source_digest="all")
    assert target.missing() == [range(4, 8)]
    target.write(range(4, 8), features()[[5, 7, 8, 9]], keys[4:])
    bank = target.finish()
    np.testing.assert_array_equal(bank.features, features()[left])
    assert bank.keys() == keys


def forget_digests(path: Path) -> None:
    """Leave the manifest as an earlier version wrote it."""
    content = json.loads((path / "manifest.json").read_text())
    for field in ("digests", "norms"):
        del content[field]
    (path / "manifest.json").write_text(json.dumps(content))


def damage_features_truncated(path: Path) -> None:
    os.truncate(path / "features.npy", 200)


def damage_features_zip(path: Path) -> None:
    np.savez(path / "features.npz", features())
    (path / "features.npz").rename(path / "features.npy")


def damage_features_byte_order(path: Path) -> None:
    np.save(path / "features.npy", features().astype(">f4"))


def damage_features_empty(path: Path) -> None:
    os.truncate(path / "features.npy", 0)


def damage_features_shape(path: Path) -> None:
    np.save(path / "features.npy", features()[:, :2])


def damage_features_dtype(path: Path) -> None:
    np.save(path / "features.npy", features("float64"))


def damage_labels_shape(path: Path) -> None:
    np.save(path / "labels.npy", LABELS[:-1])


def damage_labels_dtype(path: Path) -> None:
    np.save(path / "labels.npy", LABELS.astype(np.int32))


def damage_labels_range(path: Path) -> None:
    np.save(path / "labels.npy", LABELS + 1)


def damage_labels_sign(path: Path) -> None:
    np.save(path / "labels.npy", LABELS - 1)


def damage_labels_pickle(path: Path) -> None:
    np.save(path / "labels.npy", np.array([object()] * ROWS), allow_pickle=True)


def damage_labels_gone(path: Path) -> None:
    (path / "labels.npy").unlink()


@pytest.mark.parametrize(
    "damage", [f for name, f in sorted(globals().items()) if name.startswith("damage_")]
)
@pytest.mark.parametrize("digests", [True, False])
def test_a_damaged_bank_is_refused(tmp_path: Path, damage, digests: bool) -> None:  # type: ignore[no-untyped-def]
    path = whole(tmp_path / "bank").path
    if not digests:
        forget_digests(path)
    damage(path)
    with pytest.raises(BankError, match=f"the feature bank {path} is damaged"):
        FeatureBank(path)


def test_a_damaged_manifest_or_keys_are_refused(tmp_path: Path) -> None:
    bank = whole(tmp_path / "bank")
    (bank.path / "keys.txt").write_text("one\n")
    with pytest.raises(BankError, match=r"damaged: keys\.txt is not what was written"):
        bank.keys()
    forget_digests(bank.path)
    with pytest.raises(BankError, match="damaged: 1 keys for 10 rows"):
        FeatureBank(bank.path).keys()
    (bank.path / "keys.txt").unlink()
    with pytest.raises(BankError, match="there is no list of keys at"):
        bank.keys()
    os.mkfifo(bank.path / "keys.txt")  # opened, it would wait for somebody who writes
    with pytest.raises(BankError, match="regular file"):
        bank.keys()
    (bank.path / "manifest.json").write_text("{")
    with pytest.raises(BankError, match="not a readable manifest"):
        FeatureBank(bank.path)


def test_a_manifest_that_promises_too_much_costs_nothing(tmp_path: Path) -> None:
    bank = whole(tmp_path / "bank")
    for promise in ({"rows": 10**15}, {"dim": 10**7}, {"rows": 10**15, "dim": 10**15}):
        (bank.path / "manifest.json").write_text(manifest(**promise).to_json())
        with pytest.raises(BankError, match=r"damaged: .*features.npy holds float32"):
            FeatureBank(bank.path)


def test_what_was_changed_since_is_found(tmp_path: Path) -> None:
    """One flipped bit in a vector, a label, a key; and what is found at the first look."""
    bank = whole(tmp_path / "bank")
    assert bank.verify()
    stored = {name: (bank.path / name).read_bytes() for name in ("features.npy", "labels.npy")}
    for name, content in stored.items():
        for bit in range(3):
            changed = bytearray(content)
            changed[-1 - 5 * bit] ^= 1 << bit
            (bank.path / name).write_bytes(changed)
            with pytest.raises((BankError, FeatureError), match=r"what was written|as was written"):
                FeatureBank(bank.path).verify()
        (bank.path / name).write_bytes(content)
    # the highest bit of an exponent shows whenever the row is read
    changed = bytearray(stored["features.npy"])
    changed[-1] ^= 0x40
    (bank.path / "features.npy").write_bytes(changed)
    with pytest.raises(FeatureError, match=r"norms that are not within .*: 1 of 2 .*row 9"):
        FeatureBank(bank.path).read(np.array([3, 9]))
    assert FeatureBank(bank.path).read(np.array([3])).shape == (1, DIM)
    (bank.path / "features.npy").write_bytes(stored["features.npy"])
    keys = (bank.path / "keys.txt").read_text()
    (bank.path / "keys.txt").write_text(keys.replace("key 3", "key x"))
    with pytest.raises(BankError, match=r"keys.txt is not what was written"):
        FeatureBank(bank.path).keys()
    (bank.path / "keys.txt").write_text(keys)
    forget_digests(bank.path)
    assert not FeatureBank(bank.path).verify()


def test_a_bank_without_labels_says_who_needs_them(tmp_path: Path) -> None:
    target = BankWriter(tmp_path / "bank", manifest(classes=()), None, KEYS, resume=False)
    bank = write(target, target.missing()).finish()
    assert bank.verify()
    assert bank.classes() == ()
    np.testing.assert_array_equal(bank.read(np.arange(ROWS)), bank.all())
    with pytest.raises(BankError, match=r"no labels, which `mixbct adapt` does without"):
        bank.labels()


def test_keys_with_any_character_but_a_line_break(tmp_path: Path) -> None:
    odd = [
        "a\u00a0b",
        "\u202fshot 1.23\u202fPM",
        "\u3000字",
        "👩\u200d🔬",
        "\x85",
        "\u2028",
        "\x0b\x1c",
        "t\tt",
    ]
    keys = [*odd, "\ufeffk", " blanks "]
    target = BankWriter(tmp_path / "bank", manifest(), LABELS, keys, resume=False)
    for chunk in target.missing():
        rows = slice(chunk.start, chunk.stop)
        target.write(chunk, features()[rows], keys[rows])
    assert target.finish().keys() == keys
    for place, bad in enumerate(("Icon\r", "a\nb", "half \ud83d", "nul\0")):
        with pytest.raises(DataError, match=r"the key .* line break, a NUL or half a character"):
            BankWriter(tmp_path / f"{place}", manifest(), LABELS, [*keys[1:], bad], resume=False)


def test_credible_rows_are_kept_and_checked(tmp_path: Path) -> None:
    bank = whole(tmp_path / "bank")
    assert bank.credible() is None
    mask = np.arange(ROWS) != 3
    record = bank.save_credible(mask, 0.9, True)
    assert (record.credible, record.rows, record.keep) == (9, 10, 0.9)
    assert record.normalise_columns
    found = FeatureBank(bank.path).credible()
    assert found is not None
    np.testing.assert_array_equal(found, mask)
    np.save(bank.path / "credible.npy", ~mask)
    with pytest.raises(BankError, match=r"not what was written.*run `mixbct denoise"):
        bank.credible()
    # as an earlier version left it
    record = DenoiseManifest(keep=0.9, normalise_columns=True, credible=9, rows=10)
    (bank.path / "credible.json").write_text(record.to_json())
    assert "sha256" not in record.to_json()
    for wrong in (mask[:-1], mask.astype(np.int8)):
        np.save(bank.path / "credible.npy", wrong)
        with pytest.raises(BankError, match=r"expected credible.npy as bool \(10,\).*denoise"):
            bank.credible()
    for content in (b"", b"nonsense"):
        (bank.path / "credible.npy").write_bytes(content)
        with pytest.raises(BankError, match=r"damaged.*run `mixbct denoise"):
            bank.credible()


def test_credible_rows_without_their_record_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second denoising that dies half-way must not leave the first one's record."""
    bank = whole(tmp_path / "bank")
    bank.save_credible(np.ones(ROWS, dtype=bool), 1.0, False)
    kept = bank_module.write_atomically

    def die(path: Path, content: bytes | str) -> None:
        if path.name == "credible.json":
            raise KeyboardInterrupt
        kept(path, content)

    monkeypatch.setattr(bank_module, "write_atomically", die)
    with pytest.raises(KeyboardInterrupt):
        bank.save_credible(np.zeros(ROWS, dtype=bool), 0.5, False)
    assert bank.credible() is None


class Noise(Source):
    """A source of 60 images that takes its time."""

    def __init__(self, pause: float) -> None:
        self.pause = pause
        keys = [f"k{i}" for i in range(60)]
        super().__init__("noise", keys, np.arange(60) % 7, tuple("abcdefg"))

    def digest(self) -> str:
        return "noise"

    def read(self, rows: np.ndarray) -> np.ndarray:
        time.sleep(self.pause)
        rngs = [np.random.default_rng(int(i)) for i in rows]
        return np.stack([rng.integers(0, 256, (16, 16, 1), np.uint8) for rng in rngs])


def extract_noise(out: Path, pause: float = 0, resume: bool = False) -> None:
    """Extract `Noise` in chunks of 8, one process as well as another."""
    writer_module.CHUNK = 8  # type: ignore[misc]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    preprocessing = Preprocessing(size=16, channels=1)
    contract = Contract(name="m", weights="w", preprocessing=preprocessing, dim=4)
    backbone = build_backbone("small", 4, preprocessing, {"width": 2})
    model = EmbeddingModel(backbone, ModelManifest(backbone="small", contract=contract))
    extract(model, Noise(pause), out, batch=3, resume=resume)


def test_extraction_survives_kill_9(tmp_path: Path) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path; from test_bank import extract_noise\n"
        f"extract_noise(Path({str(tmp_path / 'killed')!r}), pause=0.3)"
    )
    marks = tmp_path / "killed.partial" / "done"
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        deadline = time.monotonic() + 200
        while not (marks.exists() and any(marks.iterdir())):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert 1 <= len(list(marks.iterdir())) < 8
    with pytest.raises(BankError, match="unfinished"):
        FeatureBank(tmp_path / "killed")
    extract_noise(tmp_path / "killed", resume=True)
    extract_noise(tmp_path / "whole")
    for name in ("features.npy", "labels.npy", "keys.txt"):
        resumed, uninterrupted = (tmp_path / run / name for run in ("killed", "whole"))
        assert resumed.read_bytes() == uninterrupted.read_bytes()
    assert {p.name for p in (tmp_path / "killed").iterdir()} == {
        p.name for p in (tmp_path / "whole").iterdir()
    }


def test_a_bank_of_other_dimensions_than_its_contract_is_refused(tmp_path: Path) -> None:
    path = whole(tmp_path / "bank").path / "manifest.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["contract"]["dim"] = DIM + 1
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(
        BankError, match=rf"the bank has {DIM} dimensions, but old .* has {DIM + 1}"
    ):
        FeatureBank(path.parent)
