"""The label map: which training class each class of the old bank is."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

from mixbct.errors import DataError
from mixbct.reading import read_lines_of, wrong_line


def read_label_map(path: Path, old: Sequence[str], new: Sequence[str]) -> Mapping[str, str]:
    """Read lines of an old class name, a tab and a training class name.

    Several old classes may be the same training class. Old classes that are not named take no
    part, whatever they are called.

    Args:
        path: a UTF-8 text file.
        old: the names of the bank's classes.
        new: the names of all classes of the training data, whichever part is trained on.

    Raises:
        DataError: the file cannot be read or is empty, a line is not two names, a name is not
            among the bank's or the data's, or an old class is named twice; it has the line.
    """
    lines = read_lines_of(path, "label map")
    found: dict[str, str] = {}
    known = (("the old bank", old, set(old)), ("the training data", new, set(new)))
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        names = [name.strip(" ") for name in line.split("\t")]
        if len(names) != 2:
            form = "an old class, one tab and a training class"
            raise DataError(wrong_line(path, number, form, line))
        for name, (where, there, quick) in zip(names, known, strict=True):
            if name not in quick:
                close = difflib.get_close_matches(name, there, 1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise DataError(f"{path}, line {number}: {where} has no class {name!r}{hint}")
        if names[0] in found:
            raise DataError(f"{path}, line {number}: the old class {names[0]!r} is named twice")
        found[names[0]] = names[1]
    if not found:
        raise DataError(f"the label map {path} is empty")
    return found
