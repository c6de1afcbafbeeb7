"""Typefaces for the glyph set: from Debian packages, or from a person's own folder.

The packages are fetched with `apt-get download` and unpacked with `dpkg -x`, which needs no
root. Their fonts are free (SIL Open Font License and similar); none is shipped with this
package, and each package's copyright file is kept beside its fonts in the cache.
"""

import os
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from fontTools.ttLib import TTFont

from mixbct.data.source import Progress
from mixbct.errors import DataError
from mixbct.files import disk_full_as_error, folder_written_whole

PACKAGES = (
    "fonts-aoyagi-kouzan-t",
    "fonts-aoyagi-soseki",
    "fonts-dejima-mincho",
    "fonts-dotgothic16",
    "fonts-horai-umefont",
    "fonts-ipaexfont-gothic",
    "fonts-ipaexfont-mincho",
    "fonts-kiloji",
    "fonts-konatu",
    "fonts-kouzan-mouhitsu",
    "fonts-misaki",
    "fonts-morisawa-bizud-mincho",
    "fonts-motoya-l-cedar",
    "fonts-motoya-l-maruberi",
    "fonts-oradano-mincho-gsrr",
    "fonts-reggae",
    "fonts-sawarabi-gothic",
    "fonts-sawarabi-mincho",
    "fonts-seto",
    "fonts-stick",
    "fonts-train",
    "fonts-umeplus",
    "fonts-vlgothic",
    "fonts-wqy-microhei",
    "fonts-yusei-magic",
)
_SUFFIXES = (".ttf", ".ttc", ".otf")
_ELSE = (
    "or use your own fonts with --fonts DIR (Japanese ones, .ttf .ttc .otf), or your own images "
    "with --data DIR (a folder of class folders)"
)


@dataclass(frozen=True)
class Typeface:
    """One font file, the name it goes by, and the family that its siblings share."""

    path: Path
    name: str
    family: str


def packaged_typefaces(cache: Path, progress: Progress) -> list[Typeface]:
    """Return the typefaces of `PACKAGES`; packages that `cache` lacks are fetched first.

    The family is the name of the font's folder in its package.

    Raises:
        DataError: a package is not in the cache and cannot be fetched.
    """
    missing = [name for name in PACKAGES if not (cache / name).is_dir()]
    if missing:
        _fetch(missing, cache, progress)
    files = [file for name in PACKAGES for file in _font_files(cache / name)]
    return [Typeface(file, file.stem, file.parent.name) for file in files]


def own_typefaces(folder: Path) -> list[Typeface]:
    """Return the typefaces of every font file below `folder`.

    The family is the name of the folder that the file is in, or, directly in `folder`, the
    family name that the font gives itself.

    Raises:
        DataError: there is no font file.
    """
    files = _font_files(folder)
    if not files:
        raise DataError(f"there is no font ({', '.join(_SUFFIXES)}) in {folder}")
    stems, found = Counter(file.stem for file in files), []
    for file in files:
        # keys are built from names, so that no two may be alike
        unique = file.relative_to(folder).as_posix().replace("/", "-")
        family = _family_name(file) if file.parent == folder else file.parent.name
        found.append(Typeface(file, file.stem if stems[file.stem] == 1 else unique, family))
    return found


def _font_files(folder: Path) -> list[Path]:
    fonts = (file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES)
    return sorted(filter(Path.is_file, fonts))


def _family_name(file: Path) -> str:
    try:
        with file.open("rb") as content, TTFont(content, fontNumber=0, lazy=True) as font:
            return font["name"].getBestFamilyName() or file.stem
    except Exception:  # damaged tables raise anything; rendering will say what is wrong
        return file.stem


def _fetch(packages: list[str], cache: Path, progress: Progress) -> None:
    if missing := [tool for tool in ("apt-get", "dpkg") if shutil.which(tool) is None]:
        raise DataError(
            f"the kanji fonts come as Debian packages, but there is no {missing[0]} here: run this "
            f"on Debian or Ubuntu, {_ELSE}"
        )
    with disk_full_as_error(cache):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as name:
            folder = Path(name)
            progress(0, len(packages))
            _download(packages, folder)
            for done, package in enumerate(packages, start=1):
                _unpack(package, folder, cache / package)
                progress(done, len(packages))


def _download(packages: list[str], folder: Path) -> None:
    command = ["apt-get", "download", *packages]
    problem = _run(command, folder)
    if problem and os.geteuid() == 0:  # a fresh container has no package lists
        problem = _run(["apt-get", "update"], folder) or _run(command, folder)
    if problem:
        raise DataError(
            f"apt-get cannot download the kanji fonts:\n{problem}\nif it knows no such packages, "
            f"run `sudo apt-get update` and try again, {_ELSE}"
        )


def _unpack(package: str, folder: Path, target: Path) -> None:
    """Unpack the one .deb of `package` in `folder`; its fonts and copyright come to `target`."""
    debs = list(folder.glob(f"{package}_*.deb"))
    unpacked = folder / package
    problem = _run(["dpkg", "-x", str(debs[0]), str(unpacked)], folder) if debs else "no such file"
    if problem:
        raise DataError(f"the package {package} cannot be unpacked: {problem}")
    with folder_written_whole(target) as partial:
        for file in _font_files(unpacked):
            (partial / file.parent.name).mkdir(exist_ok=True)
            # not moved: it may be a link to its neighbour
            shutil.copyfile(file, partial / file.parent.name / file.name)
        notice = unpacked / "usr/share/doc" / package / "copyright"
        if notice.exists():
            shutil.copyfile(notice, partial / "copyright")


def _run(command: list[str], folder: Path) -> str:
    """Run a command in `folder`; return '' when it worked, else the end of what it printed."""
    ran = subprocess.run(
        command,
        cwd=folder,
        # in English, whatever the person's language, since the text goes into our error
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    if ran.returncode == 0:
        return ""
    lines = (ran.stderr.strip() or ran.stdout.strip()).splitlines()
    return "\n".join(lines[-5:]) or f"{command[0]} exited with {ran.returncode}"
