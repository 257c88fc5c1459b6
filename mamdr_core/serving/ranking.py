"""The K best candidates of each user, chosen in blocks of users and candidates, which bounds the scores in memory.

Shape suffixes: B pairs of a user and a candidate, U users, C candidates, K kept candidates.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK_ROWS = 1 << 17
"""Approximate number of pairs that are predicted together, for features with one value each."""


@dataclass(frozen=True)
class Piece:
    """Users with the same candidates, or one user with some of its candidates.

    Attributes:
        users: positions of consecutive users.
        candidates: positions of candidates, in the order that decides ties, int64 [C].
    """

    users: range
    candidates: NDArray[np.int64]

    @property
    def pairs(self) -> int:
        """Number of pairs, U * C."""
        return len(self.users) * len(self.candidates)


@dataclass(frozen=True)
class Best:
    """The best candidates of some users, the best first.

    Attributes:
        users: positions of consecutive users.
        candidates: positions, int64 [U, K], or [U, C] if there are fewer than K.
        logits: their logits.
    """

    users: range
    candidates: Tensor
    logits: Tensor


def block_rows(ids: int) -> int:
    """Pairs of a block, fewer for rows with many ids in bags and sequences, since all ids are copied for each pair.

    Args:
        ids: total length of a row's bags and sequences.
    """
    return max(1024, BLOCK_ROWS * 16 // (16 + ids))


def choose_best(
    runs: Iterable[Piece],
    k: int,
    predict: Callable[[NDArray[np.int64], NDArray[np.int64]], Tensor],
    representatives: NDArray[np.int32],
    max_pairs: int = BLOCK_ROWS,
) -> Iterator[Best]:
    """The K best candidates of every user with candidates: by logit, ties by the order of candidates, NaN last.

    Candidates with the same encoded values are predicted once. Separate predictions would differ by rounding and make
    their order random.

    Args:
        runs: users and all of their candidates; every user once.
        k: number of kept candidates.
        predict: logits [B] of pairs, from positions of users and of candidates, int64 [B]; pairs of a run are adjacent.
        representatives: for each candidate, the position of the first one with the same encoded values.
        max_pairs: largest number of pairs that are predicted together.
    """
    pending: tuple[range, Tensor, Tensor] | None = None
    for block in cut_blocks(runs, max_pairs):
        distinct = [np.unique(representatives[piece.candidates], return_inverse=True) for piece in block]
        both = [
            (np.arange(piece.users.start, piece.users.stop), first.astype(np.int64))
            for piece, (first, _) in zip(block, distinct, strict=True)
        ]
        predicted = predict(
            np.concatenate([np.repeat(users, len(first)) for users, first in both]),
            np.concatenate([np.tile(first, len(users)) for users, first in both]),
        ).split([len(users) * len(first) for users, first in both])
        for piece, own, (_, place_C) in zip(block, predicted, distinct, strict=True):
            logits_UC = own.view(len(piece.users), -1)[:, torch.from_numpy(place_C)]
            places_UC = torch.from_numpy(piece.candidates).expand(len(piece.users), -1)
            if pending and pending[0] == piece.users:  # more candidates of the same user, later in the order
                logits_UC, places_UC = torch.cat([pending[1], logits_UC], 1), torch.cat([pending[2], places_UC], 1)
            elif pending:
                yield _ranked(*pending)
            pending = piece.users, *keep_best(logits_UC, places_UC, k)
    if pending:
        yield _ranked(*pending)


def cut_blocks(runs: Iterable[Piece], max_pairs: int) -> Iterator[list[Piece]]:
    """Cut runs into blocks of pieces of at most `max_pairs` pairs; a user with more candidates has several pieces."""
    block: list[Piece] = []
    size = 0
    for run in runs:
        if not run.pairs:
            continue
        step = max(1, max_pairs // len(run.candidates))
        for first in range(run.users.start, run.users.stop, step):
            users = range(first, min(first + step, run.users.stop))
            for begin in range(0, len(run.candidates), max_pairs):
                piece = Piece(users, run.candidates[begin : begin + max_pairs])
                if block and size + piece.pairs > max_pairs:
                    yield block
                    block, size = [], 0
                block.append(piece)
                size += piece.pairs
    if block:
        yield block


def keep_best(logits_UC: Tensor, places_UC: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The K best of each row in their original order; of ties the first ones are kept."""
    if logits_UC.shape[1] <= k:
        return logits_UC, places_UC
    # torch.topk does not specify which of equal values it returns, so it is used for the threshold only.
    keys_UC = _keys(logits_UC)
    least_U1 = keys_UC.topk(k, dim=1).values[:, -1:]
    above_UC, equal_UC = keys_UC > least_U1, keys_UC == least_U1
    missing_U1 = k - above_UC.sum(1, keepdim=True)
    chosen_UC = above_UC | (equal_UC & (equal_UC.cumsum(1) <= missing_U1))
    place_UK = chosen_UC.nonzero()[:, 1].view(-1, k)
    return logits_UC.gather(1, place_UK), places_UC.gather(1, place_UK)


def _ranked(users: range, logits_UK: Tensor, places_UK: Tensor) -> Best:
    order_UK = _keys(logits_UK).argsort(dim=1, descending=True, stable=True)
    return Best(users, places_UK.gather(1, order_UK), logits_UK.gather(1, order_UK))


def _keys(logits: Tensor) -> Tensor:
    """Sort keys of logits: NaN is sorted last."""
    return torch.where(logits.isnan(), -torch.inf, logits)
