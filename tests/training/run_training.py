"""Run one training in a process of its own, so that it can be killed: STAGE SPEC."""

import sys

import tiny_parts

from ldm_registry.registry import Registry
from ldm_registry.spec import load_spec
from ldm_registry.training import train

if __name__ == "__main__":
    for progress in train(sys.argv[1], load_spec(sys.argv[2]), registry=Registry([tiny_parts])):
        print(progress.step, progress.stopped, flush=True)
