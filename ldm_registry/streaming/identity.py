"""What has to be the same for two sessions to make the same images: what the spec says, and what its parts hold."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

import PIL
import torch
from torch import Tensor

from ldm_registry.interfaces import Component
from ldm_registry.pipeline import Pipeline
from ldm_registry.report.run_record import machine, versions
from ldm_registry.spec import dump_spec, spec_digest
from ldm_registry.vocabulary import Kind


@dataclass(frozen=True, slots=True)
class Identity:
    """What a run is of.

    Attributes:
        spec_sha256: Digest of what the spec says.
        spec: Its text, with absolute paths.
        parts_sha256: Digest of the config and the tensors of every part that takes part in sampling, by stage or label;
            and of the noise levels.
    """

    spec_sha256: str
    spec: str
    parts_sha256: Mapping[str, str]

    def differences(self, there: Identity) -> list[str]:
        """How another one differs, one line each.

        Args:
            there: Of the run that is found in the folder.
        """
        lines = []
        if self.spec_sha256 != there.spec_sha256:
            ours, theirs = self.spec.splitlines(), there.spec.splitlines()
            lines += [f"spec, here only:  {line}" for line in ours if line not in theirs]
            lines += [f"spec, there only: {line}" for line in theirs if line not in ours]
            if ours == theirs:
                lines.append("the spec says the same, but lay in another folder")
        for part in sorted({*self.parts_sha256, *there.parts_sha256}):
            here, other = (one.parts_sha256.get(part, "none") for one in (self, there))
            if here != other:
                lines.append(f"{part}: weights or config are {here[:12]} here, {other[:12]} there")
        return lines


def identity_of(pipe: Pipeline) -> Identity:
    """What a pipeline's images depend on, beside the machine.

    Args:
        pipe: Its parts are read whole.
    """
    parts: dict[str, Component] = {
        "denoiser": pipe.denoiser,
        "scheduler": pipe.scheduler,
        "decoder": pipe.decoder,
        **{f"conditioner {label}": part for label, part in pipe.conditioners.items()},
    }
    digests = {name: part_sha256(part) for name, part in parts.items()}
    digests["noise levels"] = _noise_sha256(pipe)
    return Identity(spec_digest(pipe.spec), dump_spec(pipe.spec), digests)


def part_sha256(part: Component) -> str:
    """Digest of a part's class, config, and tensors, as they are in memory; the same on every device."""
    digest = hashlib.sha256(f"{part.kind} {part.name} {part.config.model_dump_json(by_alias=True)}".encode())
    for name, tensor in chain(part.named_parameters(), part.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _noise_sha256(pipe: Pipeline) -> str:
    """Digest of the levels that sampling visits, and of how the denoiser's checkpoint says that it was trained."""
    levels, contract = pipe.scheduler.levels(), pipe.contracts.get(Kind.DENOISER)
    trained = (
        contract and contract.model_dump_json(include={"prediction", "schedule", "time_scale"}),
        str(pipe.denoiser.prediction),
    )
    digest = hashlib.sha256(repr(trained).encode())
    for tensor in (levels.alpha, levels.sigma):
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy().data


def surroundings() -> dict[str, Any]:
    """What the last bits of a shard depend on beside its spec: versions and machine."""
    return {"versions": {**_versions(), "pillow": PIL.__version__}, "machine": machine()}


@cache
def _versions() -> Mapping[str, str]:
    """Read once: there is a file for each installed distribution."""
    return versions()
