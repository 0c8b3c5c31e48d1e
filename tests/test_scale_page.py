"""docs/scale.md: its files are well formed, and its table is what its model says."""

from __future__ import annotations

import json
import math
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

BLOCK = re.compile(r"^```(?P<language>\w+) (?P<name>[\w.]+)\n(?P<body>.*?)^```", re.MULTILINE | re.DOTALL)
ROUNDING = 0.6
"""Of the last digit."""


@pytest.fixture(scope="module")
def page() -> str:
    return (Path(__file__).parents[1] / "docs" / "scale.md").read_text("utf-8")


def files(page: str) -> dict[str, str]:
    return {found["name"]: found["body"] for found in BLOCK.finditer(page)}


def test_the_page_has_a_file_for_each_way(page: str) -> None:
    assert set(files(page)) == {"cluster.yaml", "images.sh", "train.sh", "rayjob.yaml"}


@pytest.mark.parametrize("name", ["images.sh", "train.sh"])
def test_a_script_for_slurm_is_shell(page: str, name: str) -> None:
    checked = subprocess.run(["bash", "-n"], input=files(page)[name], text=True, capture_output=True)
    assert checked.returncode == 0, checked.stderr
    assert files(page)[name].startswith("#!/bin/bash\n#SBATCH ")


def test_rays_schema_accepts_the_cluster_file(page: str) -> None:
    ray = pytest.importorskip("ray")
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text("utf-8"))
    jsonschema.validate(yaml.safe_load(files(page)["cluster.yaml"]), schema)


def test_a_pod_of_the_ray_job_has_what_the_run_needs(page: str) -> None:
    job: dict[str, Any] = yaml.safe_load(files(page)["rayjob.yaml"])
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    folder = re.search(r"-o (/\w+)/", job["spec"]["entrypoint"])
    assert folder is not None
    for group in pods:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        (mount,) = container["volumeMounts"]
        assert mount["mountPath"] == folder[1]  # every node sees the run's folder
        assert [volume["name"] for volume in pod["volumes"]] == [mount["name"]]
    assert "nvidia.com/gpu" in pods[1]["template"]["spec"]["containers"][0]["resources"]["limits"]


def test_the_table_is_what_the_model_says(page: str) -> None:
    known = {
        name: float(value)
        for name, value in re.findall(r"^\| (\w) \| .* \| ([\d.e]+) \|$", page, re.MULTILINE)
    }
    assert set(known) == set("rbhsce")
    heading = next(line for line in page.splitlines() if line.startswith("| N | S | W |"))
    assert heading.count("|") == 11
    rows = page[page.index(heading) :].split("\n\n")[0].splitlines()[2:]
    assert len(rows) >= 5
    for row in rows:
        stated = [float(cell.replace(" ", "")) for cell in row.strip("|").split("|")]
        n, size, workers, rate = stated[:4]
        count = n / size
        parts = (
            math.ceil(count / workers) * size / known["r"],
            count * known["h"],
            n * known["b"] / rate,
        )
        whole = known["s"] + max(parts)
        expected = [*parts, whole, n / whole, count * known["e"] / 1e6]
        digits = [1.0] * 5 + [0.1]
        for got, computed, digit in zip(stated[4:], expected, digits, strict=True):
            assert abs(got - computed) <= ROUNDING * digit, (row, computed)
