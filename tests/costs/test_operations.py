from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ldm_registry.costs.operations import Work, counted

FLOAT = 4
"""Bytes."""
Run = Callable[[], object]


def convolution() -> Run:
    layer, image = nn.Conv2d(4, 8, 3, padding=1), torch.ones(2, 4, 6, 5)
    return lambda: layer(image)


def transposed() -> Run:
    layer, image = nn.ConvTranspose2d(4, 8, 2, 2), torch.ones(2, 4, 6, 5)
    return lambda: layer(image)


def linear() -> Run:
    layer, rows = nn.Linear(8, 16), torch.ones(2, 5, 8)
    return lambda: layer(rows)


def attention(mask: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Run:
    query, key = torch.ones(2, 3, 10, 8, dtype=dtype), torch.ones(2, 3, 7, 8, dtype=dtype)
    return lambda: functional.scaled_dot_product_attention(query, key, key, attn_mask=mask)


def distances(rows: int, mode: str) -> Run:
    one, other = torch.ones(rows, 6), torch.zeros(9, 6)
    return lambda: torch.cdist(one, other, compute_mode=mode)


MADE = {
    "3x3 convolution": (convolution(), 2 * 2 * 6 * 5 * 4 * 8 * 9, 0),
    "transposed convolution": (transposed(), 2 * 2 * 6 * 5 * 4 * 8 * 4, 0),
    "linear layer": (linear(), 0, 2 * 2 * 5 * 8 * 16),
    "attention": (attention(), 0, 2 * (2 * 3 * 10 * 7 * 8) * 2),
    "attention with a mask": (attention(torch.zeros(10, 7)), 0, 2 * (2 * 3 * 10 * 7 * 8) * 2),
    "attention in double": (attention(dtype=torch.float64), 0, 2 * (2 * 3 * 10 * 7 * 8) * 2),
    "distances": (distances(4, "donot_use_mm_for_euclid_dist"), 0, 2 * 4 * 9 * 6),
    "distances by a product": (distances(40, "use_mm_for_euclid_dist"), 0, 2 * 40 * 9 * 6),
    "an activation": (lambda: torch.ones(5).tanh(), 0, 0),
}


@pytest.mark.parametrize(("run", "convolutions", "products"), MADE.values(), ids=MADE)
@pytest.mark.parametrize("way", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_operations_are_as_many_as_on_paper(
    run: Run, convolutions: int, products: int, way: Callable
) -> None:
    with way():
        work = counted(run)
    assert (work.convolution_flops, work.matmul_flops) == (convolutions, products)
    assert work.flops == convolutions + products


@torch.inference_mode()
def test_a_linear_layer_moves_its_input_its_weights_and_its_output() -> None:
    layer, rows = nn.Linear(8, 16), torch.ones(10, 8)
    assert counted(lambda: layer(rows)).moved_bytes == FLOAT * (80 + 128 + 16 + 160)


@torch.inference_mode()
def test_what_makes_no_new_numbers_moves_nothing() -> None:
    rows = torch.ones(10, 8)
    views: list[Run] = [
        lambda: rows.view(8, 10),
        lambda: rows.chunk(2),
        lambda: rows[3:, :2].mT,
        lambda: torch.empty(100),
        lambda: rows.to(torch.float32),
    ]
    assert [counted(run).moved_bytes for run in views] == [0] * len(views)


@torch.inference_mode()
def test_in_place_operations_move_what_they_read_and_write() -> None:
    rows, more = torch.ones(10), torch.ones(10)
    assert counted(lambda: rows.add_(more)).moved_bytes == FLOAT * 30
    assert counted(lambda: rows.copy_(more)).moved_bytes == FLOAT * 20
    assert counted(lambda: rows.zero_()).moved_bytes == FLOAT * 10


@torch.inference_mode()
def test_what_is_only_repeated_by_strides_is_read_once_and_a_table_by_its_rows() -> None:
    row, table, index = torch.ones(1, 10), nn.Embedding(1_000, 4), torch.tensor([3, 7])
    assert counted(lambda: row.expand(50, 10) + 1).moved_bytes == FLOAT * (10 + 500)
    assert counted(lambda: table(index)).moved_bytes == 2 * FLOAT * 8


def test_work_adds_up_and_is_shared_out() -> None:
    one, other = Work(10, 4, 6), Work(2, 0, 1)
    assert one + other == Work(12, 4, 7)
    assert one.times(3) == Work(30, 12, 18)
    assert one.times(1 / 2) == Work(5, 2, 3)
