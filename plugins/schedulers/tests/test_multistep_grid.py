"""DPM-Solver, UniPC, linear multistep and EDM's Euler, step by step against diffusers, from its own configs."""

from __future__ import annotations

import inspect
import itertools
import json
from typing import Any

import pytest

diffusers: Any = pytest.importorskip("diffusers")

import multistep_grid as grid  # noqa: E402 - needs diffusers
from multistep_parity import SAMPLERS, ours, schedule_of, theirs  # noqa: E402 - needs diffusers

from ldm_registry.errors import ContractError, SpecError  # noqa: E402 - comes after the two above
from ldm_registry.foreign import ForeignScheduler  # noqa: E402 - comes after the two above

# diffusers hands tensors to NumPy in a way that NumPy 2 deprecates, and divides by 0 where its last step does.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::RuntimeWarning", "ignore::FutureWarning"
)

FEW = (1, 3, 13)


def assert_agree(jobs: Any) -> None:
    """Nothing differs that is not listed, and what is compared is most of it."""
    counts, worst, late, failed = grid.swept(jobs)
    assert not failed, "\n".join(failed[:5])
    assert worst <= grid.TOLERANCE
    assert late <= grid.TIME_TOLERANCE
    compared = sum(count for what, count in counts.items() if what.startswith(("equal", "times")))
    assert compared > 0.7 * sum(counts.values()), counts


@pytest.mark.parametrize("name", grid.CLASSES)
def test_a_covering_subset_of_the_options_gives_the_same_trajectory_and_times(name: str) -> None:
    # Every sixth case of the covering set, each at a number of steps of its own.
    subset = grid.covering(name)[:: 4 if name in (grid.DPM, grid.UNIPC) else 3]
    assert_agree(
        (name, case, steps) for case, steps in zip(subset, itertools.cycle((13, 3, 50)), strict=False)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", grid.CLASSES)
def test_every_two_options_together_give_the_same_trajectory_and_times(name: str) -> None:
    assert_agree((name, case, steps) for case in grid.covering(name) for steps in FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", grid.CLASSES)
def test_every_combination_of_the_named_options_gives_the_same_trajectory_and_times(name: str) -> None:
    few = enumerate((1, 3, 13, 50))
    assert_agree((name, case, steps) for turn, steps in few for case in grid.cases(name, turn))


@pytest.mark.slow
@pytest.mark.parametrize("name", grid.CLASSES)
def test_a_thousand_steps_give_the_same_trajectory_and_times(name: str) -> None:
    subset = [case for case in grid.covering(name) if grid.excused(name, case, grid.TRAINING_STEPS) is None]
    assert_agree((name, case, grid.TRAINING_STEPS) for case in subset[::6])


def test_the_covering_subsets_hold_every_option() -> None:
    for name in grid.CLASSES:
        cases = grid.covering(name)
        for axis in (*grid.NAMED[name], *grid.SOLVERS[name]):
            for option in axis:
                assert any(option.items() <= case.items() for case in cases), (name, option)


@pytest.mark.parametrize(
    ("name", "values", "steps"),
    [
        (grid.DPM, {"timestep_spacing": "linspace", "num_train_timesteps": 50}, 50),
        (grid.DPM, {"timestep_spacing": "leading", "num_train_timesteps": 50}, 50),
        (grid.UNIPC, {"timestep_spacing": "linspace", "num_train_timesteps": 50}, 50),
        (grid.UNIPC, {"predict_x0": False}, 13),
        (grid.UNIPC, {"solver_type": "bh1"}, 13),
        (grid.UNIPC, {"lower_order_final": False}, 13),
    ],
)
def test_what_ends_in_no_number_there_ends_in_one_here(name: str, values: dict[str, Any], steps: int) -> None:
    states, _, _ = ours(name, values, steps)
    reference, _, _ = theirs(name, values, steps)
    assert not reference[-1].isfinite().all()
    assert states[-1].isfinite().all()


def test_the_third_order_of_the_noise_form_with_noise_exists_here_alone() -> None:
    values = {"algorithm_type": "sde-dpmsolver", "solver_order": 3, "final_sigmas_type": "sigma_min"}
    with pytest.raises(UnboundLocalError):
        theirs(grid.DPM, values, 20)
    assert ours(grid.DPM, values, 20)[0][-1].isfinite().all()


@pytest.mark.parametrize(
    ("name", "values", "steps"),
    [
        (grid.DPM, {**grid.BETAS[0], "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, 1000),
        (grid.UNIPC, {**grid.NAMED[grid.UNIPC][4][8], **grid.PREDICTED[3]}, 1),
        (grid.LMS, {"timestep_spacing": "leading", "steps_offset": 1}, 1000),
    ],
)
def test_levels_that_do_not_fall_are_refused(name: str, values: dict[str, Any], steps: int) -> None:
    with pytest.raises((SpecError, ContractError)):
        ours(name, values, steps)


@pytest.mark.parametrize("name", grid.CLASSES)
def test_a_config_survives_reading_writing_and_reading(name: str) -> None:
    kind = SAMPLERS[name]
    assert isinstance(kind, type)
    written, refused = 0, []
    for values in grid.covering(name):
        reading = kind.from_diffusers(values)
        schedule = schedule_of(reading)
        try:
            sampler = kind(kind.Config(**reading.config, steps=13), schedule, 1024)
            assert isinstance(sampler, ForeignScheduler)
            config = sampler.to_diffusers(schedule, reading.prediction, reading.time_scale)
        except SpecError as error:
            refused.append(str(error))
            continue
        assert config["_class_name"] == name
        again = kind.from_diffusers(config)
        assert not [line for line in again.defaults if "passed over" not in line]
        for field in ("schedule", "prediction", "time_scale", "data_std"):
            assert getattr(again, field) == getattr(reading, field), field
        one, other = (kind.Config(**each.config).model_dump() for each in (again, reading))
        for field, value in one.items():
            assert value == (pytest.approx(other[field], rel=1e-12) if type(value) is float else other[field])
        written += 1
    assert not refused, refused[:3]
    assert written == len(grid.covering(name))


@pytest.mark.parametrize(
    ("name", "values", "named"),
    [
        (grid.DPM, {"solver_order": 4}, "solver_order"),
        (grid.DPM, {"solver_type": "euler"}, "'midpoint' or 'heun'"),
        (grid.DPM, {"use_karras_sigmas": True, "use_lu_lambdas": True}, "exclude one another"),
        (grid.DPM, {"use_karras_sigmas": True, "use_flow_sigmas": True}, "use_flow_sigmas"),
        (grid.DPM, {"prediction_type": "flow_prediction"}, "needs use_flow_sigmas"),
        (grid.DPM, {"prediction_type": "v_prediction", "use_flow_sigmas": True}, "expected flow_prediction"),
        (grid.DPM, {"algorithm_type": "dpmsolver"}, "expected sigma_min"),
        (grid.DPM, {"use_dynamic_shifting": True}, "use_flow_sigmas"),
        (grid.UNIPC, {"solver_p": "DDIMScheduler"}, "solver_p"),
        (grid.UNIPC, {"sigma_min": 0.1}, "expected null"),
        (grid.UNIPC, {"shift_terminal": 0.1}, "needs use_flow_sigmas"),
        (grid.UNIPC, {"use_beta_sigmas": True, "use_flow_sigmas": True}, "use_karras_sigmas, or none"),
        (grid.UNIPC, {"predict_x0": False, "thresholding": True}, "thresholding false"),
        (grid.LMS, {"rescale_betas": True}, "unknown key 'rescale_betas'"),
        (grid.EDM, {"sigma_schedule": "linear"}, "'karras' or 'exponential'"),
    ],
)
def test_what_is_not_built_is_refused_by_name(name: str, values: dict[str, Any], named: str) -> None:
    with pytest.raises(SpecError) as caught:
        SAMPLERS[name].from_diffusers(values)
    assert named in str(caught.value)


@pytest.mark.parametrize("name", grid.CLASSES)
def test_every_key_of_the_class_is_read_and_its_default_listed(name: str) -> None:
    signature = inspect.signature(getattr(diffusers, name).__init__).parameters
    defaults = {key: value.default for key, value in signature.items() if key != "self"}
    listed = dict(line.split(": ", 1) for line in SAMPLERS[name].from_diffusers({}).defaults)
    assert listed.keys() == defaults.keys()
    assert {key: json.loads(text) for key, text in listed.items()} == defaults
