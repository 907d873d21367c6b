"""Greedy and beam search against all lines that there are."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.decoding import END, NO_ANSWER, beam, greedy, log_probabilities
from deploy.run import Run

BEGINNINGS = 97  # rows of a toy's table; a prime, so that beginnings spread over them


class Toy:
    """Logits by all that was written so far, as a state, and by the line, as an input that stays as it is."""

    def __init__(self, seed: int, lines: int, classes: int, coarse: bool) -> None:
        random = np.random.default_rng(seed)
        self.classes = classes
        self.table = random.normal(size=(BEGINNINGS, classes)) * 2
        self.bias = random.normal(size=(lines, classes))
        if coarse:  # many are then exactly alike
            self.table, self.bias = np.round(self.table), np.round(self.bias)
        self.inputs = {"bias": self.bias, "state": np.zeros((lines, 1), np.int64)}
        self.rows: list[int] = []

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert inputs["character"].dtype == np.uint8
        assert len(inputs["character"]) == len(inputs["bias"]) == len(inputs["state"])
        self.rows.append(len(inputs["character"]))
        state = self.follow(inputs["state"], inputs["character"][:, None])
        return {"logits": self.table[state[:, 0]] + inputs["bias"], "next_state": state}

    def follow(self, state, character):
        return (state * 5 + character.astype(np.int64) + 1) % BEGINNINGS

    def log_probability(self, line: int, characters: tuple[int, ...]) -> float:
        """Of ``characters``, the end included where it is the last: one at a time, in plain arithmetic."""
        total, state, previous = 0.0, 0, 0
        for character in characters:
            state = (state * 5 + previous + 1) % BEGINNINGS
            logits = [float(self.table[state, c] + self.bias[line, c]) for c in range(self.classes)]
            total += logits[character] - math.log(sum(math.exp(x) for x in logits))
            previous = character
        return total

    def all_lines(self, longest: int) -> list[tuple[int, ...]]:
        """Every line: ended within ``longest`` characters, or cut there."""
        letters = range(1, self.classes)
        ended = [(*w, END) for n in range(longest) for w in itertools.product(letters, repeat=n)]
        return ended + list(itertools.product(letters, repeat=longest))


toys = {
    "seed": st.integers(0, 10_000),
    "lines": st.integers(1, 3),
    "classes": st.integers(2, 4),
    "longest": st.integers(1, 4),
    "coarse": st.booleans(),
}


def written(row: np.ndarray, longest: int) -> tuple[int, ...]:
    """A padded row as ``all_lines`` has it."""
    characters = tuple(int(c) for c in row if c != END)
    return characters if len(characters) == longest else (*characters, END)


@given(**toys)
def test_a_wide_beam_finds_the_likeliest_of_all_lines(seed, lines, classes, longest, coarse) -> None:
    toy = Toy(seed, lines, classes, coarse)
    found, score = beam(toy, toy.inputs, longest, width=(classes - 1) ** longest + longest * classes**longest)
    for line in range(lines):
        best = max(toy.log_probability(line, characters) for characters in toy.all_lines(longest))
        assert score[line] == pytest.approx(best, abs=1e-9)
        assert toy.log_probability(line, written(found[line], longest)) == pytest.approx(best, abs=1e-9)


@given(**toys)
def test_a_beam_of_one_is_greedy(seed, lines, classes, longest, coarse) -> None:
    toy = Toy(seed, lines, classes, coarse)
    for one, other in zip(beam(toy, toy.inputs, longest, width=1), greedy(toy, toy.inputs, longest)):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)


@given(**toys)
def test_greedy_takes_the_likeliest_character_every_time(seed, lines, classes, longest, coarse) -> None:
    toy = Toy(seed, lines, classes, coarse)
    found, score = greedy(toy, toy.inputs, longest)
    for line in range(lines):
        characters = written(found[line], longest)
        assert score[line] == pytest.approx(toy.log_probability(line, characters), abs=1e-9)
        for end in range(1, len(characters) + 1):
            rivals = [toy.log_probability(line, (*characters[: end - 1], c)) for c in range(classes)]
            assert rivals[characters[end - 1]] >= max(rivals) - 1e-9


@given(**toys, width=st.integers(1, 5))
def test_a_narrow_beam_scores_the_line_that_it_gives(seed, lines, classes, longest, coarse, width) -> None:
    toy = Toy(seed, lines, classes, coarse)
    found, score = beam(toy, toy.inputs, longest, width)
    for line in range(lines):
        expected = toy.log_probability(line, written(found[line], longest))
        assert score[line] == pytest.approx(expected, abs=1e-9)
    assert set(toy.rows) == {lines * width}
    assert len(toy.rows) <= longest


@given(**toys, width=st.integers(1, 5))
def test_a_line_is_answered_alike_in_company_and_alone(seed, lines, classes, longest, coarse, width) -> None:
    toy = Toy(seed, lines, classes, coarse)
    together = [*greedy(toy, toy.inputs, longest), *beam(toy, toy.inputs, longest, width)]
    for line in range(lines):
        own = {name: array[line : line + 1] for name, array in toy.inputs.items()}
        alone = [*greedy(toy, own, longest), *beam(toy, own, longest, width)]
        for one, other in zip(alone, together):
            np.testing.assert_array_equal(one[0], other[line])


def test_a_beam_finds_what_greedy_misses() -> None:
    """First 1 (0.6) and then any of two (0.5 each), or first 2 (0.4) and then the end (1): 0.3 against 0.4."""

    def step(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        after = {(0, 0): [1e-9, 0.6, 0.4], (1, 1): [0.5, 1e-9, 0.5], (1, 2): [1.0, 1e-9, 1e-9]}
        places = inputs["state"][:, 0]
        rows = [after.get((int(p), int(c)), [1.0, 1e-9, 1e-9]) for p, c in zip(places, inputs["character"])]
        return {"logits": np.log(rows), "next_state": inputs["state"] + 1}

    inputs = {"state": np.zeros((1, 1), np.int64)}
    assert greedy(step, inputs, 5)[0].tolist() == [[1, 0, 0, 0, 0]]
    found, score = beam(step, inputs, 5, width=2)
    assert found.tolist() == [[2, 0, 0, 0, 0]]
    assert score[0] == pytest.approx(math.log(0.4))


def never_ending(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"logits": np.tile([0.0, 1.0, 5.0], (len(inputs["character"]), 1))}


def test_a_line_that_does_not_end_is_cut() -> None:
    inputs = {"line": np.zeros((2, 1))}
    for found, _ in (greedy(never_ending, inputs, 7), beam(never_ending, inputs, 7, width=3)):
        assert found.tolist() == [[2] * 7] * 2


def test_a_state_that_is_not_given_starts_as_the_run_starts_it() -> None:
    """The second call is given what the first one gave back."""
    seen = []

    def step(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append(sorted(inputs))
        state = inputs.get("state", np.zeros((len(inputs["character"]), 1))) + 1
        return {"logits": np.where(state < 3, [[0.0, 1.0]], [[1.0, 0.0]]), "next_state": state}

    assert greedy(step, {"memory": np.zeros((1, 1))}, 9)[0].tolist() == [[1, 1, 0, 0, 0, 0, 0, 0, 0]]
    assert seen == [["character", "memory"], *[["character", "memory", "state"]] * 2]


def failing(toy: Toy, value: float, line: int, call: int) -> Run:
    """``toy``, but one line's logits hold ``value`` from the given call on."""
    calls = itertools.count()

    def step(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        said = toy(inputs)
        if next(calls) >= call:
            mine = (inputs["bias"] == toy.bias[line]).all(axis=1)
            said["logits"][mine, -1] = value
        return said

    return step


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("call", [0, 1])
@pytest.mark.parametrize("width", [None, 1, 4])
def test_what_is_no_number_is_no_answer_and_hurts_no_other_line(value, call, width) -> None:
    toy = Toy(seed=1, lines=3, classes=4, coarse=False)
    toy.table[:, END] = -9.0  # no line ends before it fails

    def search(step):
        return greedy(step, toy.inputs, 6) if width is None else beam(step, toy.inputs, 6, width)

    found, score = search(failing(toy, value, line=1, call=call))
    sound, sound_score = search(toy)
    assert (found[1] == NO_ANSWER).all()
    assert np.isnan(score).tolist() == [False, True, False]
    np.testing.assert_array_equal(found[[0, 2]], sound[[0, 2]])
    np.testing.assert_array_equal(score[[0, 2]], sound_score[[0, 2]])


def test_what_comes_after_the_end_does_not_matter() -> None:
    def step(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        place = inputs["state"]
        last = inputs["line"] + 1
        logits = np.where(place == last, [[9.0, 0.0]], [[0.0, 9.0]])
        return {"logits": np.where(place > last, np.nan, logits), "next_state": place + 1}

    inputs = {"line": np.arange(3)[:, None], "state": np.zeros((3, 1), np.int64)}
    for found, score in (greedy(step, inputs, 9), beam(step, inputs, 9, width=1)):
        assert (found != 0).sum(axis=1).tolist() == [1, 2, 3]
        assert np.isfinite(score).all()


def test_log_probabilities_of_large_logits() -> None:
    logits = np.array([[1e30, 1e30, -1e30], [0.0, np.log(3), -1e30]], np.float32)
    expected = [[-math.log(2), -math.log(2), -2e30], [-math.log(4), math.log(0.75), -1e30]]
    np.testing.assert_allclose(log_probabilities(logits), np.array(expected), rtol=1e-6)
