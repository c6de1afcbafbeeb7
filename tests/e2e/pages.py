"""The documentation's blocks, and a way to run them in the order in which they stand."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
COMMANDS, CODE, SHOWN = (
    ("bash", "sh", "console"),
    ("python",),
    ("text", "toml", "json", "yaml", "nginx"),
)
_MARK = re.compile(r"<!-- (not run: (?P<why>.+)|exits (?P<code>\d)) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block, with what the HTML comment above it says."""

    page: str
    line: int
    language: str
    text: str
    why_not: str
    exits: int

    @property
    def runs(self) -> bool:
        return self.language in (*COMMANDS, *CODE)


def pages() -> list[str]:
    """Return the pages of the site that are not for those who work on it, nor a bench's figures."""
    found = (path.relative_to(DOCS).as_posix() for path in sorted(DOCS.rglob("*.md")))
    return [page for page in found if page not in ("design.md", "log.md")]


def blocks(page: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page, in order."""
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    fences = [number for number, line in enumerate(lines) if line.startswith("```")]
    for start, end in zip(fences[::2], fences[1::2], strict=True):
        mark = _MARK.fullmatch(lines[start - 1]) if start else None
        yield Block(
            page,
            start + 1,
            lines[start].removeprefix("```"),
            "\n".join(lines[start + 1 : end]) + "\n",
            (mark and mark["why"]) or "",
            int((mark and mark["code"]) or 0),
        )


@dataclass
class Walk:
    """Runs pages in a folder.

    Args:
        mixbct: runs words in this process, and fails on another exit code.
        folder: where.
        replaced: text of a command → what stands for it here.
        shorter: settings that make a training short.
        gate: called with a result's folder when the gate fails on so little data.
    """

    mixbct: Any
    folder: Path
    replaced: Mapping[str, str] = field(default_factory=dict)
    shorter: Sequence[str] = ()
    gate: Any = None
    ran: list[Block] = field(default_factory=list)
    said: dict[str, str] = field(default_factory=dict)

    def page(self, name: str, languages: Sequence[str] = (*COMMANDS, *CODE)) -> dict[str, Any]:
        """Run the blocks of a page that are not marked; return what its Python left."""
        names: dict[str, Any] = {}
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            for block in blocks(name):
                if block.why_not or block.language not in languages:
                    continue
                if block.language in CODE:
                    exec(compile(block.text, f"{name}:{block.line}", "exec"), names)
                else:
                    for line in block.text.splitlines():
                        self.command(line, block.exits)
                self.ran.append(block)
        finally:
            os.chdir(before)
        return names

    def command(self, line: str, exits: int) -> None:
        """Run one command, with what stands here for what it names."""
        for text, here in self.replaced.items():
            line = line.replace(text, here)
        program, *words = shlex.split(line)
        if any(verb in words[:1] or verb in words[4:] for verb in ("train", "demo")):
            words += self.shorter
        if program == "mixbct":
            allowed = (0, 1) if words[0] in ("gate", "demo") and self.gate else exits
            done = self.mixbct(*words, cwd=self.folder, expect=allowed)
            self.said[line.removeprefix("mixbct ")] = done.stdout
            if words[0] == "gate" and done.code == 1:
                self.gate(self.folder / Path(words[1]).parent)
            return
        programs = {"torchrun": ["-m", "torch.distributed.run"], "python": []}
        ran = subprocess.run(
            [sys.executable, *programs[program], *words],
            cwd=self.folder,
            env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
            capture_output=True,
            text=True,
        )
        assert ran.returncode == exits, f"{line}\n{ran.stdout}{ran.stderr}"
        self.said[line] = ran.stdout
