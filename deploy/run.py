"""A runtime is a function: inputs by name to outputs by name, numpy arrays, nothing else.

PyTorch, ONNX Runtime, TensorRT and a remote server all open to one; no code that judges knows which.
"""

from collections.abc import Callable

import numpy as np

Run = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
