"""Plain data out of a pickle, with nothing executed.

A pickle is a program for a stack machine that may call any function. Here its operations are read
one by one and only those that build plain data are followed: tuples, lists, byte strings, text,
booleans, whole numbers, and NumPy arrays of bytes or booleans. A name in the pickle never leads to
an import, and a call is noted, not made: of the few that NumPy and Python 2 write, this file knows
what they would give, and every other name is refused. (Python's own reader, however it is
restricted, takes memory for the lengths and the places in its memo that a pickle claims.)
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


@dataclass(eq=False)
class _Call:
    """A function that a pickle names; with what, once it calls it, and the state it then sets."""

    name: str
    arguments: tuple[object, ...] | None = None
    state: object = None


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
    return [stack.pop() for _ in range(count)][::-1]


def _above_mark(stack: _Stack) -> _Stack:
    items = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _extend(stack: _Stack, items: _Stack) -> None:
    if not isinstance(stack[-1], list):
        raise TypeError(f"it appends to a {_kind(stack[-1])}")
    stack[-1].extend(items)


def _call(function: object, arguments: object) -> _Call:
    fits = isinstance(function, _Call) and function.arguments is None
    if not fits or not isinstance(arguments, tuple):
        raise DataError(f"the pickle calls {_kind(function)}; only plain data is read")
    return _Call(_kind(function), arguments)


def _build(target: object, state: object) -> None:
    if not isinstance(target, _Call):
        raise DataError(f"the pickle sets the state of a {_kind(target)}; only plain data is read")
    target.state = state


def _known(module: object, name: object) -> _Call:
    full = f"{_shown(module)}.{_shown(name)}".replace("numpy._core.", "numpy.core.")
    if full not in _NAMES:
        raise DataError(
            f"the pickle asks for {full}; only tuples, lists, bytes, booleans, numbers and arrays "
            "of uint8 are read, and nothing is executed"
        )
    return _Call(full)


def _kind(value: object) -> str:
    return value.name if isinstance(value, _Call) else type(value).__name__


def _shown(value: object) -> str:
    # never the text of a list: one that holds another many times over has no end
    return str(value)[:100] if isinstance(value, str | bytes | int) else type(value).__name__


def _plain(value: object, done: dict[int, object], depth: int = 0) -> object:
    """Replace calls by what they would give; refuse what is no data.

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
        elif isinstance(value, _Call) and value.arguments is not None:
            # an array's state says everything of it, any other call's nothing that is needed
            given = value.state if value.name in _ARRAYS else value.arguments
            if not isinstance(given, tuple):
                raise ValueError("an array without content")
            done[id(value)] = _given(value.name, [_plain(a, done, depth + 1) for a in given])
        else:
            raise DataError(f"the pickle holds {_kind(value)} where data should be")
    return done[id(value)]


def _given(name: str, arguments: list[object]) -> object:
    """Return what a call gives, or what an array of some state holds."""
    match name, arguments:
        case "_codecs.encode", [str(text), "latin1" | "latin-1"]:
            return text.encode("latin-1")
        case "__builtin__.bytes", _:
            return b""
        case "numpy.dtype", [code, *_]:
            code = code.decode("ascii") if isinstance(code, bytes) else code
            if code not in ("u1", "b1"):
                raise DataError(
                    f"the pickle holds an array of {_shown(code)}; expected uint8 or booleans"
                )
            return code
        case "numpy.core.multiarray.scalar", [str(dtype), bytes(data)]:
            return _content(data, dtype, (1,))[0]
        case "numpy.core.numeric._frombuffer", [bytes(data), str(dtype), tuple(shape), _]:
            return _content(data, dtype, shape)
        case _, [_, tuple(shape), str(dtype), _, bytes(data)] if name in _ARRAYS:
            return _content(data, dtype, shape)
    raise ValueError(f"{name} of {len(arguments)} arguments that plain data has not")


def _content(data: bytes, dtype: str, shape: tuple[Any, ...]) -> bytes | list[bool]:
    """Return an array's bytes or booleans; only one of its axes may be longer than 1."""
    if not all(isinstance(size, int) for size in shape) or dtype not in ("u1", "b1"):
        raise TypeError("an array whose shape is no numbers, or that has no dtype")
    if sum(size != 1 for size in shape) > 1:
        raise ValueError("an array of several axes; expected one")
    if math.prod(shape) != len(data):
        raise ValueError(f"an array of {len(data)} bytes in a shape of another size")
    if dtype == "u1":
        return data
    if max(data, default=0) > 1:
        raise ValueError("an array of booleans with other values than 0 and 1")
    return list(map(bool, data))


_ARRAYS = {"numpy.ndarray", "numpy.core.multiarray._reconstruct"}
_NAMES = {
    "_codecs.encode",  # how Python 3 writes bytes for Python 2 to read
    "__builtin__.bytes",  # and how no bytes at all
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy.core.numeric._frombuffer",  # of protocol 5
    *_ARRAYS,
}
"""Every name that a pickle may hold."""

_Step = Callable[[_Stack, Any, dict[int, Any]], object]


def _push(value: Callable[[Any], object]) -> _Step:
    return lambda stack, argument, memo: stack.append(value(argument))


_STRINGS = ("STRING", "BINSTRING", "SHORT_BINSTRING")
_PUTS, _GETS = (("PUT", "BINPUT", "LONG_BINPUT"), ("GET", "BINGET", "LONG_BINGET"))
_OPERATIONS: Mapping[str, _Step] = {
    # the argument is the value: numbers ("INT" has Python 2's booleans), text, bytes of Python 3
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"), _push(lambda a: a)),
    **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _push(str)),
    **dict.fromkeys(("BINBYTES", "BINBYTES8", "SHORT_BINBYTES", "BYTEARRAY8"), _push(bytes)),
    # Python 2's strings, which the parser decodes as Latin-1
    **dict.fromkeys(_STRINGS, _push(lambda a: a.encode("latin-1"))),
    "NONE": _push(lambda _: None),
    "NEWTRUE": _push(lambda _: True),
    "NEWFALSE": _push(lambda _: False),
    "EMPTY_LIST": _push(lambda _: []),
    "EMPTY_TUPLE": _push(lambda _: ()),
    "MARK": _push(lambda _: _MARK),
    **dict.fromkeys(_PUTS, lambda stack, place, memo: memo.update({place: stack[-1]})),
    "MEMOIZE": lambda stack, _, memo: memo.update({len(memo): stack[-1]}),
    **dict.fromkeys(_GETS, lambda stack, place, memo: stack.append(memo[place])),
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
    **dict.fromkeys(("PROTO", "FRAME"), lambda stack, _, memo: None),
}
"""Every operation that plain data needs → how it is carried out."""
