"""A sampler that gets its process into trouble, from an image on: what happens to workers elsewhere."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from typing import Literal, final

from pydantic import Field
from torch import Tensor
from toy_plugin import SamplerConfig, ToyScheduler

from ldm_registry.hookspecs import hookimpl
from ldm_registry.interfaces import (
    Component,
    Denoise,
    Generators,
    NoiseLevels,
    NoiseSchedule,
    Scheduler,
    Step,
)


class TroubleConfig(SamplerConfig):
    kind: Literal["none", "memory", "disk", "killed"] = Field("none", description="What happens.")
    seed: int = Field(0, description="Of the first image to which it happens.")


@final
class TroubledScheduler(Scheduler):
    name = "toy-trouble"
    Config = TroubleConfig
    config: TroubleConfig

    def __init__(self, config: TroubleConfig, schedule: NoiseSchedule, tokens: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.sound = ToyScheduler(SamplerConfig(steps=config.steps), schedule, tokens)

    def levels(self) -> NoiseLevels:
        return self.sound.levels()

    def trajectory(self, denoise: Denoise, z: Tensor, generator: Generators | None = None) -> Iterator[Step]:
        assert isinstance(generator, list)
        if generator[-1].initial_seed() >= self.config.seed:
            self._trouble()
        yield from self.sound.trajectory(denoise, z, generator)

    def _trouble(self) -> None:
        time.sleep(float(os.environ.get("TOY_PAUSE_S", "0")))
        if self.config.kind == "memory":
            raise MemoryError("DefaultCPUAllocator: can't allocate memory")
        if self.config.kind == "disk":
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        if self.config.kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)


@hookimpl
def register_components() -> list[type[Component]]:
    return [TroubledScheduler]
