from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from toy_plugin import CodecConfig, ToyDecoder, ToyEncoder

from ldm_registry.build import fresh
from ldm_registry.errors import CheckpointError, IntegrityError, NotFoundError
from ldm_registry.interfaces import Component
from ldm_registry.weight_files import read_weights, variants
from ldm_registry.weights import load_weights, read_config, read_contract
from ldm_registry.without_memory import WithoutMemory

CONFIG = CodecConfig(latent_channels=2, stride=2)
PLAIN = "diffusion_pytorch_model.safetensors"
INDEX = f"{PLAIN}.index.json"
SHARDS = tuple(f"diffusion_pytorch_model-{part:05}-of-00002.safetensors" for part in (1, 2))

Shards = Callable[..., Path]


def tensors(fill: float = 1.0) -> dict[str, Tensor]:
    halves = fresh(ToyEncoder, (CONFIG,), 0), fresh(ToyDecoder, (CONFIG,), 1)
    return {name: torch.full_like(t, fill) for half in halves for name, t in half.state_dict().items()}


def loaded(folder: Path, **options: object) -> Component:
    with WithoutMemory():
        encoder = ToyEncoder(CONFIG)
    load_weights(encoder, folder, **options)  # type: ignore[arg-type]  # passed on as given
    return encoder


def fill_of(component: Component) -> float:
    values = torch.cat([tensor.flatten().float() for tensor in component.state_dict().values()])
    assert values.min() == values.max()
    return float(values[0])


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    def write(
        change: Callable[[dict[str, str]], object] = lambda weight_map: None,
        index: str = INDEX,
        names: tuple[str, ...] = SHARDS,
        fill: float = 1.0,
        total_size: object = None,
    ) -> Path:
        halves: list[dict[str, Tensor]] = [{}, {}]
        weight_map = {}
        for place, (name, tensor) in enumerate(sorted(tensors(fill).items())):
            halves[place % 2][name] = tensor
            weight_map[name] = names[place % 2]
        for name, half in zip(names, halves, strict=True):
            save_file(half, tmp_path / name)
        change(weight_map)
        document = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
        (tmp_path / index).write_text(json.dumps(document))
        return tmp_path

    return write


@pytest.mark.parametrize("stem", ["diffusion_pytorch_model", "model"])
@pytest.mark.parametrize(
    ("variant", "index", "shard"),
    [
        (None, "{stem}.safetensors.index.json", "{stem}-0000{part}-of-00002.safetensors"),
        ("fp16", "{stem}.safetensors.index.fp16.json", "{stem}.fp16-0000{part}-of-00002.safetensors"),
        ("fp16", "{stem}.safetensors.fp16.index.json", "{stem}-0000{part}-of-00002.fp16.safetensors"),
    ],
)
def test_shards_load_under_every_name_that_was_ever_written(
    shards: Shards, stem: str, variant: str | None, index: str, shard: str
) -> None:
    names = tuple(shard.format(stem=stem, part=part) for part in (1, 2))
    folder = shards(index=index.format(stem=stem), names=names, fill=3.0)
    assert variants(folder) == (variant,)
    assert fill_of(loaded(folder, variant=variant)) == 3.0
    assert {file.name for file in read_weights(folder).files} == {*names, index.format(stem=stem)}


def test_the_variant_that_is_asked_for_is_the_one_that_loads(tmp_path: Path) -> None:
    for fill, name in enumerate(("", ".fp16", ".ema")):
        save_file(tensors(float(fill)), tmp_path / f"diffusion_pytorch_model{name}.safetensors")
    assert [fill_of(loaded(tmp_path, variant=name)) for name in (None, "fp16", "ema")] == [0.0, 1.0, 2.0]


def test_the_only_set_of_a_folder_needs_no_asking(tmp_path: Path) -> None:
    save_file(tensors(5.0), tmp_path / "model.fp16.safetensors")
    assert fill_of(loaded(tmp_path)) == 5.0


def test_which_of_several_variants_is_never_guessed(tmp_path: Path) -> None:
    for name in ("fp16", "ema"):
        save_file(tensors(), tmp_path / f"model.{name}.safetensors")
    with pytest.raises(NotFoundError, match="without a variant") as caught:
        loaded(tmp_path)
    assert caught.value.problems == ("model.ema.safetensors", "model.fp16.safetensors")
    assert "ema, fp16" in str(caught.value)


def test_a_variant_that_is_not_there_is_reported_with_those_that_are(tmp_path: Path) -> None:
    for name in ("", ".fp16"):
        save_file(tensors(), tmp_path / f"model{name}.safetensors")
    with pytest.raises(NotFoundError, match="did you mean 'fp16'") as caught:
        loaded(tmp_path, variant="fp61")
    assert caught.value.problems == ("model.fp16.safetensors", "model.safetensors")


def test_two_sets_with_the_same_claim_are_refused(tmp_path: Path, shards: Shards) -> None:
    shards()
    save_file(tensors(), tmp_path / PLAIN)
    with pytest.raises(CheckpointError, match="several sets") as caught:
        loaded(tmp_path)
    assert set(caught.value.problems) == {PLAIN, INDEX}


def test_pickles_beside_safetensors_are_left_alone(tmp_path: Path) -> None:
    save_file(tensors(2.0), tmp_path / PLAIN)
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    assert fill_of(loaded(tmp_path)) == 2.0


@pytest.mark.parametrize("total_size", [None, 0, 1.5, "many"])
def test_the_total_size_of_an_index_binds_nothing(shards: Shards, total_size: object) -> None:
    # Writers disagree on what it counts, so a number that is off says nothing about the shards.
    assert fill_of(loaded(shards(total_size=total_size))) == 1.0


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/etc/x.safetensors", "a\\x.safetensors", "x.bin", "", "a\x1b.safetensors", 3],
)
def test_an_index_that_names_anything_but_safetensors_beside_it_is_refused(
    shards: Shards, name: object
) -> None:
    folder = shards(lambda weight_map: weight_map.update({"encoder.bias": name}))
    with pytest.raises(CheckpointError, match="not the name of a safetensors file") as caught:
        loaded(folder)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "{"])
def test_an_index_without_a_weight_map_is_refused(shards: Shards, content: str) -> None:
    folder = shards()
    (folder / INDEX).write_text(content)
    with pytest.raises(CheckpointError):
        loaded(folder)


def test_a_tensor_that_the_index_maps_twice_is_refused(shards: Shards) -> None:
    folder = shards()
    (folder / INDEX).write_text('{"weight_map": {"a": "1.safetensors", "a": "2.safetensors"}}')
    with pytest.raises(CheckpointError, match="twice: 'a'"):
        loaded(folder)


def test_everything_that_an_index_lies_about_is_said_at_once(shards: Shards) -> None:
    def lie(weight_map: dict[str, str]) -> None:
        weight_map["encoder.bias"], weight_map["encoder.weight"] = weight_map["encoder.weight"], SHARDS[1]
        weight_map["encoder.ghost"] = SHARDS[0]
        weight_map["encoder.lost"] = "lost.safetensors"
        del weight_map["decoder.bias"]

    folder = shards(lie)
    save_file({"encoder.weight": torch.ones(2, 3, 2, 2), "decoder.weight": torch.ones(1)}, folder / SHARDS[1])
    with pytest.raises(CheckpointError) as caught:
        loaded(folder)
    assert caught.value.problems == (
        "missing: lost.safetensors, which should hold 1 tensors",
        f"encoder.bias: is not in {SHARDS[1]}, where the index has it; it is in {SHARDS[0]}",
        f"encoder.ghost: is not in {SHARDS[0]}, where the index has it",
        f"decoder.bias: is in {SHARDS[0]}, and the index does not list it",
    )


def test_a_tensor_in_two_shards_is_refused(shards: Shards) -> None:
    folder = shards()
    both = tensors()
    save_file(
        {
            "decoder.weight": both["decoder.weight"],
            "encoder.weight": both["encoder.weight"],
            "encoder.bias": both["encoder.bias"],
        },
        folder / SHARDS[1],
    )
    with pytest.raises(CheckpointError, match=rf"encoder\.bias: is in {SHARDS[0]} and in {SHARDS[1]}"):
        loaded(folder)


@pytest.mark.parametrize("name", ["config.json", "contract.json", PLAIN, INDEX, SHARDS[0]])
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, shards: Shards, name: str) -> None:
    shards()
    if name == PLAIN:
        (tmp_path / INDEX).unlink()
        save_file(tensors(), tmp_path / PLAIN)
    inside, outside = tmp_path / name, tmp_path.parent / f"{tmp_path.name}-outside"
    if inside.exists():
        inside.rename(outside)
    else:
        outside.write_text("{}")
    inside.symlink_to(outside)
    with pytest.raises(IntegrityError, match="outside of the checkpoint folder") as caught:
        {"config.json": read_config, "contract.json": read_contract}.get(name, loaded)(tmp_path)
    assert caught.value.exit_code == 4


def test_links_within_the_folder_and_to_the_folder_are_followed(tmp_path: Path) -> None:
    folder = tmp_path / "real"
    folder.mkdir()
    save_file(tensors(4.0), folder / "kept")
    (folder / PLAIN).symlink_to("kept")
    (tmp_path / "linked").symlink_to(folder)
    assert fill_of(loaded(tmp_path / "linked")) == 4.0


def test_a_link_that_leads_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").symlink_to("config.json")
    with pytest.raises((IntegrityError, NotFoundError)):
        read_config(tmp_path)


def hub_cache(top: Path, repository: str = "models--org--vae", commit: str = "a" * 40) -> tuple[Path, Path]:
    snapshot = top / repository / "snapshots" / commit / "vae"
    blobs = top / repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir(exist_ok=True)
    return snapshot, blobs


def link(snapshot: Path, target: Path) -> None:
    save_file(tensors(6.0), target)
    (snapshot / PLAIN).symlink_to(os.path.relpath(target, snapshot))


def test_the_cache_of_the_hub_may_link_to_its_own_blobs(tmp_path: Path) -> None:
    snapshot, blobs = hub_cache(tmp_path)
    link(snapshot, blobs / ("f" * 64))
    assert fill_of(loaded(snapshot)) == 6.0
    (tmp_path / "by-link").symlink_to(snapshot)
    assert fill_of(loaded(tmp_path / "by-link")) == 6.0


@pytest.mark.parametrize("case", ["other repository", "beside the blobs", "no commit", "no repository"])
def test_nothing_else_may_look_like_the_cache_of_the_hub(tmp_path: Path, case: str) -> None:
    repository = "org--vae" if case == "no repository" else "models--org--vae"
    snapshot, blobs = hub_cache(tmp_path, repository, "main" if case == "no commit" else "a" * 40)
    other = hub_cache(tmp_path, "models--org--other")[1]
    targets = {"other repository": other / "f", "beside the blobs": blobs.parent / "f"}
    link(snapshot, targets.get(case, blobs / "f"))
    with pytest.raises(IntegrityError, match="outside of the checkpoint folder"):
        loaded(snapshot)


def test_half_precision_converts_where_it_is_asked_to_and_stays_where_not(tmp_path: Path) -> None:
    halved = {name: torch.rand(tensor.shape).half() for name, tensor in tensors().items()}
    save_file(halved, tmp_path / PLAIN)
    kept, wide = loaded(tmp_path), loaded(tmp_path, dtype=torch.float32)
    for name, tensor in kept.state_dict().items():
        assert tensor.dtype == torch.float16
        assert torch.equal(tensor, halved[name])
        assert torch.equal(wide.state_dict()[name], halved[name].float())


def test_weights_that_leave_the_range_of_the_type_asked_for_are_refused(tmp_path: Path) -> None:
    save_file(tensors(1e5), tmp_path / PLAIN)
    assert fill_of(loaded(tmp_path, dtype=torch.float32)) == 1e5
    with pytest.raises(CheckpointError, match=r"encoder\.bias: 2 of 2 .* in torch\.float16"):
        loaded(tmp_path, dtype=torch.float16)


def test_values_whose_sum_overflows_are_finite_all_the_same(tmp_path: Path) -> None:
    save_file(tensors(3e38), tmp_path / PLAIN)
    assert fill_of(loaded(tmp_path)) == pytest.approx(3e38)


def test_loaded_tensors_share_the_memory_of_the_file_and_never_write_to_it(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / PLAIN)
    before = (tmp_path / PLAIN).read_bytes()
    component = loaded(tmp_path)
    with torch.no_grad():
        for tensor in component.parameters():
            tensor.add_(1.0)
    assert fill_of(component) == 2.0
    assert (tmp_path / PLAIN).read_bytes() == before
    assert fill_of(loaded(tmp_path)) == 1.0
