"""What one spec costs: time, memory, parameters. `ldm compare` runs this module once for each spec.

A process of its own makes the peak memory that of this spec and of nothing that ran before it.
"""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ldm_registry.assembly import assemble
from ldm_registry.costs.resident_memory import MIB, forget_peak, peak_resident_mib, resident_mib
from ldm_registry.costs.weights import parameters
from ldm_registry.engines.outcome import in_words
from ldm_registry.errors import LdmError, ResourceError
from ldm_registry.pipeline import Pipeline, Stepped, placement
from ldm_registry.report.timing import TimedRun, drain, events
from ldm_registry.runtime.compiled import runs_compiled
from ldm_registry.spec import PipelineSpec, load_spec
from ldm_registry.streaming.batch_size import is_out_of_memory

PIXELS, ANSWER = "pixels.bin", "answer.json"


@dataclass(frozen=True, slots=True)
class Measurement:
    """The figures of one spec.

    Attributes:
        spec: Its name.
        n: Images that were made at once.
        values_per_image: Numbers that the denoiser works on for each image, C * H * W.
        denoiser_parameters: Of the denoiser.
        codec_parameters: Of encoder and decoder.
        steps: Of the sampler.
        denoiser_calls: For all n images together.
        step_ms: Median wall time of one step for all n images together.
        image_ms: Wall time of one image: sampling and decoding, divided by n.
        decoder_ms: The decoder's share of it.
        peak_memory_mib: Peak resident memory above that of the idle process with torch imported; on an
            accelerator the peak that was allocated there. None where the system does not tell.
        device: Of the denoiser.
    """

    spec: str
    n: int
    values_per_image: int
    denoiser_parameters: int
    codec_parameters: int
    steps: int
    denoiser_calls: int
    step_ms: float
    image_ms: float
    decoder_ms: float
    peak_memory_mib: float | None
    device: str


def measure(spec: PipelineSpec, name: str, n: int, seed: int | None) -> tuple[Measurement, TimedRun]:
    """Make n images at once and say what that took. Only the first call in a process measures memory truly.

    Args:
        spec: What to run.
        name: For the report.
        n: Images.
        seed: Of image 0; None takes the spec's.
    """
    idle = resident_mib()
    forget_peak()
    pipe = assemble(spec)
    _warm_up(pipe, n)
    run = drain(events(pipe, n, seed=seed))
    device = placement(pipe.denoiser)[0]
    if device.type == "cuda":
        memory: float | None = torch.cuda.max_memory_allocated(device) / MIB
    else:
        peak = peak_resident_mib()
        memory = None if idle is None or peak is None else peak - idle
    channels, height, width = pipe.latent_shape
    figures = Measurement(
        spec=name,
        n=n,
        values_per_image=channels * height * width,
        denoiser_parameters=parameters(pipe.denoiser),
        codec_parameters=parameters(pipe.encoder) + parameters(pipe.decoder),
        steps=len(run.step_ms),
        denoiser_calls=len(run.denoiser_ms),
        step_ms=statistics.median(run.step_ms),
        image_ms=(sum(run.step_ms) + sum(run.decoder_ms)) / n,
        decoder_ms=sum(run.decoder_ms) / n,
        peak_memory_mib=memory,
        device=str(device),
    )
    return figures, run


def _warm_up(pipe: Pipeline, n: int) -> None:
    """The first call of a network pays for memory, choosing kernels and compilation; it is not what is asked for."""
    for event in pipe.trace(n):
        if isinstance(event, Stepped) and not runs_compiled(pipe.decoder):
            break


def main() -> int:
    """Measure what a request file asks for; leave pixels and figures, or the error, in its folder."""
    request_path = Path(sys.argv[1])
    request, folder = json.loads(request_path.read_text(encoding="utf-8")), request_path.parent
    torch.set_num_threads(request["threads"])
    try:
        spec = load_spec(folder / request["spec"])
        figures, run = measure(spec, request["name"], request["n"], request["seed"])
    except Exception as error:  # a row of the comparison, whatever it is
        first, lines = in_words(_in_short(error))
        answer: dict[str, object] = {"error": first, "lines": lines}
    else:
        run.images.numpy().tofile(folder / PIXELS)
        answer = {"figures": asdict(figures), "shape": list(run.images.shape), "seeds": list(run.seeds)}
    (folder / ANSWER).write_text(json.dumps(answer), encoding="utf-8")
    return 0


def _in_short(error: Exception) -> Exception:
    """The error; where there was too little memory, one that says so."""
    if isinstance(error, LdmError) or not is_out_of_memory(error):
        return error
    return ResourceError(
        "there was not enough memory", [str(error).partition("\n")[0]], "ask for fewer images"
    )


if __name__ == "__main__":
    sys.exit(main())
