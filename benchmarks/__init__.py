"""Benchmarks: what the library costs beside the least that its work can cost."""

import mixbct  # noqa: F401  before NumPy, to whose threads it says how long to wait
