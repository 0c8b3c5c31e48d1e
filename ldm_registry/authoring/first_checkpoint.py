"""The checkpoint of a denoiser that nobody has trained yet, so that its spec runs and can be trained further."""

from __future__ import annotations

from pathlib import Path

from ldm_registry.authoring.project_loading import loaded_project
from ldm_registry.build import fresh
from ldm_registry.contracts import Contract, SelfTest
from ldm_registry.golden import golden_denoiser
from ldm_registry.interfaces import Denoiser, Trained
from ldm_registry.testing.stand_ins import StraightConfig, StraightSchedule
from ldm_registry.vocabulary import Kind, Prediction
from ldm_registry.weights import save_checkpoint

SEED = 0
SIZE = (8, 8)
"""(height, width) of the latents of the bundled emoji."""
SCHEDULE = {"name": "squaredcos_cap_v2", "steps": 1000}
"""As the bundled denoisers of latents were trained."""


def write_untrained(project: Path, name: str, folder: Path) -> None:
    """Write the checkpoint of a new project's denoiser as its constructor leaves it.

    Args:
        project: Folder of the project, which was just written.
        name: Of the denoiser.
        folder: Where to write.

    Raises:
        LdmError: As `loaded_project`.
    """
    with loaded_project(project) as loaded:
        (component,) = (found for one, found in loaded.components if one.kind is Kind.DENOISER)
        trained = Trained(Prediction.V, StraightSchedule(StraightConfig()))
        denoiser = fresh(component, (component.Config(), trained), SEED)
        assert isinstance(denoiser, Denoiser)
        label = denoiser.conditioning["class_label"]
        contract = Contract(
            components={Kind.DENOISER: name},
            latent_channels=denoiser.latent_space.channels,
            prediction=trained.prediction,
            schedule=SCHEDULE,
            time_scale=trained.time_scale,
            classes=label.classes,
            null_class=label.null,
            training={"steps": 0},
            self_test=SelfTest(
                golden_outputs=golden_denoiser(denoiser, (denoiser.latent_space.channels, *SIZE))
            ),
        )
        save_checkpoint([denoiser], folder, contract=contract, card=_card(name))


def _card(name: str) -> str:
    return f"""---
library_name: ldm-registry
license: apache-2.0
tags: [ldm-component, ldm-denoiser]
---
# {name}, before training

A denoiser as its constructor leaves it: its last layer is zero, which is the exact prediction of v for standard normal
data and for nothing else.
"""
