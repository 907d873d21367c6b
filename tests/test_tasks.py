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


def test_texts_are_asked_no_longer_than_the_longest_of_a_batch_and_one_character_at_least() -> None:
    lengths = np.array([3, 1, 0] * 30)
    text = np.where(np.arange(40) < lengths[:, None], 97, 0).astype(np.uint8)
    text[-1, 6] = text[-1, 8] = 98  # a 0 before the end is no end
    examples = {"text": text, "more": np.zeros((90, 5)), "label": np.zeros(90, np.int64)}
    asked: list[tuple[tuple[int, ...], ...]] = []

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        asked.append((inputs["text"].shape, inputs["more"].shape))
        return {"logits": np.stack([inputs["text"].sum(axis=1), np.zeros(len(inputs["text"]))], axis=1)}

    logits = task.answer({"network": run}, examples)["logits"]
    assert asked == [((64, 3), (64, 5)), ((26, 9), (26, 5))]
    np.testing.assert_array_equal(logits[:, 0], text.sum(axis=1))
    asked.clear()
    for request in task.requests({"network": run}, examples):
        request()
    assert asked == [((1, length), (1, 5)) for length in [*[3, 1, 1] * 29, 3, 1, 9]]


@given(st.lists(st.booleans(), min_size=1, max_size=50))
def test_score_is_the_share_of_right_units(right: list[bool]) -> None:
    assert task.score(np.array(right, dtype=float)[:, None]) == pytest.approx(100 * sum(right) / len(right))
