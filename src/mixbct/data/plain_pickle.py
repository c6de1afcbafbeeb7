"""Plain data out of a pickle, with nothing executed.

A pickle is a program for a stack machine that may call any function. The standard library's reader
carries it out here, with the operations alone that plain data needs: tuples, lists, byte strings,
text, booleans, whole numbers, and NumPy arrays of bytes or booleans. A name in the pickle never
leads to an import: of the few functions that NumPy and Python 2 write, this file has the result,
and every other name is refused. (The reader in C takes memory for the lengths and the places in its
memo that a pickle claims; the one in Python, which this is, takes what is there.)
"""

import io
import math
import pickle
import pickletools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mixbct.errors import DataError

_DEEPEST = 4
_PLAIN = """
    INT BININT BININT1 BININT2 LONG LONG1 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES
    BINBYTES8 SHORT_BINBYTES BYTEARRAY8 STRING BINSTRING SHORT_BINSTRING NONE NEWTRUE NEWFALSE
    EMPTY_LIST EMPTY_TUPLE MARK PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET APPEND APPENDS
    LIST TUPLE TUPLE1 TUPLE2 TUPLE3 GLOBAL STACK_GLOBAL REDUCE BUILD PROTO FRAME STOP
"""
"""Every operation that plain data needs."""


@dataclass(eq=False)
class _Stand:
    """What stands for a function that a pickle names, for a dtype, or for an array."""

    name: str
    content: object = None


def read_plain_pickle(data: bytes) -> object:
    """Return what a pickle of plain data holds.

    Python 2's strings come as bytes; a NumPy array comes as its bytes (uint8) or as a list of
    booleans, a NumPy boolean as a boolean. What is allocated is in proportion to `data`, whatever
    lengths it claims.

    Raises:
        DataError: the pickle wants anything else (it names it), or is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in damaged text
            return _plain(_Reader(io.BytesIO(data), encoding="bytes").load(), {})
    except DataError:
        raise
    except Exception as error:  # the reader fails in many ways
        said = "it has no end" if isinstance(error, EOFError) else error or type(error).__name__
        raise DataError(f"the pickle is damaged: {said}") from error


class _Steps(dict[int, Callable[[Any], None]]):
    def __missing__(self, code: int) -> None:
        name = next(each.name for each in pickletools.opcodes if each.code == chr(code))
        raise DataError(f"the pickle uses {name}, which plain data does not need")


class _Reader(pickle._Unpickler):
    stack: list[Any]
    read: Callable[[int], bytes]

    def find_class(self, module: str, name: str) -> _Stand:
        """Return what stands for a function; every name in a pickle comes here."""
        full = f"{module}.{name}"[:100].replace("numpy._core.", "numpy.core.")
        if full not in _CALLS:
            raise DataError(
                f"the pickle asks for {full}; only tuples, lists, bytes, booleans, numbers and "
                "arrays of uint8 are read, and nothing is executed"
            )
        return _Stand(full)

    def reduce(self) -> None:
        """Put what a call gives in the place of function and arguments."""
        function, arguments = self.stack[-2:]
        if not isinstance(function, _Stand) or not isinstance(arguments, tuple):
            raise DataError(f"the pickle calls {_kind(function)}; only plain data is read")
        self.stack[-2:] = [_CALLS[function.name](*arguments)]

    def build(self) -> None:
        """Give an array its content. A dtype's state says nothing that is needed."""
        target, state = self.stack[-2], self.stack.pop()
        if _kind(target) == "array":
            _, shape, dtype, _, data = state
            target.content = _content(data, dtype, shape)
        elif _kind(target) != "dtype":
            raise DataError(f"the pickle sets the state of a {_kind(target)}; only data is read")

    def bytes_of_array(self) -> None:
        """Read bytes that can be written; the standard library takes memory for them first."""
        self.stack.append(self.read(int.from_bytes(self.read(8), "little")))

    dispatch = _Steps(
        (ord(each.code), pickle._Unpickler.dispatch[ord(each.code)])
        for each in pickletools.opcodes
        if each.name in _PLAIN.split()
    )
    dispatch |= {
        pickle.REDUCE[0]: reduce,
        pickle.BUILD[0]: build,
        pickle.BYTEARRAY8[0]: bytes_of_array,
    }


def _kind(value: object) -> str:
    return value.name if isinstance(value, _Stand) else type(value).__name__


def _plain(value: object, done: dict[int, object], depth: int = 0) -> object:
    """Replace arrays by what they hold; refuse what is no data.

    `done` has what was replaced before, so that a list that is named many times is gone through
    once.
    """
    if isinstance(value, _Stand):
        if value.content is None:
            raise DataError(f"the pickle holds {value.name} where data should be")
        return value.content
    if not isinstance(value, list | tuple):
        return value
    if id(value) not in done:
        if depth > _DEEPEST:
            raise DataError(f"the pickle nests lists deeper than {_DEEPEST} levels")
        done[id(value)] = type(value)([_plain(item, done, depth + 1) for item in value])
    return done[id(value)]


# what a pickle calls these with may be anything
def _encoded(text: Any, encoding: Any) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes as text in another encoding than Latin-1")
    encoded: bytes = text.encode("latin-1")
    return encoded


def _dtype(code: Any, *_: object) -> _Stand:
    code = code.decode("ascii") if isinstance(code, bytes) else code
    if code not in ("u1", "b1"):
        said = code[:9] if isinstance(code, str) else type(code).__name__
        raise DataError(f"the pickle holds an array of {said}; expected uint8 or booleans")
    return _Stand("dtype", code)


def _content(data: Any, dtype: Any, shape: Any) -> bytes | list[bool]:
    """Return an array's bytes or booleans; only one of its axes may be longer than 1."""
    if _kind(dtype) != "dtype" or not isinstance(data, bytes):
        raise TypeError("an array without a dtype, or without bytes")
    if sum(size != 1 for size in shape) > 1:
        raise ValueError("an array of several axes; expected one")
    if math.prod(shape) != len(data):
        raise ValueError(f"an array of {len(data)} bytes in a shape of another size")
    if dtype.content == "u1":
        return data
    if max(data, default=0) > 1:
        raise ValueError("an array of booleans with other values than 0 and 1")
    return list(map(bool, data))


_CALLS: Mapping[str, Callable[..., object]] = {
    "_codecs.encode": _encoded,  # how Python 3 writes bytes for Python 2 to read
    "__builtin__.bytes": lambda: b"",  # and how no bytes at all
    "numpy.dtype": _dtype,
    "numpy.ndarray": lambda *_: _Stand("array"),
    "numpy.core.multiarray._reconstruct": lambda *_: _Stand("array"),
    "numpy.core.multiarray.scalar": lambda dtype, data: _content(data, dtype, (1,))[0],
    "numpy.core.numeric._frombuffer": lambda data, dtype, shape, _: _content(data, dtype, shape),
}
"""Every name that a pickle may hold → what a call of it gives."""
