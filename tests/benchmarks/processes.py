"""Fresh processes: what is measured in them owes nothing to what ran before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence

import torch


def python(code: str, **names: object) -> list[str]:
    """The command that runs some code in this Python.

    Args:
        code: What to run.
        names: Variables that it finds set; text, numbers and lists of them, and paths as text.
    """
    given = "".join(f"{name} = {json.dumps(value, default=str)}\n" for name, value in names.items())
    return [sys.executable, "-c", given + code]


def output(command: Sequence[str]) -> str:
    """What a command prints; it has as many threads as this process."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    # Installed packages come with their bytecode; sources in place would be compiled in every process.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def seconds(command: Sequence[str]) -> float:
    """From the start of a command to its end."""
    begin = time.perf_counter()
    output(command)
    return time.perf_counter() - begin
