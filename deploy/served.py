"""What a server serves, as targets of a bundle: Plumbline's own, or a Triton that has what ``make triton`` wrote.

A row of a served model has ``queue_s``, ``compute_s`` and ``transport_s`` beside what ``deploy.measurement`` lists:
``(rounds,)`` seconds, position = round, as in ``latency_s``. Where a request is several calls, theirs are added up, and
what the caller computes between them is in none. Of a server that does not tell, as Triton, they are left out, and a
note says so: there is no telling its queue and its computing from the way.

Sources: model_configuration.md, protocol/extension_model_configuration.md and extension_model_repository.md in docs of
triton-inference-server/server (release 24.10).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import quote

import numpy as np

from deploy.contract import Bundle
from deploy.errors import Refused
from deploy.latency import Requests
from deploy.remote import Connection, NotThere, Wait, host_of, open_remote
from deploy.run import Run
from deploy.state import from_zero
from deploy.targets import GRAPHS, Target

KINDS = {"KIND_CPU": "cpu", "KIND_GPU": "cuda"}  # Triton's name of a model's device -> ours


@dataclass(frozen=True)
class Served:
    """A model that takes what its graph takes: a state goes there and back, and is not the server's to keep."""

    version: str  # as the server counts them
    contract: str  # the first 12 hex digits of the SHA-256 of the contract that it is of
    precision: str  # of its graph
    device: str  # "cpu" or "cuda"
    most: int = 0  # rows of a request; 0: it sets no bound


@dataclass(frozen=True)
class Server:
    """A server that was reached."""

    url: str
    token: str = field(repr=False)
    name: str  # with its version: "plumbline 1.0", "triton 2.51.0"
    models: dict[str, Served]  # one at least


@dataclass(frozen=True)
class RemoteTarget(Target):
    """A target that is served; ``waits``: of each call since it was last emptied."""

    waits: list[Wait] = field(default_factory=list)


def open_server(url: str, token: str = "") -> Server:
    """What is served at ``url``, by Plumbline or by a Triton that has what ``make triton`` wrote.

    Raises:
        Refused: nothing answers there, it wants another token, or it serves nothing of Plumbline's.
    """
    connection = Connection(url, token)
    try:
        try:
            models = _told(json.loads(connection.ask("/served", "GET", "/served")[1]))
        except NotThere:
            models = _configured(connection)
        about = json.loads(connection.ask("/v2", "GET", "/v2")[1])
        name = f"{about['name']} {about['version']}".strip()
        if not models:
            raise ValueError
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise Refused(
            f"{url}: not as a server of this version of Plumbline tells what it serves, nor as a Triton does, expected "
            f"models, each with its contract and device. Start one: `python -m deploy.server BUNDLE ...`; for Triton "
            f"`make triton` writes the models."
        ) from None
    finally:
        connection.close()
    return Server(url, token, name, models)


def _told(models: list[dict[str, str]]) -> dict[str, Served]:
    """What Plumbline's own server says at ``/served``."""
    return {
        model["model"]: Served(
            model["version"],
            model["version"],
            GRAPHS[f"onnxruntime-{model['device']}"][model["precision"]],
            model["device"],
        )
        for model in models
    }


def _configured(connection: Connection) -> dict[str, Served]:
    """What Triton says in the configurations of its models; those of somebody else are left out.

    Raises:
        Refused: it does not answer, or a model is on no one device.
        KeyError, TypeError, ValueError, AttributeError: it does not say so.
    """
    index = "/v2/repository/index"
    ready = json.loads(connection.ask(index, "POST", index, b'{"ready": true}')[1])
    found = {}
    for name, version in sorted(((model["name"], model["version"]) for model in ready), key=lambda of: int(of[1])):
        path = f"/v2/models/{quote(name, safe='')}/versions/{version}/config"
        config = json.loads(connection.ask(name, "GET", path)[1])
        told = {key: parameter.get("string_value") for key, parameter in config["parameters"].items()}
        if "contract_sha256" not in told or "sequence_batching" in config:  # whose state Triton keeps
            continue
        kinds = {group["kind"] for group in config["instance_group"]}
        if len(kinds) > 1 or not kinds <= KINDS.keys():
            raise Refused(
                f"{name} at {connection.host}: instance groups of {', '.join(sorted(kinds))}, expected KIND_CPU or "
                f"KIND_GPU alone: what is measured is of one device. Leave one kind in its config.pbtxt."
            )
        (device,) = (KINDS[kind] for kind in kinds)
        most = int(config["max_batch_size"])
        found[name] = Served(version, told["contract_sha256"][:12], told["precision"], device, most)
    return found


def remote_targets(bundle: Bundle, server: Server) -> list[RemoteTarget]:
    """``remote-fp32``, ``remote-fp16`` and ``remote-int8``: the graphs of ``bundle`` as ``server`` serves them.

    That it has them follows from the contract's hash, which has the graphs': Plumbline's server has held them against
    it, and ``make triton`` has before it copied them.
    """
    return [_target(bundle, server, precision) for precision in GRAPHS["onnxruntime-cpu"]]


def _target(bundle: Bundle, server: Server, precision: str) -> RemoteTarget:
    expected, host = bundle.sha256[:12], host_of(server.url)
    models = {graph: _called(f"{bundle.recipe}-{precision}", graph, server) for graph in bundle.io}
    served = {model: server.models[model] for model in models.values() if model in server.models}
    device = next(iter([*served.values(), *server.models.values()])).device
    of = GRAPHS[f"onnxruntime-{device}"][precision]  # unless what is served says another
    of = next((facts.precision for facts in served.values()), of)
    reason = bundle.lacks(of)
    for model in models.values():
        if model not in served:
            reason = reason or f"{model} is not served at {host}. Mend that: its log says why."
        elif (came := served[model].contract) != expected:
            reason = reason or (
                f"version {came} of {model} is served at {host}, and the bundle here is {expected}: they differ. "
                f"Measure with the bundle that is served, or serve this one."
            )
    waits: list[Wait] = []

    def open_() -> dict[str, Run]:
        runs = {}
        for graph, model in models.items():
            run = open_remote(server.url, model, server.token, served[model].version, waits)
            runs[graph] = from_zero(_in_parts(run, served[model].most), bundle.io[graph])
        return runs

    files = {graph: bundle.path(file) for graph, file in bundle.graphs.get(of, {}).items()}
    notes = (f"served by {server.name}",)
    return RemoteTarget(f"remote-{precision}", of, device, files, open_, reason, notes=notes, waits=waits)


def _called(whole: str, graph: str, server: Server) -> str:
    """The model that is one graph of ``whole`` alone; Triton keeps the state of ``whole`` itself where there is one."""
    apart = f"{whole}-{graph}"
    return whole if graph == "network" and apart not in server.models else apart


def _in_parts(run: Run, most: int) -> Run:
    """``run``, which takes ``most`` rows at a time, for any batch: the first axis of every array."""
    if not most:
        return run

    def answer(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        starts = range(0, len(next(iter(inputs.values()))), most)
        parts = [run({name: array[i : i + most] for name, array in inputs.items()}) for i in starts]
        return parts[0] if len(parts) == 1 else {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    return answer


def noting(requests: Requests, waits: list[Wait], noted: list[Wait | None]) -> Requests:
    """``requests``, each of which adds to ``noted`` what its calls took together; ``None`` where no server told.

    Args:
        waits: what the calls fill.
    """
    return [partial(_noted, request, waits, noted) for request in requests]


def _noted(request: Callable[[], object], waits: list[Wait], noted: list[Wait | None]) -> None:
    waits.clear()
    request()
    noted.append(Wait(*map(sum, zip(*waits))) if waits else None)
