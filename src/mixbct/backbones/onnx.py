"""A frozen encoder from an ONNX file: it embeds, and cannot be trained.

onnxruntime computes, on the CPU, with as many threads as torch uses, each on images of its own: a
thread is then never waiting for another. It is an optional extra: `pip install 'mixbct[onnx]'`.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mixbct.errors import ModelError

ONNX: Final = "onnx"
"""What a manifest calls this backbone."""

FILE: Final = "backbone.onnx"
"""Its file in a model folder."""


class OnnxEncoder(nn.Module):
    """Map float32 [B, C, size, size] to [B, dim]; `dim` is found by embedding a black image.

    The graph must have one input of float32 images, channels first or last, and one output; the
    first dimension of both is the batch, free or fixed. Where it is fixed, images go through in
    batches of that size, the last one filled up.

    Args:
        content: of the .onnx file. Files that keep their weights in a second file are refused.
        size: height and width of the input.
        channels: 1 or 3.

    Raises:
        ModelError: onnxruntime is missing, or the file is not such a graph.
    """

    def __init__(self, content: bytes, size: int, channels: int) -> None:
        super().__init__()
        self._session = _open_session(content)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1 or inputs[0].type != "tensor(float)":
            found = [[f"{n.name} {n.type} {n.shape}" for n in side] for side in (inputs, outputs)]
            raise ModelError(
                "the ONNX model must have one input of float32 images and one output of "
                f"embeddings; found the inputs {found[0]} and the outputs {found[1]}: export it "
                "with these alone"
            )
        self._input = inputs[0].name
        shape = inputs[0].shape
        if _fits(shape, (channels, size, size)):
            self._channels_last = False
        elif _fits(shape, (size, size, channels)):
            self._channels_last = True
        else:
            raise ModelError(
                f"the ONNX model takes {shape}; expected a batch of {channels} × {size} × {size}, "
                "channels first or last: set --size and --channels as it was exported"
            )
        self._batch = shape[0] if isinstance(shape[0], int) else None
        self.dim = self.forward(torch.zeros(1, channels, size, size)).shape[1]

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Return the raw embeddings, in main memory."""
        inputs = images.cpu()
        if self._channels_last:
            inputs = inputs.permute(0, 2, 3, 1)
        threads = torch.get_num_threads()
        step = self._batch or math.ceil(len(inputs) / threads)
        parts = [inputs[start : start + step] for start in range(0, len(inputs), step)]
        with ThreadPoolExecutor(threads) as pool:
            return torch.cat(list(pool.map(self._run, parts)))

    def _run(self, images: Tensor) -> Tensor:
        count = len(images)
        if self._batch is not None and count < self._batch:
            filling = images.new_zeros(self._batch - count, *images.shape[1:])
            images = torch.cat([images, filling])
        try:
            (out,) = self._session.run(None, {self._input: images.contiguous().numpy()})
        except Exception as error:  # onnxruntime's errors have no common base but this
            raise ModelError(f"the ONNX model does not run on {len(images)} images: {error}") from (
                error
            )
        if out.ndim < 2 or len(out) != len(images):
            raise ModelError(
                f"the ONNX model gave {out.shape} for {len(images)} images, expected one vector "
                "an image"
            )
        return torch.from_numpy(out[:count]).flatten(1).float()


def _open_session(content: bytes) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(
            "an ONNX model needs onnxruntime: install it with `pip install 'mixbct[onnx]'`"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # errors; they are raised all the same
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base but this
        raise ModelError(f"the ONNX model does not load: {error}") from error


def _fits(shape: Sequence[int | str | None], image: tuple[int, int, int]) -> bool:
    """Say whether images of this shape, after the batch, go into an input of `shape`."""
    return len(shape) == 4 and all(
        not isinstance(found, int) or found == wanted
        for found, wanted in zip(shape[1:], image, strict=True)
    )
