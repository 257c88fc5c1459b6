"""The K best candidates of users by blocks of users and candidates, whose scores are never in memory together.

Shape suffixes: U users, C candidates, K kept ones.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK_ROWS = 1 << 17
"""Pairs of a user and a candidate that are predicted at once, about, where features have one value each."""


@dataclass(frozen=True)
class Piece:
    """Users with the same candidates, or one user with some of its candidates.

    Attributes:
        users: places of consecutive users.
        candidates: places of candidates, ascending in the order that decides ties, int64 [C].
    """

    users: range
    candidates: NDArray[np.int64]

    @property
    def pairs(self) -> int:
        """U times C."""
        return len(self.users) * len(self.candidates)


@dataclass(frozen=True)
class Best:
    """The best candidates of some users, the best first.

    Attributes:
        users: places of consecutive users.
        candidates: places, int64 [U, K], or [U, C] where there are fewer.
        logits: of them.
    """

    users: range
    candidates: Tensor
    logits: Tensor


def block_rows(ids: int) -> int:
    """Pairs of a block where bags and sequences have this number of ids in a row: fewer, as each of them is copied."""
    return max(1024, BLOCK_ROWS * 16 // (16 + ids))


def choose_best(
    runs: Iterable[Piece],
    k: int,
    predict: Callable[[NDArray[np.int64], NDArray[np.int64]], Tensor],
    alike: NDArray[np.int32],
    most_pairs: int = BLOCK_ROWS,
) -> Iterator[Best]:
    """The K best candidates of every user that has any: by logit, equal ones by the order of candidates, NaN last.

    Candidates that the model cannot tell apart are predicted once: by themselves their logits would differ by rounding,
    and their order would be that of chance.

    Args:
        runs: users and all of their candidates; every user once.
        k: how many are kept.
        predict: logits [B] of pairs, from places of users and of candidates, int64 [B]; pairs of a run are together.
        alike: by place of a candidate, that of the first one which is like it.
        most_pairs: that are predicted at once, unless a run's few candidates end a block early.
    """
    pending: tuple[range, Tensor, Tensor] | None = None
    for block in cut_blocks(runs, most_pairs):
        distinct = [np.unique(alike[piece.candidates], return_inverse=True) for piece in block]
        both = [
            (_places(piece.users), first.astype(np.int64)) for piece, (first, _) in zip(block, distinct, strict=True)
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


def cut_blocks(runs: Iterable[Piece], most_pairs: int) -> Iterator[list[Piece]]:
    """Runs as blocks of pieces of about `most_pairs` pairs; a user with more candidates has several pieces."""
    block: list[Piece] = []
    size = 0
    for run in runs:
        if not run.pairs:
            continue
        step = max(1, most_pairs // len(run.candidates))
        for first in range(run.users.start, run.users.stop, step):
            users = range(first, min(first + step, run.users.stop))
            for begin in range(0, len(run.candidates), most_pairs):
                piece = Piece(users, run.candidates[begin : begin + most_pairs])
                if block and size + piece.pairs > most_pairs:
                    yield block
                    block, size = [], 0
                block.append(piece)
                size += piece.pairs
    if block:
        yield block


def keep_best(logits_UC: Tensor, places_UC: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The K best of each row, in the order that they had: of equal ones the first."""
    if logits_UC.shape[1] <= k:
        return logits_UC, places_UC
    # torch.topk leaves open which of equal values it takes, so it gives the threshold alone.
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
    """What decides the order: a logit that is no number is worse than any."""
    return torch.where(logits.isnan(), -torch.inf, logits)


def _places(users: range) -> NDArray[np.int64]:
    return np.arange(users.start, users.stop)
