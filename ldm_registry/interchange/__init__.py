"""Whole pipelines to and from the folders of diffusers."""

from __future__ import annotations

from ldm_registry.interchange.exporting import Exported, export_pipeline
from ldm_registry.interchange.importing import Imported, Wishes, import_pipeline
from ldm_registry.interchange.sources import SingleFile, import_source, write
from ldm_registry.original import Converted

__all__ = [
    "Converted",
    "Exported",
    "Imported",
    "SingleFile",
    "Wishes",
    "export_pipeline",
    "import_pipeline",
    "import_source",
    "write",
]
