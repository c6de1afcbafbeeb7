"""Benchmarks: what the library costs beside the least that its work can cost."""
