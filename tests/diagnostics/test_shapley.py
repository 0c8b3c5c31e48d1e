from __future__ import annotations

import random

import pytest

from ldm_registry.diagnostics.shapley import shapley_values, subsets

PLAYERS = ("a", "b", "c", "d")


def test_there_are_sixteen_subsets_of_four_nobody_first_and_everybody_last() -> None:
    found = list(subsets(PLAYERS))
    assert len(set(found)) == len(found) == 16
    assert found[0] == frozenset()
    assert found[-1] == frozenset(PLAYERS)


@pytest.mark.parametrize("seed", range(20))
def test_values_sum_to_what_everybody_is_worth_above_nobody(seed: int) -> None:
    rng = random.Random(seed)
    worth = {present: rng.uniform(-5, 5) for present in subsets(PLAYERS)}
    values = shapley_values(PLAYERS, worth)
    assert sum(values.values()) == pytest.approx(worth[frozenset(PLAYERS)] - worth[frozenset()])


def test_in_an_additive_game_everybody_gets_their_own() -> None:
    own = {"a": 1.0, "b": -2.0, "c": 0.0, "d": 7.5}
    worth = {present: sum(own[player] for player in present) for present in subsets(PLAYERS)}
    assert shapley_values(PLAYERS, worth) == pytest.approx(own)


def test_two_who_only_matter_together_share_equally_and_the_others_get_nothing() -> None:
    worth = {present: 6.0 * ({"a", "c"} <= present) for present in subsets(PLAYERS)}
    assert shapley_values(PLAYERS, worth) == pytest.approx({"a": 3.0, "b": 0.0, "c": 3.0, "d": 0.0})


def test_the_value_of_a_game_of_three_is_the_one_worked_out_by_hand() -> None:
    # The glove game: b and c hold a left glove each, a the only right one; a pair is worth 1.
    worth = {present: float("a" in present and len(present) > 1) for present in subsets(("a", "b", "c"))}
    assert shapley_values(("a", "b", "c"), worth) == pytest.approx({"a": 2 / 3, "b": 1 / 6, "c": 1 / 6})
