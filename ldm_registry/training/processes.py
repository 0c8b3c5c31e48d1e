"""The processes of one training, which torchrun or `accelerate launch` has started.

A step is the same whatever their number: its samples, noise levels and noise are functions of seed and step, each
process takes its part of them, and gradients are those of the mean over all. accelerate, an extra, sets up the process
group; without several processes it is not imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, final

import torch
from torch import Tensor, nn

from ldm_registry.engines.extras import missing_extra
from ldm_registry.errors import ResourceError, SpecError
from ldm_registry.training.settings import LoopSettings

WORLD_SIZE, RANK, LOCAL_RANK = "WORLD_SIZE", "RANK", "LOCAL_RANK"
TIMEOUT = timedelta(minutes=30)
"""After which a process gives up waiting for the others: the first one may compile or save meanwhile."""
PRECISIONS = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""accelerate's word for each of ours."""
OF_PEERS = ("gloo", "nccl", "connection", "peer", "tcpstore", "rendezvous")
"""Words of the errors that end a process because another one has ended."""


def number_of_processes() -> int:
    """How many processes the launcher has started; 1 without one."""
    return int(os.environ.get(WORLD_SIZE, "1"))


def is_first_process() -> bool:
    """Whether this is the one that reports and saves."""
    return int(os.environ.get(RANK, "0")) == 0


def own_device(device: torch.device) -> torch.device:
    """The device of this process: where there are several on a host, each has a GPU of its own.

    Args:
        device: That is asked for.
    """
    if device.type != "cuda" or number_of_processes() == 1:
        return device
    own = torch.device("cuda", int(os.environ.get(LOCAL_RANK, "0")))
    torch.cuda.set_device(own)
    return own


@final
class Processes:
    """This process among those of one training.

    Attributes:
        rank: Of this process, from 0.
        count: Of all.
        device: Of this process.
    """

    def __init__(self, device: torch.device, accelerator: Any = None) -> None:
        self._accelerator = accelerator
        self.rank = 0 if accelerator is None else int(accelerator.process_index)
        self.count = 1 if accelerator is None else int(accelerator.num_processes)
        self.device = device if accelerator is None else accelerator.device
        # What is agreed on lies on the CPU, where reading it waits for no GPU.
        self._group = None
        if self.count > 1:
            self._group = torch.distributed.new_group(backend="gloo", timeout=TIMEOUT)

    @property
    def is_first(self) -> bool:
        """Whether this process reports and saves."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Which of the samples of a pass this process takes: neighbours, in the order of the ranks.

        Args:
            count: Samples of the pass, of all processes together.

        Raises:
            SpecError: There are fewer of them than processes.
        """
        if count < self.count:
            raise SpecError(
                f"a batch of {count} cannot be shared by {self.count} processes",
                hint=f"start at most {count} processes, or raise `batch:` of the training",
            )
        return slice(self.rank * count // self.count, (self.rank + 1) * count // self.count)

    def weight(self, count: int) -> float:
        """By what a mean over the samples of this process is multiplied, so that the mean over processes is theirs.

        Args:
            count: As for `share`.
        """
        rows = self.share(count)
        return len(range(count)[rows]) * self.count / count

    def parallel(self, network: nn.Module) -> nn.Module:
        """The network, to be called in its place: gradients become those of all processes while they are computed.

        Args:
            network: On the device; the same in every process.
        """
        if self._accelerator is None:
            return network
        prepared: nn.Module = self._accelerator.prepare_model(network, device_placement=False)
        return prepared

    def accumulating(self, network: nn.Module, *, is_last: bool) -> AbstractContextManager[Any]:
        """While a pass is made whose gradients are only added up; they are exchanged in the last one.

        Args:
            network: What `parallel` gave.
            is_last: Whether no other pass of the step follows.
        """
        if isinstance(network, nn.parallel.DistributedDataParallel) and not is_last:
            return network.no_sync()
        return nullcontext()

    def largest(self, values: Sequence[int]) -> list[int]:
        """Number by number the largest that a process gives; all get the same.

        Args:
            values: As many in every process.
        """
        if self._group is None:
            return list(values)
        told = torch.tensor(values, dtype=torch.int64)
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX, self._group)
        return [int(value) for value in told.tolist()]

    def mean(self, values: Mapping[str, Tensor | float]) -> dict[str, float]:
        """Mean of each value over the processes. Waits for the device.

        Args:
            values: The same names in every process.
        """
        if self._group is None:
            return {name: float(value) for name, value in values.items()}
        told = torch.tensor([float(value) for value in values.values()], dtype=torch.float64)
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.SUM, self._group)
        return dict(zip(values, (told / self.count).tolist(), strict=True))

    def wait(self) -> None:
        """Until every process has come here."""
        if self._group is not None:
            torch.distributed.barrier(self._group)


@contextmanager
def processes(settings: LoopSettings, device: torch.device) -> Iterator[Processes]:
    """The processes that a launcher has started, or this one alone.

    Args:
        settings: Of the training.
        device: That a process by itself trains on; among several each takes its own of that type.

    Raises:
        SpecError: accelerate is not installed, or was told of another precision than the spec.
        ResourceError: Another process has ended.
    """
    if number_of_processes() == 1:
        yield Processes(device)
        return
    try:
        import accelerate  # type: ignore[import-untyped]  # it has no types
    except ImportError as error:
        raise missing_extra("train", "accelerate, which training in several processes needs") from error
    _check_precision(settings)
    joined = accelerate.Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no",  # the autocast of the training itself is the same with one process
        kwargs_handlers=[accelerate.InitProcessGroupKwargs(timeout=TIMEOUT)],
    )
    rank = joined.process_index
    try:
        yield Processes(device, joined)
    except RuntimeError as error:
        if not any(word in str(error).lower() for word in OF_PEERS):
            raise
        raise ResourceError(
            f"process {rank} of {joined.num_processes} stops: another one has ended",
            [str(error).strip().partition("\n")[0]],
            hint="the launcher says which one and why; the last saved state is whole, and the same command, with any "
            "number of processes, goes on from it",
        ) from error
    finally:
        torch.distributed.destroy_process_group()


def _check_precision(settings: LoopSettings) -> None:
    """Refuse a launcher's word against the spec's; its "no" is what it says when it was told nothing."""
    told = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if told != "no" and PRECISIONS.get(told) != settings.precision:
        raise SpecError(
            f"`accelerate launch` was told of mixed precision {told}, and the spec says {settings.precision}",
            hint="set `precision:` of the training in the spec, and leave the launcher's option out",
        )
