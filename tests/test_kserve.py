"""Kubernetes manifests: held against the published schemas, and against what the rest of the project says"""

import copy
import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import NAME, ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from deploy.contract import Bundle
from deploy.files import read_json, write_json
from pipeline.kserve import CLAIM, MOST, UNMEASURED, WAIT_S, kserve, kubernetes

SCHEMAS = [read_json(path) for path in sorted((Path(__file__).parent / "schemas").glob("*.json"))]
DEFINITIONS = {name: schema for file in SCHEMAS for name, schema in file["$defs"].items()}
KINDS = {kind: schema for file in SCHEMAS for kind, schema in file["kinds"].items()}
VALIDATORS = {
    kind: Draft202012Validator({"$defs": DEFINITIONS} | {key: part for key, part in schema.items() if key != "$id"})
    for kind, schema in KINDS.items()
}
STATE = [{"name": "state", "dtype": "float32", "shape": ["batch", 3]}]


def wrong(document: dict[str, Any]) -> list[str]:
    """What the schema of a document's kind says against it."""
    return [f"{error.json_path}: {error.message}" for error in VALIDATORS[document["kind"]].iter_errors(document)]


def documents(text: str) -> dict[str, Any]:
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def stateful(bundle: Bundle) -> Bundle:
    io = copy.deepcopy(bundle.io)
    io["network"]["inputs"] += STATE
    io["network"]["outputs"] += [{**STATE[0], "name": "next_state"}]
    return dataclasses.replace(bundle, recipe="Gru_Python", io=io)


@pytest.fixture(params=["one recipe", "two, one with a state", "many", "with engines"])
def written(request: pytest.FixtureRequest, bundle: Bundle, tmp_path: Path) -> dict[str, Any]:
    some = {"two, one with a state": [bundle, stateful(bundle)], "many": [bundle] * 20}.get(request.param, [bundle])
    texts = kserve(some, tmp_path, "s3://bucket/models", gpu=request.param == "with engines"), kubernetes(some, "a/b:c")
    return documents(texts[0]) | documents(texts[1])


def test_every_manifest_is_as_the_published_schema_has_it(written: dict[str, Any]) -> None:
    assert set(written) == set(KINDS) == {"InferenceService", "Deployment", "Service", "HorizontalPodAutoscaler"}
    for document in written.values():
        assert wrong(document) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_schemas_are_schemas_themselves(kind: str) -> None:
    Draft202012Validator.check_schema(VALIDATORS[kind].schema)


def maps_in(document: Any) -> Iterator[dict[str, Any]]:
    if isinstance(document, dict):
        yield document
    for inner in document.values() if isinstance(document, dict) else document if isinstance(document, list) else ():
        yield from maps_in(inner)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_schemas_find_a_wrong_word_and_a_wrong_type(written: dict[str, Any], data: st.DataObject) -> None:
    document = copy.deepcopy(written[data.draw(st.sampled_from(sorted(written)))])
    free = ("labels", "annotations", "matchLabels", "requests", "limits")  # maps whose keys are anybody's
    owned = {id(inner) for each in maps_in(document) for key, inner in each.items() if key in free}
    of = data.draw(st.sampled_from([each for each in maps_in(document) if id(each) not in owned]))
    if data.draw(st.booleans()):
        of["minReplica"] = 1
    else:
        key = data.draw(st.sampled_from(sorted(set(of) - {"kind"}) or ["x"]))
        of[key] = {"never": [0]}
    assert wrong(document)


def test_they_agree_with_each_other_and_with_the_server(written: dict[str, Any]) -> None:
    deployment, service = written["Deployment"], written["Service"]
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert (
        service["spec"]["selector"].items()
        <= deployment["spec"]["selector"]["matchLabels"].items()
        <= pod["metadata"]["labels"].items()
    )
    assert written["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]  # which would undo the autoscaler at every apply
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    words = container["command"] + container["args"]
    assert [words[words.index(flag) + 1] for flag in ("--host", "--port", "--grpc-port")] == [
        "0.0.0.0",
        str(ports["http"]),
        str(ports["grpc"]),
    ]
    assert int(words[words.index("--drain") + 1]) > 0
    assert {port["targetPort"] for port in service["spec"]["ports"]} == set(ports)
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("readiness", "liveness")}
    assert probes["readiness"] == {"path": "/v2/health/ready", "port": "http"}
    assert probes["liveness"] == {"path": "/v2/health/live", "port": "http"}
    assert "lifecycle" not in container and pod["spec"]["terminationGracePeriodSeconds"] > 60 + 5
    (mount,), (volume,) = container["volumeMounts"], pod["spec"]["volumes"]
    assert mount["name"] == volume["name"] and volume["persistentVolumeClaim"]["claimName"] == CLAIM
    assert all(word.startswith(mount["mountPath"]) for word in words if NAME in word)
    assert container["image"] == "a/b:c"
    model = written["InferenceService"]["spec"]["predictor"]["model"]
    assert model["storageUri"] == "s3://bucket/models" and model["protocolVersion"] == "v2"


def test_the_server_takes_what_it_is_started_with(bundle: Bundle) -> None:
    (container,) = documents(kubernetes([bundle], "a"))["Deployment"]["spec"]["template"]["spec"]["containers"]
    words = [word.replace("python", sys.executable) for word in container["command"][:3]]
    done = subprocess.run([*words, "--help"], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    flags = {word for word in container["command"] + container["args"] if word.startswith("--")}
    assert flags and flags <= set(re.findall(r"--[a-z-]+", done.stdout))


def test_a_name_is_one_that_kubernetes_takes(written: dict[str, Any]) -> None:
    for document in written.values():
        name = document["metadata"]["name"]
        assert len(name) <= 50 and name.strip("-") == name and name.replace("-", "").isalnum() and name == name.lower()


def test_sequences_stay_with_one_replica(bundle: Bundle, tmp_path: Path) -> None:
    for some, affinity in (([bundle], None), ([bundle, stateful(bundle)], "ClientIP")):
        text = kubernetes(some, "plumbline")
        assert documents(text)["Service"]["spec"].get("sessionAffinity") == affinity
        told = text + kserve(some, tmp_path, "pvc://plumbline/models", gpu=False)
        assert told.count("A sequence of Gru_Python lives in one replica") == (2 if affinity else 0)


def test_another_bundle_makes_other_pods(bundle: Bundle) -> None:
    def template(sha256: str) -> Any:
        text = kubernetes([dataclasses.replace(bundle, sha256=sha256)], "plumbline")
        return documents(text)["Deployment"]["spec"]["template"]

    assert template("a") == template("a") != template("b")


@pytest.mark.parametrize(
    ("latencies", "target"),
    [
        ({"onnxruntime-cpu-fp32": [0.001, 0.002, 0.009]}, 5),
        ({"onnxruntime-cpu-fp32": [0.0001], "onnxruntime-cpu-int8": [0.0025]}, 4),  # the slowest counts
        ({"onnxruntime-cpu-fp32": [1e-6], "onnxruntime-cuda-fp32": [5.0]}, MOST),  # a GPU's is not Triton's here
        ({"onnxruntime-cpu-fp32": [9.0]}, 1),
        ({"onnxruntime-cpu-fp32": []}, UNMEASURED),
        (None, UNMEASURED),
    ],
)
def test_a_replica_has_as_many_requests_as_fit_into_the_wait(
    bundle: Bundle, tmp_path: Path, latencies: dict[str, list[float]] | None, target: int
) -> None:
    assert WAIT_S == 0.010
    if latencies is not None:
        rows = {name: {"latency_s": seconds} for name, seconds in latencies.items()}
        write_json(tmp_path / f"{NAME}.json", {"targets": {**rows, "tensorrt-fp32": {"reason": "no GPU"}}})
    text = kserve([bundle], tmp_path, "pvc://plumbline/models", gpu=False)
    assert documents(text)["InferenceService"]["spec"]["predictor"]["scaleTarget"] == target
    assert f"# scaleTarget {target}: " in text and ("chosen" in text) == (target == UNMEASURED)


def test_the_real_measurements_are_read(bundle: Bundle) -> None:
    """The form that ``deploy.measure`` writes, not one of a test's own."""
    file = ROOT / "build" / "measure" / f"{NAME}.json"
    if not file.is_file():
        pytest.skip("`make repro` has measured nothing yet")
    assert "chosen" not in kserve([bundle], file.parent, "pvc://plumbline/models", gpu=False)


def test_yaml_has_no_anchors_and_nothing_of_python(bundle: Bundle, tmp_path: Path) -> None:
    text = kserve([bundle], tmp_path, "pvc://plumbline/models", gpu=True) + kubernetes([bundle], "plumbline")
    assert "&id" not in text and "*id" not in text and "!!" not in text
    assert json.dumps(list(yaml.safe_load_all(text)))  # plain values all
