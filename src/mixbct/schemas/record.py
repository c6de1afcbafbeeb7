"""The base of every record on disk, and the one place that reads them.

Every file that one command writes and another reads has its model in this folder. All are frozen
and refuse unknown keys, so that a file from another version fails with a reason, not silently.
Numbers are finite: JSON has no NaN and no infinity, so a record that held one could not be read.
"""

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticSerializationError

from mixbct.errors import DataError, Error
from mixbct.reading import read_bytes, shown

Count = Annotated[int, Field(ge=0, lt=2**63)]
"""How many of something."""

ModelT = TypeVar("ModelT", bound=BaseModel)


def now() -> str:
    """Return the present time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0).isoformat()


def absent(value: object) -> bool:
    """Leave a later field out where it says nothing, so that earlier versions read the file."""
    return value is None


class Record(BaseModel):
    """Base of every record on disk."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_json(self) -> str:
        """Return the record as indented JSON that ends with a newline.

        Raises:
            DataError: a name is no text.
        """
        return self._json(1) + "\n"

    def digest(self) -> str:
        """Return the hexadecimal SHA-256 of the record's canonical JSON."""
        return hashlib.sha256(self._json(None).encode()).hexdigest()

    def _json(self, indent: int | None) -> str:
        try:
            return self.model_dump_json(indent=indent)
        except PydanticSerializationError as problem:
            raise DataError(
                f"a name cannot be written down as text ({problem}): where it came from the "
                "command line or from a file's name, run in a UTF-8 locale (LC_ALL=C.UTF-8)"
            ) from None


class Document(Record):
    """Base of every record that is a file of its own; the version comes first in it."""

    schema_version: Literal[1] = 1


def read_record(path: Path, model: type[ModelT], error: Error, what: str) -> ModelT:
    """Read `path` as `model`; raise `error` that names `what` where it is missing or malformed."""
    try:
        return model.model_validate_json(read_bytes(path, what, error))
    except (ValidationError, RecursionError) as problem:
        raise error(f"{shown(path)} is not a readable {what}: {first_problem(problem)}") from None


def record_there(path: Path, model: type[ModelT], error: Error, what: str) -> ModelT | None:
    """Return `read_record`'s record, or None where nothing is at `path`."""
    return read_record(path, model, error, what) if path.exists() else None


def made_of(model: type[ModelT], error: Error, what: str, content: dict[str, Any]) -> ModelT:
    """Return the record of what a person asked for; raise `error` where it cannot be."""
    try:
        return model.model_validate(content)
    except ValidationError as problem:
        raise error(f"{what} cannot be so: {first_problem(problem)}") from None


def first_problem(problem: Exception) -> str:
    """Return the first thing that is wrong with a record, and where, in one line."""
    if not isinstance(problem, ValidationError):
        return "it is nested too deep"
    first = problem.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return one_line(f"{place}: {first['msg']}" if place else first["msg"])


def one_line(text: str) -> str:
    """Return foreign text for a message: on one line, without anything that cannot be printed."""
    return "".join(c if c.isprintable() else " " for c in text[:300])
