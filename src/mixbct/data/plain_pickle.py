"""Plain data out of a pickle, with nothing executed.

A pickle is a program for a stack machine that may call any function. Here its operations are read
one by one and only those that build plain data are followed: tuples, lists, byte strings, text,
booleans, whole numbers, and NumPy arrays of bytes or booleans. A name in the pickle never leads to
an import: the few that NumPy and Python 2 write stand for functions of this file, and every other
is refused by name.
"""

import pickletools
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixbct.errors import DataError

_MARK = object()
_DEEPEST = 4


@dataclass(frozen=True)
class _Name:
    """A name that is known here."""

    name: str


@dataclass(frozen=True)
class _Type:
    """A NumPy dtype, 'u1' or 'b1'."""

    code: str


@dataclass
class _Array:
    """A NumPy array whose content comes with a later operation."""

    value: np.ndarray | None = None


def read_plain_pickle(data: bytes) -> object:
    """Return what a pickle of plain data holds.

    Python 2's strings come as bytes (those of its protocol 0 only where they are ASCII); a NumPy
    array comes as its bytes (uint8) or as a list of booleans, a NumPy boolean as a boolean. What is
    allocated is in proportion to `data`, whatever lengths it claims.

    Raises:
        DataError: the pickle wants anything else (it names it), or is damaged.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in damaged text
            for operation, argument, _ in _operations(data):
                if operation == "STOP":
                    return _plain(stack.pop(), {})
                _follow(operation, argument, stack, memo)
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise DataError(f"the pickle is damaged: {error or type(error).__name__}") from error
    raise DataError("the pickle is damaged: it has no end")


def _operations(data: bytes) -> Iterator[tuple[str, Any, int | None]]:
    for operation, argument, at in pickletools.genops(data):
        yield operation.name, argument, at


_CONSTANTS: Mapping[str, object] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
# their argument is the value: numbers ("INT" has Python 2's booleans), bytes of Python 3, text
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"),
    *("BINBYTES", "BINBYTES8", "SHORT_BINBYTES"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
# Python 2's strings, which the parser decodes as Latin-1
_OLD_STRINGS = {"STRING", "BINSTRING", "SHORT_BINSTRING"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _follow(operation: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    """Carry out one operation."""
    if operation in _VALUES:
        stack.append(argument)
    elif operation == "BYTEARRAY8":
        stack.append(bytes(argument))
    elif operation in _OLD_STRINGS:
        stack.append(argument.encode("latin-1"))
    elif operation in _CONSTANTS:
        stack.append(_CONSTANTS[operation])
    elif operation in ("PUT", "BINPUT", "LONG_BINPUT"):
        memo[argument] = stack[-1]
    elif operation == "MEMOIZE":
        memo[len(memo)] = stack[-1]
    elif operation in ("GET", "BINGET", "LONG_BINGET"):
        stack.append(memo[argument])
    elif operation == "APPEND":
        item = stack.pop()
        _list(stack[-1]).append(item)
    elif operation == "APPENDS":
        items = _above_mark(stack)
        _list(stack[-1]).extend(items)
    elif operation in ("EMPTY_LIST", "EMPTY_TUPLE"):
        stack.append([] if operation == "EMPTY_LIST" else ())
    elif operation == "MARK":
        stack.append(_MARK)
    elif operation in ("TUPLE", "LIST"):
        items = _above_mark(stack)
        stack.append(tuple(items) if operation == "TUPLE" else items)
    elif operation in _TUPLES:
        stack.append(tuple(_pop(stack, _TUPLES[operation])))
    elif operation == "GLOBAL":
        stack.append(_known(argument.replace(" ", ".", 1)))
    elif operation == "STACK_GLOBAL":
        module, name = _pop(stack, 2)
        stack.append(_known(f"{_shown(module)}.{_shown(name)}"))
    elif operation == "REDUCE":
        function, arguments = _pop(stack, 2)
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise DataError(f"the pickle calls {_kind(function)}; only plain data is read")
        stack.append(_FUNCTIONS[function.name](*arguments))
    elif operation == "BUILD":
        state = stack.pop()
        _build(stack[-1], state)
    elif operation not in ("PROTO", "FRAME"):
        raise DataError(f"the pickle uses {operation}, which plain data does not need")


def _pop(stack: list[Any], count: int) -> list[Any]:
    if len(stack) < count:
        raise IndexError("its stack is empty")
    items = stack[-count:]
    del stack[-count:]
    return items


def _above_mark(stack: list[Any]) -> list[Any]:
    items = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"it appends to a {_kind(value)}")
    return value


def _kind(value: object) -> str:
    return value.name if isinstance(value, _Name) else type(value).__name__


def _shown(value: object) -> str:
    # never the text of a list: one that holds another many times over has no end
    return str(value)[:100] if isinstance(value, str | bytes | int) else type(value).__name__


def _known(name: str) -> _Name:
    if name not in _FUNCTIONS:
        raise DataError(
            f"the pickle asks for {name}; only tuples, lists, bytes, booleans, numbers and arrays "
            "of uint8 are read, and nothing is executed. If you trust it, write it anew as those"
        )
    return _Name(name)


# what follows stands for functions of Python and NumPy; a pickle may call it with anything


def _encode(text: object, encoding: object) -> bytes:
    """Stand for `_codecs.encode`: how Python 3 writes bytes for Python 2 to read."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes in the encoding {_shown(encoding)}")
    return text.encode("latin-1")


def _no_bytes() -> bytes:
    """Stand for `__builtin__.bytes`: how Python 3 writes no bytes at all."""
    return b""


def _empty_array(*_: object) -> _Array:
    """Stand for NumPy's `_reconstruct`."""
    return _Array()


def _dtype(code: object, *_: object) -> _Type:
    """Stand for `numpy.dtype`."""
    text = code.decode("ascii") if isinstance(code, bytes) else code
    if not isinstance(text, str) or text not in ("u1", "b1"):
        raise DataError(f"the pickle holds an array of {_shown(text)}; expected uint8 or booleans")
    return _Type(text)


def _scalar(dtype: object, data: object) -> int | bool:
    """Stand for NumPy's `scalar`."""
    values: list[int | bool] = _values(dtype, data).tolist()
    if len(values) != 1:
        raise ValueError(f"a scalar of {len(values)} values")
    return values[0]


def _from_buffer(data: object, dtype: object, shape: object, _: object) -> _Array:
    """Stand for NumPy's `_frombuffer` (protocol 5)."""
    return _Array(_shaped(_values(dtype, data), shape))


def _build(target: object, state: object) -> None:
    """Give an array its content; a dtype's state says nothing that one byte an item needs."""
    if isinstance(target, _Array) and isinstance(state, tuple) and len(state) == 5:
        _, shape, dtype, _, data = state
        target.value = _shaped(_values(dtype, data), shape)
    elif not isinstance(target, _Type):
        raise DataError(f"the pickle sets the state of a {_kind(target)}; only plain data is read")


def _values(dtype: object, data: object) -> np.ndarray:
    if not isinstance(dtype, _Type) or not isinstance(data, bytes):
        raise TypeError("an array without a dtype or without bytes")
    values: np.ndarray = np.frombuffer(data, np.uint8)
    if dtype.code == "u1":
        return values
    if values.max(initial=0) > 1:
        raise ValueError("an array of booleans with other values than 0 and 1")
    return values.astype(np.bool_)


def _shaped(values: np.ndarray, shape: object) -> np.ndarray:
    """Check a shape. An encoded image has one axis longer than 1, so that order is no matter."""
    if not isinstance(shape, tuple) or sum(size != 1 for size in shape) > 1:
        raise ValueError("an array of several axes; expected one")
    return values.reshape(shape).reshape(-1)


def _plain(value: object, done: dict[int, object], depth: int = 0) -> object:
    """Replace arrays by bytes or booleans; refuse what is no data.

    `done` has what was replaced before, so that a list that is named many times is gone through
    once.
    """
    if value is None or isinstance(value, bytes | str | bool | int):
        return value
    if id(value) in done:
        return done[id(value)]
    if depth > _DEEPEST:
        raise DataError(f"the pickle nests lists deeper than {_DEEPEST} levels")
    plain: object
    if isinstance(value, list | tuple):
        plain = type(value)([_plain(item, done, depth + 1) for item in value])
    elif isinstance(value, _Array):
        if value.value is None:
            raise ValueError("an array without content")
        is_bool = value.value.dtype == np.bool_
        plain = value.value.tolist() if is_bool else value.value.tobytes()
    else:
        raise DataError(f"the pickle holds {_kind(value)} where data should be")
    done[id(value)] = plain
    return plain


_FUNCTIONS: Mapping[str, Callable[..., object]] = {
    "_codecs.encode": _encode,
    "__builtin__.bytes": _no_bytes,
    "numpy.core.multiarray._reconstruct": _empty_array,
    "numpy._core.multiarray._reconstruct": _empty_array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy._core.numeric._frombuffer": _from_buffer,
    "numpy.dtype": _dtype,
    "numpy.ndarray": _empty_array,
}
"""Every name that a pickle may hold → what stands for it here."""
