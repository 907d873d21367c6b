"""Translation: a greedy answer, a beam, an exact match"""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from texts import lines, to_bytes

from deploy.errors import Refused
from deploy.run import Run
from deploy.tasks import translation as task
from models.attention import Encoder
from pipeline.datasets import dates


def knowing(examples: dict[str, np.ndarray], told: list[str]) -> dict[str, Run]:
    """Runs that write ``told`` for each line of ``examples``, whatever its padding; the state is the place."""
    answers = dict(zip(lines(examples["source"]), told, strict=True))

    def encoder(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        source = inputs["source"]
        assert (source != 0).any(axis=1).all(), "an empty line was asked"
        assert (source != 0).any(axis=0).all(), "a batch is longer than its longest line"
        assert len(source) <= task.LINES
        return {"memory": source[:, :, None].astype(np.float32), "state": np.zeros((len(source), 1), np.float32)}

    def step(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert len(inputs["character"]) <= task.LINES * task.WIDTH
        np.testing.assert_array_equal(inputs["memory"][:, :, 0], inputs["source"])
        wanted = to_bytes([answers[line] for line in lines(inputs["source"])], task.LONGEST + 1)
        character = wanted[np.arange(len(wanted)), inputs["state"][:, 0].astype(int)]
        logits = np.where(np.arange(256) == character[:, None], 20.0, 0.0).astype(np.float32)
        return {"logits": logits, "next_state": inputs["state"] + 1}

    return {"encoder": encoder, "step": step}


@pytest.fixture(scope="module")
def examples() -> dict[str, np.ndarray]:
    return {name: array[:100] for name, array in dates.prepare(Path())["test"].items()}


def judged(runs: dict[str, Run], examples: dict[str, np.ndarray]) -> tuple[float, float]:
    statistics = task.observe(task.answer(runs, examples), examples)
    assert statistics.shape == (len(examples["source"]), 2)
    return task.score(statistics), task.details(statistics)["exact with a beam of 4"]


def test_runs_that_know_all_half_and_nothing(examples) -> None:
    truth = lines(examples["target"])
    assert judged(knowing(examples, truth), examples) == (100.0, 100.0)
    assert judged(knowing(examples, [*truth[:50], *["2000-01-01"] * 50]), examples) == (50.0, 50.0)
    assert judged(knowing(examples, [t + "0" for t in truth]), examples) == (0.0, 0.0), "more than the target"
    assert judged(knowing(examples, [t[:-1] for t in truth]), examples) == (0.0, 0.0), "less than the target"
    assert judged(knowing(examples, ["1" * task.LONGEST] * 100), examples) == (0.0, 0.0), "it never ends"


def test_answers_are_those_written(examples) -> None:
    truth = lines(examples["target"])
    answers = task.answer(knowing(examples, truth), examples)
    assert task.decode(answers) == truth
    sure = 20 - np.log(np.exp(20) + 255)
    np.testing.assert_allclose(answers["logprob"], np.full((100, 11), sure), atol=1e-9)
    assert {name: (a.shape, a.dtype.name) for name, a in answers.items()} == {
        "greedy": ((100, 32), "uint8"),
        "beam": ((100, 32), "uint8"),
        "logprob": ((100, 11), "float64"),
    }


def test_logprob_is_of_the_target_and_ends_with_it() -> None:
    few = {"source": to_bytes(["a", "b"]), "target": to_bytes(["12", "1"], 3)}
    logprob = task.answer(knowing(few, ["12", "3"]), few)["logprob"]
    sure, unsure = 20 - np.log(np.exp(20) + 255), -np.log(np.exp(20) + 255)
    np.testing.assert_allclose(logprob, [[sure, sure, sure, 0], [unsure, sure, 0, 0]], atol=1e-9)


@pytest.mark.parametrize("place", [0, 3, 10])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_never_right(examples, place, value) -> None:
    runs = knowing(examples, lines(examples["target"]))

    def step(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        said = runs["step"](inputs)
        said["logits"][inputs["state"][:, 0] == place, 200] = value
        return said

    answers = task.answer(runs | {"step": step}, examples)
    assert not np.isfinite(answers["logprob"]).all()
    assert task.decode(answers) == [None] * 100
    assert judged(runs | {"step": step}, examples) == (0.0, 0.0)


def test_an_empty_line_is_answered_by_an_empty_line_unasked(examples) -> None:
    some = {name: array.copy() for name, array in examples.items()}
    some["source"][[0, 7]] = 0
    some["target"][0] = 0
    runs = knowing(some, lines(some["target"]))
    answers = task.answer(runs, some)
    assert [task.decode(answers)[i] for i in (0, 7)] == ["", ""]
    assert task.score(task.observe(answers, some)) == 99.0  # line 7's target is not empty
    assert task.requests(runs, some)[0]().tolist() == [[0] * task.LONGEST]


def test_nothing_but_empty_lines() -> None:
    nothing = {"source": np.zeros((2, 5), np.uint8), "target": np.zeros((2, 3), np.uint8)}
    assert judged({}, nothing) == (100.0, 100.0)


def test_a_line_longer_than_any_in_training_is_answered_up_to_the_limit() -> None:
    texts = ["1" * task.LONGEST_SOURCE, "2" * 5]
    long = {"source": to_bytes(texts), "target": to_bytes(["a", "b"])}
    assert judged(knowing(long, ["a", "b"]), long) == (100.0, 100.0)
    longer = {"source": to_bytes(["2", "1" * 129]), "target": to_bytes(["b", "a"])}
    for ask in (task.answer, task.requests):
        with pytest.raises(Refused, match="source: line 1 has 129 bytes, expected at most 128. Shorten it"):
            ask({}, longer)


def test_a_zero_within_a_line_is_refused() -> None:
    with pytest.raises(Refused, match="source: line 1 has a byte 0 before its end; .* Take it out"):
        task.answer({}, {"source": to_bytes(["12", "1\0002"]), "target": to_bytes(["b", "a"])})


def test_requests_give_the_greedy_answers(examples) -> None:
    runs = knowing(examples, lines(examples["target"]))
    answers = np.concatenate([request() for request in task.requests(runs, examples)])
    np.testing.assert_array_equal(answers, task.answer(runs, examples)["greedy"])


def test_an_answer_that_is_no_utf_8_can_still_be_read() -> None:
    greedy = np.zeros((1, task.LONGEST), np.uint8)
    greedy[0, :2] = [0x31, 0xE9]
    assert task.decode({"greedy": greedy}) == ["1�"]


def read_by_hand(encoder: Encoder, source: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The encoder with its lines reversed one by one in Python; what is last in an empty line is its first padding."""
    text = torch.from_numpy(source).long()
    vectors, mirrored = encoder.characters(text), encoder.characters(text)
    lengths = [int((line != 0).sum()) for line in source]
    for line, length in zip(mirrored, lengths):
        line[:length] = line[:length].flip(0)
    after, before = encoder.cells.forwards(vectors)[0], encoder.cells.backwards(mirrored)[0]
    for line, length in zip(before, lengths):
        line[:length] = line[:length].flip(0)
    last = torch.stack([line[max(0, length - 1)] for line, length in zip(after, lengths)])
    return torch.cat([after, before], 2), torch.tanh(encoder.bridge(torch.cat([last, before[:, 0]], 1)))


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.sampled_from([0, 1, 97, 98]))
)
@example(np.zeros((2, 1), np.uint8))
@example(np.array([[0, 97], [97, 0], [0, 0], [97, 98]], np.uint8))
def test_the_encoder_reads_any_bytes_as_a_loop_in_python_does_to_the_bit(source: np.ndarray) -> None:
    torch.manual_seed(0)
    encoder = Encoder(6, 4).eval()
    encoder.characters.fit(torch.tensor([97, 98]))
    with torch.inference_mode():
        for came, expected in zip(encoder(torch.from_numpy(source)), read_by_hand(encoder, source), strict=True):
            assert torch.equal(came, expected)
