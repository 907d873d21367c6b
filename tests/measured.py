"""Measurements made by hand: what a target would have told."""

from typing import Any

import numpy as np


def statistics(wrong: list[int], n: int = 900) -> list[list[float]]:
    rows = np.ones((n, 1))
    rows[wrong] = 0
    return rows.tolist()


def row(**changes: Any) -> dict[str, Any]:
    facts = {
        "precision": "fp32",
        "device": "cpu",
        "reason": "",
        "statistics": statistics([0, 1, 2]),
        "finite": True,
        "error_max": 1e-6,
        "size_bytes": 1000,
        "graph_sha256": {"network": "ab" * 32},
        "latency_s": [0.5e-3 + 1e-6 * (i % 7) for i in range(700)],
        "alone_s": 0.4e-3,
    }
    return facts | changes


def measurement(targets: dict[str, dict[str, Any]], **trained: Any) -> dict[str, Any]:
    reference = {
        "statistics": statistics([0, 1, 2]),
        "error_max": 1e-6,
        "rounding": 1e-7,
        "exact": "float64",
        "latency": {"cpu": {"latency_s": [1e-3 + 1e-6 * (i % 5) for i in range(700)], "alone_s": 0.9e-3}},
    }
    return {
        "task": "classification",
        "contract_sha256": "now",
        "host": {"name": "here"},
        "date": "2026-01-01",
        "trained": reference | trained,
        "targets": targets,
    }
