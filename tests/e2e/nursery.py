"""Commands of the package in forked processes, so that nothing is imported again."""

import os
import subprocess
import sys
from pathlib import Path
from textwrap import indent

NURSERY = """
import gc, os, sys
{before}
gc.freeze()  # a child that looks at all that is there would have to copy it
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if not child:
{forked}
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


EVERY_VERB = """
from importlib import import_module
import mixbct.cli.verbs as verbs
for place, _ in verbs.VERBS.values():
    import_module("mixbct.cli." + place.partition(":")[0])
"""
"""What imports every verb."""


class Nursery:
    """A process that has imported everything, and forks a child once a line that it is sent.

    Importing takes longer than what a child does until it is stopped.

    Args:
        before: what is run once, imports most of all.
        forked: what a child runs, which is sent `line`; it ends as any program does.
        python: of another environment than this one, with none of its variables for Python.
    """

    def __init__(self, before: str, forked: str, python: Path | None = None) -> None:
        program = NURSERY.format(before=before, forked=indent(forked, " " * 8))
        ours = {k: v for k, v in os.environ.items() if python is None or k[:6] != "PYTHON"}
        self._process = subprocess.Popen(
            [python or sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ours | {"OMP_NUM_THREADS": "1"},
        )
        assert self._said() == "ready"

    def _said(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def fork(self, line: str) -> int:
        """Return the process id of a new child."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return int(self._said())

    def code(self) -> int:
        """Wait for the child's end, and return its exit code, or minus the signal."""
        return int(self._said())

    def close(self) -> None:
        """End it."""
        self._process.communicate(timeout=60)
