"""What is counted, as Prometheus's own parser reads it; and what is logged"""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from served import Reply, Running, binary, labels_bundle, reader_bundle, serving

from deploy.files import sha256
from deploy.server.metrics import PARTS, ROWS, SECONDS, Counts, Histogram, registry, told
from deploy.server.sessions import OVERHEAD

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(text: str) -> Samples:
    """Name and labels -> value; each once."""
    samples: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation and family.type in ("counter", "gauge", "histogram")
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in samples
            samples[key] = sample.value
    return samples


def of(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, tuple(sorted(labels.items()))), 0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("counted")
    labels_bundle(folder / "labels")
    reader_bundle(folder / "reader")
    return folder


@pytest.fixture
def server(folder: Path, tmp_path: Path) -> Iterator[Running]:
    with serving(tmp_path / "log", folder / "labels", folder / "reader") as running:
        yield running


def read(running: Running) -> Samples:
    reply = running.get("/metrics")
    assert reply.status == 200 and reply.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return parsed(reply.body.decode())


def ask(running: Running, model: str, array: np.ndarray, **parameters: object) -> Reply:
    body, headers = binary({"text" if model == "reader-fp32" else "image": array}, **parameters)
    return running.post(f"/v2/models/{model}/infer", body, **headers)


def test_what_was_asked_is_counted(server: Running, folder: Path) -> None:
    which = {
        n: {"model": f"{n}-fp32", "version": sha256(folder / n / "contract.json")[:12]} for n in ("labels", "reader")
    }
    fresh = read(server)
    assert all(value == 0 for (name, labels), value in fresh.items() if labels)
    assert of(fresh, "plumbline_ready") == 1
    rows = [1, 1, 2, 5, 64, 64]
    for count in rows:
        assert ask(server, "labels-fp32", np.ones((count, 1, 4, 4), np.uint8)).status == 200
    for _ in range(3):
        assert ask(server, "labels-fp32", np.ones((1, 1, 4, 5), np.uint8)).status == 400
    assert server.get("/v2/models/labels-fp32/infer").status == 405
    assert server.post("/v2/models/nobody/infer").status == 404
    samples = read(server)
    labels = which["labels"]
    requests = {s: of(samples, "plumbline_requests_total", **labels, status=s) for s in ("200", "400", "405", "404")}
    assert requests == {"200": 6, "400": 3, "405": 1, "404": 0}
    assert of(samples, "plumbline_batch_rows_count", **labels) == 6
    assert of(samples, "plumbline_batch_rows_sum", **labels) == sum(rows)
    for bound in ROWS:
        up_to = of(samples, "plumbline_batch_rows_bucket", **labels, le=str(bound))
        assert up_to == sum(count <= bound for count in rows)
    for part in PARTS:
        assert of(samples, f"plumbline_{part}_seconds_count", **labels) == 6
        assert 0 < of(samples, f"plumbline_{part}_seconds_sum", **labels) < 1
        buckets = [of(samples, f"plumbline_{part}_seconds_bucket", **labels, le=str(b)) for b in (*SECONDS, "+Inf")]
        assert buckets == sorted(buckets) and buckets[-1] == 6
    assert all(of(samples, name, **which["reader"]) == 0 for name in ("plumbline_batch_rows_count",))


def test_characters_and_sequences_are_counted(server: Running, folder: Path) -> None:
    reader = {"model": "reader-fp32", "version": sha256(folder / "reader" / "contract.json")[:12]}
    asked = {"text_input": "for", "parameters": {"max_tokens": 30, "seed": 1}}
    assert server.post("/v2/models/reader-fp32/generate", asked).status == 200
    assert server.post("/v2/models/reader-fp32/generate_stream", asked).body.count(b"data: ") == 30
    for which in (1, 2, 3):
        assert (
            ask(server, "reader-fp32", np.ones((2, 3), np.uint8), sequence_id=which, sequence_start=True).status == 200
        )
    assert ask(server, "reader-fp32", np.ones((2, 3), np.uint8), sequence_id=2, sequence_end=True).status == 200
    samples = read(server)
    assert of(samples, "plumbline_characters_total", **reader) == 60
    assert of(samples, "plumbline_sequences") == 2
    assert of(samples, "plumbline_sequences_bytes") == 2 * (OVERHEAD + 2 * 16 * 4)
    assert of(samples, "plumbline_held_bytes") == 0


def test_a_model_that_is_loaded_again_keeps_its_counts_and_a_new_version_has_its_own(tmp_path: Path) -> None:
    folder, other = labels_bundle(tmp_path / "labels", 1), labels_bundle(tmp_path / "other", 2)
    image = np.ones((1, 1, 4, 4), np.uint8)
    old, new = ({"model": "labels-fp32", "version": sha256(f / "contract.json")[:12]} for f in (folder, other))
    with serving(tmp_path / "log", folder) as running:
        ask(running, "labels-fp32", image)
        assert running.post("/v2/repository/models/labels-fp32/load").status == 200
        ask(running, "labels-fp32", image)
        assert of(read(running), "plumbline_requests_total", **old, status="200") == 2
        folder.rename(tmp_path / "before")
        other.rename(folder)
        assert running.post("/v2/repository/models/labels-fp32/load").status == 200
        ask(running, "labels-fp32", image)
        assert of(read(running), "plumbline_requests_total", **new, status="200") == 1


def test_nothing_is_logged_of_a_request_and_every_line_is_json(server: Running) -> None:
    before = server.logged()
    for line in before:
        assert {"time", "level", "message"} <= set(line)
        time.strptime(line["time"], "%Y-%m-%dT%H:%M:%SZ")
        assert line["level"] in ("info", "warning", "error")
    assert {line["model"] for line in before if line["message"] == "served"} == {"labels-fp32", "reader-fp32"}
    for _ in range(20):
        ask(server, "labels-fp32", np.ones((1, 1, 4, 4), np.uint8))
        ask(server, "labels-fp32", np.ones((1, 1, 4, 5), np.uint8))
        ask(server, "reader-fp32", np.ones((1, 4), np.uint8), sequence_id=5)
        server.get("/nothing")
        server.get("/metrics")
        server.post("/v2/models/reader-fp32/generate", {"text_input": "x", "parameters": {"max_tokens": 3}})
    assert server.logged() == before
    assert server.post("/v2/repository/models/labels-fp32/unload").status == 200
    (line,) = server.logged()[len(before) :]
    assert (line["message"], line["model"], line["level"]) == ("unloaded", "labels-fp32", "info")


@given(st.lists(st.floats(0, 100), max_size=50), st.sampled_from([SECONDS, ROWS]))
def test_a_histogram_is_what_a_count_by_hand_says(values: list[float], bounds: tuple[float, ...]) -> None:
    histogram = Histogram(bounds)
    for value in values:
        histogram.add(value)
    expected = [(str(bound), float(sum(value <= bound for value in values))) for bound in bounds]
    assert histogram.buckets() == [*expected, ("+Inf", float(len(values)))]
    assert histogram.total == pytest.approx(sum(values))


@given(name=st.text(min_size=1, max_size=20).filter(lambda text: "\r" not in text), late=st.integers(0, 9))
def test_any_name_is_read_as_it_was_told(name: str, late: int) -> None:
    counts = Counts()
    for _ in range(late):
        counts.answered(504)
    text = told(registry(lambda: [(name, "1", counts)], lambda: {"ready": 1.0})).decode()
    assert of(parsed(text), "plumbline_requests_total", model=name, version="1", status="504") == late
    assert of(parsed(text), "plumbline_ready") == 1
