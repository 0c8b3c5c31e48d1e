from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MEASURED = """
import sys
from pathlib import Path
import toy_pipelines
from ldm_registry.costs.resident_memory import peak_resident_mib
from ldm_registry.streaming import stream

pipe = toy_pipelines.toy(image={"size": 256})
*_, last = stream(pipe, int(sys.argv[1]), Path(sys.argv[2]), batch=8, shard_size=32)
print(peak_resident_mib())
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    peaks = []
    for n in (128, 1024):
        ended = subprocess.run(
            [sys.executable, "-c", MEASURED, str(n), str(tmp_path / str(n))],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        )
        peaks.append(float(ended.stdout))
    pixels_mib = (1024 - 128) * 3 * 256 * 256 / 2**20
    assert peaks[1] - peaks[0] < 0.25 * pixels_mib
