"""A diagnosis as one HTML page that needs nothing else: no network, no script, no font."""

from __future__ import annotations

from ldm_registry.report.html.page import render_html as render_html
from ldm_registry.report.html.page import write_page as write_page
from ldm_registry.report.html.provenance import provenance_of as provenance_of

__all__ = ["provenance_of", "render_html", "write_page"]
