"""The tagger and its task"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import f1_score
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from deploy.per_character import BATCH
from deploy.run import Run
from deploy.runtimes import open_onnxruntime
from deploy.tasks import tagging as task
from models.tagger import Tagger
from pipeline.export import to_onnx
from pipeline.network import open_pytorch

CLASSES = 5
LENGTHS = (9, 1, 6, 12, 3)


def texts(lengths: tuple[int, ...], longest: int) -> np.ndarray:
    """Random letters, 0 after each text's end."""
    letters = np.random.default_rng(0).integers(97, 123, (len(lengths), longest)).astype(np.uint8)
    return np.where(np.arange(longest) < np.array(lengths)[:, None], letters, 0).astype(np.uint8)


def tagger() -> Tagger:
    torch.manual_seed(0)
    network = Tagger(CLASSES, "LSTM", size=4, units=6)
    network.fit(torch.from_numpy(TEXT))
    return network.eval()


TEXT = texts(LENGTHS, 12)
EXAMPLES = {"text": TEXT, "token": (TEXT % CLASSES).astype(np.uint8)}  # the class can be read from the letter


def perfect(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"logits": np.eye(CLASSES, dtype=np.float32)[inputs["text"] % CLASSES]}


def constant(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"logits": np.tile(np.eye(CLASSES)[3], (*inputs["text"].shape, 1))}


def statistics(run: Run, examples: dict[str, np.ndarray]) -> np.ndarray:
    return task.observe(task.answer({"network": run}, examples), examples)


def test_the_tagger_is_pytorchs_bidirectional_lstm_on_packed_texts() -> None:
    network = tagger()
    oracle = torch.nn.LSTM(4, 6, batch_first=True, bidirectional=True)
    [layer] = network.layers
    for lstm, suffix in ((layer.forwards, ""), (layer.backwards, "_reverse")):
        for name, weight in lstm.named_parameters():
            getattr(oracle, f"{name}_l0{suffix}").data.copy_(weight)
    told = 256 * 4 + 8 * 6 * (4 + 6 + 2) + CLASSES * (2 * 6 + 1)
    assert sum(p.numel() for p in network.parameters()) == told
    text = torch.from_numpy(TEXT)
    with torch.inference_mode():
        packed = pack_padded_sequence(network.characters(text), LENGTHS, batch_first=True, enforce_sorted=False)
        hidden, _ = pad_packed_sequence(oracle(packed)[0], batch_first=True)
        expected, came = network.output(hidden), network(text)
    torch.testing.assert_close(came[text != 0], expected[text != 0])


def test_padding_and_neighbours_change_nothing() -> None:
    run = open_pytorch(tagger(), ("logits",))
    together = run({"text": np.pad(TEXT, ((0, 0), (0, 20)))})["logits"]
    for row, length in enumerate(LENGTHS):
        alone = run({"text": TEXT[row : row + 1, :length]})["logits"]
        np.testing.assert_allclose(together[row, :length], alone[0], rtol=1e-5, atol=1e-6)


def test_the_graph_has_onnxs_own_lstms_and_answers_at_another_batch_and_length() -> None:
    network = tagger()
    model = to_onnx(network, {"text": TEXT[:2, :5]}, ("logits",))
    assert [node.op_type for node in model.graph.node].count("LSTM") == 2
    deployed, trained = open_onnxruntime(model.SerializeToString()), open_pytorch(network, ("logits",))
    for feed in ({"text": TEXT}, {"text": TEXT[3:4, :11]}, {"text": TEXT[1:2, :1]}):
        np.testing.assert_allclose(deployed(feed)["logits"], trained(feed)["logits"], rtol=1e-5, atol=1e-6)


def test_overfits_one_batch() -> None:
    network = tagger()
    text, truth = torch.from_numpy(TEXT), torch.from_numpy(EXAMPLES["token"]).long()
    optimiser = torch.optim.Adam(network.parameters(), lr=0.03)
    for _ in range(100):
        loss = functional.cross_entropy(network(text)[text != 0], truth[text != 0])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert task.score(statistics(open_pytorch(network, ("logits",)), EXAMPLES)) == 100.0


def test_perfect_and_constant_runs() -> None:
    assert task.score(statistics(perfect, EXAMPLES)) == 100.0
    share = (EXAMPLES["token"][TEXT != 0] == 3).mean()  # precision of the one class that is said; its recall is 1
    present = len(np.unique(EXAMPLES["token"][TEXT != 0]))
    assert task.score(statistics(constant, EXAMPLES)) == pytest.approx(100 * 2 * share / (share + 1) / present)


def test_batches_and_requests_are_as_long_as_their_texts_and_answers_as_the_examples() -> None:
    text = texts(tuple(i % 7 + 1 for i in range(2 * BATCH + 3)), 40)
    asked: list[tuple[int, ...]] = []

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        asked.append(inputs["text"].shape)
        return {"logits": np.ones((*inputs["text"].shape, CLASSES), np.float32)}

    logits = task.answer({"network": run}, {"text": text})["logits"]
    assert asked == [(BATCH, 7), (BATCH, 7), (3, 4)]
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, np.broadcast_to((text != 0)[:, :, None], logits.shape))
    asked.clear()
    for request in task.requests({"network": run}, {"text": text}):
        request()
    assert asked == [(1, length) for length in (text != 0).sum(axis=1)]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_answer_that_is_not_finite_is_never_right(value: float) -> None:
    def broken(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        logits = perfect(inputs)["logits"]
        logits[:, ::2, 1] = value
        return {"logits": logits}

    right, wrong, missed = statistics(broken, EXAMPLES).reshape(len(TEXT), 3, CLASSES).sum(axis=2).T
    odd = (TEXT[:, 1::2] != 0).sum(axis=1)
    np.testing.assert_array_equal(right, odd)
    np.testing.assert_array_equal(wrong, 0)
    np.testing.assert_array_equal(missed, (TEXT != 0).sum(axis=1) - odd)
    assert task.decode(task.answer({"network": broken}, EXAMPLES))[1] == "?"


def test_decoded_answers_are_a_sign_a_character() -> None:
    answers = task.answer({"network": perfect}, EXAMPLES)
    expected = ["".join(str(c) for c in row[:n]) for row, n in zip(EXAMPLES["token"], LENGTHS)]
    assert task.decode(answers) == expected
    assert task.decode({"logits": np.zeros((1, 4, CLASSES))}) == [""]


@given(st.data())
def test_the_score_is_scikit_learns_macro_f1_and_padding_counts_for_nothing(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 8)))
    truth, said = (data.draw(arrays.arrays(np.int64, shape, elements=st.integers(0, CLASSES - 1))) for _ in range(2))
    lengths = data.draw(st.lists(st.integers(1, shape[1]), min_size=shape[0], max_size=shape[0]))
    text = texts(tuple(lengths), shape[1])
    found = task.observe({"logits": np.eye(CLASSES)[said]}, {"text": text, "token": truth})
    there = text != 0
    assert found.shape == (shape[0], 3 * CLASSES)
    assert task.score(found) == pytest.approx(100 * f1_score(truth[there], said[there], average="macro"))
    present = np.union1d(truth[there], said[there])
    of_each = f1_score(truth[there], said[there], average=None, labels=present)
    assert task.details(found) == pytest.approx({f"F1 of class {i}": 100 * f for i, f in zip(present, of_each)})


def test_a_character_of_several_bytes_is_counted_once() -> None:
    text = np.frombuffer("é→".encode(), np.uint8)[None]
    logits = np.zeros((1, 5, 3))
    logits[:, :, 2] = 1
    statistics = task.observe({"logits": logits}, {"text": text, "token": np.full((1, 5), 2)})
    assert statistics.tolist() == [[0, 0, 2, 0, 0, 0, 0, 0, 0]]


def test_empty_texts_are_asked_for_one_padding_and_have_no_answer() -> None:
    """No graph reads nothing: of no steps a recurrent operator makes what it likes."""
    lengths: list[int] = []

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        lengths.append(inputs["text"].shape[1])
        return constant(inputs)

    empty = {"text": np.zeros((3, 12), np.uint8)}
    logits = task.answer({"network": run}, empty)["logits"]
    assert logits.shape == (3, 12, CLASSES) and not logits.any()
    for request in task.requests({"network": run}, empty):
        request()
    assert lengths == [1, 1, 1, 1]
