from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import toy_plugin
import toy_text

from ldm_registry.assembly import assemble
from ldm_registry.conditioning import condition_of, encoded, negative_of
from ldm_registry.errors import ContractError, LdmError, NotFoundError, SpecError
from ldm_registry.pipeline import Pipeline
from ldm_registry.registry import Registry
from ldm_registry.spec import load_spec, swap

SPEC = """
version: 1
image: {channels: 3, size: [16, 8]}
encoder: {use: toy-codec}
denoiser: {use: toy-reader, trained: {prediction: v, schedule: {name: toy_schedule}}}
scheduler: {use: toy-scheduler, config: {steps: 3}}
decoder: {use: toy-codec}
conditioners:
  text: {use: toy-writer}
  size: {use: toy-ruler}
condition: {prompt: [one, two]}
guidance: {scale: 2.0}
"""
Make = Callable[..., Pipeline]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(*replacements: tuple[str, str]) -> Pipeline:
        text = SPEC
        for before, after in replacements:
            assert before in text
            text = text.replace(before, after)
        (tmp_path / "spec.yaml").write_text(text)
        return assemble(load_spec(tmp_path / "spec.yaml"), Registry([toy_plugin, toy_text]), init_seed=4)

    return make


def writer(pipe: Pipeline, label: str = "text") -> toy_text.ToyWriter:
    part = pipe.conditioners[label]
    assert isinstance(part, toy_text.ToyWriter)
    return part


def refusal(make: Make, *replacements: tuple[str, str]) -> str:
    with pytest.raises(LdmError) as caught:
        make(*replacements)
    return str(caught.value)


def test_the_images_of_a_run_take_the_texts_in_turn(make: Make) -> None:
    pipe = make()
    images = pipe.sample(4, seed=0)
    alone = pipe.sample(1, seed=3, condition={"prompt": ["two"]})
    torch.testing.assert_close(images[3:], alone)


def test_another_text_is_another_image(make: Make) -> None:
    pipe = make()
    first, second = (pipe.sample(1, seed=0, condition={"prompt": [text]}) for text in ("one", "two"))
    assert not torch.allclose(first, second)


def test_equal_texts_are_encoded_once(make: Make) -> None:
    pipe = make()
    pipe.sample(5, seed=0)
    assert writer(pipe).seen == [["one", "two"], [""]]


def test_guidance_scale_one_encodes_no_negative_text(make: Make) -> None:
    pipe = make(("scale: 2.0", "scale: 1.0"))
    pipe.sample(1)
    assert writer(pipe).seen == [["one"]]


def test_guidance_leads_away_from_the_negative_text(make: Make) -> None:
    same = make(("{scale: 2.0}", "{scale: 2.0, negative: {prompt: one}}"), ("[one, two]", "one"))
    unguided = make(("{scale: 2.0}", "{scale: 1.0}"), ("[one, two]", "one"))
    torch.testing.assert_close(same.sample(1, seed=0), unguided.sample(1, seed=0))
    other = make(("{scale: 2.0}", "{scale: 2.0, negative: {prompt: two}}"), ("[one, two]", "one"))
    assert not torch.allclose(other.sample(1, seed=0), unguided.sample(1, seed=0))


def test_scale_zero_is_the_negative_text_alone(make: Make) -> None:
    negative = make(("{scale: 2.0}", "{scale: 0.0, negative: {prompt: two}}"), ("[one, two]", "one"))
    positive = make(("{scale: 2.0}", "{scale: 1.0}"), ("[one, two]", "two"))
    torch.testing.assert_close(negative.sample(1, seed=0), positive.sample(1, seed=0))


def test_a_conditioner_without_inputs_is_told_the_size_of_the_image(make: Make) -> None:
    pipe = make()
    condition = condition_of(
        pipe.denoiser, pipe.conditioners, {"prompt": ["a"]}, range(3), (pipe.spec.image.height, 8)
    )
    assert condition["size_and_crop"].tolist() == [[16.0, 8.0]] * 3


def test_one_name_from_several_conditioners_is_joined_in_the_order_of_their_labels(make: Make) -> None:
    two = "{b: {use: toy-writer, config: {width: 1}}, a: {use: toy-writer, config: {width: 2, reads: style}}}"
    pipe = make(
        ("\n  text: {use: toy-writer}\n  size: {use: toy-ruler}", f" {two}"),
        ("prompt: [one, two]", "prompt: [one], style: [x]"),
    )
    given = encoded(pipe.conditioners, {"prompt": ["one"], "style": ["x"]}, 1, (16, 8))["text_embedding"]
    assert given.shape == (1, 4, 3)
    torch.testing.assert_close(given[0, 0], torch.tensor([ord("x"), ord("x"), ord("o")]) / 64.0)


def test_a_negative_that_is_not_given_is_the_empty_text(make: Make) -> None:
    pipe = make()
    given = negative_of(pipe.conditioners, {}, 2, (16, 8))
    assert torch.equal(given["text_embedding"][0], given["text_embedding"][1])
    assert writer(pipe).seen[-1] == [""]


def test_embeddings_follow_the_denoiser_in_type(make: Make) -> None:
    pipe = make(("use: toy-reader,", "use: toy-reader, dtype: float64,"))
    assert pipe.sample(1).isfinite().all()


def test_a_missing_text_is_named_with_the_line_that_is_lacking(make: Make) -> None:
    pipe = make()
    with pytest.raises(SpecError) as caught:
        pipe.sample(1, condition={})
    assert "conditioner text (toy-writer) reads prompt" in str(caught.value)
    assert "condition: {prompt: ...}" in str(caught.value)


def test_a_condition_that_nothing_takes_is_refused_before_a_run_and_in_one(make: Make) -> None:
    assert "takes no condition 'promt'; did you mean 'prompt'" in refusal(make, ("prompt:", "promt:"))
    with pytest.raises(SpecError, match="did you mean 'prompt'"):
        make().sample(1, condition={"promt": ["x"]})


def test_widths_that_do_not_add_up_are_refused(make: Make) -> None:
    text = refusal(make, ("{use: toy-writer}", "{use: toy-writer, config: {width: 2}}"))
    assert "takes text_embedding of width 3; the conditioners give 2" in text


def test_what_the_denoiser_does_not_take_is_refused(make: Make) -> None:
    text = refusal(make, ("use: toy-reader", "use: toy-denoiser"))
    assert (
        "conditioner size (toy-ruler) gives 'size_and_crop', which denoiser 'toy-denoiser' does not take"
        in text
    )
    assert "conditioner text (toy-writer) gives 'text_embedding'" in text


def test_a_negative_that_nothing_reads_is_refused(make: Make) -> None:
    text = refusal(make, ("{scale: 2.0}", "{scale: 2.0, negative: {promt: x}}"))
    assert "guidance has a negative 'promt', which no conditioner reads" in text


def test_a_denoiser_that_is_given_no_text_is_a_warning(make: Make) -> None:
    pipe = make(
        ("  text: {use: toy-writer}\n", ""),
        ("condition: {prompt: [one, two]}\n", ""),
        ("scale: 2.0", "scale: 1.0"),
    )
    (warning,) = pipe.warnings
    assert "denoiser 'toy-reader' needs text_embedding" in warning


def test_a_tokenizer_that_does_not_exist_is_named(make: Make) -> None:
    with pytest.raises(NotFoundError, match="nowhere does not exist"):
        make(("{use: toy-writer}", "{use: toy-writer, tokenizer: nowhere}"))


def test_a_tokenizer_is_handed_over_as_seen_from_the_spec(make: Make, tmp_path: Path) -> None:
    (tmp_path / "words").mkdir()
    pipe = make(("{use: toy-writer}", "{use: toy-writer, tokenizer: words}"))
    assert writer(pipe).tokenizer == tmp_path / "words"


def test_a_conditioner_that_changes_keeps_nothing_of_the_old_one(make: Make) -> None:
    spec = make(("{use: toy-writer}", "{use: toy-writer, config: {width: 3}}")).spec
    changed = swap(spec, conditioners={"text": {"use": "other"}})
    assert dict(changed.conditioners["text"].config) == {}
    assert changed.conditioners["size"].use == "toy-ruler"


def test_a_contract_beside_the_folder_has_to_be_for_the_part(make: Make, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("{}")
    (tmp_path / "one.json").write_text('{"components": {"conditioner": "toy-ruler"}}')
    with pytest.raises(ContractError, match="not of conditioner 'toy-writer'"):
        make(("{use: toy-writer}", "{use: toy-writer, checkpoint: folder, contract: one.json}"))
    with pytest.raises(NotFoundError, match=r"two\.json"):
        make(("{use: toy-writer}", "{use: toy-writer, checkpoint: folder, contract: two.json}"))


def test_a_contract_without_a_checkpoint_is_refused(make: Make, tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text("{}")
    with pytest.raises(SpecError, match="has no checkpoint; leave out `contract"):
        make(("{use: toy-writer}", "{use: toy-writer, contract: one.json}"))
