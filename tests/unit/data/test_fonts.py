import os
import stat
from pathlib import Path

import pytest

from mixbct.data import fonts
from mixbct.data.fonts import own_typefaces, packaged_typefaces
from mixbct.errors import DataError

BOX = [(100, 100, 900, 900)]


def no_progress(done: int, total: int) -> None:
    pass


def script(path: Path, body: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\nset -e\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def tools(tmp_path: Path, make_font, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, first on the path, with stand-ins for apt-get and dpkg; calls go to `log`."""
    monkeypatch.setattr(fonts, "PACKAGES", ("fonts-one", "fonts-two"))
    font = make_font(tmp_path / "font.ttf", {"字": BOX})
    folder = tmp_path / "bin"
    script(
        folder / "apt-get",
        f'echo "apt-get $*" >> {tmp_path}/log\nshift\nfor p; do : > "${{p}}_1%3a2_all.deb"; done',
    )
    script(
        folder / "dpkg",
        f"""echo "dpkg $1" >> {tmp_path}/log
name=$(basename "$2"); name=${{name%%_*}}
mkdir -p "$3/usr/share/fonts/truetype/$name-family" "$3/usr/share/doc/$name" "$3/etc"
cp {font} "$3/usr/share/fonts/truetype/$name-family/$name.TTF"
ln -s nowhere.ttf "$3/etc/dangling.ttf"
ln -s $name.TTF "$3/usr/share/fonts/truetype/$name-family/a-link.ttf"
echo licence > "$3/usr/share/doc/$name/copyright\"""",
    )
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def test_packages_are_fetched_once(tmp_path: Path, tools: Path) -> None:
    cache = tmp_path / "cache"
    steps = []
    found = packaged_typefaces(cache, lambda *step: steps.append(step))
    assert [(t.name, t.family) for t in found] == [
        ("a-link", "fonts-one-family"),
        ("fonts-one", "fonts-one-family"),
        ("a-link", "fonts-two-family"),
        ("fonts-two", "fonts-two-family"),
    ]
    assert len({t.path.read_bytes() for t in found}) == 1
    assert (cache / "fonts-one" / "copyright").read_text() == "licence\n"
    assert steps[-1] == (2, 2)
    log = tmp_path / "log"
    assert log.read_text().splitlines() == [
        "apt-get download fonts-one fonts-two",
        "dpkg -x",
        "dpkg -x",
    ]
    assert sorted(path.name for path in cache.iterdir()) == ["fonts-one", "fonts-two"]
    log.unlink()
    assert packaged_typefaces(cache, no_progress) == found
    assert not log.exists()


def test_an_interrupted_fetch_goes_on_where_it_stopped(tmp_path: Path, tools: Path) -> None:
    cache = tmp_path / "cache"
    whole = (tools / "dpkg").read_text()
    script(tools / "dpkg", whole + '\ncase "$2" in *two*) echo "disk on fire" >&2; exit 1;; esac')
    with pytest.raises(DataError, match="fonts-two cannot be unpacked: disk on fire"):
        packaged_typefaces(cache, no_progress)
    assert [path.name for path in cache.iterdir()] == ["fonts-one"]
    (tools / "dpkg").write_text(whole)
    (tmp_path / "log").unlink()
    assert len(packaged_typefaces(cache, no_progress)) == 4
    assert (tmp_path / "log").read_text().startswith("apt-get download fonts-two\n")


def test_failed_download_says_what_to_do(
    tmp_path: Path, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    log = tmp_path / "log"
    script(
        tools / "apt-get",
        f'echo "$*" >> {log}\necho "E: Unable to locate package fonts-one" >&2\nexit 100',
    )
    with pytest.raises(DataError, match="Unable to locate package fonts-one") as caught:
        packaged_typefaces(tmp_path / "cache", no_progress)
    for word in ("sudo apt-get update", "--fonts DIR", "--data DIR"):
        assert word in str(caught.value)
    assert log.read_text() == "download fonts-one fonts-two\n"
    assert list((tmp_path / "cache").iterdir()) == []


def test_root_updates_the_package_lists_first(
    tmp_path: Path, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    lists = tmp_path / "lists"
    good = (tools / "apt-get").read_text().removeprefix("#!/bin/sh\nset -e\n")
    script(
        tools / "apt-get",
        f'[ "$1" = update ] && touch {lists} && exit 0\n[ -e {lists} ] || exit 100\n{good}',
    )
    assert len(packaged_typefaces(tmp_path / "cache", no_progress)) == 4


@pytest.mark.parametrize("tool", ["apt-get", "dpkg"])
def test_without_the_tools_the_error_names_both_ways_out(
    tmp_path: Path, tools: Path, tool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tools))
    (tools / tool).unlink()
    with pytest.raises(DataError, match=f"there is no {tool} here") as caught:
        packaged_typefaces(tmp_path / "cache", no_progress)
    assert "--fonts DIR" in str(caught.value)
    assert "--data DIR" in str(caught.value)


def test_own_fonts_take_family_from_folder_or_font_and_have_unlike_names(
    tmp_path: Path, make_font
) -> None:
    for name in ("a.ttf", "brush/b.otf", "brush/c.TTC", "x/same.ttf", "y/same.ttf"):
        make_font(tmp_path / name, {"字": BOX}, family="Family of its own")
    (tmp_path / "readme.txt").write_text("")
    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    assert [(t.name, t.family) for t in own_typefaces(tmp_path)] == [
        ("a", "Family of its own"),
        ("b", "brush"),
        ("c", "brush"),
        ("damaged", "damaged"),
        ("x-same.ttf", "x"),
        ("y-same.ttf", "y"),
    ]


def test_no_own_fonts(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError, match="no font"):
            own_typefaces(folder)
