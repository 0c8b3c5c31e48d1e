"""Tiny pipelines of diffusers with random weights, saved as folders: what the tests of interchange import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def diffusers() -> Any:
    import diffusers

    return diffusers


def shaken(model: Any, seed: int = 0) -> Any:
    """Every weight moved off its start: layers that start at zero would hide what lies before them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator).to(parameter))
    return model.eval()


def seeded(build: Any, seed: int = 0, **config: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return shaken(build(**config), seed)


def unet2d(channels: int = 3, size: int = 16) -> Any:
    return seeded(
        diffusers().UNet2DModel,
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )


def kl_vae(**config: Any) -> Any:
    return seeded(
        diffusers().AutoencoderKL,
        **{
            "block_out_channels": (8, 16),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "norm_num_groups": 4,
            "latent_channels": 4,
            "sample_size": 16,
            **config,
        },
    )


def vq_vae() -> Any:
    return seeded(
        diffusers().VQModel,
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=3,
        num_vq_embeddings=32,
        sample_size=16,
    )


def ddpm(folder: Path, **scheduler: Any) -> Any:
    made = diffusers()
    return _saved(made.DDPMPipeline(unet2d(), made.DDPMScheduler(**scheduler)), folder)


def ddim(folder: Path, **scheduler: Any) -> Any:
    made = diffusers()
    return _saved(made.DDIMPipeline(unet2d(), made.DDIMScheduler(**scheduler)), folder)


def ldm(folder: Path, **scheduler: Any) -> Any:
    made = diffusers()
    sampler = made.DDIMScheduler(**{"beta_schedule": "scaled_linear", "clip_sample": False, **scheduler})
    return _saved(made.LDMPipeline(vq_vae(), unet2d(3, 8), sampler), folder)


def dit(folder: Path, classes: int = 1000, **scheduler: Any) -> Any:
    made = diffusers()
    network = seeded(
        made.DiTTransformer2DModel,
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=classes,
    )
    sampler = made.DDIMScheduler(**{"clip_sample": False, **scheduler})
    return _saved(made.DiTPipeline(network, kl_vae(), sampler, id2label={"0": "tench"}), folder)


def _saved(pipeline: Any, folder: Path) -> Any:
    pipeline.save_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def opened(folder: Path, **options: Any) -> Any:
    """The pipeline of a folder, as diffusers opens it."""
    pipeline = diffusers().DiffusionPipeline.from_pretrained(folder, local_files_only=True, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def unet_condition(**config: Any) -> Any:
    return seeded(
        diffusers().UNet2DConditionModel,
        **{
            "sample_size": 8,
            "block_out_channels": (16, 32),
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "attention_head_dim": 2,
            "cross_attention_dim": 16,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            **config,
        },
    )


def tiny_vae() -> Any:
    return seeded(
        diffusers().AutoencoderTiny,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )


def sd(folder: Path, scheduler: Any = None, vae: Any = None, **config: Any) -> Any:
    import tiny_text

    made = diffusers()
    sampler = scheduler or made.PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    pipeline = made.StableDiffusionPipeline(
        vae=vae or kl_vae(),
        text_encoder=tiny_text.clip(),
        tokenizer=tiny_text.clip_tokenizer(folder.with_name(f"{folder.name}-tokenizer")),
        unet=unet_condition(**config),
        scheduler=sampler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return _saved(pipeline, folder)


def sdxl(folder: Path, scheduler: Any = None) -> Any:
    import tiny_text

    made = diffusers()
    sampler = scheduler or made.EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing="leading",
    )
    network = unet_condition(
        cross_attention_dim=40,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 12,
        use_linear_projection=True,
        transformer_layers_per_block=(1, 2),
    )
    pipeline = made.StableDiffusionXLPipeline(
        vae=kl_vae(scaling_factor=0.13025),
        text_encoder=tiny_text.clip(16),
        text_encoder_2=tiny_text.clip(24, projected=True, seed=1),
        tokenizer=tiny_text.clip_tokenizer(folder.with_name(f"{folder.name}-tokenizer")),
        tokenizer_2=tiny_text.clip_tokenizer(folder.with_name(f"{folder.name}-tokenizer-2")),
        unet=network,
        scheduler=sampler,
        add_watermarker=False,
    )
    return _saved(pipeline, folder)


def pixart(folder: Path, scheduler: Any = None, **config: Any) -> Any:
    import tiny_text

    made = diffusers()
    network = seeded(
        made.PixArtTransformer2DModel,
        **{
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 2,
            "cross_attention_dim": 16,
            "caption_channels": 16,
            "sample_size": 8,
            "patch_size": 2,
            "use_additional_conditions": False,
            **config,
        },
    )
    pipeline = made.PixArtAlphaPipeline(
        tokenizer=tiny_text.t5_tokenizer(folder.with_name(f"{folder.name}-tokenizer")),
        text_encoder=tiny_text.t5(),
        vae=kl_vae(),
        transformer=network,
        scheduler=scheduler or made.DPMSolverMultistepScheduler(),
    )
    return _saved(pipeline, folder)
