import torch
from ldm_registry.testing import ComponentSuite

from ldm_hashed_trigrams.conditioner import ConditionerConfig, HashedTrigramsConditioner


class TestHashedTrigramsConditioner(ComponentSuite):
    component = HashedTrigramsConditioner


def embedded(*prompts: str) -> torch.Tensor:
    conditioner = HashedTrigramsConditioner(ConditionerConfig())
    return conditioner.encode({"prompt": prompts}, (64, 64))["pooled_text_embedding"]


def test_no_text_is_zero_and_every_other_has_length_one() -> None:
    lengths = embedded("", "  ", "a", "a red kite").norm(dim=1)
    torch.testing.assert_close(lengths, torch.tensor([0.0, 0.0, 1.0, 1.0]))


def test_texts_that_share_words_are_nearer_than_others() -> None:
    kite, red_kite, soup = embedded("a kite", "a red kite", "hot soup")
    assert kite @ red_kite > 0.5 > kite @ soup


def test_case_and_spaces_do_not_matter() -> None:
    first, second = embedded("A  Red\tKite", "a red kite")
    assert torch.equal(first, second)
