"""Dates written out in many ways: the data set, the encoder-decoder with attention, and the task that judges it."""

import re
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from deploy.errors import Refused
from deploy.run import Run
from deploy.tasks import translation as task
from models.attention import EncoderDecoder
from pipeline.datasets import dates
from pipeline.network import open_network

MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


def lines(array: np.ndarray) -> list[str]:
    return [bytes(row).rstrip(b"\0").decode() for row in array]


def to_bytes(texts: list[str], longest: int = 0) -> np.ndarray:
    rows = [text.encode() for text in texts]
    longest = max([longest, *map(len, rows)])
    return np.array([list(row.ljust(longest, b"\0")) for row in rows], np.uint8)


# The data set


@pytest.fixture(scope="module")
def splits() -> dict[str, dict[str, np.ndarray]]:
    return dates.prepare(Path())


def read(line: str) -> set[date]:
    """All dates that a line may mean, from the words and figures in it and not from the ways of writing."""
    text = line.lower()
    year = re.search(r"(?<!\d)(\d{4})(?!\d)|'(\d\d)", text)
    compact = re.fullmatch(r"\s*(\d{4})(\d\d)(\d\d)\s*", text)
    if compact:
        return {date(*map(int, compact.groups()))}
    century = year[1] or next(y for y in map(str, range(1950, 2050)) if y.endswith(year[2]))
    rest = text[: year.start()] + " " + text[year.end() :]
    figures = [int(n) for n in re.findall(r"\d+", rest)]
    named = [i + 1 for i, name in enumerate(MONTHS) if re.search(rf"\b{name}", rest)]
    if named:
        (day,), (month,) = figures, named
        meant = {(month, day)}
    else:
        meant = {(figures[1], figures[0])} if "." in text else {(figures[0], figures[1])}
        assert ("." in text) != text.strip().startswith(century), "figures alone: day first with dots, or year first"
    return {date(int(century), month, day) for month, day in meant}


def test_every_line_means_its_target_and_nothing_else(splits) -> None:
    for arrays in splits.values():
        for line, target in zip(lines(arrays["source"]), lines(arrays["target"])):
            assert read(line) == {date.fromisoformat(target)}, line
            weekday = [i for i, name in enumerate(DAYS) if re.search(rf"\b{name}", line.lower())]
            assert weekday in ([], [date.fromisoformat(target).weekday()]), line


def test_no_date_is_written_twice_and_the_splits_have_their_sizes(splits) -> None:
    seen = [target for arrays in splits.values() for target in lines(arrays["target"])]
    assert len(set(seen)) == len(seen) == sum(dates.SPLITS.values())
    assert {split: len(arrays["source"]) for split, arrays in splits.items()} == dates.SPLITS
    assert dates.FIRST + timedelta(days=dates.DAYS - 1) == date(2049, 12, 31)
    assert "1950-01-01" <= min(seen) <= max(seen) <= "2049-12-31"


def test_the_same_every_time_and_bytes_with_padding_at_the_end(splits) -> None:
    again = dates.prepare(Path())
    for split, arrays in splits.items():
        for name, array in arrays.items():
            assert array.dtype == np.uint8
            np.testing.assert_array_equal(array, again[split][name])
            assert not ((array[:, :-1] == 0) & (array[:, 1:] != 0)).any()
        assert arrays["target"].shape[1] == 10
        assert arrays["source"].shape[1] == splits["train"]["source"].shape[1] <= task.LONGEST_SOURCE


def test_calib_select_and_test_hold_no_byte_that_training_lacks(splits) -> None:
    known = set(splits["train"]["source"].ravel().tolist())
    assert all(set(arrays["source"].ravel().tolist()) <= known for arrays in splits.values())


@pytest.mark.parametrize(
    ("day", "ending"), [(1, "st"), (2, "nd"), (3, "rd"), (4, "th"), (11, "th"), (12, "th"), (13, "th"), (21, "st"), (22, "nd"), (23, "rd"), (30, "th"), (31, "st")]
)  # fmt: skip
def test_endings(day: int, ending: str) -> None:
    assert dates._ending(day) == ending


# The network

UNITS, SIZE = 6, 5
SOME = ["3 March 1994", "Thu, the 3rd of May '49", "1.2.'03", "x", "20031224"]
ISO = ["1994-03-03", "2049-05-03", "2003-02-01", "", "2003-12-24"]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Two threads of a small network wait for each other, and for long on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def network(one_thread) -> EncoderDecoder:
    """Random weights in float64, in evaluation; sources and targets in ``SOME`` and ``ISO``."""
    torch.manual_seed(0)
    network = EncoderDecoder(UNITS, SIZE)
    network.fit(torch.from_numpy(to_bytes(SOME)), torch.from_numpy(to_bytes(ISO)))
    return network.double().eval()


SOURCE, TARGET = torch.from_numpy(to_bytes(SOME)), torch.from_numpy(to_bytes(ISO))
close = {"rtol": 0, "atol": 1e-12}


def stepped(network: EncoderDecoder, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    memory, state = network.encoder(source)
    said = []
    for character in functional.pad(target, (1, 0)).T:
        logits, state = network.step(character, memory, source, state)
        said.append(logits)
    return torch.stack(said, dim=1)


def test_the_training_form_is_the_step_form(network) -> None:
    torch.testing.assert_close(network(SOURCE, TARGET), stepped(network, SOURCE, TARGET), **close)


def test_a_character_is_told_from_those_before_it_alone(network) -> None:
    other = TARGET.clone()
    other[:, 4] = ord("7")
    one, two = network(SOURCE, TARGET), network(SOURCE, other)
    torch.testing.assert_close(one[:, :5], two[:, :5], **close)
    assert (one[:, 5] - two[:, 5]).abs().amax(dim=1).min() > 1e-6


def test_the_encoder_is_pytorchs_bidirectional_gru_on_packed_sequences(network) -> None:
    encoder = network.encoder
    oracle = nn.GRU(SIZE, UNITS, batch_first=True, bidirectional=True).double()
    for name, parameter in encoder.forwards.named_parameters():
        getattr(oracle, name).data.copy_(parameter)
    for name, parameter in encoder.backwards.named_parameters():
        getattr(oracle, f"{name}_reverse").data.copy_(parameter)
    length = (SOURCE != 0).sum(1)
    packed = pack_padded_sequence(encoder.characters(SOURCE), length, batch_first=True, enforce_sorted=False)
    outputs, last = oracle(packed)
    outputs, _ = pad_packed_sequence(outputs, batch_first=True)
    memory, state = encoder(SOURCE)
    told = SOURCE != 0
    torch.testing.assert_close(memory[told], outputs[told], **close)
    torch.testing.assert_close(state, torch.tanh(encoder.bridge(torch.cat([last[0], last[1]], dim=1))), **close)


def test_the_step_is_the_papers_equations(network) -> None:
    memory, state = network.encoder(SOURCE)
    step = network.step
    logits, after = step(TARGET[:, 0], memory, SOURCE, state)
    for i, text in enumerate(SOME):
        places = memory[i, : len(text)]
        _, h = step.gru(step.characters(TARGET[i : i + 1, :1]), state[None, i : i + 1])
        h = h[0, 0]
        weight = torch.stack([h @ step.query.weight.T @ place for place in places]).softmax(0)
        context = (weight[:, None] * places).sum(0)
        attentional = torch.tanh(step.combine.weight @ torch.cat([context, h]))
        torch.testing.assert_close(logits[i], step.output(attentional), **close)
        torch.testing.assert_close(after[i], h, **close)


@pytest.mark.parametrize("more", [1, 40])
def test_padding_changes_nothing(network, more) -> None:
    padded = functional.pad(SOURCE, (0, more))
    torch.testing.assert_close(network(padded, TARGET), network(SOURCE, TARGET), **close)


def test_a_line_is_answered_alike_in_company_and_alone(network) -> None:
    together = network(SOURCE, TARGET)
    for i, text in enumerate(SOME):
        alone = network(SOURCE[i : i + 1, : len(text)], TARGET[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], **close)


def test_unknown_characters_are_all_alike(network) -> None:
    one, two, known = (torch.from_numpy(to_bytes([text])) for text in ["3 March ~", "3 March #", "3 March 9"])
    torch.testing.assert_close(network(one, TARGET[:1]), network(two, TARGET[:1]), **close)
    assert (network(one, TARGET[:1]) - network(known, TARGET[:1])).abs().max() > 1e-6


def test_an_empty_line_in_a_batch_is_finite_and_hurts_no_other(network) -> None:
    source = SOURCE.clone()
    source[2] = 0
    said, whole = network(source, TARGET), network(SOURCE, TARGET)
    assert said.isfinite().all()
    torch.testing.assert_close(said[[0, 1, 3, 4]], whole[[0, 1, 3, 4]], **close)


def test_a_state_that_is_not_given_is_zero(network) -> None:
    memory, _ = network.encoder(SOURCE)
    zero = torch.zeros(len(SOURCE), UNITS, dtype=torch.float64)
    for one, other in zip(network.step(TARGET[:, 0], memory, SOURCE), network.step(TARGET[:, 0], memory, SOURCE, zero)):
        torch.testing.assert_close(one, other, **close)


def test_parameter_counts_are_those_of_the_docstrings() -> None:
    units, size = 48, 16
    network = EncoderDecoder(units, size)

    def count(part: nn.Module) -> int:
        return sum(p.numel() for p in part.parameters())

    assert count(network.encoder) == 6 * units * (size + units + 2) + 2 * units**2 + units + 256 * size
    assert count(network.step) == 3 * units * (size + units + 2) + 5 * units**2 + 256 * (units + 1) + 256 * size


# The task


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
def examples(splits) -> dict[str, np.ndarray]:
    return {name: array[:100] for name, array in splits["test"].items()}


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


def test_the_network_learns_two_lines_and_the_task_says_so(one_thread) -> None:
    torch.manual_seed(0)
    source, target = SOURCE[[0, 4]], TARGET[[0, 4]]
    network = EncoderDecoder(32, 8)
    network.fit(source, target)
    network.eval()
    examples = {"source": source.numpy(), "target": target.numpy()}
    runs = open_network(network, task.outputs)
    assert judged(runs, examples) == (0.0, 0.0)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    wanted = functional.pad(target, (0, 1)).long().flatten()
    for _ in range(200):
        loss = functional.cross_entropy(network(source, target).flatten(0, 1), wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert judged(runs, examples) == (100.0, 100.0)
