import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.run import Run
from deploy.tasks import classification as task

N, CLASSES = 200, 10
LABEL = np.arange(N) % CLASSES
EXAMPLES = {"image": np.eye(CLASSES, dtype=np.float32)[LABEL], "label": LABEL}


def perfect(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"logits": inputs["image"]}


def constant(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"logits": np.tile(np.eye(CLASSES)[3], (len(inputs["image"]), 1))}


def broken(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"logits": np.where(np.arange(CLASSES) == 0, np.nan, inputs["image"])}


def score(run: Run) -> float:
    return task.score(task.observe(task.answer({"network": run}, EXAMPLES), EXAMPLES))


def test_perfect_constant_and_random_runs() -> None:
    assert score(perfect) == 100.0
    assert score(constant) == 100.0 / CLASSES
    random = np.random.default_rng(0)
    scores = [score(lambda inputs: {"logits": random.normal(size=(len(inputs["image"]), CLASSES))}) for _ in range(50)]
    assert np.mean(scores) == pytest.approx(10.0, abs=1.5)


def test_an_answer_that_is_not_finite_is_never_right() -> None:
    assert score(broken) == 0.0
    assert set(task.decode(task.answer({"network": broken}, EXAMPLES))) == {-1}


def test_requests_ask_what_the_accuracy_run_asks() -> None:
    requests = task.requests({"network": perfect}, EXAMPLES)
    whole = task.answer({"network": perfect}, EXAMPLES)["logits"]
    assert len(requests) == N
    np.testing.assert_array_equal(np.concatenate([request()["logits"] for request in requests]), whole)


@given(st.lists(st.booleans(), min_size=1, max_size=50))
def test_score_is_the_share_of_right_units(right: list[bool]) -> None:
    assert task.score(np.array(right, dtype=float)[:, None]) == pytest.approx(100 * sum(right) / len(right))
