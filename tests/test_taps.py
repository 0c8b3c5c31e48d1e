from __future__ import annotations

import pytest
import torch
from torch import nn

from ldm_registry.errors import NotFoundError, SpecError
from ldm_registry.taps import observe, tap_names


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))


def test_named_modules_are_recorded_in_order_of_the_calls() -> None:
    net, first, second = network(), torch.ones(1, 3), torch.zeros(1, 3)
    with observe(net, "0", "1.*") as taps:
        outputs = [net(first), net(second)]
    assert sorted(taps) == ["0", "1.0", "1.1"]
    for call, (given, output) in enumerate(zip((first, second), outputs, strict=True)):
        assert torch.equal(taps["0"][call], net[0](given))
        assert torch.equal(taps["1.1"][call], output)
    assert not taps["1.1"][0].requires_grad


def test_nothing_is_left_behind_even_after_an_error() -> None:
    net = network()
    with pytest.raises(RuntimeError), observe(net, "*") as taps:
        net(torch.ones(1, 99))
    net(torch.ones(1, 3))
    assert taps == {}
    assert not any(part._forward_hooks for part in net.modules())


def test_a_name_that_matches_nothing_is_an_error_with_the_nearest_names() -> None:
    with pytest.raises(NotFoundError, match=r"'1\.7'"), observe(network(), "1.7"):
        pass
    assert tap_names(network()) == ["0", "1", "1.0", "1.1"]


def test_a_compiled_module_is_refused() -> None:
    wrapped = torch.compile(network(), backend="eager")
    in_place = network()
    in_place[1].compile(backend="eager")
    for compiled, name in ((wrapped, "OptimizedModule"), (in_place, "1")):
        with pytest.raises(SpecError, match=f"compiled module: {name}"), observe(compiled, "*"):
            pass
