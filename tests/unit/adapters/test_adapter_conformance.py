"""What is expected of every adapter in ADAPTERS."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from mixbct.adapters import ADAPTERS, LINEAR_ADAPTERS, Adapter, load_adapter
from mixbct.adapters.procrustes import Procrustes
from mixbct.data.bank import normalise
from mixbct.errors import FeatureError, ModelError

DIMENSIONS = [(8, 8), (12, 8), (8, 12)]


def rows(n: int, dim: int, seed: int = 0) -> np.ndarray:
    return normalise(np.random.default_rng(seed).standard_normal((n, dim)))


def pairs(d1: int, d2: int, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Return a smooth, not quite linear function of the source, and some noise."""
    rng = np.random.default_rng(7)
    source = rows(n, d1)
    mixed = source @ np.linalg.qr(rng.standard_normal((12, 12)))[0][:d1, :d2]
    noise = 0.02 * rng.standard_normal(mixed.shape)
    return source, normalise(np.tanh(2 * mixed) + 0.1 + noise)


@pytest.fixture(params=ADAPTERS)
def kind(request: pytest.FixtureRequest) -> type[Adapter]:
    return ADAPTERS[request.param]


@pytest.mark.parametrize(("d1", "d2"), DIMENSIONS)
def test_unseen_rows_land_near_their_targets(kind: type[Adapter], d1: int, d2: int) -> None:
    source, target = pairs(d1, d2)
    mapped = kind.fit(source[:250], target[:250]).transform(source[250:])
    assert mapped.dtype == np.float32
    assert mapped.shape == (50, d2)
    np.testing.assert_allclose(np.linalg.norm(mapped, axis=1), 1, atol=1e-6)
    cosines = np.sum(mapped * target[250:], axis=1)
    others = np.sum(mapped * np.roll(target[250:], 1, axis=0), axis=1)
    assert cosines.mean() > 0.75
    assert cosines.mean() > others.mean() + 0.5


def test_a_fit_is_deterministic(kind: type[Adapter]) -> None:
    source, target = pairs(12, 8)
    probe = rows(5, 12, seed=4)
    maps = [kind.fit(source, target).transform(probe) for _ in range(2)]
    np.testing.assert_array_equal(*maps)


@pytest.mark.parametrize(("d1", "d2"), DIMENSIONS)
def test_a_saved_map_is_the_same(tmp_path: Path, kind: type[Adapter], d1: int, d2: int) -> None:
    fitted = kind.fit(*pairs(d1, d2))
    fitted.save(tmp_path / "map.safetensors")
    loaded = kind.load(tmp_path / "map.safetensors")
    probe = rows(5, d1, seed=4)
    np.testing.assert_array_equal(loaded.transform(probe), fitted.transform(probe))


@pytest.mark.parametrize(("d1", "d2"), DIMENSIONS)
def test_its_file_says_what_it_is(tmp_path: Path, kind: type[Adapter], d1: int, d2: int) -> None:
    kind.fit(*pairs(d1, d2)).save(tmp_path / "map.safetensors")
    loaded = load_adapter(tmp_path / "map.safetensors")
    assert type(loaded) is kind
    assert loaded.dims == (d1, d2)


@pytest.mark.parametrize("content", [None, b"", b"not a map"])
def test_a_missing_or_damaged_file_is_named(
    tmp_path: Path, kind: type[Adapter], content: bytes | None
) -> None:
    path = tmp_path / "map.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"map\.safetensors is not a readable map"):
        kind.load(path)


def test_a_map_of_another_kind_is_refused(tmp_path: Path, kind: type[Adapter]) -> None:
    path = tmp_path / "map.safetensors"
    others = [other for other in ADAPTERS.values() if other is not kind]
    for other in others:
        other.fit(*pairs(8, 8)).save(path)
        with pytest.raises(ModelError, match="a map of another kind"):
            kind.load(path)
    assert others


def test_a_file_that_is_no_map_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.safetensors is not a readable map") as caught:
        load_adapter(tmp_path / "none.safetensors")
    assert str(caught.value).count("not a readable map") == 1
    (tmp_path / "other.safetensors").write_bytes(save({"bias": np.zeros(3, np.float32)}))
    with pytest.raises(ModelError, match="holds bias, expected rotation"):
        load_adapter(tmp_path / "other.safetensors")


def test_rows_that_do_not_fit_are_refused(kind: type[Adapter]) -> None:
    with pytest.raises(FeatureError, match="40 source and 39 target rows"):
        kind.fit(rows(40, 8), rows(39, 8))
    with pytest.raises(FeatureError, match="2 rows do not determine a map from 8 to 8"):
        kind.fit(rows(2, 8), rows(2, 8))
    with pytest.raises(FeatureError, match="dimension 8, not 7"):
        kind.fit(rows(40, 8), rows(40, 8)).transform(rows(3, 7))


@pytest.mark.parametrize("name", LINEAR_ADAPTERS)
@pytest.mark.parametrize(("d1", "d2"), DIMENSIONS)
def test_the_linear_map_of_an_adapter_is_the_adapter(name: str, d1: int, d2: int) -> None:
    source, target = pairs(d1, d2)
    fitted = LINEAR_ADAPTERS[name].fit(source, target)
    probe = rows(5, d1, seed=4)
    mapped = normalise(fitted.linear_map().apply(probe))
    np.testing.assert_allclose(mapped, fitted.transform(probe), atol=1e-5)


def test_a_centred_rotation_has_an_offset() -> None:
    fitted = Procrustes.fit(*pairs(12, 8), centre=True)
    probe = rows(5, 12, seed=4)
    record = fitted.linear_map()
    assert np.abs(record.arrays[1]).max() > 0.01
    np.testing.assert_allclose(normalise(record.apply(probe)), fitted.transform(probe), atol=1e-5)
