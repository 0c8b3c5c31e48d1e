from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ldm_registry import spec_paths
from ldm_registry.errors import LdmError, NotFoundError, SpecError
from ldm_registry.spec import (
    CodecRuntimeSpec,
    ConditionerRuntimeSpec,
    ConditionerSpec,
    DataSpec,
    DenoiserSpec,
    GuidanceSpec,
    ImageSpec,
    ModifierSpec,
    PipelineSpec,
    RuntimeSpec,
    SchedulerSpec,
    ScheduleSpec,
    StageSpec,
    TrainedSpec,
    bundled_specs,
    dump_spec,
    load_spec,
    spec_digest,
    swap,
)
from ldm_registry.training.settings import CodecTraining, TrainSpec
from ldm_registry.vocabulary import DType, Prediction
from ldm_registry.yaml_scalars import has_control_characters

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEXT = f"""\
version: 1
image: {{channels: 3, size: 64}}
encoder: {{use: kl-vae, checkpoint: checkpoints/kl}}
denoiser: {{use: dit, checkpoint: checkpoints/dit, config: {{depth: 6}}, dtype: bfloat16, device: cuda}}
scheduler: {{use: ddim, config: {{steps: 50, eta: 1.0}}}}
decoder: {{use: kl-vae, checkpoint: hf://org/kl@{COMMIT}}}
condition: {{class_label: [6, 1]}}
guidance: {{scale: 2.0}}
data: {{images: data/val.tar}}
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a file of a folder that is the current one, so that messages name it in short."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


@pytest.fixture
def spec(write: Write) -> PipelineSpec:
    return load_spec(write("a.yaml", TEXT))


def problems(action: Callable[[], object]) -> tuple[str, ...]:
    with pytest.raises(SpecError) as caught:
        action()
    return caught.value.problems


def changed(line: str) -> str:
    """The example with the line of one key replaced, or a line added."""
    key = line.partition(":")[0]
    return "".join(f"{old}\n" for old in TEXT.splitlines() if old.partition(":")[0] != key) + line + "\n"


def test_a_spec_is_read_with_its_defaults_and_absolute_paths(spec: PipelineSpec, tmp_path: Path) -> None:
    assert spec == PipelineSpec(
        image=ImageSpec(size=64),
        encoder=StageSpec(use="kl-vae", checkpoint=str(tmp_path / "checkpoints/kl")),
        denoiser=DenoiserSpec(
            use="dit",
            checkpoint=str(tmp_path / "checkpoints/dit"),
            config={"depth": 6},
            dtype=DType.BFLOAT16,
            device="cuda",
        ),
        scheduler=SchedulerSpec(use="ddim", config={"steps": 50, "eta": 1.0}),
        decoder=StageSpec(use="kl-vae", checkpoint=f"hf://org/kl@{COMMIT}"),
        condition={"class_label": (6, 1)},
        guidance=GuidanceSpec(scale=2.0),
        data=DataSpec(images=tmp_path / "data/val.tar"),
    )
    assert spec.source == tmp_path / "a.yaml"
    assert (spec.seed, spec.train, spec.encoder.config) == (0, None, {})


def test_a_spec_cannot_be_changed(spec: PipelineSpec) -> None:
    with pytest.raises(ValueError, match="frozen"):
        spec.seed = 3  # type: ignore[misc]  # this is what is tested
    with pytest.raises(TypeError):
        spec.scheduler.config["steps"] = 3  # type: ignore[index]  # this is what is tested
    with pytest.raises(TypeError):
        spec.condition["class_label"] = (1,)  # type: ignore[index]  # this is what is tested


def test_equal_specs_have_equal_hashes_wherever_they_came_from(spec: PipelineSpec) -> None:
    elsewhere = spec.with_source(None)
    assert elsewhere == spec
    assert hash(elsewhere) == hash(spec)
    assert elsewhere.source is None
    assert swap(spec, seed=1) != spec
    assert pickle.loads(pickle.dumps(spec)) == copy.deepcopy(spec) == spec


def test_a_scalar_condition_is_a_list_of_one_and_a_square_is_one_number(write: Write) -> None:
    spec = load_spec(write("a.yaml", changed("condition: {class_label: 6, prompt: [a cat, a dog]}")))
    assert spec.condition == {"class_label": (6,), "prompt": ("a cat", "a dog")}
    square, wide = swap(spec, image_size=[32, 32]), swap(spec, image_size=(32, 64))
    assert (square.image.size, wide.image.size) == (32, (32, 64))
    assert (wide.image.height, wide.image.width) == (32, 64)


WRONG = {
    "seeed: 1": "a.yaml:10:1: seeed: unknown key; did you mean 'seed'?",
    "source: a.yaml": "a.yaml:10:1: source: unknown key; choose from",
    "image: {size: 64, chanels: 3}": "a.yaml:9:19: image.chanels: unknown key; did you mean 'channels'?",
    "encoder: {use: kl-vae, chekpoint: x}": "a.yaml:9:24: encoder.chekpoint: unknown key; did you mean 'checkpoint'?",
    "encoder: {use: kl-vae, target: ldm.models.AutoencoderKL}": "a.yaml:9:24: encoder.target: unknown key",
    "encoder: {use: ldm.models.AutoencoderKL}": "a.yaml:9:16: encoder.use: got 'ldm.models.AutoencoderKL'; expected",
    "encoder: kl-vae": "a.yaml:9:10: encoder: got 'kl-vae' (a text); expected a mapping",
    "encoder: {}": "a.yaml:9:1: encoder.use: is missing",
    "encoder: {use: 3}": "a.yaml:9:16: encoder.use: got 3; expected a text",
    "encoder: {use: kl-vae, config: [1]}": "a.yaml:9:32: encoder.config: got a list; expected a mapping",
    "encoder: {use: kl-vae, config: {a: [1, {b: 2}]}}": "a.yaml:9:36: encoder.config.a: got a mapping; expected a text",
    "encoder: {use: kl-vae, dtype: float17}": "a.yaml:9:31: encoder.dtype: got 'float17' (a text); did you mean",
    "encoder: {use: kl-vae, device: 'cuda:x'}": "a.yaml:9:32: encoder.device: got 'cuda:x'; expected a torch device",
    "encoder: {use: kl-vae, checkpoint: hf://org/x@main}": "a.yaml:9:36: encoder.checkpoint: got 'hf://org/x@main'",
    "encoder: {use: kl-vae, checkpoint: hf:org/x}": "expected hf://org/name@<40-hex commit>",
    "encoder: {use: kl-vae, checkpoint: 'https://x.org/y'}": "expected a folder or hf://org/name@<40-hex commit>",
    "encoder: {use: kl-vae, checkpoint: ''}": "a.yaml:9:36: encoder.checkpoint: is empty; expected a path",
    "scheduler: {use: ddim, checkpoint: x}": "a.yaml:9:24: scheduler.checkpoint: unknown key",
    "denoiser: {use: dit, trained: {prediction: eps, schedule: {name: cosine}}}": "got 'eps' (a text); did you mean",
    "denoiser: {use: dit, trained: {prediction: v}}": "a.yaml:9:22: denoiser.trained.schedule: is missing",
    "denoiser: {use: dit, trained: {prediction: v, schedule: {beta_start: 1}}}": "trained.schedule.name: is missing",
    "denoiser: {use: dit, trained: {prediction: v, schedule: {name: a, config: {b: 1}}}}": "a schedule has no `config`",
    "denoiser: {use: dit, trained: {prediction: v, schedule: {name: a}, time_scale: 0}}": "got 0; expected more than 0",
    "guidance: {scale: no}": "a.yaml:9:19: guidance.scale: got 'no' (a text); expected a number",
    "guidance: {scale: '2'}": "a.yaml:9:19: guidance.scale: got '2' (a text); expected a number",
    "guidance: null": "a.yaml:9:11: guidance: got null; expected a mapping",
    "seed: 1.0": "a.yaml:10:7: seed: got 1.0; expected an integer",
    "seed: -1": "a.yaml:10:7: seed: got -1; expected at least 0",
    "seed: true": "a.yaml:10:7: seed: got true; expected an integer",
    "image: {size: 64.0}": "a.yaml:9:15: image.size: got 64.0; expected the side in pixels or [height, width]",
    "image: {size: [64, 64, 3]}": "a.yaml:9:15: image.size: got [64, 64, 3]; expected the side in pixels",
    "image: {size: 1000000000}": "a.yaml:9:15: image.size: got 1000000000; expected the side in pixels",
    "condition: {class_label: [1, two]}": "a.yaml:9:26: condition.class_label: got [1, 'two']; expected an integer",
    "condition: {class_label: []}": "condition.class_label: got []; expected an integer or a text",
    "condition: {class_label: true}": "condition.class_label: got True; expected an integer or a text",
    "data: {images: 'file:///etc/passwd'}": "a.yaml:9:16: data.images: got 'file:///etc/passwd'; expected a path",
    "data: {train: x.tar}": "a.yaml:9:1: data.images: is missing",
    "version: 2": "a.yaml:9:10: version: got 2; expected 1",
    "train: {codec: {stps: 3}}": "a.yaml:10:17: train.codec.stps: unknown key; did you mean 'steps'?",
    "train: {codec: {betas: [1, 2, 3]}}": "a.yaml:10:24: train.codec.betas: got a list; tuple should have at most 2",
    "train: {codec: {decay: cosin}}": "a.yaml:10:24: train.codec.decay: got 'cosin' (a text); did you mean 'cosine'?",
    "train: {images: 'http://x/y.tar'}": "a.yaml:10:8: train: got 'http://x/y.tar'; expected a path on this machine",
}


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_value_is_named_with_its_place_and_what_was_expected(write: Write, line: str) -> None:
    found = problems(lambda: load_spec(write("a.yaml", changed(line))))
    assert len(found) == 1
    assert WRONG[line] in found[0]


def test_all_problems_come_at_once_in_the_order_of_the_file(write: Write) -> None:
    text = "version: 1\nimage: {size: big}\nencoder: {use: a, x: 1}\ndecoder: {use: b, dtype: int8}\nguidance: 3\n"
    found = problems(lambda: load_spec(write("a.yaml", text)))
    assert [line.split(": ")[1] for line in found] == [
        "denoiser",
        "scheduler",
        "image.size",
        "encoder.x",
        "decoder.dtype",
        "guidance",
    ]


def test_a_file_has_to_say_its_version(write: Write) -> None:
    found = problems(lambda: load_spec(write("a.yaml", TEXT.removeprefix("version: 1\n"))))
    assert found == ("a.yaml:1:1: version: is missing; write `version: 1`",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", "it is empty"), ("- 1\n", "got a list"), ("hello\n", "got a text"), ("3", "got an integer")],
)
def test_a_file_that_is_no_mapping_is_refused(write: Write, text: str, expected: str) -> None:
    assert expected in problems(lambda: load_spec(write("a.yaml", text)))[0]


SCHEDULES = {
    "{name: sqrt_linear, beta_start: 0.1, beta_end: 0.2}": "'sqrt_linear' is what LDM and ComfyUI call",
    "{name: linear}": "'linear' means two things",
    "{name: linear, beta_start: 0.1}": "'linear' means two things",
    "{name: scaled-linear}": "lower-case names with underscores",
    "{name: a.b}": "lower-case names with underscores",
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_an_ambiguous_or_foreign_schedule_name_is_refused(write: Write, schedule: str) -> None:
    found = problems(
        lambda: load_spec(write("a.yaml", changed(f"scheduler: {{use: ddim, schedule: {schedule}}}")))
    )
    assert found[0].startswith("a.yaml:9:34: scheduler.schedule: ")
    assert SCHEDULES[schedule] in found[0]


def test_a_schedule_has_its_settings_beside_its_name(write: Write) -> None:
    line = "scheduler: {use: ddim, schedule: {name: linear, beta_start: 1e-4, beta_end: 0.02, trained_betas: [1, 2]}}"
    schedule = load_spec(write("a.yaml", changed(line))).scheduler.schedule
    assert schedule is not None
    assert schedule.name == "linear"
    assert schedule.config == {"beta_start": 1e-4, "beta_end": 0.02, "trained_betas": (1, 2)}


def test_a_child_changes_what_it_says_and_keeps_the_rest(write: Write, spec: PipelineSpec) -> None:
    child = load_spec(
        write(
            "sub/b.yaml",
            "extends: ../a.yaml\nguidance: {scale: 3.0}\ncondition: {class_label: [2]}\n"
            "scheduler: {config: {steps: 20}}\ndata: null\ndenoiser: {device: null, config: {width: 8}}\n",
        )
    )
    assert child.guidance.scale == 3.0
    assert child.condition == {"class_label": (2,)}
    assert child.scheduler.config == {"steps": 20, "eta": 1.0}
    assert child.data is None
    assert child.denoiser.device is None
    assert child.denoiser.config == {"depth": 6, "width": 8}
    assert child.encoder == spec.encoder


def test_a_new_component_keeps_nothing_of_the_old_one_but_the_number_of_steps(
    write: Write, spec: PipelineSpec
) -> None:
    text = "extends: a.yaml\ndenoiser: {use: unet}\nscheduler: {use: euler}\nencoder: {use: vq-vae, checkpoint: vq}\n"
    child = load_spec(write("b.yaml", text))
    assert child.denoiser == DenoiserSpec(use="unet", dtype=DType.BFLOAT16, device="cuda")
    assert child.scheduler == SchedulerSpec(use="euler", config={"steps": 50})
    assert child.encoder == StageSpec(use="vq-vae", checkpoint=str(Path.cwd() / "vq"))
    assert child.decoder == spec.decoder


def test_a_stage_that_names_its_component_again_keeps_its_weights(write: Write, spec: PipelineSpec) -> None:
    child = load_spec(write("b.yaml", "extends: a.yaml\ndenoiser: {use: dit}\n"))
    assert child.denoiser == spec.denoiser


def test_a_schedule_with_another_name_keeps_none_of_its_settings(write: Write) -> None:
    write(
        "a.yaml", changed("scheduler: {use: ddim, schedule: {name: linear, beta_start: 0.1, beta_end: 0.2}}")
    )
    child = load_spec(write("b.yaml", "extends: a.yaml\nscheduler: {schedule: {name: sigmoid, steps: 10}}\n"))
    assert child.scheduler.schedule == ScheduleSpec(name="sigmoid", steps=10)


def test_a_problem_is_reported_in_the_file_where_it_stands(write: Write) -> None:
    write("parents/a.yaml", changed("guidance: {scale: high}"))
    found = problems(lambda: load_spec(write("b.yaml", "extends: parents/a.yaml\nseed: one\n")))
    assert sorted(line.split(": ")[0] for line in found) == ["b.yaml:2:7", "parents/a.yaml:9:19"]


def test_specs_that_extend_one_another_in_a_circle_are_refused(write: Write) -> None:
    write("a.yaml", "extends: b.yaml\n")
    write("b.yaml", "extends: a.yaml\n")
    found = problems(lambda: load_spec("a.yaml"))
    assert found == (
        "b.yaml:1:10: extends: specs extend one another in a circle: a.yaml -> b.yaml -> a.yaml",
    )
    write("c.yaml", "extends: c.yaml\n")
    assert "c.yaml -> c.yaml" in problems(lambda: load_spec("c.yaml"))[0]


def test_at_most_eight_specs_extend_one_another(write: Write) -> None:
    write("s0.yaml", TEXT)
    for n in range(1, 9):
        write(f"s{n}.yaml", f"extends: s{n - 1}.yaml\nseed: {n}\n")
    assert load_spec("s7.yaml").seed == 7
    assert (
        "more than 8 specs extend one another: s8.yaml -> s7.yaml"
        in problems(lambda: load_spec("s8.yaml"))[0]
    )


@pytest.mark.parametrize("name", ["gone.yaml", "http://x.org/a.yaml", "3", "[a]"])
def test_a_parent_that_is_not_there_is_named_with_the_line_that_says_it(write: Write, name: str) -> None:
    path = write("b.yaml", f"seed: 1\nextends: {name}\n")
    with pytest.raises(LdmError) as caught:
        load_spec(path)
    assert isinstance(caught.value, NotFoundError if name == "gone.yaml" else SpecError)
    assert caught.value.problems[0].startswith("b.yaml:2:10: extends: ")


def test_a_bundled_spec_is_named_without_its_path(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    bundled = write("bundled/emoji-kl-dit.yaml", TEXT)
    monkeypatch.setattr(spec_paths, "bundled_dir", lambda: bundled.parent)
    assert bundled_specs() == ["emoji-kl-dit"]
    for name in ("emoji-kl-dit", "emoji-kl-dit.yaml", bundled, str(bundled), "bundled/emoji-kl-dit.yaml"):
        assert load_spec(name).source == bundled
    child = load_spec(write("b.yaml", "extends: emoji-kl-dit\nseed: 4\n"))
    assert child.denoiser.checkpoint == str(bundled.parent / "checkpoints/dit")


def test_a_file_comes_before_a_bundled_spec_and_a_folder_does_not(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled = write("bundled/one.yaml", TEXT)
    write("bundled/two.yaml", TEXT)
    monkeypatch.setattr(spec_paths, "bundled_dir", lambda: bundled.parent)
    own = write("one.yaml", TEXT)
    (own.parent / "two").mkdir()
    assert load_spec("one.yaml").source == own
    assert load_spec("one").source == bundled
    assert load_spec("two").source == bundled.parent / "two.yaml"


def test_an_unknown_spec_is_not_found_and_its_neighbours_are_named(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled = write("bundled/emoji-kl-dit.yaml", TEXT)
    monkeypatch.setattr(spec_paths, "bundled_dir", lambda: bundled.parent)
    with pytest.raises(NotFoundError) as caught:
        load_spec("emoji-kl-dti")
    assert caught.value.problems == ("did you mean 'emoji-kl-dit'?",)
    assert caught.value.hint == "bundled specs: emoji-kl-dit"


def test_every_bundled_spec_can_be_read(root: Path) -> None:
    names = bundled_specs()
    assert len(names) == len(list((root / "specs").glob("*.yaml"))) > 0
    for name in names:
        spec = load_spec(name)
        assert load_spec(spec.source or "") == spec


def test_a_swap_leaves_the_old_spec_alone_and_drops_what_belonged_to_the_old_part(spec: PipelineSpec) -> None:
    before = copy.deepcopy(spec)
    new = swap(spec, denoiser="unet", scheduler="euler", decoder_dtype="float16", guidance_scale=1, seed=5)
    assert spec == before
    assert new.denoiser == DenoiserSpec(use="unet", dtype=DType.BFLOAT16, device="cuda")
    assert new.scheduler.config == {"steps": 50}
    assert new.decoder.dtype is DType.FLOAT16
    assert new.decoder.checkpoint == spec.decoder.checkpoint
    assert (new.guidance.scale, new.seed, new.source) == (1.0, 5, spec.source)


def test_a_swap_merges_mappings_and_removes_with_none(spec: PipelineSpec) -> None:
    new = swap(
        spec, scheduler_config={"steps": 20}, condition=None, data=None, denoiser_config={"depth": None}
    )
    assert new.scheduler.config == {"steps": 20, "eta": 1.0}
    assert (new.condition, new.data, new.denoiser.config) == ({}, None, {})


def test_a_swap_takes_a_whole_training_record(spec: PipelineSpec) -> None:
    trained = TrainedSpec(prediction=Prediction.V, schedule=ScheduleSpec(name="cosine", steps=10))
    assert swap(spec, denoiser="unet", denoiser_trained=trained).denoiser.trained == trained


def test_a_swapped_path_counts_from_the_spec_where_something_is_there(
    write: Write, spec: PipelineSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "beside").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert swap(spec, encoder_checkpoint="beside").encoder.checkpoint == str(tmp_path / "beside")
    assert swap(spec, encoder_checkpoint="new").encoder.checkpoint == str(tmp_path / "elsewhere/new")
    assert swap(spec, encoder_checkpoint=f"hf://a/b@{COMMIT}").encoder.checkpoint == f"hf://a/b@{COMMIT}"
    data = swap(spec, data_images=Path("x.tar")).data
    assert data is not None
    assert data.images == tmp_path / "elsewhere/x.tar"


def test_a_wrong_swap_names_every_problem(spec: PipelineSpec) -> None:
    found = problems(lambda: swap(spec, denoisr="unet", scheduler_config={"x": object()}))
    assert found == (
        "denoisr: unknown key; did you mean 'denoiser' or 'denoiser_use' or 'train_denoiser'?",
        "scheduler.config: got object; a spec holds texts, numbers, lists and mappings",
    )
    found = problems(
        lambda: swap(spec, encoder="a.b", decoder_dtype="int8", seed="1", guidance_scale=float("nan"))
    )
    assert [line.split(": ")[0] for line in found] == [
        "encoder.use",
        "decoder.dtype",
        "guidance.scale",
        "seed",
    ]


def test_a_dump_is_short_ordered_and_relative(spec: PipelineSpec, tmp_path: Path) -> None:
    text = dump_spec(spec, relative_to=tmp_path)
    assert text.splitlines()[:3] == [
        "version: 1",
        "image: {size: 64}",
        "encoder: {use: kl-vae, checkpoint: checkpoints/kl}",
    ]
    assert "seed" not in text
    assert "null" not in text
    assert dump_spec(spec, relative_to=tmp_path / "out").count("../checkpoints") == 2
    assert str(tmp_path / "checkpoints/kl") in dump_spec(spec, relative_to=Path("/elsewhere"))
    assert str(tmp_path / "checkpoints/kl") in dump_spec(spec)


def test_the_digest_depends_on_what_is_said_and_not_on_where_or_how(write: Write, spec: PipelineSpec) -> None:
    copied = load_spec(write("other/folder/copy.yaml", "# the same\nseed: 0\n" + TEXT))
    assert copied != spec
    assert spec_digest(copied) == spec_digest(spec)
    assert spec_digest(swap(spec, guidance_scale=2)) == spec_digest(spec)
    assert spec_digest(swap(spec, scheduler_config={"eta": 1})) == spec_digest(spec)
    assert spec_digest(swap(spec, seed=1)) != spec_digest(spec)
    assert spec_digest(swap(spec, encoder_checkpoint="else")) != spec_digest(spec)


def test_reading_a_spec_imports_neither_torch_nor_the_hub(write: Write) -> None:
    write("a.yaml", TEXT)
    code = (
        "import sys, ldm_registry.spec as s\n"
        "s.dump_spec(s.swap(s.load_spec('a.yaml'), seed=1))\n"
        "s.json_schema()\n"
        "assert not {'torch', 'huggingface_hub', 'numpy', 'safetensors'} & set(sys.modules)\n"
    )
    root = str(Path(spec_paths.__file__).parents[1])
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": root, "PATH": ""})


WORD = st.from_regex(r"[a-z0-9]{1,6}(-[a-z0-9]{1,6}){0,2}", fullmatch=True)
# Whatever a text may hold: Unicode, quotes, what looks like YAML, a number or a word that means something else.
TEXTS = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Cn", "Co"], exclude_characters="\ufeff\u2028\u2029"),
    max_size=20,
)
TEXTS = TEXTS.filter(lambda text: not has_control_characters(text)) | st.sampled_from(
    [
        "no",
        "1e-4",
        "017",
        "0o17",
        "null",
        "~",
        ".inf",
        "<<",
        "a: b",
        "#",
        "- a",
        "[",
        "*a",
        "&a",
        "!t",
        "%",
        "@",
        "`",
        "\t\n",
        "",
    ]
)
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = TEXTS | NUMBERS | st.booleans() | st.none()
KEYS = TEXTS.filter(lambda text: len(text) >= 1)
CONFIGS = st.dictionaries(
    KEYS,
    st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5),
    max_size=3,
)
PATHS = st.lists(
    TEXTS.filter(lambda name: name not in ("", ".", "..") and "/" not in name), min_size=1, max_size=3
).map(lambda names: "/root/" + "/".join(names))
SCHEDULES_OF = st.builds(
    lambda name, config: ScheduleSpec(**{**config, "name": name}),
    st.from_regex(r"s[a-z_]{0,8}", fullmatch=True).filter(lambda name: name != "sqrt_linear"),
    CONFIGS.map(lambda config: {key: value for key, value in config.items() if key != "config"}),
)
MAYBE_DTYPE = st.none() | st.sampled_from(DType)
DEVICES = st.sampled_from([None, "cpu", "cuda", "cuda:1", "mps"])
STAGES_OF = st.builds(
    StageSpec,
    use=WORD,
    checkpoint=st.none() | PATHS,
    config=CONFIGS,
    modify=st.lists(st.builds(ModifierSpec, use=WORD, config=CONFIGS), max_size=2).map(tuple),
    device=DEVICES,
    dtype=MAYBE_DTYPE,
    runtime=st.builds(CodecRuntimeSpec, offload=st.booleans(), tile=st.none() | st.integers(8, 4096)),
)
SPECS = st.builds(
    PipelineSpec,
    image=st.builds(
        ImageSpec,
        channels=st.integers(1, 9),
        size=st.integers(1, 9999) | st.tuples(st.integers(1, 9), st.integers(1, 9)),
    ),
    encoder=STAGES_OF,
    denoiser=st.builds(
        DenoiserSpec,
        use=WORD,
        checkpoint=st.none() | st.just(f"hf://o/n@{COMMIT}") | PATHS,
        config=CONFIGS,
        trained=st.none()
        | st.builds(
            TrainedSpec,
            prediction=st.sampled_from(Prediction),
            schedule=SCHEDULES_OF,
            time_scale=st.just(2.5),
        ),
        device=DEVICES,
        dtype=MAYBE_DTYPE,
        runtime=st.builds(RuntimeSpec, compile=st.just(True), cuda_graphs=st.booleans()),
    ),
    scheduler=st.builds(SchedulerSpec, use=WORD, config=CONFIGS, schedule=st.none() | SCHEDULES_OF),
    decoder=STAGES_OF,
    condition=st.dictionaries(
        KEYS,
        st.lists(st.integers(-9, 9), min_size=1, max_size=3).map(tuple)
        | st.lists(TEXTS, min_size=1, max_size=3).map(tuple),
        max_size=2,
    ),
    guidance=st.builds(
        GuidanceSpec,
        scale=st.floats(-9, 9),
        negative=st.dictionaries(KEYS, TEXTS.map(lambda text: (text,)), max_size=1),
    ),
    conditioners=st.dictionaries(
        KEYS,
        st.builds(
            ConditionerSpec,
            use=WORD,
            checkpoint=st.none() | PATHS,
            tokenizer=st.none() | PATHS,
            variant=st.sampled_from([None, "fp16"]),
            contract=st.none() | PATHS.map(Path),
            config=CONFIGS,
            runtime=st.builds(ConditionerRuntimeSpec, offload=st.booleans()),
        ),
        max_size=2,
    ),
    data=st.none() | st.builds(DataSpec, images=PATHS.map(Path), train=st.none() | PATHS.map(Path)),
    seed=st.integers(0, 2**63 - 1),
    train=st.none()
    | st.builds(
        TrainSpec,
        images=st.none() | PATHS,
        codec=st.none() | st.builds(CodecTraining, steps=st.integers(1, 9)),
    ),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(spec=SPECS, relative=st.booleans())
def test_what_is_dumped_is_loaded_as_an_equal_spec(
    tmp_path_factory: pytest.TempPathFactory, spec: PipelineSpec, relative: bool
) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = folder / "dumped.yaml"
    path.write_text(dump_spec(spec, relative_to=folder if relative else None), "utf-8")
    read = load_spec(path)
    assert read == spec
    assert hash(read) == hash(spec)
    assert dump_spec(read) == dump_spec(spec)


def test_the_dump_of_equal_values_is_typed(spec: PipelineSpec) -> None:
    new: dict[str, Any] = {
        "a": "1e-4",
        "b": "no",
        "c": 1.0,
        "d": 1,
        "e": True,
        "f": None,
        "g": "",
        "h": [1, "x, y"],
    }
    text = dump_spec(
        swap(spec, encoder="other").model_copy(update={"encoder": StageSpec(use="x", config=new)})
    )
    assert 'config: {a: "1e-4", b: no, c: 1.0, d: 1, e: true, f: null, g: "", h: [1, "x, y"]}' in text
