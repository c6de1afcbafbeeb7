"""A model folder in another format, held against the model before it is kept."""

from mixbct.export.onnx import export_onnx

__all__ = ["export_onnx"]
