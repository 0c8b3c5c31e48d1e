"""The codebook: nearest codes, running means, restart of dead codes, usage figures."""

from __future__ import annotations

import math
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ldm_vq_vae import Codebook, VQDecoder, VQVAEConfig, assignment, codebook, codebook_usage
from ldm_vq_vae.assignment import assignment_sums, code_counts, perplexity
from ldm_vq_vae.upkeep import DEAD_BELOW, RESTARTED_AT, Upkeep

from ldm_registry.errors import CheckpointError


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def filled(codes: torch.Tensor, ema_decay: float | None = None) -> Codebook:
    with torch.random.fork_rng(devices=[]):
        made = Codebook(*codes.shape, ema_decay).to(codes.dtype)
    with torch.no_grad():
        made.embedding.weight.copy_(codes)
    return made


def decoder_with(codes: torch.Tensor, **keys: object) -> VQDecoder:
    size, channels = codes.shape
    config = VQVAEConfig(
        block_out_channels=(4,), norm_num_groups=2, num_vq_embeddings=size, latent_channels=channels, **keys
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = VQDecoder(config).to(codes.dtype)
    with torch.no_grad():
        decoder.quantize.embedding.weight.copy_(codes)
    return decoder


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(1, 40), channels=st.integers(1, 9), rows=st.integers(1, 60), seed=st.integers(0, 1000)
)
def test_the_nearest_code_is_that_of_a_brute_force_search(size, channels, rows, seed):
    codes, vectors = normal(size, channels, seed=seed), normal(rows, channels, seed=seed + 1)
    brute = [min(range(size), key=lambda k, v=v: float(((codes[k] - v) ** 2).sum())) for v in vectors]
    assert filled(codes).nearest(vectors).tolist() == brute


def test_a_large_common_offset_does_not_change_which_code_is_nearest_in_float32():
    codes, vectors = normal(64, 4), normal(500, 4, seed=1)
    exact = filled(codes + 1000).nearest(vectors + 1000)
    single = filled((codes + 1000).float()).nearest((vectors + 1000).float())
    assert (exact == single).float().mean() > 0.99


def test_equal_distances_go_to_the_lowest_index():
    book = filled(torch.tensor([[9.0], [1.0], [-1.0], [1.0]]))
    assert book.nearest(torch.tensor([[0.0], [1.5]])).tolist() == [1, 1]


def test_slicing_the_comparison_does_not_change_it():
    book, vectors = filled(normal(20, 3)), normal(101, 3, seed=1)
    whole, sums = book.nearest(vectors), assignment_sums(vectors, book.nearest(vectors), 20)
    with mock.patch.object(codebook, "MAX_ELEMENTS", 140), mock.patch.object(assignment, "MAX_ELEMENTS", 140):
        assert torch.equal(book.nearest(vectors), whole)
        torch.testing.assert_close(assignment_sums(vectors, whole, 20), sums)


def test_quantising_replaces_each_place_by_its_code_in_any_memory_format():
    book, latent = filled(normal(16, 3)), normal(2, 3, 4, 5, seed=1)
    for form in (torch.contiguous_format, torch.channels_last):
        out = book(latent.contiguous(memory_format=form))
        for b, i, j in [(0, 0, 0), (1, 3, 4), (0, 2, 3), (1, 0, 4)]:
            nearest = (book.embedding.weight - latent[b, :, i, j]).norm(dim=1).argmin()
            assert torch.equal(out.replaced[b, :, i, j], book.embedding.weight[nearest])
            assert out.codes.view(2, 4, 5)[b, i, j] == nearest


def test_counts_and_sums_are_those_of_a_loop():
    vectors, codes = normal(50, 3), torch.randint(0, 7, (50,), generator=torch.Generator().manual_seed(0))
    counts, sums = code_counts(codes, 9, torch.float64), assignment_sums(vectors, codes, 9)
    for k in range(9):
        assert counts[k] == sum(code == k for code in codes.tolist())
        torch.testing.assert_close(sums[k], vectors[codes == k].sum(dim=0), rtol=1e-12, atol=1e-12)


def test_running_means_equal_a_hand_computation_over_three_steps():
    decay, codes = 0.9, normal(3, 2)
    book = filled(codes, decay).train()
    # Every code is chosen in every batch, so that none is restarted.
    batches = [(codes.repeat(4, 1) + 0.05 * normal(12, 2, seed=s)).T.reshape(1, 2, 3, 4) for s in (1, 2, 3)]
    count = torch.full((3,), DEAD_BELOW * 12 / 3, dtype=torch.float64)
    total, expected = count[:, None] * codes, codes.clone()
    for latent in batches:
        rows = latent.permute(0, 2, 3, 1).reshape(-1, 2)
        chosen = torch.cdist(rows, expected).argmin(dim=1)
        for k in range(3):
            count[k] = decay * count[k] + (1 - decay) * int((chosen == k).sum())
            total[k] = decay * total[k] + (1 - decay) * rows[chosen == k].sum(dim=0)
            expected[k] = total[k] / count[k]
        book.learn(book(latent))
        torch.testing.assert_close(book.embedding.weight, expected, rtol=1e-12, atol=1e-12)
    state = book.upkeep.state()
    torch.testing.assert_close(state["count"], count, rtol=1e-12, atol=0)
    torch.testing.assert_close(state["total"], total, rtol=1e-12, atol=1e-13)


def test_running_means_converge_to_the_means_of_their_clusters():
    centres = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 4.0]], dtype=torch.float64)
    book = filled(centres + normal(4, 2, seed=3), ema_decay=0.9).train()
    latent = (centres.repeat(16, 1) + 0.1 * normal(64, 2, seed=1)).T.reshape(1, 2, 8, 8)
    for _ in range(300):
        book.learn(book(latent))
    rows = latent.permute(0, 2, 3, 1).reshape(-1, 2)
    means = torch.stack([rows[torch.cdist(rows, centres).argmin(1) == k].mean(0) for k in range(4)])
    assert torch.cdist(means, book.embedding.weight).min(dim=1).values.max() < 1e-6


def test_nothing_moves_outside_training():
    for decay in (None, 0.9):
        book = filled(normal(8, 2), decay).eval()
        before = book.embedding.weight.clone()
        book.learn(book(normal(1, 2, 4, 4, seed=1)))
        assert torch.equal(book.embedding.weight, before)
        assert book.upkeep.state() == {}


def test_dead_codes_move_to_evenly_spaced_ranks_of_the_worst_fitted_half():
    upkeep = Upkeep(4)
    weight = torch.tensor([[0.0], [50.0], [60.0], [70.0]], dtype=torch.float64)
    vectors = torch.tensor([[0.1], [0.8], [0.3], [0.7], [0.2], [0.6], [0.5], [0.4]], dtype=torch.float64)
    codes = torch.zeros(8, dtype=torch.int64)
    counts = code_counts(codes, 4, torch.float64)
    upkeep.follow_usage(counts)
    moved = upkeep.restart_dead(weight, counts, vectors, codes)
    # Furthest first: 0.8 0.7 0.6 0.5 | 0.4 ...; three dead codes take ranks 0, 4/3 and 8/3, rounded down.
    assert moved.flatten().tolist() == [0.0, 0.8, 0.7, 0.6]
    assert upkeep.state()["count"][1:].tolist() == [RESTARTED_AT * 2] * 3


def test_a_restarted_codebook_covers_a_fresh_batch_in_one_step():
    for decay in (None, 0.99):
        book = filled(normal(32, 2) * 1e-3, decay).train()
        latent = 5 * normal(1, 2, 16, 16, seed=1)
        before = int((code_counts(book(latent).codes, 32, torch.float64) == 0).sum())
        book.learn(book(latent))
        after = int((code_counts(book(latent).codes, 32, torch.float64) == 0).sum())
        assert before > 8
        assert after < before / 2


def test_a_code_that_is_chosen_often_enough_is_never_restarted():
    codes = torch.tensor([[0.0], [10.0]], dtype=torch.float64)
    book = filled(codes).train()
    rows = torch.zeros(50, dtype=torch.float64)
    rows[:3] = 10.0  # every other batch: 1.5 of 50 vectors on average, 6 % of an even share
    for step in range(200):
        latent = rows.clone() if step % 2 == 0 else torch.zeros_like(rows)
        book.learn(book(latent.view(1, 1, 5, 10)))
    assert torch.equal(book.embedding.weight, codes)


def test_restarts_use_no_random_numbers():
    def weights() -> torch.Tensor:
        book = filled(normal(32, 2), 0.9).train()
        for seed in range(5):
            book.learn(book(3 * normal(1, 2, 8, 8, seed=seed)))
        return book.embedding.weight

    before = torch.get_rng_state()
    first = weights()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, weights())


@pytest.mark.parametrize("mode", ["ema", "gradient"])
def test_a_training_that_was_resumed_ends_where_an_uninterrupted_one_ends(mode):
    def step(decoder: VQDecoder, seed: int) -> None:
        out = decoder(normal(2, 3, 6, 6, seed=seed, dtype=torch.float32))
        loss = out.image.square().mean() + sum(out.losses.values())
        decoder.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in decoder.parameters():
                if parameter.grad is not None:
                    parameter.sub_(0.05 * parameter.grad)

    codes = normal(24, 3, dtype=torch.float32)
    whole = decoder_with(codes, codebook=mode).train()
    for seed in range(4):
        step(whole, seed)
    weights = {k: v.clone() for k, v in whole.state_dict().items()}
    state = whole.training_state()
    for seed in range(4, 8):
        step(whole, seed)

    resumed = decoder_with(codes * 0, codebook=mode).train()
    resumed.load_state_dict(weights)
    resumed.load_training_state(state)
    for seed in range(4, 8):
        step(resumed, seed)
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key
    assert resumed.training_state().keys() == whole.training_state().keys()
    for key, value in whole.training_state().items():
        assert torch.equal(resumed.training_state()[key], value), key


def test_the_running_statistics_are_no_part_of_the_state_dict():
    decoder = decoder_with(normal(8, 3), codebook="ema").train()
    before = set(decoder.state_dict())
    decoder(normal(1, 3, 4, 4, seed=1))
    assert set(decoder.training_state()) == {"count", "total"}
    assert set(decoder.state_dict()) == before
    assert {name for name in before if "quantize" in name} == {"quantize.embedding.weight"}


def test_a_training_state_that_does_not_fit_is_refused():
    decoder = decoder_with(normal(8, 3))
    with pytest.raises(CheckpointError) as caught:
        decoder.load_training_state({"total": torch.zeros(8, 2), "cuont": torch.zeros(8)})
    assert len(caught.value.problems) == 3


def test_an_ema_codebook_takes_no_gradient_and_a_gradient_codebook_does():
    for mode, takes in (("ema", False), ("gradient", True)):
        decoder = decoder_with(normal(8, 3), codebook=mode).train()
        out = decoder(normal(1, 3, 4, 4, seed=1))
        assert ("codebook" in out.losses) is takes
        (out.image.mean() + sum(out.losses.values())).backward()
        assert (decoder.quantize.embedding.weight.grad is not None) is takes


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([5, 0, 0, 0], 1.0), ([3, 3, 3, 3], 4.0), ([8, 8, 0, 0], 2.0), ([1, 1, 2, 0], 2 * math.sqrt(2))],
)
def test_perplexity_equals_its_closed_form(counts, expected):
    assert float(perplexity(torch.tensor(counts, dtype=torch.float64))) == pytest.approx(expected, rel=1e-14)


def test_usage_figures_are_those_of_a_small_example():
    codes = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [9.0, 9.0]], dtype=torch.float64)
    rows = torch.tensor([[9.0, 6.0], [4.0, 3.0], [0.0, 2.9], [0.5, 0.0]], dtype=torch.float64)
    decoder = decoder_with(codes, latents_mean=(1.0, -2.0), latents_std=(2.0, 0.5)).eval()
    mean, std = torch.tensor([1.0, -2.0]), torch.tensor([2.0, 0.5])
    latents = ((rows - mean) / std).T.reshape(1, 2, 2, 2)
    usage = codebook_usage(decoder, latents)
    # The vectors go to codes 3, 1, 2 and 0, at distances 3, 3, 1.1 and 0.5.
    assert usage.perplexity == pytest.approx(4.0)
    assert usage.dead_codes == 0
    assert usage.mean_distance == pytest.approx((3 + 3 + 1.1 + 0.5) / 4)


def test_the_training_view_reports_the_usage_of_its_batch():
    decoder = decoder_with(normal(16, 3)).eval()
    latent = 0.1 * normal(2, 3, 4, 4, seed=1)
    usage = codebook_usage(decoder, latent)
    out = decoder(latent)
    assert out.statistics["perplexity"] == pytest.approx(usage.perplexity)
    assert out.statistics["dead_codes"] == usage.dead_codes
