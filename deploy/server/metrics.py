"""What is counted, and how Prometheus reads it.

Counting is a few integers in the event loop's thread; the client library's own classes, which take locks, are filled
when somebody asks.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

SECONDS = (0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
PARTS = ("queue", "compute")


@dataclass
class Histogram:
    """How often a value came at most as large as each bound."""

    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Count ``value``."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """As Prometheus has it: each bound with all that came up to it."""
        up_to, told = 0, []
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self.counts):
            up_to += count
            told.append((bound, float(up_to)))
        return told


@dataclass
class Counts:
    """Of one model."""

    answers: dict[int, int] = field(default_factory=dict)  # status -> requests
    characters: int = 0
    queue: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    compute: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    rows: Histogram = field(default_factory=lambda: Histogram(ROWS))

    def answered(self, status: int) -> None:
        """Count a request."""
        self.answers[status] = self.answers.get(status, 0) + 1

    def ran(self, rows: int, seconds: float) -> None:
        """Count a batch."""
        self.rows.add(rows)
        self.compute.add(seconds)

    def waited(self, seconds: float) -> None:
        """Count what a request waited until its batch was run."""
        self.queue.add(seconds)


Read = Callable[[], Iterable[tuple[str, str, Counts]]]


class _Collector(Collector):
    def __init__(self, read: Read, gauges: Callable[[], dict[str, float]]) -> None:
        self._read, self._gauges = read, gauges

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "plumbline_requests", "Requests by the status of their answer.", labels=["model", "version", "status"]
        )
        characters = CounterMetricFamily("plumbline_characters", "Characters written.", labels=["model", "version"])
        seconds = {
            part: HistogramMetricFamily(f"plumbline_{part}_seconds", f"Seconds of {what}.", labels=["model", "version"])
            for part, what in (("queue", "a request before its batch was run"), ("compute", "a batch"))
        }
        rows = HistogramMetricFamily("plumbline_batch_rows", "Rows of a batch.", labels=["model", "version"])
        for model, version, counts in self._read():
            of = [model, version]
            for status, count in sorted(counts.answers.items()):
                requests.add_metric([*of, str(status)], count)
            characters.add_metric(of, counts.characters)
            seconds["queue"].add_metric(of, counts.queue.buckets(), counts.queue.total)
            seconds["compute"].add_metric(of, counts.compute.buckets(), counts.compute.total)
            rows.add_metric(of, counts.rows.buckets(), counts.rows.total)
        yield from (requests, characters, *seconds.values(), rows)
        for name, value in self._gauges().items():
            yield GaugeMetricFamily(f"plumbline_{name}", name.replace("_", " ").capitalize() + ".", value=value)


def registry(read: Read, gauges: Callable[[], dict[str, float]]) -> CollectorRegistry:
    """What Prometheus reads.

    Args:
        read: model, version, counts of every model.
        gauges: what is so at present, by name.
    """
    made = CollectorRegistry()
    made.register(_Collector(read, gauges))
    return made


def told(of: CollectorRegistry) -> bytes:
    """The text that Prometheus reads."""
    return generate_latest(of)
