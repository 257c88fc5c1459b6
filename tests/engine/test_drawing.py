"""A part of a table is drawn as the whole table would be."""

import pytest
import torch

from mamdr_core.engine import drawing
from mamdr_core.engine.drawing import draw_rows


@pytest.mark.parametrize("width", [1, 3, 8, 128])
@pytest.mark.parametrize("rows", [1, 2, 15, 16, 17, 31, 32, 33, 47, 48, 63, 64, 65, 100, 257])
def test_chunks_continue_the_stream_of_one_whole_draw(monkeypatch, rows, width):
    monkeypatch.setattr(drawing, "CHUNK_ROWS", 32)
    one, other = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    whole = torch.randn(rows, width, generator=one)
    assert torch.equal(draw_rows(rows, width, other), whole)
    assert torch.equal(torch.randn(20, generator=other), torch.randn(20, generator=one))  # as does the next table


@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_rank_keeps_its_own_rows_of_the_whole_draw(monkeypatch, step):
    monkeypatch.setattr(drawing, "CHUNK_ROWS", 32)
    for rows in (1, 4, 100, 101):
        whole = torch.randn(rows, 6, generator=torch.Generator().manual_seed(5))
        for first in range(step):
            kept = draw_rows(rows, 6, torch.Generator().manual_seed(5), first, step)
            assert torch.equal(kept, whole[first::step])
