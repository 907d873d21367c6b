"""Text as a network's raw input, word by word: UTF-8 bytes, 0 for padding, split and looked up inside the graph.

What a tokenizer does elsewhere is arithmetic here, so that a laptop, a server and a board read the same words. A word
is a run of bytes above 32, known by two hashes of its bytes. Each is two polynomials modulo a prime, after Karp &
Rabin, "Efficient randomized pattern-matching algorithms" (1987), IBM Journal of Research and Development 31:249-260;
they are computed for all bytes at once, over the last 1, 2, 4, ... bytes, as sums are in Hillis & Steele, "Data
parallel algorithms" (1986), Communications of the ACM 29:1170-1183.

No number exceeds 31 bits, so that a runtime which keeps 64-bit integers in 32 bits has the same hashes.
"""

import re
from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.characters import MISREAD, UNKNOWN

BLANK = 32  # this byte and all below it part words
WORD = re.compile(rb"[^\x00-\x20]+")
STEPS = 6  # a word of 2 to the power of so many bytes, or more, is unknown
PRIME = 32_749  # the largest of 15 bits
LONG = PRIME * PRIME  # in place of the hash of a word that is too long; hashes are below
EMPTY = -1  # in place of the hash where the table holds no word
WAYS = 8  # words that may share a bucket of the table
SEEDS = 8  # that are tried
START = 0.1  # deviation of the vectors; with PyTorch's 1.0 recurrent classifiers learn their training split by heart


class Words(nn.Module):
    """A vector a word; padding is the vector 0, and all words that are not in the vocabulary share one vector.

    ``(most + 2) size`` parameters. The table that finds a word's row is in buffers, saved with the weights.

    Args:
        size: of a vector.
        most: words that the vocabulary may hold, the most frequent ones.
        least: times that a word must stand in the training split.
    """

    power: Tensor
    first: Tensor
    table: Tensor

    def __init__(self, size: int, most: int, least: int = 2) -> None:
        super().__init__()
        self.most, self.least, self.buckets = most, least, 2 * most
        self.embedding = nn.Embedding(2 + most, size, padding_idx=0)  # rows: padding, unknown, the words by bucket
        nn.init.normal_(self.embedding.weight, std=START)
        with torch.no_grad():
            self.embedding.weight[0].zero_()
        self.register_buffer("power", torch.ones(STEPS, 2, 2, 1, 1, dtype=torch.int64))
        self.register_buffer("first", torch.full((self.buckets,), 2))  # row of each bucket's first word
        self.register_buffer("table", torch.full((2, 2 + most + WAYS), EMPTY))  # both hashes of each row's word

    def fit(self, text: Tensor) -> None:
        """Learn which words there are, from the training split and no other.

        Args:
            text: ``(n, longest)`` bytes.

        Raises:
            ValueError: two words have the same hashes, or too many share a bucket, whatever the seed.
        """
        words = self._vocabulary(text)
        longest = max([1, *map(len, words)])
        padded = [list(word.ljust(longest, b"\0")) for word in words]
        rows = torch.tensor(padded, dtype=torch.int64).reshape(-1, longest)
        for seed in range(SEEDS):
            base = torch.randint(256, PRIME, (2, 2, 1, 1), generator=torch.Generator().manual_seed(seed))
            for power in self.power:  # base to the powers 1, 2, 4, ...
                power.copy_(base)
                base = base * base % PRIME
            hashes = self._split(rows)[0][:, :, 0]  # (2, words): a row holds one
            bucket = hashes[0] % self.buckets
            shared = int(torch.bincount(bucket).max()) if words else 0
            if shared <= WAYS and hashes.unique(dim=1).shape[1] == len(words):
                break
        else:
            raise ValueError(
                f"vocabulary: with none of {SEEDS} seeds have {len(words):,} words hashes of their own; expected were "
                f"hashes that differ, and at most {WAYS} words a bucket. Lower `most`, which is {self.most:,}."
            )
        order = bucket.argsort(stable=True)
        self.table.fill_(EMPTY)
        self.table[:, 2 : 2 + len(words)] = hashes[:, order]
        self.first.copy_(2 + torch.searchsorted(bucket[order], torch.arange(self.buckets)))

    def forward(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """``text`` ``(batch, time)`` bytes of any whole-number type.

        Returns:
            Vectors ``(batch, words, size)`` with ``words = (time + 1) // 2``, of which a text of that length cannot
            have more, and where there is a word, ``(batch, words)`` bool; it is padding after the last.
        """
        hashes, there = self._split(text.long())  # TensorRT compares no bytes
        row = torch.where(there, self._row(hashes), 0)
        if self.training:
            misread = (torch.rand(row.shape) < MISREAD) & there
            row = torch.where(misread, UNKNOWN, row)
        return self.embedding(row), there

    def _vocabulary(self, text: Tensor) -> list[bytes]:
        """The most frequent words first; of equally frequent ones the one that comes first."""
        counts: Counter[bytes] = Counter()
        for line in text.to(torch.uint8).numpy():
            counts.update(word for word in WORD.findall(line.tobytes()) if len(word) < 2**STEPS)
        return [word for word, n in counts.most_common(self.most) if n >= self.least]

    def _split(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """``text`` ``(batch, time)`` int64 to two hashes of each word ``(2, batch, words)``, and where there is one."""
        time = text.shape[1]
        words = (time + 1) // 2
        run = (text > BLANK).long()  # 1 where the last 1, 2, 4, ... bytes are of one word, else 0
        last = run > functional.pad(run, (0, 1))[:, 1:]  # of a word
        # In float64: TensorRT documents no running sum of whole numbers, and fp16 graphs leave float64 as it is.
        number = last.double().cumsum(1).long()  # (batch, time)
        digits = text * run  # of those bytes the polynomials; from the first step on (hash, polynomial, batch, time)
        for step in range(STEPS):
            digits = (digits + self.power[step] * (run * _before(digits, 2**step))) % PRIME
            run = run * _before(run, 2**step)
        hashes = torch.where(run == 0, digits[:, 0] * PRIME + digits[:, 1], LONG)  # (2, batch, time)
        # A word's hashes go where its number is, and what the other bytes have after all words, a place each.
        place = torch.where(last, number - 1, words + torch.arange(time, device=text.device))
        empty = hashes.new_zeros(2, text.shape[0], words + time)
        moved = empty.scatter(2, place.expand(2, -1, -1), hashes)[:, :, :words]
        return moved, torch.arange(words, device=text.device) < number[:, -1:]

    def _row(self, hashes: Tensor) -> Tensor:
        """``hashes`` ``(2, ...)`` to rows of the embedding: the first finds the bucket, both must be the word's."""
        row = self.first[hashes[0] % self.buckets][..., None] + torch.arange(WAYS, device=hashes.device)
        same = (self.table[0][row] == hashes[0][..., None]) & (self.table[1][row] == hashes[1][..., None])
        found = torch.where(same, row, 0).sum(-1)  # at most one of them is
        return torch.where(found == 0, UNKNOWN, found)


def _before(x: Tensor, n: int) -> Tensor:
    """What stands ``n`` places before, 0 where there is none; ``x`` ``(..., time)``."""
    return functional.pad(x, (n, 0))[..., :-n]
