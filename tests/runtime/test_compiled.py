from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_pipelines import SPEC, toy

from ldm_registry.errors import MissingDependencyError, PluginError, SpecError
from ldm_registry.runtime import compiled
from ldm_registry.runtime.compiled import MAX_SIZES, runs_compiled
from ldm_registry.runtime.entry import own_calls
from ldm_registry.spec import dump_spec, swap
from ldm_registry.taps import observe

COMPILED = {"compile": True}
EVERYWHERE: dict[str, Any] = {f"{stage}_runtime": COMPILED for stage in ("encoder", "denoiser", "decoder")}


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What is run compiled, by a compiler that changes nothing: each first argument."""
    seen: list[Tensor] = []

    def fake(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        assert options == {"dynamic": False, "mode": None}

        def run(*args: Any) -> Any:
            assert not torch.is_grad_enabled()
            assert not torch.is_inference_mode_enabled()
            seen.append(args[0])
            return function(*args)

        return run

    monkeypatch.setattr(torch, "compile", fake)
    monkeypatch.setattr(compiled, "_keep_times_out_of_graphs", lambda: None)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "unused")
    monkeypatch.setenv("CXX", sys.executable)
    return seen


def test_every_caller_of_a_compiled_part_runs_it_compiled_on_tensors_of_one_sort(
    handed: list[Tensor],
) -> None:
    pipe, plain = toy(**EVERYWHERE), toy()
    assert torch.equal(pipe.sample(2), plain.sample(2))
    assert len(list(pipe.trace(2))) == 10
    assert len(handed) == 2 * (4 + 1)
    latent = torch.ones(2, 4, 4, 4)
    with torch.inference_mode():
        pipe.decoder.decode(torch.ones(2, 4, 4, 4))
    pipe.decoder.decode(latent.transpose(2, 3))
    assert len(handed) == 12
    assert not any(one.is_inference() for one in handed)
    assert all(one.is_contiguous() for one in handed)


def test_a_second_size_is_reported_with_the_one_before(
    handed: list[Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    pipe = toy(**EVERYWHERE)
    pipe.sample(2)
    pipe.sample(2)
    assert caplog.messages == []
    pipe.sample(3)
    assert caplog.messages == [
        "denoiser 'toy-denoiser' is compiled once more, for size 2: 3x4x4x4 float32, level scalar float64, "
        "class_label 3 int64; before: 2x4x4x4 float32, level scalar float64, class_label 2 int64",
        "decoder 'toy-codec' is compiled once more, for size 2: 3x4x4x4 float32; before: 2x4x4x4 float32",
    ]
    pipe.sample(2)
    assert len(caplog.messages) == 2


def test_past_the_most_sizes_a_part_runs_uncompiled_and_says_so(
    handed: list[Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    decoder, plain = toy(decoder_runtime=COMPILED).decoder, toy().decoder
    for batch in range(1, MAX_SIZES + 2):
        latent = torch.ones(batch, 4, 4, 4)
        assert torch.equal(decoder.decode(latent), plain.decode(latent))
    assert len(handed) == MAX_SIZES
    assert [message.split(":")[0] for message in caplog.messages[-2:]] == [
        f"decoder 'toy-codec' is compiled once more, for size {MAX_SIZES}",
        "decoder 'toy-codec' runs uncompiled",
    ]


def test_gradients_and_random_generators_go_past_the_compiler(handed: list[Tensor]) -> None:
    pipe = toy(**EVERYWHERE)
    latent = torch.ones(1, 4, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(pipe.decoder.decode(latent).sum(), latent)
    assert gradient.abs().sum() > 0
    pipe.encoder.encode(torch.ones(1, 3, 16, 16), torch.Generator())
    assert handed == []


def test_taps_on_a_compiled_part_are_refused_by_its_name(handed: list[Tensor]) -> None:
    pipe = toy(**EVERYWHERE)
    with pytest.raises(SpecError, match="denoiser 'toy-denoiser'") as caught, observe(pipe.denoiser, "mix"):
        pass
    assert "without `compile`" in str(caught.value)
    with own_calls(pipe.denoiser), observe(pipe.denoiser, "mix") as taps:
        pipe.sample(1)
    assert len(taps["mix"]) == 4
    assert len(handed) == 1
    with pytest.raises(SpecError), observe(pipe.denoiser, "mix"):
        pass


def test_names_of_weights_and_modules_stay_and_a_copy_runs_its_own_method(handed: list[Tensor]) -> None:
    pipe, plain = toy(**EVERYWHERE), toy()
    assert list(pipe.denoiser.state_dict()) == list(plain.denoiser.state_dict())
    assert [*dict(pipe.denoiser.named_modules())] == [*dict(plain.denoiser.named_modules())]
    twin = copy.deepcopy(pipe.decoder)
    with torch.no_grad():
        twin.decoder.weight.zero_()
        twin.decoder.bias.zero_()
    assert twin.decode(torch.ones(1, 4, 4, 4)).abs().sum() == 0
    assert pipe.decoder.decode(torch.ones(1, 4, 4, 4)).abs().sum() > 0
    assert len(handed) == 1


def test_without_a_compiler_the_pipeline_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "unused")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MissingDependencyError, match="no 'no-such-compiler' on this machine") as caught:
        toy(decoder_runtime=COMPILED)
    assert "leave out `compile`" in str(caught.value)
    monkeypatch.setenv("CXX", f"{sys.executable} g++")
    assert runs_compiled(toy(decoder_runtime=COMPILED).decoder)


@pytest.mark.slow
def test_an_error_of_the_part_itself_comes_through(handed: list[Tensor]) -> None:
    with pytest.raises(RuntimeError, match="channels"):
        toy(**EVERYWHERE).decoder.decode(torch.ones(1, 5, 4, 4))


@pytest.mark.slow
def test_what_pytorch_cannot_compile_is_named(monkeypatch: pytest.MonkeyPatch, handed: list[Tensor]) -> None:
    from torch._dynamo.exc import Unsupported

    def refuse(*args: Any, **options: Any) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            raise Unsupported("a thing that cannot be traced\nand where")

        return run

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(PluginError, match=r"decoder 'toy-codec' cannot be compiled") as caught:
        toy(**EVERYWHERE).decoder.decode(torch.ones(1, 4, 4, 4))
    assert caught.value.problems == ("a thing that cannot be traced",)


PROCESS = """
import sys
sys.path.insert(0, sys.argv[1])
from toy_pipelines import toy
import torch
from torch._dynamo.utils import counters
pipe = toy(**{f"{stage}_runtime": {"compile": True} for stage in ("encoder", "denoiser", "decoder")})
plain = toy()
image = torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)
for size in (2, 3):
    assert torch.allclose(pipe.sample(size), plain.sample(size), atol=1e-5)
    assert torch.allclose(pipe.reconstruct(image[:size]), plain.reconstruct(image[:size]), atol=1e-5)
*_, last = pipe.trace(2)
assert torch.allclose(last.image.clamp(-1, 1), plain.sample(2), atol=1e-5)
print(counters["inductor"]["fxgraph_cache_hit"], counters["inductor"]["fxgraph_cache_miss"])
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler")
def test_compiled_numbers_are_those_of_eager_and_a_second_process_compiles_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LDM_CACHE", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    command = [sys.executable, "-c", PROCESS, str(root / "tests")]
    found = []
    for _ in range(2):
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        # One line for each part that met a second size: the denoiser, the decoder; the encoder's batch stayed at 2.
        assert ended.stderr.count("is compiled once more") == 2, ended.stderr
        found.append([int(word) for word in ended.stdout.split()])
    (first_hits, first_misses), (hits, misses) = found
    assert (first_hits, misses) == (0, 0)
    assert hits == first_misses > 0
    folder = tmp_path / "compiled"
    assert folder.stat().st_mode & 0o077 == 0


def test_a_dump_of_a_compiled_spec_says_so() -> None:
    assert "runtime: {compile: true}" in dump_spec(swap(SPEC, decoder_runtime=COMPILED))
