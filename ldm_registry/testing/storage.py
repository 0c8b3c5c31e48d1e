"""What has to hold for a component to be saved, and built from what was saved without taking memory twice."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ldm_registry.interfaces import Component
from ldm_registry.testing.check import asked_of, require, require_equal
from ldm_registry.testing.subject import Subject, run
from ldm_registry.vocabulary import Kind
from ldm_registry.weights import load_weights, parse_config, read_config, save_checkpoint


@asked_of()
def builds_on_the_meta_device(subject: Subject) -> None:
    """Built on the meta device it takes no memory for what a checkpoint holds, and has everything else."""
    component = _on_meta(subject, subject.component, subject.config)
    stored = set(component.state_dict())
    real = [name for name in stored if not component.state_dict()[name].is_meta]
    require(not real, f"tensors of the checkpoint with memory of their own: {', '.join(sorted(real))}")
    tables = [name for name, buffer in component.named_buffers() if name not in stored and buffer.is_meta]
    require(
        not tables,
        f'constant tables left on the meta device (build them with device="cpu"): {", ".join(tables)}',
    )


@asked_of(Kind.ENCODER, Kind.DECODER, Kind.DENOISER, Kind.CONDITIONER)
def saved_and_loaded_it_is_the_same(subject: Subject) -> None:
    """Saved as a checkpoint and loaded onto the meta device, it puts out the same bits and has the same config."""
    component = subject.build()
    inputs = subject.inputs(component).to(dtype=torch.float32)
    expected = run(component, inputs)
    with TemporaryDirectory() as name:
        folder = Path(name)
        save_checkpoint([component], folder, contract=None, card="")
        config = parse_config(subject.component, read_config(folder), "config.json")
        require(config == component.config, f"config {component.config!r} came back as {config!r}")
        loaded = _on_meta(subject, subject.component, config)
        if not loaded.state_dict():
            loaded = subject.component(*subject.arguments(config))
        load_weights(loaded, folder)
        # Inside the folder's life: tensors are mapped from its files.
        got = run(loaded.eval(), inputs)
        for name, output in expected.items():
            require_equal(got[name], output, f"{name} after loading")


def _on_meta(subject: Subject, component: type[Component], config: object) -> Component:
    with torch.device("meta"):
        return component(*subject.arguments(config))  # type: ignore[arg-type]  # a config of its own class


CHECKS = (builds_on_the_meta_device, saved_and_loaded_it_is_the_same)
