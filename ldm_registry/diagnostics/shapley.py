"""Share a loss among players: the Shapley value, exactly, over all subsets."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import combinations
from math import factorial
from typing import TypeVar

Player = TypeVar("Player", bound=Hashable)


def subsets(players: Sequence[Player]) -> Iterator[frozenset[Player]]:
    """Every subset, the empty one first and all players last."""
    for size in range(len(players) + 1):
        yield from (frozenset(chosen) for chosen in combinations(players, size))


def shapley_values(
    players: Sequence[Player], worth: Mapping[frozenset[Player], float]
) -> dict[Player, float]:
    """What each player contributes, averaged over the orders in which all of them may come (Shapley 1953).

    The values sum to `worth[everybody] - worth[nobody]`; players that can be exchanged for one another get the
    same; one that never changes anything gets 0.

    Args:
        players: All of them, without repetition.
        worth: Of every subset, as `subsets` gives them.
    """
    count = len(players)
    values = dict.fromkeys(players, 0.0)
    for present in subsets(players):
        if len(present) == count:
            continue
        weight = factorial(len(present)) * factorial(count - len(present) - 1) / factorial(count)
        for player in players:
            if player not in present:
                values[player] += weight * (worth[present | {player}] - worth[present])
    return values
