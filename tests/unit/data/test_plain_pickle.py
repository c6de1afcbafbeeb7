import contextlib
import pickle
import sys
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixbct.data.plain_pickle import read_plain_pickle
from mixbct.errors import DataError

EVERY_BYTE = bytes(range(256))
DATA = ([EVERY_BYTE, b"", b"x" * 300], [True, False, 1, 0, 300, -5, 2**40])


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_comes_back(protocol: int) -> None:
    for data in (DATA, [DATA, DATA[0]], (), [], None, True, 7, "text ü", ("a", (b"b",), [[]])):
        assert read_plain_pickle(pickle.dumps(data, protocol)) == data


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_come_as_bytes_and_booleans(protocol: int) -> None:
    image = np.frombuffer(EVERY_BYTE, np.uint8)
    data = ([image, image[:, None], image[None].copy()], np.array([True, False]), np.True_)
    found = read_plain_pickle(pickle.dumps(data, protocol))
    assert found == ([EVERY_BYTE] * 3, [True, False], True)


# what Python 2's cPickle.dumps([...], 2) gave for (['\xff\xd8"', 'b' * 3], [True, False])
PYTHON_2 = b'\x80\x02]q\x01(U\x03\xff\xd8"q\x02T\x03\x00\x00\x00bbbq\x03e]q\x04(\x88\x89e\x86q\x05.'
PYTHON_2_OLD = b"((lp1\nS'aa'\np2\naS'bbb'\np3\na(lp4\nI01\naI00\natp5\n."


@pytest.mark.parametrize(("data", "first"), [(PYTHON_2, b'\xff\xd8"'), (PYTHON_2_OLD, b"aa")])
def test_strings_of_python_2_come_as_bytes(data: bytes, first: bytes) -> None:
    expected = ([first, b"bbb"], [True, False])
    assert read_plain_pickle(data) == expected == pickle.loads(data, encoding="bytes")


class Evil:
    """A pickle that touches a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_is_executed_and_the_name_is_said(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps(([Evil(tmp_path / "touched")], [True]), protocol)
    with pytest.raises(DataError, match=r"asks for .*(touch|getattr)"):
        read_plain_pickle(data)
    assert not (tmp_path / "touched").exists()
    pickle.loads(data)
    assert (tmp_path / "touched").exists()  # it would have


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", r"asks for os\.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", r"asks for os\.system"),
        (b"(ios\nsystem\n.", "uses INST"),
        (b"(S'x'\nos\n.", "uses OBJ"),
        (pickle.dumps({}), "uses EMPTY_DICT"),
        (pickle.dumps(1.5), "uses BINFLOAT"),
        (pickle.dumps({1}), "uses EMPTY_SET"),
        (pickle.dumps(OrderedDict()), r"collections\.OrderedDict"),
        (pickle.dumps(np.zeros(3)), "array of f8"),
        (pickle.dumps(np.array([b"x"], object)), "array of O8"),
        (pickle.dumps(np.zeros((2, 3), np.uint8)), "several axes"),
        (b"cnumpy\ndtype\n.", r"holds numpy\.dtype where data should be"),
        (b"cnumpy\nndarray\n)R.", "holds array where data should be"),
        (b"]]b.", "sets the state of a list"),
        (b"](K\x01tR.", "calls list"),
        (b"h\x05.", "damaged"),
        (b"(.", "damaged"),
        (b".", "damaged"),
        (b"]a.", "damaged"),
        (b"K\x01K\x02a.", "damaged: 'int' object has no"),
        (b"]q\x00h\x00a.", "deeper than"),
        (b"]]]]]]aaaaa.", "deeper than"),
        (b"", "damaged"),
        (b"not a pickle", "damaged"),
    ],
)
def test_what_is_no_plain_data_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says):
        read_plain_pickle(data)


LIES = [
    b"\x80\x04B\xff\xff\xff\x7fabc.",  # 2 GB of bytes
    b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"abc.",
    b"\x80\x04\x8e" + b"\xff" * 8 + b"abc.",
    b"\x80\x04\x8d" + (2**40).to_bytes(8, "little") + b"abc.",
    b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b"abc.",
    b"\x80\x02T\xff\xff\xff\x7fabc.",
    b"\x80\x02T\xff\xff\xff\xffabc.",
    b"\x80\x04\x95" + (2**40).to_bytes(8, "little") + b"N",  # a frame
    b"\x80\x04Nr\xff\xff\xff\x7f0.",  # a place in the memo far out
    b"\x80\x02\x8b\xff\xff\xff\x7fabc.",
    b"I" + b"9" * 20_000 + b"\n.",
]


@pytest.mark.parametrize("number", range(len(LIES)))
def test_lies_about_lengths_allocate_nothing(number: int) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            read_plain_pickle(LIES[number])
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_list_that_is_named_many_times_is_gone_through_once() -> None:
    data = b"](" + b"K\x01" * 1000 + b"eq\x00"
    for level in range(1, 4):
        put, get = bytes([level]), bytes([level - 1])
        data += b"](" + (b"h" + get) * 1000 + b"eq" + put
    found = read_plain_pickle(data + b".")  # 10¹² numbers if it were spread out
    assert found[5][7] is found[999][0]  # type: ignore[index]


CALLS = (
    *("os system", "posix system", "builtins eval", "builtins exec", "builtins __import__"),
    *("subprocess Popen", "builtins getattr", "builtins open", "builtins bytes", "pickle loads"),
    *("numpy load", "numpy.core.multiarray _reconstruct", "numpy dtype", "_codecs encode"),
    *("numpy._core.numeric _frombuffer", "numpy.core.multiarray scalar", "__builtin__ bytes"),
    *("mixbct.data.plain_pickle _CALLS", "numpy.core.multiarray _reconstruct.__globals__"),
)
WORDS = (
    *(b"\x8c\x02u1", b"\x8c\x04true", b"C\x03abc", b"K\x07", b"M\xff\x7f", b"J\xff\xff\xff\x7f"),
    *(b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"N", b"\x88", b"]", b")", b"(", b"S'touch x'\n"),
    *(b"t", b"l", b"a", b"e", b"R", b"R", b"b", b"\x81", b"\x92", b"o", b"P1\n", b"Q", b"\x85"),
    *(
        b"\x86",
        b"\x87",
        b"\x93",
        b"\x94",
        b"h\x00",
        b"q\x00",
        b"r\xff\xff\xff\x7f",
        b"0",
        b"2",
        b"}",
    ),
    *(
        b"\x82\x01",
        b"\x97",
        b"\x96\x02" + bytes(7) + b"ab",
        b"c" + b"os\nsystem\n",
        b"ios\nsystem\n",
    ),
)


def test_hostile_pickles_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """5,050 programs: each call in each way to make it, and operations as they come."""
    monkeypatch.chdir(tmp_path)
    programs = []
    for call in CALLS:
        module, name = call.split()
        known = f"c{module}\n{name}\n".encode()
        stacked = b"".join(b"\x8c" + bytes([len(w)]) + w.encode() for w in (module, name)) + b"\x93"
        for arguments in (
            b"(S'touch x'\ntR",
            b"(S'touch x'\no",
            b")\x81",
            b"J\xff\xff\xff\x7f\x85R",
        ):
            programs += [known + arguments + b".", stacked + arguments + b"."]
    rng = np.random.default_rng(0)
    heads = [f"c{call.replace(' ', chr(10))}\n".encode() for call in CALLS[11:17]]
    while len(programs) < 5050:
        words = [*WORDS, *heads * 3]
        chosen = rng.integers(0, len(words), int(rng.integers(2, 20)))
        programs.append(b"".join(words[place] for place in chosen) + b".")
    seen: list[str] = []
    watch = ("os.system", "os.exec", "subprocess.Popen", "exec", "compile", "import", "open")
    ACTIVE.append(lambda event: seen.append(event) if event in watch else None)
    plain = 0
    try:
        for program in programs:
            with contextlib.suppress(DataError):
                read_plain_pickle(program)
                plain += 1
    finally:
        ACTIVE.clear()
    assert seen == []
    assert list(tmp_path.iterdir()) == []
    assert 10 < plain < 2000


ACTIVE: list[Callable[[str], object]] = []
# a hook stays for ever; it listens while somebody is in the list
sys.addaudithook(lambda event, _: [listen(event) for listen in ACTIVE] and None)
