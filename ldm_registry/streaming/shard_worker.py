"""What makes shards in a process of its own, from a spec: a pipeline, assembled where it is used."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import torch

from ldm_registry.assembly import assemble
from ldm_registry.engines.node_report import check_nodes, node_report
from ldm_registry.errors import CheckpointError, LdmError
from ldm_registry.spec import PipelineSpec
from ldm_registry.streaming.batch_size import Sized, fitting_batch
from ldm_registry.streaming.identity import Identity, identity_of, surroundings
from ldm_registry.streaming.in_process import sampled
from ldm_registry.streaming.manifest import Entry
from ldm_registry.streaming.plan import Plan
from ldm_registry.streaming.shard_file import Sidecars
from ldm_registry.streaming.shared_folder import check_shared
from ldm_registry.streaming.writing import Writing

REPORT_EVERY_S = 1.0
THREADS = 1
"""Of PyTorch: there is a worker for each core, and one that drives a GPU hardly needs more."""


@final
class ShardWorker:
    """Holds one pipeline and makes one shard after the other.

    Args:
        spec: Of the pipeline, with absolute paths.
        folder: Where the shards go.
    """

    def __init__(self, spec: PipelineSpec, folder: Path) -> None:
        self._spec, self._folder = spec, folder

    def begin(self, identity: Identity, versions: Mapping[str, str], mark: str) -> Mapping[str, Any]:
        """Assemble, and make sure that this makes what another worker would make, and puts it into the same place.

        Args:
            identity: Of the run.
            versions: That its driver runs.
            mark: As `shared_folder.marked` yielded it.

        Returns:
            Versions and machine.

        Raises:
            PluginError: Other versions are installed here.
            ResourceError: The folder is not that of the run.
            CheckpointError: Weights or a config are others than the driver's.
            LdmError: The spec cannot be assembled here.
        """
        torch.set_num_threads(THREADS)
        node = socket.gethostname()
        check_nodes(versions, {node: node_report()})
        with _named(node):
            check_shared(self._folder, mark)
            self._pipe = assemble(self._spec)
            differences = identity_of(self._pipe).differences(identity)
            if differences:
                raise CheckpointError(
                    "the parts are not those that the run was started with",
                    differences,
                    hint="here is the worker, there the driver: give them the same files, or a folder that both share",
                )
        return surroundings()

    def fitting_batch(self, n: int) -> Sized:
        """As `batch_size.fitting_batch`.

        Args:
            n: Images that are wanted.
        """
        with _named(socket.gethostname()):
            return fitting_batch(self._pipe, n)

    def make(self, plan: Plan, number: int) -> Iterator[float | Entry]:
        """Make a shard, whole or not at all.

        Args:
            plan: Which images it holds.
            number: Of the shard.

        Yields:
            Every second or so the images made so far; at last the entry of the finished shard.

        Raises:
            ResourceError: The disk is full or memory is short.
        """
        shard, told_s = plan.shard(number), time.monotonic()
        with _named(socket.gethostname()):
            with Writing(self._folder, Sidecars(self._spec)) as writing:
                for made in sampled(self._pipe, shard, plan.batch, writing):
                    if time.monotonic() - told_s >= REPORT_EVERY_S:
                        told_s = time.monotonic()
                        yield made
            ((_, entry),) = writing.finished()
            yield entry


@contextmanager
def _named(node: str) -> Iterator[None]:
    """Errors of ours say on which node they happened."""
    try:
        yield
    except LdmError as error:
        raise type(error)(f"node {node}: {error.summary}", error.problems, error.hint) from error
