from __future__ import annotations

import base64
import hashlib
import html
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from report.example_report import example, verdict

from ldm_registry.diagnostics.report import Outcome
from ldm_registry.report.html import render_html, write_page
from ldm_registry.report.html.scale import Axis, number
from ldm_registry.vocabulary import STAGES, Kind

VOID = {"meta", "img", "link", "br", "hr", "input"}
HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\x00\u202e\ud800</style>"
NOTHING_MEASURED = {"measurements": (), "substitution": None, "warnings": (), "costs": None}


class Page(HTMLParser):
    """A page as its elements; refuses tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self.doctypes: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_decl(self, decl: str) -> None:
        self.doctypes.append(decl)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"<{tag}> names an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.append((tuple(self.open), data))
        else:
            assert not data.strip()

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]

    @property
    def words(self) -> str:
        return " ".join(text for place, text in self.texts if place[-1] not in {"style", "script"})


REPORTS = {
    "full": example(),
    "hostile": example(HOSTILE),
    "empty": example(**NOTHING_MEASURED),
    "one stage": example(stage=Kind.DENOISER, substitution=None),
    **{outcome.value: example(verdict=verdict("text", outcome)) for outcome in Outcome},
}


@pytest.fixture(scope="module", params=REPORTS)
def page(request: pytest.FixtureRequest) -> Page:
    return Page(render_html(REPORTS[request.param], {"digest": HOSTILE}))


def test_elements_nest_and_the_document_says_what_it_is(page: Page) -> None:
    assert page.doctypes == ["doctype html"]
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("title", "h1")) >= 2
    assert len(page.all("main")) == len(page.all("header")) == len(page.all("footer")) == 1
    assert page.all("nav")[0]["aria-label"]


def test_identifiers_are_unique_and_every_reference_has_its_target(page: Page) -> None:
    known = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert max(known.values()) == 1
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "aria-describedby"):
            assert set((attributes.get(name) or "").split()) <= set(known)
        href = attributes.get("href")
        assert href is None or href.removeprefix("#") in known


def test_headings_never_skip_a_level(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_pictures_and_diagrams_have_words(page: Page) -> None:
    assert all(image["alt"] for image in page.all("img"))
    drawings = [svg for svg in page.all("svg") if svg.get("aria-hidden") != "true" and svg.get("role")]
    assert all(svg["aria-labelledby"] and svg["aria-describedby"] for svg in drawings)
    assert all(svg["focusable"] == "false" for svg in page.all("svg"))


def test_table_headers_say_what_they_head(page: Page) -> None:
    assert all(cell["scope"] in {"row", "col"} for cell in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))


def test_boxes_that_scroll_can_be_reached_and_have_names(page: Page) -> None:
    boxes = [box for box in page.all("div") if box.get("class") == "scroll"]
    assert all(box["tabindex"] == "0" and box["role"] == "region" and box["aria-label"] for box in boxes)


def test_nothing_is_loaded_and_nothing_is_styled_or_scripted_in_place(page: Page) -> None:
    for _, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name != "style"
            if name in {"src", "href"}:
                assert value is not None
                assert value.startswith(("data:image/png;base64,", "#"))
    assert not page.all("link", "iframe", "object", "base", "form")
    loads = [text for place, text in page.texts if place[-1] in {"style", "script"}]
    assert not re.search(r"url\(|@import|https?:|fetch|innerHTML", "".join(loads))


def test_the_policy_allows_the_style_and_the_script_of_the_page_alone(page: Page) -> None:
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (text,) = ["".join(text for place, text in page.texts if place[-1] == tag)]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_the_first_stop_of_the_keyboard_skips_to_the_verdict(page: Page) -> None:
    focusable = [attributes for tag, attributes in page.elements if tag in {"a", "button", "summary"}]
    assert focusable[0]["href"] == "#main"
    first = next(attributes for tag, attributes in page.elements if tag == "section")
    assert first["aria-labelledby"] == "verdict"


def test_a_hostile_text_stays_text_wherever_it_stands() -> None:
    text = render_html(example(HOSTILE), {HOSTILE: HOSTILE})
    page, plain = Page(text), Page(render_html(example(), {"a": "b"}))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert not {"\x00", "\u202e", "\ud800"} & set(text)
    assert page.words.count("<script>alert(1)</script>") > 30
    assert text.encode("utf-8")


def test_every_number_stands_beside_its_range_and_its_explanation() -> None:
    report = example("explanation")
    # Single stages come first, in the order of the data flow; what looks at several follows.
    order = sorted(report.measurements, key=lambda one: len(one.stages) > 1)
    rows = re.findall(r"<tr class=.*?</tr>", render_html(report))
    metrics = [metric for one in order for metric in one.metrics]
    assert len(rows) == len(metrics)
    said = [html.unescape(re.sub("<[^>]+>", " ", row)) for row in rows]
    for row, metric in zip(said, metrics, strict=True):
        assert metric.name in row
        assert number(metric.value) in row
        assert metric.about in row
        assert ("out of range" in row) is not metric.is_healthy
    assert "\N{MINUS SIGN}0.125 to 0.75" in said[0]
    assert "at most 2" in said[1]
    assert "31.42" in said[2]
    assert "at least 28.5" in said[2]
    assert "none known" in said[3]


def test_all_sixteen_subsets_and_the_share_of_each_stage_are_shown() -> None:
    page = Page(render_html(example()))
    inside = [text for place, text in page.texts if place[-1] in {"td", "th"}]
    assert inside.count("replaced") == inside.count("kept") == 32
    drawn = [text for place, text in page.texts if place[-1] == "text"]
    assert {*(stage.value for stage in STAGES), "7.25", "0.5", "\N{MINUS SIGN}0.25"} <= set(drawn)


def test_what_was_skipped_stands_with_its_reason() -> None:
    words = Page(render_html(example("the reason"))).words
    assert "Not measured" in words
    assert "SITU" in words


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (Outcome.FAULT, "The denoiser is at fault"),
        (Outcome.QUALITY, "the denoiser is merely poor"),
        (Outcome.HEALTHY, "Healthy"),
        (Outcome.UNDECIDED, "Undecided: the denoiser or the scheduler"),
    ],
)
def test_the_verdict_is_the_first_heading_of_a_section(outcome: Outcome, said: str) -> None:
    page = Page(render_html(example(verdict=verdict("text", outcome))))
    first = next(text for place, text in page.texts if place[-1] == "h2")
    assert said in first


def test_an_undecided_verdict_says_what_would_decide() -> None:
    undecided = replace(verdict("text", Outcome.UNDECIDED), deciding="invert the decoder")
    assert "What would decide:  invert the decoder" in Page(render_html(example(verdict=undecided))).words


def test_the_same_report_gives_the_same_page(tmp_path: Path) -> None:
    write_page(example(), tmp_path / "a.html")
    write_page(example(), tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_page_of_many_large_pictures_stays_small() -> None:
    report = example()
    first = report.measurements[0]
    noise = torch.rand(3, 64, 512, generator=torch.Generator().manual_seed(0)) * 2 - 1
    many = replace(first, pictures=tuple(replace(first.pictures[0], image=noise) for _ in range(20)))
    assert len(render_html(replace(report, measurements=(many,)))) < 3_000_000


@pytest.mark.parametrize("values", [[0.0], [1e-9, 1e9], [-3.0, 5.5], [7.0, 7.0], [-1e-300, 1e-300], []])
@pytest.mark.parametrize("log", [False, True])
def test_an_axis_holds_its_values_between_few_ticks(values: list[float], log: bool) -> None:
    values = [abs(value) or 1.0 for value in values] if log else values
    axis = Axis.of(values, 0.0, 100.0, log=log)
    assert axis.high > axis.low
    assert 2 <= len(axis.ticks) <= 8
    assert all(0.0 <= axis.at(value) <= 100.0 for value in (*values, *axis.ticks))


@pytest.mark.parametrize("report", REPORTS)
def test_what_a_colour_says_stands_in_words_too(report: str) -> None:
    text = render_html(REPORTS[report])
    said = re.findall(
        r'<span class="badge \w+"><span aria-hidden="true" class="sign">.</span> ([^<]+)</span>', text
    )
    assert len(said) == text.count('<span class="badge ')
    assert all(re.search("[a-z]{4}", words) for words in said)


def test_what_opens_and_closes_is_an_element_of_its_own_with_words(page: Page) -> None:
    assert len(page.all("summary")) == len(page.all("details"))
    assert not [one for _, one in page.elements if one.get("tabindex") not in {None, "0", "-1"}]


def test_the_codec_and_the_whole_pipeline_have_sections_of_their_own_behind_the_stages() -> None:
    page = Page(render_html(example()))
    sections = [one["aria-labelledby"] for one in page.all("section")]
    assert (
        sections[2:]
        == ["substitution", *map(str, STAGES), "codec", "skipped", "costs", "provenance"][: len(sections) - 2]
    )


def test_time_and_memory_stand_in_one_row_for_each_stage() -> None:
    page = Page(render_html(example("cpu")))
    said = [text for place, text in page.texts if "tbody" in place and place[-1] in {"th", "td"}]
    start = len(said) - said[::-1].index("Decoder") - 1
    assert said[start : start + 7] == ["Decoder", "40", "40%", "3", "99", "0.5", "cpu"]
    assert "not known" in said
