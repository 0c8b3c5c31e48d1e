"""A registry of interchangeable parts for diffusion models, and the diagnosis that finds the part at fault.

    import ldm_registry as ldm

    spec = ldm.load_spec("emoji-kl-dit")
    pipe = ldm.assemble(spec)
    images = pipe.sample(4, seed=0)

Public names are resolved when they are first used: importing the package costs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ldm_registry.assembly import assemble as assemble
    from ldm_registry.assembly import load_component as load_component
    from ldm_registry.contracts import Contract as Contract
    from ldm_registry.data import ImageSet as ImageSet
    from ldm_registry.data import read_images as read_images
    from ldm_registry.diagnostics import diagnose as diagnose
    from ldm_registry.diagnostics import diagnose_against as diagnose_against
    from ldm_registry.errors import CheckpointError as CheckpointError
    from ldm_registry.errors import ContractError as ContractError
    from ldm_registry.errors import DataError as DataError
    from ldm_registry.errors import IntegrityError as IntegrityError
    from ldm_registry.errors import LdmError as LdmError
    from ldm_registry.errors import MissingDependencyError as MissingDependencyError
    from ldm_registry.errors import NetworkError as NetworkError
    from ldm_registry.errors import NotFoundError as NotFoundError
    from ldm_registry.errors import PluginError as PluginError
    from ldm_registry.errors import ResourceError as ResourceError
    from ldm_registry.errors import SpecError as SpecError
    from ldm_registry.hookspecs import hookimpl as hookimpl
    from ldm_registry.image_statistics import statistics_of as statistics_of
    from ldm_registry.interchange import export_pipeline as export_pipeline
    from ldm_registry.interchange import import_pipeline as import_pipeline
    from ldm_registry.interfaces import Component as Component
    from ldm_registry.interfaces import ComponentConfig as ComponentConfig
    from ldm_registry.interfaces import Conditioner as Conditioner
    from ldm_registry.interfaces import Decoder as Decoder
    from ldm_registry.interfaces import Denoised as Denoised
    from ldm_registry.interfaces import Denoiser as Denoiser
    from ldm_registry.interfaces import DenoiserOutput as DenoiserOutput
    from ldm_registry.interfaces import Encoder as Encoder
    from ldm_registry.interfaces import LatentSpace as LatentSpace
    from ldm_registry.interfaces import Modifier as Modifier
    from ldm_registry.interfaces import NoiseLevel as NoiseLevel
    from ldm_registry.interfaces import NoiseLevels as NoiseLevels
    from ldm_registry.interfaces import NoiseSchedule as NoiseSchedule
    from ldm_registry.interfaces import Scheduler as Scheduler
    from ldm_registry.interfaces import Step as Step
    from ldm_registry.interfaces import Trained as Trained
    from ldm_registry.pipeline import Pipeline as Pipeline
    from ldm_registry.prediction import from_x0 as from_x0
    from ldm_registry.prediction import to_x0 as to_x0
    from ldm_registry.registry import Registry as Registry
    from ldm_registry.spec import PipelineSpec as PipelineSpec
    from ldm_registry.spec import dump_spec as dump_spec
    from ldm_registry.spec import load_spec as load_spec
    from ldm_registry.spec import swap as swap
    from ldm_registry.streaming import stream as stream
    from ldm_registry.taps import observe as observe
    from ldm_registry.training import train as train
    from ldm_registry.vocabulary import DType as DType
    from ldm_registry.vocabulary import Kind as Kind
    from ldm_registry.vocabulary import Prediction as Prediction
    from ldm_registry.vocabulary import Scaling as Scaling

__version__ = "0.1.0"

_WHERE = {
    "assembly": ("assemble", "load_component"),
    "contracts": ("Contract",),
    "data": ("ImageSet", "read_images"),
    "diagnostics": ("diagnose", "diagnose_against"),
    "errors": (
        "CheckpointError",
        "ContractError",
        "DataError",
        "IntegrityError",
        "LdmError",
        "MissingDependencyError",
        "NetworkError",
        "NotFoundError",
        "PluginError",
        "ResourceError",
        "SpecError",
    ),
    "hookspecs": ("hookimpl",),
    "image_statistics": ("statistics_of",),
    "interchange": ("export_pipeline", "import_pipeline"),
    "interfaces": (
        "Component",
        "ComponentConfig",
        "Conditioner",
        "Decoder",
        "Denoised",
        "Denoiser",
        "DenoiserOutput",
        "Encoder",
        "LatentSpace",
        "Modifier",
        "NoiseLevel",
        "NoiseLevels",
        "NoiseSchedule",
        "Scheduler",
        "Step",
        "Trained",
    ),
    "pipeline": ("Pipeline",),
    "prediction": ("from_x0", "to_x0"),
    "registry": ("Registry",),
    "spec": ("PipelineSpec", "dump_spec", "load_spec", "swap"),
    "streaming": ("stream",),
    "taps": ("observe",),
    "training": ("train",),
    "vocabulary": ("DType", "Kind", "Prediction", "Scaling"),
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}

__all__ = ["__version__", *_MODULE_OF]  # computed, so that it cannot disagree with the table


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
