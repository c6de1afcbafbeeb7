"""The named errors. Each says what is wrong, with which value, and what to do next.

`exit_code` is what the command line returns: 2 for bad usage or bad input, 3 for a run
that stopped and can be resumed, 1 is kept for a gate that failed.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence

_SECRET = (
    re.compile(r"((?:postgres(?:ql)?|milvus):/+[^:\s/@]*):[^\s'\"]*@"),
    re.compile(r"((?:password|token)=)[^\s&'\"]+"),
)
# what moves a terminal's cursor, or turns the direction of what follows
_CONTROLS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class MixbctError(Exception):
    """Root of every error that this package raises on purpose."""

    exit_code = 2


Error = type[MixbctError]
"""Which of them to raise."""


class RecipeError(MixbctError):
    """A recipe has an unknown key, a wrong value, or settings that do not go together."""


class DataError(MixbctError):
    """A data source is missing, empty or laid out in a way that cannot be read."""


class BadImageError(DataError):
    """One or more images cannot be decoded. `keys` names them."""

    def __init__(self, message: str, keys: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.keys = list(keys)


class RecordError(BadImageError):
    """A record file or its index is damaged. The message has file, key and byte offset."""


class BankError(MixbctError):
    """A feature bank is unfinished, damaged, or belongs to other data or another model."""


class FeatureError(MixbctError):
    """Features hold NaN, infinity or a zero vector, or have the wrong dimension."""


class ModelError(MixbctError):
    """A model folder or a backbone factory cannot be used."""


class CheckpointError(MixbctError):
    """A checkpoint is damaged or was written under another recipe."""


class ContractError(MixbctError):
    """Vectors of two embedding contracts would be compared with no edge that ties them."""


class SwitchedError(ContractError):
    """Queries were embedded by another model than the one that searches the gallery now."""


class GalleryError(MixbctError):
    """A gallery is missing, already there, or was given rows that it cannot hold."""


class NoGalleryError(GalleryError):
    """There is no gallery where one was named."""


class UnavailableError(GalleryError):
    """The gallery's database is busy, or cannot be reached: the same again may do."""


class ServeError(MixbctError):
    """A server cannot start as asked, or a request is not one that it takes."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class ResultError(MixbctError):
    """A result file is missing, malformed, or lacks what was asked of it."""


class WorldError(MixbctError):
    """Several processes were started that cannot work as one, or one of them is gone."""

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class DiskFullError(MixbctError):
    """The disk (or a quota) is full. What was finished before is intact."""


class TrainingDivergedError(MixbctError):
    """A loss became NaN or infinite."""


class StoppedError(MixbctError):
    """The run was asked to stop. It saved its state and can be resumed."""

    exit_code = 3


@contextlib.contextmanager
def not_ending(what: str) -> Iterator[None]:
    """Keep a person's own code, `what`, from ending more than itself, as `sys.exit` does.

    Raises:
        ModelError: it raised what is no `Exception`, and no stop.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as end:
        raise ModelError(
            f"{what} ended with {end!r:.400}: let it return, or raise an Exception"
        ) from end


def without_controls(text: str) -> str:
    """Return text in which every control of a terminal but tab and newline is written out.

    >>> without_controls("photo\\u202egpj.exe")
    'photo\\\\u202egpj.exe'
    """
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def without_passwords(text: str) -> str:
    """Return text in which every URL has lost its password."""
    for pattern in _SECRET:
        text = pattern.sub(lambda m: m[1] + (":***@" if "/" in m[1] else "***"), text)
    return text
