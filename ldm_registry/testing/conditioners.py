"""What conditioners declare, against what comes out of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch

from ldm_registry.interfaces import Conditioner, Conditioning
from ldm_registry.testing.check import NotApplicableError, asked_of, require
from ldm_registry.testing.subject import BATCH, Subject, run
from ldm_registry.vocabulary import Kind


@asked_of(Kind.CONDITIONER)
def inputs_and_outputs_are_named(subject: Subject) -> None:
    """`inputs` are distinct names, `outputs` at least one `Conditioning` by name."""
    conditioner = _conditioner(subject)
    inputs, outputs = getattr(conditioner, "inputs", None), getattr(conditioner, "outputs", None)
    require(
        isinstance(inputs, tuple) and all(isinstance(name, str) and name for name in inputs),
        f"inputs is {inputs!r}; expected a tuple of names",
    )
    require(len(set(conditioner.inputs)) == len(conditioner.inputs), f"inputs repeat a name: {inputs!r}")
    require(
        isinstance(outputs, Mapping)
        and bool(outputs)
        and all(isinstance(given, Conditioning) for given in outputs.values()),
        f"outputs is {outputs!r}; expected a Conditioning by name",
    )


@asked_of(Kind.CONDITIONER)
def outputs_are_as_declared(subject: Subject) -> None:
    """Names, shapes and dtypes of what comes out are those that `outputs` declares; the empty text runs as well."""
    conditioner = _conditioner(subject)
    got = run(conditioner, subject.inputs(conditioner))
    declared = conditioner.outputs
    require(
        got.keys() == declared.keys(),
        f"it gives {', '.join(sorted(got))}; declared are {', '.join(sorted(declared))}",
    )
    batch = BATCH if conditioner.inputs else 1
    for name, output in got.items():
        expected = (batch, *declared[name].shape)
        fits = output.ndim == len(expected) and all(
            wanted in (None, found) for wanted, found in zip(expected, output.shape, strict=True)
        )
        require(fits, f"{name} has shape {list(output.shape)}, declared is {list(expected)}")
        require(
            output.dtype == declared[name].dtype,
            f"{name} is {output.dtype}, declared is {declared[name].dtype}",
        )
        require(bool(output.isfinite().all()), f"{name} has values that are not finite")


@asked_of(Kind.CONDITIONER)
def output_depends_on_each_text(subject: Subject) -> None:
    """Other texts under any one of `inputs` give another output."""
    conditioner = _conditioner(subject)
    if not conditioner.inputs:
        raise NotApplicableError("it reads no text")
    inputs = subject.inputs(conditioner)
    before = run(conditioner, inputs)
    for name in conditioner.inputs:
        turned = {**inputs.texts, name: (*inputs.texts[name][1:], inputs.texts[name][0])}
        after = run(conditioner, replace(inputs, texts=turned))
        require(
            any(not torch.equal(after[key], value) for key, value in before.items()),
            f"{name} makes no difference",
        )


def _conditioner(subject: Subject) -> Conditioner:
    return cast(Conditioner, subject.build())


CHECKS = (inputs_and_outputs_are_named, outputs_are_as_declared, output_depends_on_each_text)
