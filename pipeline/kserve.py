"""Kubernetes manifests: a Triton repository as a KServe ``InferenceService``, and ``deploy.server`` as a Deployment.

They are two ways to the same answers; one of the two is applied. Whole in themselves but for what only the cluster
knows: where the files lie, and the image.

Sources: KServe's pkg/apis/serving/v1beta1 and its runtime ``kserve-tritonserver``; Kubernetes' API reference for
apps/v1, v1 and autoscaling/v2. What is written is held against both in ``tests/schemas/``.
"""

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from deploy.contract import Bundle
from deploy.files import read_json
from deploy.state import NEXT

CLAIM = "plumbline"  # a PersistentVolumeClaim: what lies in build/ here, there
STORAGE = f"pvc://{CLAIM}/triton/models"
IMAGE = "plumbline"
BUNDLES = "/bundles"  # where the claim's `bundle` is in the container
REPLICAS = {"minReplicas": 1, "maxReplicas": 4}
CPU = "1"  # a replica's cores: one thread runs a model
MEMORY = "2Gi"  # what KServe gives its Triton too
WAIT_S = 0.010  # seconds that requests on their way in one replica may take together, where more replicas are started
MOST = 64  # requests on their way in one replica, at most: no server was measured with more
UNMEASURED = 8  # requests on their way in one replica where nothing was measured
CPU_PERCENT = 70  # of the cores asked for, at which a Deployment gets another replica
DRAIN_S = 5  # seconds after SIGTERM in which requests still come: until every node knows that the pod is ending
GRACE_S = 75  # seconds from SIGTERM until a pod is killed: more than the server takes to finish what it accepted, 60
HTTP, GRPC, TRITON_HTTP = 8000, 8001, 8080


def kserve(bundles: Sequence[Bundle], measured: Path, storage_uri: str, gpu: bool) -> str:
    """An ``InferenceService`` that has Triton serve the repository at ``storage_uri``, and grows with the requests.

    Args:
        measured: the folder of the recipes' measurements; the number of requests that one replica is to have on its
            way follows from them.
        gpu: the repository holds TensorRT engines.
    """
    target, why = _scale_target([bundle.recipe for bundle in bundles], measured)
    resources = {"cpu": CPU, "memory": MEMORY} | ({"nvidia.com/gpu": "1"} if gpu else {})
    model = {
        "modelFormat": {"name": "triton", "version": "2"},
        "runtime": "kserve-tritonserver",
        "protocolVersion": "v2",
        "storageUri": storage_uri,
        "resources": {"requests": resources, "limits": resources},
        "readinessProbe": _probe("ready", TRITON_HTTP),
    }
    service = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            **_metadata(bundles),
            # Concurrency is Knative's measure; KServe before 0.16 calls this mode Serverless.
            "annotations": {"serving.kserve.io/deploymentMode": "Knative", **_contracts(bundles)},
        },
        "spec": {
            "predictor": {
                **REPLICAS,
                "scaleMetric": "concurrency",
                "scaleTarget": target,
                "timeout": 60,
                "model": model,
            }
        },
    }
    return _yaml(
        [service],
        "A Triton repository as a KServe InferenceService (Knative mode; KServe before 0.16 calls it Serverless).",
        f"scaleTarget {target}: {why}.",
        *_advice(bundles, "asks <recipe>-<precision>-<graph>, whose state goes in and comes out"),
    )


def kubernetes(bundles: Sequence[Bundle], image: str) -> str:
    """``deploy.server`` as a Deployment, its Service and its HorizontalPodAutoscaler.

    Args:
        image: holds ``deploy/`` and what ``.[serve]`` installs; it runs as a user without rights.
    """
    metadata = _metadata(bundles)
    chosen = {"app.kubernetes.io/name": "plumbline", "app.kubernetes.io/instance": metadata["name"]}
    served = [f"{BUNDLES}/{bundle.recipe}" for bundle in bundles]
    container = {
        "name": "server",
        "image": image,
        # All addresses of the pod: what reaches it is the Service's affair.
        "command": ["python", "-m", "deploy.server", *served, "--host", "0.0.0.0"],  # noqa: S104
        "args": ["--port", str(HTTP), "--grpc-port", str(GRPC), "--drain", str(DRAIN_S)],
        "ports": [{"name": "http", "containerPort": HTTP}, {"name": "grpc", "containerPort": GRPC}],
        # No limit of cores: a limit stalls a server for the rest of each tenth of a second.
        "resources": {"requests": {"cpu": CPU, "memory": MEMORY}, "limits": {"memory": MEMORY}},
        "readinessProbe": _probe("ready", "http"),
        "livenessProbe": _probe("live", "http"),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "bundles", "mountPath": BUNDLES, "subPath": "bundle", "readOnly": True}],
    }
    pod = {
        # No `preStop`: on SIGTERM the server is not ready any more, answers on for `--drain`, finishes, and ends.
        "terminationGracePeriodSeconds": GRACE_S,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "bundles", "persistentVolumeClaim": {"claimName": CLAIM, "readOnly": True}}],
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {  # without `replicas`, which is the autoscaler's
            "selector": {"matchLabels": chosen},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            # The contracts' hashes: another bundle makes other pods.
            "template": {"metadata": {"labels": chosen, "annotations": _contracts(bundles)}, "spec": pod},
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "selector": chosen,
            "ports": [
                {"name": "http", "port": HTTP, "targetPort": "http"},
                {"name": "grpc", "port": GRPC, "targetPort": "grpc"},
            ],
            **({"sessionAffinity": "ClientIP"} if _stateful(bundles) else {}),
        },
    }
    utilization = {"type": "Utilization", "averageUtilization": CPU_PERCENT}
    scaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata,
        "spec": {
            **REPLICAS,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": metadata["name"]},
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": utilization}}],
        },
    }
    return _yaml(
        [deployment, service, scaler],
        f"Plumbline's own server, of the bundles that the claim {CLAIM!r} holds in bundle/; in place of kserve.yaml.",
        *_advice(bundles, "stays with one (sessionAffinity), or the client keeps the state itself"),
    )


def _scale_target(names: Sequence[str], measured: Path) -> tuple[int, str]:
    """How many requests one replica is to have on its way, and why: as many of the slowest as fit into ``WAIT_S``."""
    slowest = 0.0
    for name in names:
        file = measured / f"{name}.json"
        if not file.is_file():
            return UNMEASURED, f"chosen; {name} was not measured"
        for target, row in read_json(file)["targets"].items():
            if target.startswith("onnxruntime-cpu-") and row.get("latency_s"):
                slowest = max(slowest, statistics.median(row["latency_s"]))
    if not slowest:
        return UNMEASURED, "chosen; no latency was measured on a processor"
    fit = max(1, min(MOST, round(WAIT_S / slowest)))
    return fit, f"requests of {slowest * 1e3:.2g} ms, the slowest measured at batch 1, wait about {WAIT_S * 1e3:g} ms"


def _metadata(bundles: Sequence[Bundle]) -> dict[str, Any]:
    """A name that Kubernetes takes; of a few recipes it tells which."""
    names = [bundle.recipe for bundle in bundles] if len(bundles) < 3 else []
    name = re.sub(r"[^a-z0-9]+", "-", "-".join(["plumbline", *names]).lower())[:50].strip("-")
    return {"name": name, "labels": {"app.kubernetes.io/name": "plumbline", "app.kubernetes.io/instance": name}}


def _contracts(bundles: Sequence[Bundle]) -> dict[str, str]:
    return {f"plumbline/{bundle.recipe}": bundle.sha256 for bundle in bundles}


def _probe(state: str, port: int | str) -> dict[str, Any]:
    return {"httpGet": {"path": f"/v2/health/{state}", "port": port}, "periodSeconds": 5, "timeoutSeconds": 2}


def _stateful(bundles: Sequence[Bundle]) -> list[str]:
    """Recipes of which a server keeps a state."""
    return [
        bundle.recipe
        for bundle in bundles
        if len(bundle.io) == 1  # two graphs are decoded in one call
        for io in bundle.io.values()
        if {NEXT + tensor["name"] for tensor in io["inputs"]} & {tensor["name"] for tensor in io["outputs"]}
    ]


def _advice(bundles: Sequence[Bundle], instead: str) -> list[str]:
    stateful = ", ".join(_stateful(bundles))
    return [f"A sequence of {stateful} lives in one replica: with several, a client {instead}."] if stateful else []


def _yaml(documents: Sequence[Mapping[str, Any]], *lines: str) -> str:
    """Documents under a few lines of comment, keys in the order given."""
    told = "".join(f"# {line}\n" for line in lines)
    return told + yaml.dump_all(documents, Dumper=_Plain, sort_keys=False, explicit_start=True, allow_unicode=True)


class _Plain(yaml.SafeDumper):
    """YAML in which what is used twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True
