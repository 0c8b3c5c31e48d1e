"""Consent to code from a Hub: given to a digest by a person, and by nothing that is read from somewhere."""

from __future__ import annotations

import os
import re

from ldm_registry.errors import IntegrityError, SpecError
from ldm_registry.hub import clean

NO_REMOTE_CODE = "LDM_NO_REMOTE_CODE"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def require_allowed() -> None:
    """Stop where the environment forbids code from a Hub.

    Raises:
        IntegrityError: LDM_NO_REMOTE_CODE is set; nothing else can grant it then.
    """
    if os.environ.get(NO_REMOTE_CODE, "").strip().lower() not in ("", "0", "false", "no", "off"):
        raise IntegrityError(
            f"{NO_REMOTE_CODE} is set: no code from a Hub is fetched or installed here",
            hint="whoever set it decides; no option, spec or lock goes past it",
        )


def require_digest(trusted: str | None) -> None:
    """Stop before anything is asked, where what somebody says that they trust is no digest.

    Raises:
        SpecError: It is none, `true` for example.
    """
    if trusted is not None and not DIGEST.fullmatch(trusted):
        raise SpecError(
            f"--trust-code {clean(trusted)!a} is no digest",
            hint="expected sha256: and 64 digits; `--dry-run` shows that of the code",
        )
