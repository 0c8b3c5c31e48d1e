from __future__ import annotations

import re

import pytest
import yaml

from ldm_registry.contracts import Contract, DenoisingError, LatentStatistics, SelfTest
from ldm_registry.errors import SpecError
from ldm_registry.travel.card_text import BEGIN, END, card, split, table
from ldm_registry.travel.model_card import Facts, Picture, checkpoint_card, tags_of
from ldm_registry.vocabulary import Kind, Prediction

CODEC = Contract(
    components={Kind.ENCODER: "kl-vae", Kind.DECODER: "kl-vae"},
    image_channels=3,
    latent_channels=4,
    stride=8,
    latent_measured=LatentStatistics(mean=(0.1, 0.2, 0.0, 0.0), std=(1.0, 1.1, 0.9, 1.0), images=256),
    self_test=SelfTest(data="set-val.tar sha256:00", round_trip_psnr_db=26.4359),
)
DENOISER = Contract(
    components={Kind.DENOISER: "dit"},
    latent_channels=4,
    prediction=Prediction.V,
    schedule={"name": "squaredcos_cap_v2", "steps": 1000},
    classes=9,
    null_class=9,
    self_test=SelfTest(
        data="set-val.tar sha256:00",
        denoising_error=(
            DenoisingError(log_snr=-1.0, x0_mse=0.2, gaussian_x0_mse=0.4),
            DenoisingError(log_snr=1.0, x0_mse=0.1, gaussian_x0_mse=0.1),
        ),
    ),
)
FACTS = Facts("org/emoji", "1.2.0", foreign=("diffusers", "AutoencoderKL"), licence="apache-2.0")


def front(text: str) -> dict[str, object]:
    found = yaml.safe_load(text.split("---\n")[1])
    assert isinstance(found, dict)
    return found


def test_the_metadata_makes_it_findable() -> None:
    said = front(checkpoint_card(None, CODEC, FACTS))
    assert said["library_name"] == "ldm-registry"
    assert said["license"] == "apache-2.0"
    assert said["tags"] == [
        "ldm-component",
        "ldm-encoder",
        "ldm-decoder",
        "ldm-uses-kl-vae",
        "ldm-latent-4ch-f8",
        "diffusers",
    ]


def test_a_denoiser_is_tagged_with_the_latents_that_it_is_for() -> None:
    assert "ldm-latent-4ch" in tags_of(DENOISER)
    assert "ldm-latent-4ch-f8" in tags_of(DENOISER, 8)


def test_the_figures_are_given_in_the_form_that_the_hub_lists() -> None:
    from huggingface_hub import ModelCard

    text = checkpoint_card(None, CODEC, FACTS)
    (result,) = ModelCard(text).data.eval_results or ()
    assert (result.metric_type, result.metric_value) == ("psnr", 26.4359)
    assert result.dataset_name == "set-val.tar"
    (denoising,) = ModelCard(checkpoint_card(None, DENOISER, FACTS)).data.eval_results or ()
    assert denoising.metric_value == pytest.approx(0.75)


def test_what_others_paste_names_the_repository_and_the_version() -> None:
    text = checkpoint_card(None, CODEC, FACTS)
    assert "ldm pull org/emoji@v1.2.0" in text
    assert "decoder: {use: kl-vae, checkpoint: hf://org/emoji@COMMIT}" in text
    assert 'AutoencoderKL.from_pretrained("org/emoji", revision="v1.2.0")' in text


def test_every_table_is_one_that_the_hub_renders() -> None:
    for contract in (CODEC, DENOISER):
        text = checkpoint_card(None, contract, FACTS)
        tables = re.findall(r"\n\n((?:\|.*\n)+)", text)
        assert len(tables) > 1
        for one in tables:
            header, rule, *rows = one.splitlines()
            assert re.fullmatch(r"(\| --- )+\|", rule)
            assert rows
            assert {len(re.findall(r"(?<!\\)\|", line)) for line in (header, *rows)} == {rule.count("|")}


def test_a_cell_cannot_break_its_table() -> None:
    assert table(("a",), [("x | y\nz",)]).splitlines()[-1] == "| x \\| y z |"


def test_pictures_stand_with_a_title_and_what_is_to_be_seen() -> None:
    facts = Facts("org/x", "1.0.0", pictures=(Picture("a.png", b"", "Round trip", "Above: before."),))
    assert "## Round trip\n\n![Round trip](a.png)\n\nAbove: before." in checkpoint_card(None, CODEC, facts)


def test_what_the_author_wrote_is_kept() -> None:
    own = (
        "---\nlicense: mit\nlanguage: [de]\ndatasets:\n- org/set\nbase_model: org/base\ntags: [mine]\n---\n"
        "# My codec\n\nMy words.\n\n## My section\n\nMore | words.\n"
    )
    text = checkpoint_card(own, CODEC, FACTS)
    said = front(text)
    assert (said["license"], said["base_model"]) == ("mit", "org/base")
    assert (said["language"], said["datasets"]) == (["de"], ["org/set"])
    assert "mine" in list(said["tags"])  # type: ignore[call-overload]  # a list
    assert "ldm-component" in list(said["tags"])  # type: ignore[call-overload]  # a list
    before, ours, after = text.partition(BEGIN)[0], text, text.partition(END)[2]
    assert before.endswith("# My codec\n\nMy words.\n\n")
    assert ours.count("# My codec") == 1
    assert after == "\n\n## My section\n\nMore | words.\n"


def test_a_card_that_is_made_again_stays_the_same() -> None:
    once = checkpoint_card("# Mine\n\nWords.\n\n## More\n\nEnd.\n", CODEC, FACTS)
    assert checkpoint_card(once, CODEC, FACTS) == once


def test_the_part_of_ours_follows_the_contract() -> None:
    once = checkpoint_card(None, CODEC, FACTS)
    better = CODEC.model_copy(
        update={"self_test": SelfTest(data="set-val.tar sha256:00", round_trip_psnr_db=30.0)}
    )
    twice = checkpoint_card(once, better, Facts("org/emoji", "2.0.0"))
    assert "26.4" not in twice
    assert "v1.2.0" not in twice
    assert twice.count(BEGIN) == 1


def test_results_under_a_name_of_the_author_s_stay() -> None:
    def result(value: float) -> dict[str, object]:
        return {
            "task": {"type": "t"},
            "dataset": {"type": "d", "name": "d"},
            "metrics": [{"type": "m", "value": value}],
        }

    def listed(*entries: tuple[str, float]) -> list[dict[str, object]]:
        return [{"name": name, "results": [result(value)]} for name, value in entries]

    def after(own: list[dict[str, object]]) -> list[object]:
        text = card(f"---\n{yaml.safe_dump({'model-index': own})}---\n", {"model-index": ours}, "x", "made")
        found = front(text)["model-index"]
        assert isinstance(found, list)
        return [(one["name"], one["results"][0]["metrics"][0]["value"]) for one in found]

    ours = listed(("ours", 3.0))
    assert after(listed(("ours", 2.0))) == [("ours", 3.0)]
    assert after(listed(("theirs", 1.0))) == [("theirs", 1.0)]


def test_front_matter_with_windows_line_ends_is_read() -> None:
    fields, body = split("---\r\nlicense: mit\r\n---\r\n# X\r\n")
    assert (fields, body) == ({"license": "mit"}, "# X\n")


@pytest.mark.parametrize("text", ["---\n- a\n---\n", "---\na: &x 1\nb: *x\n---\n", "---\na: [\n---\n"])
def test_front_matter_that_is_no_plain_mapping_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"README\.md"):
        split(text)


def test_an_error_in_the_front_matter_names_its_line() -> None:
    with pytest.raises(SpecError, match=r"README\.md:3"):
        split("---\nlicense: mit\nlicense: apache-2.0\n---\n")


def test_a_part_without_a_foreign_class_says_so() -> None:
    text = checkpoint_card(None, DENOISER, Facts("org/x", "1.0.0"))
    assert "no class in diffusers" in text
    assert "diffusers" not in list(front(text)["tags"])  # type: ignore[call-overload]  # a list


def test_figures_on_the_very_images_it_was_made_from_are_named_as_such() -> None:
    same = CODEC.model_copy(update={"training": {"trained_on": "set-val.tar"}})
    assert "made from these very images" in checkpoint_card(None, same, FACTS)
    assert "made from these very images" not in checkpoint_card(None, CODEC, FACTS)
