"""What a training run is told, as data: the spec's `train:` block. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal, final

from pydantic import BaseModel, ConfigDict, Field

Weight = Annotated[float, Field(ge=0.0)]


class LoopSettings(BaseModel):
    """What both trainings share: batches, optimiser, averaging, saving."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    steps: int = Field(10_000, ge=1, description="Optimiser steps of the whole training")
    batch: int = Field(
        64, ge=1, description="Images in one forward and backward pass, of all processes together"
    )
    accumulate: int = Field(
        1,
        ge=1,
        description="Passes whose gradients are averaged for one step; the step sees accumulate x batch",
    )
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw",
        description="adamw, or muon: orthogonalised momentum for hidden weight matrices, adamw for everything else",
    )
    learning_rate: float = Field(1e-3, gt=0.0, description="Peak learning rate of adamw, per step")
    muon_learning_rate: float = Field(
        0.02, gt=0.0, description="Peak learning rate of muon's matrices, per step; used by muon alone"
    )
    warmup: int = Field(100, ge=0, description="Steps over which the learning rate rises linearly from zero")
    decay: Literal["constant", "cosine", "linear"] = Field(
        "cosine",
        description="How the learning rate falls after the warm-up; cosine and linear reach zero at `steps`",
    )
    weight_decay: float = Field(
        0.0, ge=0.0, description="Decoupled weight decay, times the learning rate per step"
    )
    betas: tuple[float, float] = Field(
        (0.9, 0.99), description="Decay of adamw's two moments, each in [0, 1)"
    )
    clip_norm: float = Field(1.0, ge=0.0, description="Largest norm of a step's gradient; 0 leaves it alone")
    ema_half_life: float = Field(
        500.0,
        ge=0.0,
        description="Half-life of the weight average in steps; 0 keeps the last weights instead",
    )
    ema_warmup: float = Field(
        0.1,
        ge=0.0,
        description="The half-life is at most this share of the steps taken, so the start is forgotten",
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Type of the forward pass under autocast; weights and optimiser stay float32"
    )
    seed: int = Field(
        0, ge=0, lt=2**31, description="Seed of the first weights, the data order and all noise"
    )
    flip: bool = Field(True, description="Mirror half of the images left to right")
    validate_every: int = Field(
        500, ge=0, description="Steps between validation figures; 0 leaves them to the end"
    )
    validation_images: int = Field(
        64,
        ge=1,
        description="Images of the validation set that the figures during training use; the end uses all",
    )
    checkpoint_every_s: float = Field(45.0, gt=0.0, description="Seconds between saves of the training state")
    compile: bool = Field(False, description="Compile the training step with torch.compile")
    sharded: bool = Field(
        False,
        description="Under torchrun, keep a part of weights, gradients and optimiser state in each process (FSDP) "
        "instead of all in every one",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; null leaves torch's choice")
    minutes: float | None = Field(
        None,
        gt=0.0,
        description="Stop after this many minutes in this run, with a checkpoint; resuming goes on",
    )
    initialise_from: str | None = Field(
        None, description="Checkpoint folder whose weights the training starts from, in place of random ones"
    )


@final
class CodecTraining(LoopSettings):
    """How the encoder and the decoder are trained, as one autoencoder."""

    reconstruction: Literal["l1", "l2"] = Field(
        "l1", description="Pixel loss: mean absolute or squared difference"
    )
    kl: Weight = Field(1e-4, description="Weight of `kl_nats`, the mean KL divergence of a latent value")
    commitment: Weight = Field(0.25, description="Weight of `commitment` (Eq. 3, van den Oord et al. 2017)")
    codebook: Weight = Field(
        1.0, description="Weight of `codebook`, which moves the codes of a gradient codebook"
    )
    weights: dict[str, Weight] = Field(
        default_factory=dict, description="Weights of further losses that a codec reports, by their names"
    )
    adversarial: Weight = Field(
        0.0, description="Weight of the patch discriminator's hinge loss; 0 trains none"
    )
    adversarial_adaptive: bool = Field(
        True, description="Scale the adversarial weight by the ratio of gradients (Eq. 7, Esser et al. 2021)"
    )
    adversarial_start: int = Field(0, ge=0, description="First step at which the discriminator takes part")
    adversarial_width: int = Field(32, ge=1, description="Channels of the discriminator's first layer")


@final
class DenoiserTraining(LoopSettings):
    """How a denoiser is trained, on cached latents, with the loss of the prediction that it declares."""

    label_dropout: float = Field(
        0.1,
        ge=0.0,
        le=1.0,
        description="Share of samples whose condition is replaced by its null, for guidance",
    )
    time_sampling: Literal["uniform", "logit-normal"] = Field(
        "uniform",
        description="How times of the training schedule are drawn (logit-normal: Esser et al. 2024)",
    )
    time_mean: float = Field(0.0, description="Mean of the logit of the time fraction, for logit-normal")
    time_std: float = Field(1.0, gt=0.0, description="Standard deviation of the logit, for logit-normal")
    snr_weighting: Literal["none", "min-snr"] = Field(
        "none", description="Weight by noise level; min-snr clamps the x0 loss weight (Hang et al. 2023)"
    )
    snr_gamma: float = Field(5.0, gt=0.0, description="Largest signal-to-noise ratio that min-snr counts")
    latents: Literal["mode", "sample"] = Field(
        "mode", description="Cache the mode of the encoder's posterior, or one sample of it for each image"
    )


@final
class TrainSpec(BaseModel):
    """The spec's `train:` block: what `ldm train` needs beside the pipeline itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: str | None = Field(
        None, description="WebDataset tar to train on; `data: images:` of the spec is what it is validated on"
    )
    codec: CodecTraining | None = Field(None, description="`ldm train encoder`: encoder and decoder together")
    denoiser: DenoiserTraining | None = Field(None, description="`ldm train denoiser`")
