from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import toy_plugin
from toy_plugin import CodecConfig, DenoiserConfig, ToyDecoder, ToyDenoiser, ToyEncoder

from ldm_registry.assembly import assemble, load_component
from ldm_registry.build import build_schedule, fresh
from ldm_registry.contracts import Contract
from ldm_registry.errors import CheckpointError, ContractError, NotFoundError, SpecError
from ldm_registry.interfaces import Trained
from ldm_registry.registry import Registry
from ldm_registry.spec import PipelineSpec, load_spec
from ldm_registry.vocabulary import Prediction
from ldm_registry.weights import save_checkpoint

REGISTRY = Registry([toy_plugin])
TRAINED = "trained: {prediction: v, schedule: {name: toy_schedule}}"
SPEC = f"""
version: 1
image: {{channels: 3, size: 16}}
encoder: {{use: toy-codec}}
denoiser: {{use: toy-denoiser, {TRAINED}}}
scheduler: {{use: toy-scheduler, config: {{steps: 3}}}}
decoder: {{use: toy-codec}}
condition: {{class_label: [0, 2]}}
"""

Write = Callable[..., PipelineSpec]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str = SPEC, **replacements: str) -> PipelineSpec:
        for stage, line in replacements.items():
            lines = text.splitlines()
            at = next((n for n, old in enumerate(lines) if old.startswith(f"{stage}:")), None)
            lines[at : at + 1 if at is not None else None] = [f"{stage}: {line}"] if at is not None else []
            text = "\n".join(lines if at is not None else [*text.splitlines(), f"{stage}: {line}"]) + "\n"
        path = tmp_path / "spec.yaml"
        path.write_text(text)
        return load_spec(path)

    return write


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    codec = (fresh(ToyEncoder, (CodecConfig(),), 1), fresh(ToyDecoder, (CodecConfig(),), 2))
    save_checkpoint(
        codec,
        tmp_path / "codec",
        contract=Contract(components={"encoder": "toy-codec", "decoder": "toy-codec"}),
        card="",
        dtype=torch.float16,
    )
    schedule = build_schedule("toy_schedule", {}, REGISTRY)
    denoiser = fresh(ToyDenoiser, (DenoiserConfig(), Trained(Prediction.V, schedule)), 3)
    contract = Contract(
        components={"denoiser": "toy-denoiser"}, prediction=Prediction.V, schedule={"name": "toy_schedule"}
    )
    save_checkpoint([denoiser], tmp_path / "denoiser", contract=contract, card="")
    return tmp_path


def test_weights_that_nobody_trained_are_refused_stage_by_stage(write: Write) -> None:
    with pytest.raises(ContractError) as caught:
        assemble(write(), REGISTRY)
    assert len(caught.value.problems) == 3
    assert all("no checkpoint" in problem for problem in caught.value.problems)


def test_random_weights_come_from_the_seed_alone(write: Write) -> None:
    before = torch.get_rng_state()
    first, again, other = (assemble(write(), REGISTRY, init_seed=seed) for seed in (5, 5, 6))
    assert torch.equal(before, torch.get_rng_state())
    for name, tensor in first.denoiser.state_dict().items():
        assert torch.equal(tensor, again.denoiser.state_dict()[name])
        assert not torch.equal(tensor, other.denoiser.state_dict()[name])


def test_a_pipeline_of_checkpoints_runs_in_the_dtype_of_each_stage(write: Write, checkpoints: Path) -> None:
    spec = write(
        encoder="{use: toy-codec, checkpoint: codec, dtype: bfloat16}",
        denoiser="{use: toy-denoiser, checkpoint: denoiser, dtype: float64}",
        decoder="{use: toy-codec, checkpoint: codec}",
    )
    pipe = assemble(spec, REGISTRY)
    dtypes = [next(part.parameters()).dtype for part in (pipe.encoder, pipe.denoiser, pipe.decoder)]
    assert dtypes == [torch.bfloat16, torch.float64, torch.float32]
    assert not any(weight.requires_grad for weight in pipe.denoiser.parameters())
    assert not pipe.denoiser.training
    images = pipe.sample(3, seed=1)
    assert images.shape == (3, 3, 16, 16)
    assert images.dtype == torch.float32
    assert bool(images.isfinite().all())


def test_every_mismatch_is_reported_at_once(write: Write) -> None:
    spec = write(
        image="{channels: 1, size: 20}",
        encoder="{use: toy-codec, config: {latent_channels: 2}}",
        decoder="{use: toy-codec, config: {stride: 2}}",
        condition="{class_label: [3, 9], text: [1]}",
    )
    with pytest.raises(ContractError) as caught:
        assemble(spec, REGISTRY, init_seed=0)
    text = str(caught.value)
    for expected in (
        "decoder 'toy-codec' expects 4 latent channels; encoder 'toy-codec' produces 2",
        "decoder 'toy-codec' has stride 2; encoder 'toy-codec' has stride 4",
        "denoiser 'toy-denoiser' expects 4 latent channels; encoder 'toy-codec' has 2",
        "encoder 'toy-codec' works on 3 image channels; the spec says 1",
        "decoder 'toy-codec' works on 3 image channels; the spec says 1",
        "image size 20 is not a multiple of 8 (encoder stride 4 x denoiser size multiple 2)",
        "condition class_label has [9]",
        "takes no condition 'text'",
    ):
        assert expected in text
    assert caught.value.exit_code == 1


def test_guidance_without_a_condition_is_refused(write: Write) -> None:
    with pytest.raises(ContractError, match="guidance scale 3 needs a condition"):
        assemble(write(condition="{}", guidance="{scale: 3}"), REGISTRY, init_seed=0)


def test_epsilon_and_a_start_without_signal_do_not_fit(write: Write) -> None:
    noisy = "{name: toy_schedule, noisiest_nats: -2000}"
    spec = write(denoiser=f"{{use: toy-denoiser, trained: {{prediction: epsilon, schedule: {noisy}}}}}")
    with pytest.raises(ContractError, match="cannot be converted to x0"):
        assemble(spec, REGISTRY, init_seed=0)


def test_a_schedule_that_leaves_the_trained_range_is_refused_with_both_ranges(write: Write) -> None:
    spec = write(scheduler="{use: toy-scheduler, schedule: {name: toy_schedule, noisiest_nats: -12}}")
    with pytest.raises(
        ContractError, match=r"visits log-SNR -12\.00 to 8\.00; denoiser .* trained on -8\.00 to 8\.00"
    ):
        assemble(spec, REGISTRY, init_seed=0)


def test_the_spec_may_not_contradict_a_contract_or_a_checkpoint(write: Write, checkpoints: Path) -> None:
    lies = "trained: {prediction: epsilon, schedule: {name: toy_schedule}}"
    with pytest.raises(ContractError, match="contradicts the contract"):
        assemble(
            write(denoiser=f"{{use: toy-denoiser, checkpoint: denoiser, {lies}}}"), REGISTRY, init_seed=0
        )
    config = "config: {latent_channels: 5}"
    with pytest.raises(SpecError, match="latent_channels: the spec says 5, the checkpoint 4"):
        assemble(write(encoder=f"{{use: toy-codec, checkpoint: codec, {config}}}"), REGISTRY, init_seed=0)


def test_the_spec_may_repeat_a_contract_with_defaults_left_out(write: Write, checkpoints: Path) -> None:
    said = "trained: {prediction: v, schedule: {name: toy_schedule, steps: 1000}}"
    pipe = assemble(
        write(denoiser=f"{{use: toy-denoiser, checkpoint: denoiser, {said}}}"), REGISTRY, init_seed=0
    )
    assert pipe.denoiser.prediction is Prediction.V


def test_a_denoiser_that_does_not_say_how_it_was_trained_is_refused(write: Write) -> None:
    with pytest.raises(SpecError, match="does not say how it was trained"):
        assemble(write(denoiser="{use: toy-denoiser}"), REGISTRY, init_seed=0)


def test_faults_of_several_stages_come_together(write: Write) -> None:
    spec = write(encoder="{use: toy-kodec}", decoder="{use: toy-codec, checkpoint: nowhere}")
    with pytest.raises(NotFoundError) as caught:
        assemble(spec, REGISTRY)
    assert "toy-kodec" in str(caught.value)
    assert "nowhere" in str(caught.value)


def test_an_altered_checkpoint_is_refused(write: Write, checkpoints: Path) -> None:
    config = checkpoints / "codec" / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(CheckpointError, match=r"config\.json: \d+ bytes, the contract says"):
        assemble(write(encoder="{use: toy-codec, checkpoint: codec}"), REGISTRY, init_seed=0)


def test_one_component_loads_from_its_folder_by_kind(checkpoints: Path) -> None:
    decoder = load_component("decoder", checkpoints / "codec", registry=REGISTRY)
    assert isinstance(decoder, ToyDecoder)
    denoiser = load_component("denoiser", checkpoints / "denoiser", registry=REGISTRY)
    assert isinstance(denoiser, ToyDenoiser)
    assert denoiser.prediction is Prediction.V
    with pytest.raises(NotFoundError, match="no scheduler for it"):
        load_component("scheduler", checkpoints / "codec", registry=REGISTRY)


def test_a_denoiser_of_another_codec_is_a_warning(write: Write, checkpoints: Path) -> None:
    schedule = build_schedule("toy_schedule", {}, REGISTRY)
    denoiser = fresh(ToyDenoiser, (DenoiserConfig(), Trained(Prediction.V, schedule)), 3)
    contract = Contract(
        components={"denoiser": "toy-denoiser"},
        prediction=Prediction.V,
        schedule={"name": "toy_schedule"},
        codec_sha256="0" * 64,
    )
    save_checkpoint([denoiser], checkpoints / "other", contract=contract, card="")
    pipe = assemble(
        write(
            denoiser="{use: toy-denoiser, checkpoint: other}",
            encoder="{use: toy-codec, checkpoint: codec}",
            decoder="{use: toy-codec, checkpoint: codec}",
        ),
        REGISTRY,
    )
    assert any("another codec" in warning for warning in pipe.warnings)
