"""What a streaming run tells its consumer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ldm_registry.streaming.plan import Plan


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands.

    Attributes:
        plan: Images, batch and shard size.
        manifest: The file that lists the finished shards.
        spec_sha256: What the images are made from.
        whole: Images in finished shards, those of earlier sessions included.
        found: Images in shards that were finished before this session.
        made: Images of this session, those of an unfinished shard and the share of an unfinished batch included.
        elapsed_s: Wall time of this session's sampling.
        notes: What a reader should know, such as a shard that had to be made again; each is told once.
        stopped: Why the run ends here ("finished", "interrupted"); None while it goes on.
    """

    plan: Plan
    manifest: Path
    spec_sha256: str
    whole: int
    found: int
    made: float
    elapsed_s: float
    notes: tuple[str, ...] = ()
    stopped: str | None = None

    @property
    def images_per_s(self) -> float | None:
        """Of this session; None before there is anything to tell from."""
        return self.made / self.elapsed_s if self.made and self.elapsed_s else None

    @property
    def left_s(self) -> float | None:
        """Seconds until all images are made, at the rate so far; None before there is one."""
        rate = self.images_per_s
        return None if rate is None else max(self.plan.n - self.found - self.made, 0.0) / rate
