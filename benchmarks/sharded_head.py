"""One process's part of a head over very many classes, beside what it cannot avoid.

That is the three matrix products of the batch and the classes that it looks at, and one sweep of
the optimiser over the rows of those classes. Beside the time stands the memory at its highest, over
what was there before: next to the weights, what the optimiser keeps of them, their gradient and
the logits, which no step can do without.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.optim import SGD

from benchmarks.measure import Figure, in_turn, time_figure
from mixbct.heads.classifier import CosineHead, sample_classes
from mixbct.recipe import ArcFaceSettings

SIZES = {  # classes: dimension, rows
    93_431: (512, 256),
    1_000_000: (128, 128),
}
SECONDS = 30.0


def run(folder: Path) -> list[Figure]:
    """Return sharded_head/CLASSES, /CLASSES/sampled (a tenth of them), and the memory of each."""
    figures: list[Figure] = []
    for classes, (dim, rows) in SIZES.items():
        for share, suffix in ((1.0, ""), (0.1, "/sampled")):
            name = f"sharded_head/{classes}{suffix}"
            before = _resident()
            step = _step(classes, dim, rows, share)
            step()
            # the highest from here on
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")
            step()
            highest = _resident("VmHWM") - before
            looked_at = round(share * classes)
            least = 4e-9 * (2 * classes * dim + looked_at * (dim + rows))
            pairs = in_turn(step, _least(looked_at, dim, rows), for_seconds=SECONDS)
            figures.append(time_figure(name, "s/step", pairs))
            figures.append(Figure(f"{name}/memory", highest, "GB", least, highest / least))
            del step
    return figures


def _resident(what: str = "VmRSS") -> float:
    """Return the memory of this process in GB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) * 1024e-9
    return 0.0


def _step(classes: int, dim: int, rows: int, share: float) -> Callable[[], object]:
    torch.manual_seed(0)
    head = CosineHead(classes, dim, ArcFaceSettings(name="arcface", sample=share))
    optimizer = SGD(head.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    features = torch.randn(rows, dim, requires_grad=True)
    labels = torch.randint(classes, (rows,))
    luck = torch.Generator().manual_seed(1)
    chosen = sample_classes(labels, classes, share, luck)  # the loop draws ahead

    def step() -> None:
        if share < 1:
            head.choose(chosen)
        optimizer.zero_grad(set_to_none=True)
        features.grad = None
        head(features, labels).mean().backward()
        with head.updated_by(optimizer):
            optimizer.step()

    return step


def _least(classes: int, dim: int, rows: int) -> Callable[[], object]:
    features, of_logits = torch.randn(rows, dim), torch.randn(rows, classes)
    weight = nn.Parameter(torch.randn(classes, dim))
    weight.grad = torch.randn(classes, dim)
    optimizer = SGD([weight], 1e-9, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        with torch.no_grad():
            features @ weight.t()
            of_logits @ weight
            of_logits.t() @ features
        optimizer.step()

    return step
