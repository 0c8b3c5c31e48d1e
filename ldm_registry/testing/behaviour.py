"""What every component owes the rest of the process and the rest of its batch."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ldm_registry.interfaces import Component, Conditioner, Decoder, Encoder, Generators, NoiseLevel
from ldm_registry.testing.check import (
    Check,
    NotApplicableError,
    asked_of,
    require,
    require_close,
    require_equal,
)
from ldm_registry.testing.global_state import snapshot
from ldm_registry.testing.subject import BATCH, SEED, Inputs, Subject, call, run, seeded
from ldm_registry.trainable import TrainableDecoder, TrainableEncoder, has_training_view
from ldm_registry.vocabulary import Kind

NETWORKS = (Kind.ENCODER, Kind.DECODER, Kind.DENOISER)
CALLED = tuple(kind for kind in Kind if kind is not Kind.MODIFIER)
BATCHED = (*NETWORKS, Kind.SCHEDULER, Kind.CONDITIONER)
STOCHASTIC = (Kind.ENCODER, Kind.SCHEDULER)
DOUBLE_TOLERANCE = 1e-9
"""In float64; one sum in another order moves a value by about 1e-15."""


def _runs_in(dtype: torch.dtype, *kinds: Kind) -> Check:
    def check(subject: Subject) -> None:
        component = subject.build().to(dtype)
        for inputs in _both_level_shapes(subject.inputs(component).to(dtype=dtype)):
            for name, output in _placed(component, inputs).items():
                require(output.dtype == dtype, f"{name} is {output.dtype} for {dtype} input and weights")
                require(bool(output.isfinite().all()), f"{name} has values that are not finite")

    short = str(dtype).removeprefix("torch.")
    check.__name__ = f"runs_in_{short}"
    check.__doc__ = f"Moved to {short} and fed {short}, it puts out finite {short}."
    return asked_of(*kinds)(check)


runs_in_float32 = _runs_in(torch.float32, *BATCHED)
runs_in_float64 = _runs_in(torch.float64, *BATCHED)
runs_in_bfloat16 = _runs_in(torch.bfloat16, *NETWORKS, Kind.CONDITIONER)


@asked_of(*BATCHED)
def output_follows_input_to_every_device(subject: Subject) -> None:
    """Moved to a device and fed from there, it puts its output there."""
    for device in subject.devices:
        component = subject.build().to(device)
        for inputs in _both_level_shapes(subject.inputs(component).to(device, torch.float32)):
            for name, output in _placed(component, inputs, every_dtype=True).items():
                require(output.device.type == device, f"{name} is on {output.device} for input on {device}")


@asked_of(*CALLED)
def two_calls_agree(subject: Subject) -> None:
    """The same input gives the same output bit for bit, with and without a seeded generator."""
    component = subject.build().double()
    inputs = subject.inputs(component)
    first, second = run(component, inputs), run(component, inputs)
    for name, output in first.items():
        require_equal(second[name], output, f"{name}, second call")
    if subject.kind in STOCHASTIC:
        first, second = run(component, inputs, seeded()), run(component, inputs, seeded())
        for name, output in first.items():
            require_equal(second[name], output, f"{name}, second call with equal generators")


@asked_of(*STOCHASTIC)
def one_generator_serves_a_whole_batch(subject: Subject) -> None:
    """A single generator is accepted, and its seed decides the outcome."""
    component = subject.build().double()
    inputs = subject.inputs(component)

    def once() -> Tensor:
        generator: Generators = torch.Generator().manual_seed(SEED)
        # `call` passes whatever it is given on; the interfaces take one generator or one for each sample.
        return next(iter(run(component, inputs, generator).values()))  # type: ignore[arg-type]  # see above

    require_equal(once(), once(), "second call with an equal generator")


@asked_of(*BATCHED)
def samples_do_not_depend_on_their_batch(subject: Subject) -> None:
    """A batch equals its samples one by one, each at its own level, with its own label and generator."""
    component = subject.build().double()
    inputs = subject.inputs(component)
    if isinstance(component, Conditioner) and not component.inputs:
        raise NotApplicableError("it reads nothing that differs between samples")
    if subject.kind is not Kind.SCHEDULER:
        _compare_rows(component, inputs, seed=False)
    if subject.kind in STOCHASTIC:
        _compare_rows(component, inputs, seed=True)


@asked_of(*BATCHED)
def inputs_and_weights_are_left_alone(subject: Subject) -> None:
    """A call changes neither what it is given nor the component's own tensors."""
    component = subject.build().double()
    inputs = subject.inputs(component)
    before = {
        "the input": inputs.main.clone(),
        **{name: t.clone() for name, t in component.state_dict().items()},
    }
    run(component, inputs)
    after = {"the input": inputs.main, **component.state_dict()}
    for name, value in before.items():
        require_equal(after[name], value, f"{name} after a call")


@asked_of(*CALLED)
def global_state_is_left_alone(subject: Subject) -> None:
    """Building and calling leave random generators, default dtype, threads, warning filters and the like as they were.

    The constructor may draw initial weights from torch's generator: whoever calls it guards that.
    """
    before = snapshot()
    component = subject.build()
    inputs = subject.inputs(component).to(dtype=torch.float32)
    run(component, inputs, seeded())
    run(component, inputs)
    call(component, inputs)
    after = snapshot()
    changed = [name for name, value in before.items() if after[name] != value]
    require(not changed, f"changed: {', '.join(changed)}")


@asked_of(*NETWORKS)
def gradients_are_finite(subject: Subject) -> None:
    """The output has a finite gradient with respect to the input and to every parameter."""
    component = subject.build().double().requires_grad_()
    inputs = subject.inputs(component)
    inputs.main.requires_grad_()
    total = torch.stack(
        [(output * _ramp(output)).sum() for output in _training_view(component, inputs)]
    ).sum()
    total.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    leaves = {"the input": inputs.main, **dict(component.named_parameters())}
    silent = [name for name, leaf in leaves.items() if leaf.grad is None]
    require(not silent, f"no gradient reaches {', '.join(silent)}")
    wild = [name for name, leaf in leaves.items() if leaf.grad is not None and not leaf.grad.isfinite().all()]
    require(not wild, f"gradients that are not finite: {', '.join(wild)}")


def _both_level_shapes(inputs: Inputs) -> list[Inputs]:
    """As they are, and for a denoiser also with one level of shape [], which is what a sampler hands it."""
    level = inputs.level
    if level is None:
        return [inputs]
    return [inputs, replace(inputs, level=NoiseLevel(level.alpha[0], level.sigma[0]))]


def _placed(component: Component, inputs: Inputs, *, every_dtype: bool = False) -> dict[str, Tensor]:
    """What it puts out, as far as device and dtype have to follow: of a conditioner, what its own tensors make.

    Args:
        component: What to call.
        inputs: B samples.
        every_dtype: Also what is not of a floating-point type.
    """
    outputs = run(component, inputs)
    if not isinstance(component, Conditioner):
        return outputs
    if not component.state_dict():
        return {}
    return {name: output for name, output in outputs.items() if every_dtype or output.is_floating_point()}


def _training_view(component: Component, inputs: Inputs) -> list[Tensor]:
    """What training differentiates: every output, and every loss that the component adds."""
    trainable = has_training_view(component)
    if trainable and isinstance(component, Encoder) and isinstance(component, TrainableEncoder):
        encoded = component.forward(inputs.main, seeded())
        return [encoded.latent, *encoded.losses.values()]
    if trainable and isinstance(component, Decoder) and isinstance(component, TrainableDecoder):
        decoded = component.forward(inputs.main)
        return [decoded.image, *decoded.losses.values()]
    return list(call(component, inputs).values())


def _ramp(output: Tensor) -> Tensor:
    """Weights that differ from value to value: a plain sum has no gradient through a normalisation."""
    return torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output) + math.e


def _compare_rows(component: Component, inputs: Inputs, *, seed: bool) -> None:
    together = run(component, inputs, seeded() if seed else None)
    for index in range(BATCH):
        alone = run(component, inputs.row(index), seeded()[index : index + 1] if seed else None)
        for name, output in together.items():
            what = (
                f"{name} of sample {index}, alone against in a batch{' (one generator each)' if seed else ''}"
            )
            require_close(alone[name], output[index : index + 1], what, DOUBLE_TOLERANCE)


CHECKS = (
    runs_in_float32,
    runs_in_float64,
    runs_in_bfloat16,
    output_follows_input_to_every_device,
    two_calls_agree,
    one_generator_serves_a_whole_batch,
    samples_do_not_depend_on_their_batch,
    inputs_and_weights_are_left_alone,
    global_state_is_left_alone,
    gradients_are_finite,
)
