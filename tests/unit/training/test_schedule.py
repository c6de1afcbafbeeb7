import pytest

from mixbct.recipe import TrainSettings
from mixbct.training.trainer import learning_rate_factor


def factors(steps: int, **settings: float) -> list[float]:
    train = TrainSettings(epochs=1, **settings)  # type: ignore[arg-type]
    return [learning_rate_factor(step, steps, train) for step in range(steps)]


def test_linear_and_quadratic_decay() -> None:
    assert factors(4) == [1, 0.75, 0.5, 0.25]
    assert factors(4, power=2.0) == [1, 0.5625, 0.25, 0.0625]
    assert factors(4, power=0.5) == pytest.approx([1, 0.75**0.5, 0.5**0.5, 0.5])
    assert factors(1) == [1]


def test_warm_up_rises_under_the_decay() -> None:
    found = factors(10, warmup_steps=4)
    plain = factors(10)
    assert found[:4] == pytest.approx([p * (i + 1) / 4 for i, p in enumerate(plain[:4])])
    assert found[4:] == plain[4:]
    assert found[0] > 0


def test_a_warm_up_longer_than_the_run() -> None:
    found = factors(3, warmup_steps=100)
    assert all(0 < f < 0.03 for f in found)
