"""Asks a served recipe for some of its test units with tritonclient, in every way that the protocol has

    python tests/triton_client.py 127.0.0.1:8000 127.0.0.1:8001 build/bundle/gorner_digits OUT.npz [--units 8]

The same program for every server of the protocol: ours, and Triton with the repository of ``make triton``. It runs where
numpy and tritonclient are (tests/tritonserver.py has such a place), and knows nothing of the project but a bundle.

OUT.npz has an array for each ``<model> <way> <output>``, first axis = unit. The ways: ``http-binary``, ``http-json``
and ``grpc``, one request a unit; ``joined``, one a unit and all at once; ``batch``, all units in one request;
``classes``, the three best of each by the classification extension. A model with a state reads a text in pieces: by
``sequence-http``, two sequences at a time in turn, by ``sequence-grpc``, all sequences step by step, named by words; and
by ``carried``, the state going to the client and back.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from queue import Queue

import numpy as np
import tritonclient.grpc as grpc
import tritonclient.http as http
from tritonclient.utils import np_to_triton_dtype

LONGEST = 64  # of a text
PIECE = 16  # of a text that is read with a state
WAIT_S = 20.0
PRECISIONS = {"fp32": "fp32", "fp16": "fp16", "int8": "int8-cpu"}
CLASSES = 3

parser = argparse.ArgumentParser()
parser.add_argument("http")
parser.add_argument("grpc")
parser.add_argument("bundle", type=Path)
parser.add_argument("out", type=Path)
parser.add_argument("--units", type=int, default=8)


def given(kind, inputs, binary=True):
    tensors = []
    for name, array in inputs.items():
        tensor = kind.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array, **({"binary_data": binary} if kind is http else {}))
        tensors.append(tensor)
    return tensors


def wanted(kind, outputs, binary=True, classes=0):
    of = {"binary_data": binary} if kind is http else {}
    return [kind.InferRequestedOutput(name, class_count=classes, **of) for name in outputs]


def arrays(answer, outputs):
    return {name: answer.as_numpy(name) for name in outputs}


def by_http(client, model, outputs, inputs, binary=True, **of):
    asked = given(http, inputs, binary)
    return arrays(client.infer(model, asked, outputs=wanted(http, outputs, binary), **of), outputs)


def by_grpc(client, model, outputs, inputs, **of):
    asked = given(grpc, inputs)
    answer = client.infer(model, asked, outputs=wanted(grpc, outputs), client_timeout=WAIT_S, **of)
    return arrays(answer, outputs)


def at_once(client, model, outputs, requests, of=None):
    """All requests before the first answer; their answers in the same order."""
    said = Queue()

    def keep(place, result, error):
        said.put((place, result, error))

    for place, inputs in enumerate(requests):
        words = of[place] if of else {}
        asked = given(grpc, inputs)
        client.async_infer(
            model, asked, partial(keep, place), outputs=wanted(grpc, outputs), client_timeout=WAIT_S, **words
        )
    found = {}
    for _ in requests:
        place, result, error = said.get(timeout=WAIT_S)
        if error:
            raise error
        found[place] = arrays(result, outputs)
    return [found[place] for place in range(len(requests))]


def units_of(bundle, io, count):
    """Inputs one unit each, ``(1, ...)``; a line or a text is cut to what it has, at most ``LONGEST``."""
    with np.load(bundle / "examples" / "test.npz", allow_pickle=False) as examples:
        whole = {tensor["name"]: examples[tensor["name"]] for tensor in io if tensor["name"] in examples}
    requests = []
    for unit in range(count):
        inputs = {name: array[unit : unit + 1] for name, array in whole.items()}
        for name, array in inputs.items():
            if array.ndim == 2 and array.dtype == np.uint8:
                inputs[name] = array[:, : min(int((array != 0).sum()), LONGEST)]
        requests.append(inputs)
    return requests


def together(requests):
    """One request of all units, the shorter ones padded with 0."""
    joined = {}
    for name in requests[0]:
        rows = [request[name] for request in requests]
        shape = np.max([row.shape for row in rows], axis=0)
        joined[name] = np.concatenate(
            [np.pad(row, [(0, most - size) for most, size in zip(shape, row.shape)]) for row in rows]
        )
    return joined


class Asked:
    def __init__(self, words):
        self.http = http.InferenceServerClient(words.http, concurrency=2, network_timeout=WAIT_S)
        self.grpc = grpc.InferenceServerClient(words.grpc)
        self.found = {}

    def close(self):
        self.http.close()
        self.grpc.close()

    def keep(self, model, way, answers):
        for name in answers[0]:
            rows = [answer[name] for answer in answers]
            if len({row.shape for row in rows}) == 1:
                self.found[f"{model} {way} {name}"] = np.concatenate(rows)
            else:
                for unit, row in enumerate(rows):
                    self.found[f"{model} {way} {name} {unit}"] = row

    def every_way(self, model, outputs, requests):
        self.keep(model, "http-binary", [by_http(self.http, model, outputs, one) for one in requests])
        self.keep(model, "http-json", [by_http(self.http, model, outputs, one, binary=False) for one in requests])
        self.keep(model, "grpc", [by_grpc(self.grpc, model, outputs, one) for one in requests])
        self.keep(model, "joined", at_once(self.grpc, model, outputs, requests))
        self.keep(model, "batch", [by_http(self.http, model, outputs, together(requests))])

    def classified(self, model, output, requests):
        for client, kind, way in ((self.http, http, "classes"), (self.grpc, grpc, "classes-grpc")):
            answers = [
                client.infer(model, given(kind, one), outputs=wanted(kind, [output], classes=CLASSES))
                for one in requests
            ]
            self.found[f"{model} {way} {output}"] = np.array(
                [[word.decode() for word in np.ravel(answer.as_numpy(output))] for answer in answers]
            )

    def sequences(self, model, output, texts):
        """Texts ``(1, LONGEST)`` each; what is told after every character, ``(1, LONGEST, ...)``."""
        steps = range(0, LONGEST, PIECE)
        flags = [{"sequence_start": at == 0, "sequence_end": at + PIECE >= LONGEST} for at in steps]
        pieces = [[{name: text[:, at : at + PIECE] for name, text in one.items()} for at in steps] for one in texts]
        said = [[] for _ in texts]
        for first in range(0, len(texts), 2):
            for step, of in enumerate(flags):
                for unit in range(first, min(first + 2, len(texts))):
                    answer = by_http(self.http, model, [output], pieces[unit][step], sequence_id=unit + 1, **of)
                    said[unit].append(answer[output])
        self.keep(model, "sequence-http", [{output: np.concatenate(parts, axis=1)} for parts in said])
        said = [[] for _ in texts]
        for step, of in enumerate(flags):
            named = [{"sequence_id": f"{model} {unit}", **of} for unit in range(len(texts))]
            answers = at_once(self.grpc, model, [output], [parts[step] for parts in pieces], named)
            for unit, answer in enumerate(answers):
                said[unit].append(answer[output])
        self.keep(model, "sequence-grpc", [{output: np.concatenate(parts, axis=1)} for parts in said])

    def carried(self, model, io, output, texts):
        """The state goes to the client and back; the model is the one that takes it."""
        taken = {tensor["name"] for tensor in self.http.get_model_metadata(model)["inputs"]}
        asked = model if "state" in taken else f"{model}-network"
        (state,) = [tensor for tensor in io["inputs"] if tensor["name"] == "state"]
        inputs = together(texts)
        now = np.zeros((len(texts), *state["shape"][1:]), state["dtype"])
        said = []
        for at in range(0, LONGEST, PIECE):
            piece = {name: text[:, at : at + PIECE] for name, text in inputs.items()}
            answer = by_grpc(self.grpc, asked, [output, "next_state"], {**piece, "state": now})
            now = answer["next_state"]
            said.append(answer[output])
        self.keep(model, "carried", [{output: np.concatenate(said, axis=1)}])

    def decoded(self, model, io, requests):
        """The whole of an encoder and a step, and each of the two by itself."""
        self.every_way(model, ["greedy"], requests)
        read = [by_http(self.http, f"{model}-encoder", ["memory", "state"], one) for one in requests]
        self.keep(f"{model}-encoder", "http-binary", read)
        started = [{"character": np.zeros(1, np.uint8), **one, **answer} for one, answer in zip(requests, read)]
        for way, by, client in (("http-binary", by_http, self.http), ("grpc", by_grpc, self.grpc)):
            answers = [by(client, f"{model}-step", ["logits", "next_state"], one) for one in started]
            self.keep(f"{model}-step", way, answers)


def ask_all(words):
    contract = json.loads((words.bundle / "contract.json").read_text())
    asked = Asked(words)
    try:
        for client in (asked.http, asked.grpc):
            assert client.is_server_live() and client.is_server_ready()
        for precision, graph in PRECISIONS.items():
            if graph not in contract["graphs"]:
                continue
            model = f"{contract['recipe']}-{precision}"
            assert asked.http.is_model_ready(model) and asked.grpc.is_model_ready(model)
            io = contract["io"]
            requests = units_of(words.bundle, next(iter(io.values()))["inputs"], words.units)
            if "encoder" in io:
                asked.decoded(model, io, requests)
                continue
            network = io["network"]
            outputs = [tensor["name"] for tensor in network["outputs"]]
            if "next_state" in outputs:
                (output,) = [name for name in outputs if name != "next_state"]
                asked.sequences(model, output, requests)
                asked.carried(model, network, output, requests)
                continue
            asked.every_way(model, outputs, requests)
            if contract["task"] == "classification":
                asked.classified(model, outputs[0], requests)
    finally:
        asked.close()
    np.savez(words.out, **asked.found)


if __name__ == "__main__":
    ask_all(parser.parse_args())
