"""The threads that decode, which live as long as the program."""

import subprocess
import sys

_STOPPED_AS_A_THREAD_STARTS = """
import concurrent.futures.thread as pools, signal, time
from mixbct.data import source

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
start = pools.threading.Thread.start

def stopped(thread):
    start(thread)
    if thread.name == "decode_0":  # once: a second stop may come while the program ends
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.05)

pools.threading.Thread.start = stopped
try:
    source._pool(2, 0).submit(int).result()
except KeyboardInterrupt:
    print("stopped")
"""


def test_a_stop_as_a_thread_starts_lets_the_program_end() -> None:
    """One that nobody knows of would be waited for, for ever."""
    done = subprocess.run(
        [sys.executable, "-c", _STOPPED_AS_A_THREAD_STARTS],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "stopped", "")
