"""Folders that diffusers saved draw the same images here, and folders that were exported here draw them there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ldm_registry.assembly import assemble
from ldm_registry.errors import CheckpointError, SpecError
from ldm_registry.interchange import Wishes, export_pipeline, import_pipeline, write
from ldm_registry.spec import dump_spec, load_spec, swap

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import tiny_pipelines

pytestmark = [
    pytest.mark.plugins,
    # diffusers and transformers use each other in ways that newer releases of either deprecate.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

STEPS, SEED = 7, 5
PROMPTS = ["a red kite", "two dogs, in 1999"]
CALLS: dict[str, dict[str, Any]] = {
    "ddpm": {"batch_size": 2},
    "ddim": {"batch_size": 2},
    "ldm": {"batch_size": 2},
    "dit": {"class_labels": [3, 5], "guidance_scale": 4.0},
    "sd": {"prompt": PROMPTS},
    "sdxl": {"prompt": PROMPTS},
    "pixart": {"prompt": PROMPTS, "use_resolution_binning": False, "clean_caption": False},
}
CONDITIONS: dict[str, dict[str, Any]] = {
    "dit": {"class_label": [3, 5]},
    **{name: {"prompt": PROMPTS} for name in ("sd", "sdxl", "pixart")},
}
PIPELINES = list(CALLS)
V_PREDICTION = {
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of tiny pipelines by name, each made once."""
    base, made = tmp_path_factory.mktemp("pipelines"), set[str]()

    def folder(name: str) -> Path:
        if name not in made:
            getattr(tiny_pipelines, name)(base / name)
            made.add(name)
        return base / name

    return folder


def theirs(folder: Path, name: str, opened: dict[str, Any] | None = None, **more: Any) -> Tensor:
    """What diffusers draws, [2, 3, H, W] in [0, 1]."""
    pipe = tiny_pipelines.opened(folder, **(opened or {}))
    generators = [torch.Generator().manual_seed(SEED + index) for index in range(2)]
    call = {"num_inference_steps": STEPS, **CALLS[name], **more}
    images = pipe(generator=generators, output_type="np", **call).images
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def tensors(path: Path) -> dict[str, Tensor]:
    """By name; transformers 5 leaves out a prefix that every version reads and older ones write."""
    return {name.removeprefix("text_model."): tensor for name, tensor in load_file(path).items()}


def spec_of(folder: Path, path: Path, **wishes: Any) -> Path:
    write(import_pipeline(folder, path, Wishes(**{"steps": STEPS, **wishes})), path)
    return path


def ours(path: Path, name: str) -> Tensor:
    """What we draw, likewise in [0, 1]."""
    return assemble(load_spec(path)).sample(2, seed=SEED, condition=CONDITIONS.get(name)) / 2 + 0.5


@pytest.mark.parametrize("name", PIPELINES)
def test_an_imported_folder_draws_what_diffusers_draws(
    folders: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    drawn = theirs(folders(name), name)
    assert drawn.std() > 0.05
    torch.testing.assert_close(
        ours(spec_of(folders(name), tmp_path / "s.yaml"), name), drawn, rtol=0, atol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheduler", "options"),
    [
        ("EulerDiscreteScheduler", {}),
        ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
        ("EulerAncestralDiscreteScheduler", {}),
        ("HeunDiscreteScheduler", {}),
        ("DPMSolverMultistepScheduler", {}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
        ("LMSDiscreteScheduler", {}),
        ("UniPCMultistepScheduler", {}),
        ("DDPMScheduler", {}),
        ("DDIMScheduler", {**V_PREDICTION, "clip_sample": False}),
        ("EulerDiscreteScheduler", V_PREDICTION),
    ],
)
def test_stable_diffusion_draws_the_same_under_every_sampler(
    tmp_path: Path, scheduler: str, options: dict[str, Any]
) -> None:
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    made = getattr(tiny_pipelines.diffusers(), scheduler)(**betas, **options)
    tiny_pipelines.sd(tmp_path / "sd", made)
    path = spec_of(tmp_path / "sd", tmp_path / "s.yaml", steps=8)
    drawn = theirs(tmp_path / "sd", "sd", num_inference_steps=8)
    torch.testing.assert_close(ours(path, "sd"), drawn, rtol=0, atol=1e-4)


def test_stable_diffusion_with_the_distilled_autoencoder_draws_the_same(tmp_path: Path) -> None:
    tiny_pipelines.sd(tmp_path / "sd", vae=tiny_pipelines.tiny_vae())
    path = spec_of(tmp_path / "sd", tmp_path / "s.yaml")
    assert load_spec(path).decoder.use == "tiny-vae"
    torch.testing.assert_close(ours(path, "sd"), theirs(tmp_path / "sd", "sd"), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", PIPELINES)
def test_import_export_and_import_again_lose_nothing(
    folders: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    first = load_spec(spec_of(folders(name), tmp_path / "first" / "s.yaml", steps=None))
    exported = export_pipeline(first, tmp_path / "second" / name)
    second = load_spec(spec_of(exported.folder, tmp_path / "second" / "s.yaml", steps=None))
    before = (
        dump_spec(first).replace(str(folders(name).parent), "...").replace(str(tmp_path / "first"), "...")
    )
    assert dump_spec(second).replace(str(tmp_path / "second"), "...") == before
    for path in folders(name).glob("*/*.safetensors"):
        stored, again = tensors(path), tensors(exported.folder / path.relative_to(folders(name)))
        assert stored.keys() == again.keys()
        assert all(
            torch.equal(stored[key], again[key]) and stored[key].dtype == again[key].dtype for key in stored
        )


@pytest.mark.parametrize("name", PIPELINES)
def test_diffusers_draws_the_same_image_from_an_exported_folder(
    folders: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    path = spec_of(folders(name), tmp_path / "s.yaml")
    exported = export_pipeline(load_spec(path), tmp_path / "out")
    assert exported.call["num_inference_steps"] == STEPS
    drawn = theirs(exported.folder, name, **{k: v for k, v in exported.call.items() if name != "dit"})
    torch.testing.assert_close(ours(path, name), drawn, rtol=0, atol=1e-4)


def test_a_bundled_pipeline_opens_in_diffusers_and_draws_the_same(tmp_path: Path) -> None:
    # diffusers steps where it says only if the number divides 1000.
    spec = swap(load_spec("emoji-kl-dit"), scheduler_config={"steps": 8}, guidance_scale=1.0)
    exported = export_pipeline(spec, tmp_path / "emoji")
    pipe = tiny_pipelines.opened(exported.folder)
    generators = [torch.Generator().manual_seed(index) for index in range(2)]
    images = pipe(class_labels=[6, 1], generator=generators, output_type="np", **exported.call).images
    drawn = torch.from_numpy(images).permute(0, 3, 1, 2)
    mine = assemble(spec).sample(2, seed=0, condition={"class_label": [6, 1]}) / 2 + 0.5
    torch.testing.assert_close(mine, drawn, rtol=0, atol=1e-4)


def test_a_pipeline_that_diffusers_does_not_have_is_refused_with_every_reason(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        export_pipeline(load_spec("emoji-kl-unet"), tmp_path / "out")
    assert "hands no class_label to the network" in str(caught.value)
    with pytest.raises(SpecError, match="takes label 1000 for no class; this network has 9"):
        export_pipeline(load_spec("emoji-kl-dit"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_replaces_only_what_it_is_told_to(folders: Callable[[str], Path], tmp_path: Path) -> None:
    spec = load_spec(spec_of(folders("ddim"), tmp_path / "s.yaml"))
    export_pipeline(spec, tmp_path / "out")
    with pytest.raises(SpecError, match="exists already"):
        export_pipeline(spec, tmp_path / "out")
    export_pipeline(spec, tmp_path / "out", overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(SpecError, match="exists already"):
        export_pipeline(spec, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_half_precision_variants_are_taken_when_asked_for(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "half"
    tiny_pipelines.opened(folders("ddim")).to(torch.float16).save_pretrained(folder, variant="fp16")
    path = spec_of(folder, tmp_path / "s.yaml", variant="fp16")
    assert load_spec(path).denoiser.variant == "fp16"
    drawn = theirs(folder, "ddim", opened={"variant": "fp16"})
    torch.testing.assert_close(ours(path, "ddim"), drawn, rtol=0, atol=1e-4)


def test_a_transformer_of_the_old_class_is_what_its_norm_says(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "old"
    shutil.copytree(folders("dit"), folder)
    config = json.loads((folder / "transformer" / "config.json").read_text())
    older = {"_class_name": "Transformer2DModel", "num_vector_embeds": None, "cross_attention_dim": None}
    (folder / "transformer" / "config.json").write_text(json.dumps({**config, **older}))
    index = json.loads((folder / "model_index.json").read_text())
    index["transformer"] = ["diffusers", "Transformer2DModel"]
    (folder / "model_index.json").write_text(json.dumps(index))
    path = spec_of(folder, tmp_path / "s.yaml")
    torch.testing.assert_close(ours(path, "dit"), theirs(folders("dit"), "dit"), rtol=0, atol=1e-4)


def test_attention_under_its_old_names_is_read(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(folders("ldm"), folder)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = folder / "vqvae" / "diffusion_pytorch_model.safetensors"
    renamed = {}
    for name, tensor in load_file(weights).items():
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        renamed[name] = tensor
    assert renamed.keys() != load_file(weights).keys()
    save_file(renamed, weights, metadata={"format": "pt"})
    path = spec_of(folder, tmp_path / "s.yaml")
    torch.testing.assert_close(ours(path, "ldm"), theirs(folders("ldm"), "ldm"), rtol=0, atol=1e-4)


def test_what_came_from_class_defaults_is_listed_in_the_contracts(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "sparse"
    shutil.copytree(folders("ldm"), folder)
    config = json.loads((folder / "vqvae" / "config.json").read_text())
    del config["scaling_factor"], config["act_fn"]
    (folder / "vqvae" / "config.json").write_text(json.dumps(config))
    imported = import_pipeline(folder, tmp_path / "s.yaml")
    contract = imported.contracts[tmp_path / "s.contracts" / "vqvae.json"]
    assert set(contract.defaults) == {"scaling_factor: 0.18215", 'act_fn: "silu"'}


def test_the_normalisation_that_a_config_leaves_out_comes_from_the_family(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "sparse"
    shutil.copytree(folders("sdxl"), folder)
    config = json.loads((folder / "vae" / "config.json").read_text())
    del config["scaling_factor"]
    (folder / "vae" / "config.json").write_text(json.dumps(config))
    spec = import_pipeline(folder, tmp_path / "s.yaml").spec
    assert spec.decoder.config["scaling_factor"] == spec.encoder.config["scaling_factor"] == 0.13025


def test_a_byte_that_changes_after_the_import_is_refused(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(folders("ddim"), folder)
    path = spec_of(folder, tmp_path / "s.yaml")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="not what its contract says"):
        assemble(load_spec(path))


def test_weights_of_another_config_are_refused_at_import(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(folders("sd"), folder)
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps({**config, "layers_per_block": 2}))
    with pytest.raises(CheckpointError, match="missing: "):
        import_pipeline(folder, tmp_path / "s.yaml")
    assert not (tmp_path / "s.yaml").exists()
