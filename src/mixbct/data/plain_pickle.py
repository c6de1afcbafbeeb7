"""Plain data out of a pickle, with nothing executed.

A pickle is a program for a stack machine that may call any function. Here its operations are read
one by one and only those that build plain data are followed: tuples, lists, byte strings, text,
booleans, whole numbers, and NumPy arrays of bytes or booleans. A name in the pickle never leads to
an import: the few that NumPy and Python 2 write stand for functions of this file, and every other
is refused by name. (Python's own reader, however it is restricted, takes memory for the lengths
and the places in its memo that a pickle claims.)
"""

import math
import pickletools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mixbct.errors import DataError

_MARK = object()
_DEEPEST = 4

_Stack = list[Any]


@dataclass
class _Array:
    """A NumPy array: its bytes or booleans, which may come with a later operation."""

    content: bytes | list[bool] | None = None


def read_plain_pickle(data: bytes) -> object:
    """Return what a pickle of plain data holds.

    Python 2's strings come as bytes (those of its protocol 0 only where they are ASCII); a NumPy
    array comes as its bytes (uint8) or as a list of booleans, a NumPy boolean as a boolean. What is
    allocated is in proportion to `data`, whatever lengths it claims.

    Raises:
        DataError: the pickle wants anything else (it names it), or is damaged.
    """
    stack: _Stack = []
    memo: dict[int, Any] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in damaged text
            for operation, argument, _ in pickletools.genops(data):
                if operation.name == "STOP":
                    return _plain(stack.pop(), {})
                follow = _OPERATIONS.get(operation.name)
                if follow is None:
                    raise DataError(
                        f"the pickle uses {operation.name}, which plain data does not need"
                    )
                follow(stack, argument, memo)
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise DataError(f"the pickle is damaged: {error or type(error).__name__}") from error
    raise DataError("the pickle is damaged: it has no end")


def _pop(stack: _Stack, count: int) -> _Stack:
    if len(stack) < count:
        raise IndexError("its stack is empty")
    items = stack[-count:]
    del stack[-count:]
    return items


def _above_mark(stack: _Stack) -> _Stack:
    items = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _extend(stack: _Stack, items: _Stack) -> None:
    if not isinstance(stack[-1], list):
        raise TypeError(f"it appends to a {_kind(stack[-1])}")
    stack[-1].extend(items)


def _call(function: object, arguments: object) -> object:
    if not callable(function) or not isinstance(arguments, tuple):
        raise DataError(f"the pickle calls {_kind(function)}; only plain data is read")
    return function(*arguments)


def _build(target: object, state: object) -> None:
    """Give an array its content; a dtype's state says nothing that one byte an item needs."""
    if isinstance(target, _Array) and isinstance(state, tuple) and len(state) == 5:
        target.content = _content(state[4], state[2], state[1])
    elif target not in ("u1", "b1"):
        raise DataError(f"the pickle sets the state of a {_kind(target)}; only plain data is read")


def _known(module: object, name: object) -> Callable[..., object]:
    full = f"{_shown(module)}.{_shown(name)}"
    if full not in _FUNCTIONS:
        raise DataError(
            f"the pickle asks for {full}; only tuples, lists, bytes, booleans, numbers and arrays "
            "of uint8 are read, and nothing is executed"
        )
    return _FUNCTIONS[full]


def _kind(value: object) -> str:
    return next((n for n, f in _FUNCTIONS.items() if f is value), type(value).__name__)


def _shown(value: object) -> str:
    # never the text of a list: one that holds another many times over has no end
    return str(value)[:100] if isinstance(value, str | bytes | int) else type(value).__name__


# what follows stands for functions of Python and NumPy; a pickle may call it with anything


def _encode(text: object, encoding: object) -> bytes:
    """Stand for `_codecs.encode`: how Python 3 writes bytes for Python 2 to read."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes in the encoding {_shown(encoding)}")
    return text.encode("latin-1")


def _dtype(code: object, *_: object) -> str:
    """Stand for `numpy.dtype`."""
    text = code.decode("ascii") if isinstance(code, bytes) else code
    if text not in ("u1", "b1"):
        raise DataError(f"the pickle holds an array of {_shown(text)}; expected uint8 or booleans")
    return str(text)


def _scalar(dtype: object, data: object) -> int | bool:
    """Stand for NumPy's `scalar`."""
    return _content(data, dtype, (1,))[0]


def _content(data: object, dtype: object, shape: object) -> bytes | list[bool]:
    """Return an array's bytes or booleans; only one of its axes may be longer than 1."""
    if not isinstance(data, bytes) or dtype not in ("u1", "b1") or not isinstance(shape, tuple):
        raise TypeError("an array without a dtype, a shape or bytes")
    if not all(isinstance(size, int) for size in shape):
        raise TypeError("an array whose shape is no numbers")
    if sum(size != 1 for size in shape) > 1:
        raise ValueError("an array of several axes; expected one")
    if math.prod(shape) != len(data):
        raise ValueError(f"an array of {len(data)} bytes in a shape of another size")
    if dtype == "u1":
        return data
    if max(data, default=0) > 1:
        raise ValueError("an array of booleans with other values than 0 and 1")
    return list(map(bool, data))


def _plain(value: object, done: dict[int, object], depth: int = 0) -> object:
    """Replace arrays by bytes or booleans; refuse what is no data.

    `done` has what was replaced before, so that a list that is named many times is gone through
    once.
    """
    if value is None or isinstance(value, bytes | str | bool | int):
        return value
    if id(value) not in done:
        if depth > _DEEPEST:
            raise DataError(f"the pickle nests lists deeper than {_DEEPEST} levels")
        if isinstance(value, list | tuple):
            done[id(value)] = type(value)([_plain(item, done, depth + 1) for item in value])
        elif not isinstance(value, _Array):
            raise DataError(f"the pickle holds {_kind(value)} where data should be")
        elif value.content is None:
            raise ValueError("an array without content")
        else:
            done[id(value)] = value.content
    return done[id(value)]


def _empty_array(*_: object) -> _Array:
    """Stand for NumPy's `_reconstruct`."""
    return _Array()


def _no_bytes(*_: object) -> bytes:
    """Stand for `__builtin__.bytes`: how Python 3 writes no bytes at all."""
    return b""


def _from_buffer(data: object, dtype: object, shape: object, _: object) -> _Array:
    """Stand for NumPy's `_frombuffer` (protocol 5)."""
    return _Array(_content(data, dtype, shape))


_FUNCTIONS: Mapping[str, Callable[..., object]] = {
    "_codecs.encode": _encode,
    "__builtin__.bytes": _no_bytes,
    "numpy.dtype": _dtype,
    "numpy.ndarray": _empty_array,
    **{
        f"numpy.{core}.{name}": function
        for core in ("core", "_core")
        for name, function in (
            ("multiarray._reconstruct", _empty_array),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _from_buffer),
        )
    },
}
"""Every name that a pickle may hold → what stands for it here."""


_Step = Callable[[_Stack, Any, dict[int, Any]], object]


def _push(value: Callable[[Any], object]) -> _Step:
    return lambda stack, argument, memo: stack.append(value(argument))


_OPERATIONS: Mapping[str, _Step] = {
    # the argument is the value: numbers ("INT" has Python 2's booleans), text, bytes of Python 3
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"), _push(lambda a: a)),
    **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _push(str)),
    **dict.fromkeys(("BINBYTES", "BINBYTES8", "SHORT_BINBYTES", "BYTEARRAY8"), _push(bytes)),
    # Python 2's strings, which the parser decodes as Latin-1
    **dict.fromkeys(
        ("STRING", "BINSTRING", "SHORT_BINSTRING"), _push(lambda a: a.encode("latin-1"))
    ),
    "NONE": _push(lambda _: None),
    "NEWTRUE": _push(lambda _: True),
    "NEWFALSE": _push(lambda _: False),
    "EMPTY_LIST": _push(lambda _: []),
    "EMPTY_TUPLE": _push(lambda _: ()),
    "MARK": _push(lambda _: _MARK),
    **dict.fromkeys(
        ("PUT", "BINPUT", "LONG_BINPUT"), lambda stack, place, memo: memo.update({place: stack[-1]})
    ),
    "MEMOIZE": lambda stack, _, memo: memo.update({len(memo): stack[-1]}),
    **dict.fromkeys(
        ("GET", "BINGET", "LONG_BINGET"), lambda stack, place, memo: stack.append(memo[place])
    ),
    "APPEND": lambda stack, _, memo: _extend(stack, _pop(stack, 1)),
    "APPENDS": lambda stack, _, memo: _extend(stack, _above_mark(stack)),
    "LIST": lambda stack, _, memo: stack.append(_above_mark(stack)),
    "TUPLE": lambda stack, _, memo: stack.append(tuple(_above_mark(stack))),
    "TUPLE1": lambda stack, _, memo: stack.append(tuple(_pop(stack, 1))),
    "TUPLE2": lambda stack, _, memo: stack.append(tuple(_pop(stack, 2))),
    "TUPLE3": lambda stack, _, memo: stack.append(tuple(_pop(stack, 3))),
    "GLOBAL": _push(lambda name: _known(*name.split(" ", 1))),
    "STACK_GLOBAL": lambda stack, _, memo: stack.append(_known(*_pop(stack, 2))),
    "REDUCE": lambda stack, _, memo: stack.append(_call(*_pop(stack, 2))),
    "BUILD": lambda stack, _, memo: _build(stack[-2], stack.pop()),
    "PROTO": lambda stack, _, memo: None,
    "FRAME": lambda stack, _, memo: None,
}
"""Every operation that plain data needs → how it is carried out."""
