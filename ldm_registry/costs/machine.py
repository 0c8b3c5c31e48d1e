"""What figures were measured on."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ldm_registry.runtime import processor


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine as far as it tells.

    Attributes:
        processor: Name of the CPU.
        cores: That this process may run on.
        threads: Of torch.
        accelerators: Name of every other device that takes part, by device.
        system: Operating system.
        python: Version.
        torch: Version.
    """

    processor: str
    cores: int
    threads: int
    accelerators: dict[str, str]
    system: str
    python: str
    torch: str


def machine(devices: Iterable[torch.device] = ()) -> Machine:
    """This one.

    Args:
        devices: Those that take part.
    """
    cuda = {device for device in devices if device.type == "cuda"}
    return Machine(
        processor.name(),
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        torch.get_num_threads(),
        {str(device): torch.cuda.get_device_name(device) for device in sorted(cuda, key=str)},
        f"{platform.system()} {platform.release()}",
        platform.python_version(),
        torch.__version__,
    )
