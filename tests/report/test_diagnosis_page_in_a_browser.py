from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from report.example_report import example

from ldm_registry.report.html import render_html

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
WIDTHS = (400, 800, 1600)
LONG = "w" * 300

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine"),
]


def widths_in_a_browser(page: str, folder: Path) -> dict[str, list[int]]:
    """How wide a page lays itself out, [content, window], by the width of the window that it is given."""
    frames = "".join(
        f'<iframe srcdoc="{html.escape(page)}" width="{width}" height="900" style="border:0"></iframe>'
        for width in WIDTHS
    )
    script = """addEventListener("load", () => {
      const found = [...document.querySelectorAll("iframe")].map((frame) => {
        frame.contentDocument.querySelectorAll("details").forEach((one) => { one.open = true; });
        const root = frame.contentDocument.documentElement;
        return [frame.width, [root.scrollWidth, root.clientWidth]];
      });
      document.body.innerHTML = "<pre>" + JSON.stringify(Object.fromEntries(found)) + "</pre>";
    });"""
    probe = folder / "probe.html"
    probe.write_text(f"<!doctype html><body>{frames}<script>{script}</script>", "utf-8")
    assert BROWSER is not None
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
    ]
    done = subprocess.run(
        [*command, "--window-size=1700,1000", "--dump-dom", probe.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search("<pre>(.*)</pre>", done.stdout)
    assert found is not None, done.stdout[-500:]
    return json.loads(found[1])


@pytest.mark.parametrize("text", ["some words of usual length", LONG])
def test_no_window_has_to_be_scrolled_sideways(text: str, tmp_path: Path) -> None:
    found = widths_in_a_browser(render_html(example(text), {text: text}), tmp_path)
    assert set(found) == {str(width) for width in WIDTHS}
    assert all(content <= window for content, window in found.values()), found
