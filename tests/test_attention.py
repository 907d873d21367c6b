"""The encoder-decoder with attention"""

import pytest
import torch
from texts import to_bytes
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from deploy.tasks import translation as task
from models.attention import EncoderDecoder
from pipeline.network import open_network

UNITS, SIZE = 6, 5
SOME = ["3 March 1994", "Thu, the 3rd of May '49", "1.2.'03", "x", "20031224"]
ISO = ["1994-03-03", "2049-05-03", "2003-02-01", "", "2003-12-24"]


@pytest.fixture
def network() -> EncoderDecoder:
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
    for name, parameter in encoder.cells.forwards.named_parameters():
        getattr(oracle, f"{name}_l0").data.copy_(parameter)
    for name, parameter in encoder.cells.backwards.named_parameters():
        getattr(oracle, f"{name}_l0_reverse").data.copy_(parameter)
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
        _, h = step.cell.step(step.characters(TARGET[i : i + 1, :1])[:, 0], state[i : i + 1])
        h = h[0]
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


def test_the_network_learns_two_lines_and_the_task_says_so() -> None:
    torch.manual_seed(0)
    source, target = SOURCE[[0, 4]], TARGET[[0, 4]]
    network = EncoderDecoder(32, 8)
    network.fit(source, target)
    network.eval()
    examples = {"source": source.numpy(), "target": target.numpy()}
    runs = open_network(network, task.outputs)
    assert task.score(task.observe(task.answer(runs, examples), examples)) == 0
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    wanted = functional.pad(target, (0, 1)).long().flatten()
    for _ in range(2000):  # about 700 are enough; how many, depends on the processor
        loss = functional.cross_entropy(network(source, target).flatten(0, 1), wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if loss < 0.005:
            break
    assert task.score(task.observe(task.answer(runs, examples), examples)) == 100
