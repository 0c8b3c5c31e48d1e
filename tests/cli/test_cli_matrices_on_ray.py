from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from backward_engine import Backwards

from ldm_registry.cli.spec_rows import read_specs
from ldm_registry.engines import engine
from ldm_registry.matrix import Failed
from ldm_registry.report.comparison import Asked, Compared, ask, compare, to_document
from ldm_registry.report.measurement import measure

pytestmark = [pytest.mark.slow, pytest.mark.plugins]

Ldm = Callable[..., Any]
MEASURED = {"step_ms", "image_ms", "decoder_ms", "peak_memory_mib", "seconds"}
"""What two runs of one spec do not have in common: times and memory."""


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Twelve small variants of bundled specs, one that does not load among them, and one that is nowhere."""
    folder = tmp_path_factory.mktemp("matrix")
    specs = {
        f"{base.removeprefix('emoji-')}-{sampler}": two_steps(base, sampler)
        for base in ("emoji-kl-dit", "emoji-kl-unet", "emoji-vq-dit")
        for sampler in ("ddim", "euler", "dpmpp-2m")
    }
    specs["other-seed"] = two_steps("emoji-kl-dit", "ddim") + "seed: 3\n"
    specs["more-steps"] = "extends: emoji-kl-dit\nscheduler: {use: ddim, config: {steps: 3}}\n"
    specs["broken"] = "extends: emoji-kl-dit\ndenoiser: {use: dit, checkpoint: nowhere}\n"
    paths = []
    for name, text in specs.items():
        paths.append(folder / f"{name}.yaml")
        paths[-1].write_text(text)
    paths.insert(5, folder / "no-such.yaml")
    return [str(path) for path in paths]


def two_steps(base: str, sampler: str) -> str:
    return f"extends: {base}\nscheduler: {{use: {sampler}, config: {{steps: 2}}}}\n"


def without_measured(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_measured(one) for name, one in value.items() if name not in MEASURED}
    return [without_measured(one) for one in value] if isinstance(value, list) else value


def in_this_process(asked: Asked) -> Compared:
    """The measurement without a process of its own, which costs seconds for each spec."""
    figures, run = measure(asked.spec, asked.name, asked.n, asked.seed)
    return Compared(figures, run.images, run.seeds)


@pytest.fixture
def one_thread() -> Any:
    """As workers on Ray have: the order of a sum depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_comparison_of_twelve_specs_on_ray_is_that_of_one_process(
    matrix: list[str], local_ray: None, one_thread: None
) -> None:
    asked = ask(read_specs(matrix), 2, None)
    here = dict(compare(asked, Backwards(in_this_process)))
    with engine("ray") as workers:
        there = dict(compare(asked, workers))
    rows = [[found[place] for place in range(len(matrix))] for found in (here, there)]
    first, second = (without_measured(to_document(one)) for one in rows)
    assert len(first["specs"]) == 13
    assert first["failed"] == 2
    assert first == second
    assert [row.name for row in rows[1] if isinstance(row, Failed)] == ["no-such", "broken"]
    for mine, yours in zip(*rows, strict=True):
        if isinstance(mine, Compared):
            assert isinstance(yours, Compared)
            assert torch.equal(mine.images, yours.images), mine.figures.spec


def test_one_spec_against_twelve_on_ray_is_what_one_process_says(
    matrix: list[str], local_ray: None, one_thread: None, ldm: Ldm, tmp_path: Path
) -> None:
    words = ("diagnose", matrix[0], "scheduler", "--against", *matrix, "--quick", "--json")
    here = ldm(*words, "-o", tmp_path / "here")
    there = ldm(*words, "-o", tmp_path / "there", "--on", "ray")
    assert (here.code, there.code) == (1, 1)
    assert len(here.document["rows"]) == 13
    assert here.document["failed"] == 2
    assert without_measured(here.document) == without_measured(there.document)
    assert [row["second"] for row in there.document["rows"]] == [Path(path).stem for path in matrix]
    names = [sorted(path.name for path in (tmp_path / side).iterdir()) for side in ("here", "there")]
    assert names[0] == names[1]
    assert len(names[0]) == 2 * 11 + 2


def test_a_benchmark_on_ray_gives_the_figures_of_one_process(
    local_ray: None, one_thread: None, ldm: Ldm, tmp_path: Path
) -> None:
    words = ("benchmark-verdict", "emoji-kl-ideal", "--fault", "clipped-x0", "--fault", "collapsed-codebook")
    rest = ("--strength", "1", "--no-controls", "--quick", "--json")
    here = ldm(*words, *rest).document
    there = ldm(*words, *rest, "--on", "ray", "-o", tmp_path / "scores.jsonl").document
    assert (len(here["scores"]), here["refused"]) == (1, 1)
    assert without_measured(here) == without_measured(there)
    assert len((tmp_path / "scores.jsonl").read_text().splitlines()) == 2
