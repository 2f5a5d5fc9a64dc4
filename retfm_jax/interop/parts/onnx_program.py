"""An exported ONNX network as functions of arrays."""

import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import onnxruntime


def on_session(
    path: pathlib.Path, providers: Sequence[str] | None
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Opens a network, and makes a function of arrays of it.

    Args:
      path: of the ONNX file.
      providers: of onnxruntime, such as "CUDAExecutionProvider"; None: the CPU.
    """
    session = onnxruntime.InferenceSession(path, providers=providers or ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    (taken,) = session.get_inputs()

    def run(values: np.ndarray) -> dict[str, np.ndarray]:
        found = session.run(names, {taken.name: values})
        return dict(zip(names, map(np.asarray, found), strict=True))

    return run
