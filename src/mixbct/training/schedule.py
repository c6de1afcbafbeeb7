"""The learning rate over the steps of a run."""

from mixbct.recipe import TrainSettings


def learning_rate_factor(step: int, steps: int, settings: TrainSettings) -> float:
    """Return what the base learning rate is multiplied by at `step` of `steps`.

    (1 − step/steps)^power, after a linear warm-up over the first `warmup_steps`. MixBCT's text
    says that the rate decays linearly (power 1); its code decays quadratically (power 2).

    >>> learning_rate_factor(5, 10, TrainSettings(epochs=1, power=2.0))
    0.25
    """
    decay = float((1 - step / steps) ** settings.power)
    if step < settings.warmup_steps:
        return decay * (step + 1) / settings.warmup_steps
    return decay
