"""What the author of a plugin works with: a project to start from, and a check of it that needs no test file."""

from __future__ import annotations
