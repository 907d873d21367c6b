"""Names in a text, each with its type. Unit: a text. Statistics: of each type, names right, said and true.

F1 as Tjong Kim Sang & De Meulder define it ("Introduction to the CoNLL-2003 Shared Task", 2003): a name is right where
its first word, its last word and its type are; where a name begins and ends is what their program `conlleval` says.

Examples hold ``text`` ``(n, longest)``, UTF-8 bytes, 0 after the end, and ``token`` ``(n, longest)``, class indices: 0
is of no name, 1 + 2k the first word of a name of type k ("B"), 2 + 2k a further one ("I"). A word is what white space
(bytes up to 32) parts from others. Its class is said by its first byte, and what is answered at its other bytes and
between words is not read.

A word whose answer is not finite is of no class: no name goes on over it, and it counts as a name that is said wrongly,
so that it is no better at a word of no name than at another.
"""

import numpy as np

from deploy import per_character
from deploy.tasks.metric import Metric

metric = Metric(name="F1 of names", unit="%", higher_is_better=True, lowest=0.0, highest=100.0, right_or_wrong=False)
needs = ("text", "token")
outputs = {"network": ("logits",)}
answer, decode, requests = per_character.answer, per_character.decode, per_character.requests


def counted(text: np.ndarray) -> np.ndarray:
    """At which bytes an answer counts ``(n, longest)``: where a word begins."""
    of_a_word = text > per_character.BLANK
    begins = of_a_word.copy()
    begins[:, 1:] &= ~of_a_word[:, :-1]
    return begins


def names(classes: np.ndarray, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The names in words, as `conlleval` has them: "I" with no word of the same type before it begins one too.

    Args:
        classes: of each word ``(words,)``, -1 where it is of none.
        texts: the number of the text that each word is in ``(words,)``, of neighbours the same.

    Returns:
        Of each word the type of the name that begins there, from 1, 0 where none does; and the number of the word after
        that name's last one. Both ``(words,)``.
    """
    kind = (classes.astype(np.int64) + 1) // 2
    goes_on = (kind > 0) & (classes % 2 == 0)
    goes_on[:1] = False
    goes_on[1:] &= (kind[1:] == kind[:-1]) & (texts[1:] == texts[:-1])
    stops = np.append(np.flatnonzero(~goes_on), len(kind))
    after = stops[np.searchsorted(stops, np.arange(len(kind)), side="right")]
    return np.where(goes_on, 0, kind), after


def observe(answers: dict[str, np.ndarray], examples: dict[str, np.ndarray]) -> np.ndarray:
    """Statistics ``(n, 3 * (1 + types))``: names of each type right, said, true; before the first type, words of no
    class, which are said only.
    """
    texts, places = np.nonzero(counted(examples["text"]))
    classes = per_character.likeliest(answers["logits"])[texts, places]
    said, said_end = names(classes, texts)
    true, true_end = names(examples["token"][texts, places], texts)
    right = (said > 0) & (said == true) & (said_end == true_end)
    counts = np.zeros((len(examples["text"]), 3, 1 + answers["logits"].shape[2] // 2))
    for i, (which, kind) in enumerate(((right, said), ((said > 0) | (classes < 0), said), (true > 0, true))):
        np.add.at(counts, (texts[which], i, kind[which]), 1)
    return counts.reshape(len(counts), -1)


def score(statistics: np.ndarray) -> float:
    """F1 of all names together, in per cent, 0 to 100; 0 where none is said and none is true, as of `conlleval`."""
    right, said, true = _by_type(statistics).sum(axis=1)
    return float(_share(2 * right, said + true))


def details(statistics: np.ndarray) -> dict[str, float]:
    """Precision and recall of all names, and F1 of each type that occurs, in per cent; a type is told by its "B"."""
    right, said, true = _by_type(statistics).sum(axis=1)
    told = {"precision": float(_share(right, said)), "recall": float(_share(right, true))}
    right, said, true = _by_type(statistics)[:, 1:]
    f1, occurs = _share(2 * right, said + true), said + true > 0
    return told | {f"F1 of names of class {1 + 2 * k}": float(f1[k]) for k in np.flatnonzero(occurs).tolist()}


def _by_type(statistics: np.ndarray) -> np.ndarray:
    """Names right, said and true ``(3, 1 + types)``."""
    return statistics.sum(axis=0).reshape(3, -1)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """In per cent, 0 of nothing."""
    share: np.ndarray = 100 * part / np.maximum(whole, 1)
    return share
