"""``model.py`` of a Triton repository: a model that Triton's Python backend runs, with numpy and onnxruntime alone.

With ``model.onnx`` beside it, it runs that graph. Without, it decodes: the whole of an encoder and a step in one call,
which asks Triton for the models ``<its own name>-encoder`` and ``-step``, whatever backend these have. ``deploy/``
beside it is the project's own code, as it is.

Source: README.md of triton-inference-server/python_backend (release 24.10).
"""

import json
import sys
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import triton_python_backend_utils as triton  # type: ignore[import-not-found]  # Triton brings it

if TYPE_CHECKING:
    from deploy.run import Run


class TritonPythonModel:
    """What Triton calls: ``initialize`` once, and ``execute`` with requests that it has joined."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open what is run.

        Raises:
            Exception: the graph cannot be opened; Triton then reports the model as not loaded.
        """
        config: dict[str, Any] = json.loads(args["model_config"])
        folder = Path(args["model_repository"], args["model_version"])
        sys.path.insert(0, str(folder))
        graph = folder / "model.onnx"
        self.run = _open(graph) if graph.is_file() else _decoder(args["model_name"])
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.outputs = [tensor["name"] for tensor in config["output"]]
        sequences: dict[str, Any] = config.get("sequence_batching", {})
        # This backend knows no implicit state: what the configuration says of it is done here.
        self.states = sequences.get("state", [])
        # Triton never has more sequences than these that are alive: one that is thrown out by a newer one was idle.
        self.most = int(sequences["oldest"]["max_candidate_sequences"]) if self.states else 0
        self.kept: OrderedDict[int | str, dict[str, np.ndarray]] = OrderedDict()

    def execute(self, requests: list[Any]) -> list[Any]:
        """One answer a request, from one call of what is run."""
        given = [self._given(request) for request in requests]
        said = self.run({name: np.concatenate([inputs[name] for inputs in given]) for name in given[0]})
        ends = np.cumsum([len(inputs[self.inputs[0]]) for inputs in given])
        answers = []
        for request, start, end in zip(requests, [0, *ends], ends):
            answer = {name: array[start:end] for name, array in said.items()}
            self._keep(request, answer)
            tensors = [triton.Tensor(name, np.ascontiguousarray(answer[name])) for name in self.outputs]
            answers.append(triton.InferenceResponse(tensors))
        return answers

    def _given(self, request: Any) -> dict[str, np.ndarray]:
        """What a request gives, and the state of its sequence: zero at the start."""
        inputs = {name: triton.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
        if not self.states:
            return inputs
        if request.flags() & triton.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
            return inputs | {state["input_name"]: _zero(state) for state in self.states}
        return inputs | self.kept[request.correlation_id()]

    def _keep(self, request: Any, answer: dict[str, np.ndarray]) -> None:
        """Keep the state that a request's sequence goes on from."""
        if not self.states:
            return
        sequence = request.correlation_id()
        self.kept.pop(sequence, None)
        if not request.flags() & triton.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END:
            # A copy: what is kept must not hold on to the answers of the whole batch.
            self.kept[sequence] = {state["input_name"]: answer[state["output_name"]].copy() for state in self.states}
        while len(self.kept) > self.most:
            self.kept.popitem(last=False)


def _zero(state: dict[str, Any]) -> np.ndarray:
    """A state of one sequence, ``(1, ...)``."""
    dtype = triton.triton_string_to_numpy(state["data_type"])
    return np.zeros((1, *(int(size) for size in state["dims"])), dtype)


def _open(graph: Path) -> "Run":
    from deploy.runtimes import open_onnxruntime

    return open_onnxruntime(graph)


def _decoder(name: str) -> "Run":
    from deploy.tasks.translation import outputs, translate

    runs: dict[str, Run] = {graph: partial(_ask, f"{name}-{graph}", names) for graph, names in outputs.items()}
    return lambda inputs: {"greedy": translate(runs, inputs["source"])}


def _ask(model: str, outputs: tuple[str, ...], inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What another model of this server answers, in the processor's memory.

    Raises:
        TritonModelException: it cannot; in its own words.
    """
    asked = triton.InferenceRequest(
        model_name=model,
        requested_output_names=list(outputs),
        inputs=[triton.Tensor(name, np.ascontiguousarray(array)) for name, array in inputs.items()],
        preferred_memory=triton.PreferredMemory(triton.TRITONSERVER_MEMORY_CPU, 0),
    )
    answer = asked.exec()
    if answer.has_error():
        raise triton.TritonModelException(f"{model}: {answer.error().message()}")
    # A copy: the memory is Triton's, and goes back with the answer.
    return {tensor.name(): tensor.as_numpy().copy() for tensor in answer.output_tensors()}
