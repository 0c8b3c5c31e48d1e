"""Whole pipelines to and from the folders of diffusers."""

from __future__ import annotations

from ldm_registry.interchange.exporting import Exported, export_pipeline
from ldm_registry.interchange.importing import Imported, Wishes, import_pipeline
from ldm_registry.interchange.sources import write

__all__ = ["Exported", "Imported", "Wishes", "export_pipeline", "import_pipeline", "write"]
