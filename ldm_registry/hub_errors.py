"""Errors of the Hub's library as errors of ours, in our words.

What a server says is cut short, and stripped of control characters and of the token. The library's classes are told
by their names, so that an error can be looked at before the library is loaded.
"""

from __future__ import annotations

import errno
import re

from ldm_registry.errors import LdmError, NetworkError, NotFoundError, SpecError

OFFLINE_VARIABLES = ("LDM_OFFLINE", "HF_HUB_OFFLINE")
NO_HUB = "check HF_ENDPOINT and the proxy, and try again"


def ours(error: Exception, what: str, secret: str | None) -> LdmError:
    """One of our errors for one of the library's.

    Args:
        error: What the library raised.
        what: What was asked for.
        secret: The token, which is nobody's to see.
    """
    cause = _root(error)
    said = _said(cause, secret)
    if _is(cause, "OfflineModeIsEnabled"):
        return offline_error()
    if _is(cause, "GatedRepoError"):
        return NetworkError(
            f"{what}: access is gated", said, hint="accept its terms on its page, then `hf auth login`"
        )
    status = status_of(cause)
    if _is(cause, "RevisionNotFoundError"):
        return NotFoundError(f"{what}: there is no such branch, tag or commit", said)
    if _is(cause, "EntryNotFoundError") and status is not None:
        return NotFoundError(f"{what}: there is no such file", said)
    if status == 404:
        return NotFoundError(
            f"{what} does not exist, or is private and not yours",
            said,
            hint="check the name; for a private one: `hf auth login`",
        )
    if status is not None:
        return NetworkError(f"{what}: the Hub answered {status}, {_meaning(status)}", said, _advice(status))
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return NetworkError(
            f"{what}: no space is left on the disk",
            hint="nothing was kept; free some, or name a folder on another disk in LDM_CACHE",
        )
    if _is(cause, "HFValidationError") or _is(cause, "HfUriError"):
        return SpecError(f"{what} is not a name on the Hub", [clean(cause)])
    if isinstance(cause, PermissionError):
        return NetworkError(f"{what}: could not be written to {cause.filename}", hint="nothing was kept")
    if (
        isinstance(cause, (TimeoutError, ConnectionError))
        or _is(cause, "HTTPError")
        or "timed out" in str(cause).lower()
    ):
        return NetworkError(
            f"{what}: the Hub could not be reached, or the connection was cut",
            [clean(f"{type(cause).__name__}: {_without_queries(str(cause))}", secret)],
            hint="nothing was kept; try again, or set LDM_OFFLINE=1 to use what is here already",
        )
    return NetworkError(
        f"{what}: the answer of the Hub could not be used",
        [clean(f"{type(cause).__name__}: {_without_queries(str(cause))}", secret)],
        hint=NO_HUB,
    )


def _root(error: BaseException) -> BaseException:
    """The error behind those of the library that say no more than that there was one."""
    while (isinstance(error, RuntimeError) or _is(error, "LocalEntryNotFoundError")) and error.__cause__:
        error = error.__cause__
    return error


def status_of(error: BaseException) -> int | None:
    """The status that a server answered, if that is what went wrong."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _said(error: BaseException, secret: str | None) -> list[str]:
    message = clean(getattr(error, "server_message", None) or "", secret)
    return [f"the server says: {message}"] if message else []


def _is(error: BaseException, name: str) -> bool:
    """Whether an error is of a class of the library or of its HTTP client, whichever client and release it is."""
    return any(kind.__name__ == name for kind in type(error).__mro__)


def _meaning(status: int) -> str:
    known = {
        401: "not authorised",
        403: "forbidden",
        409: "a conflict with what is there or is going on",
        412: "the repository has changed meanwhile",
        416: "less is there than was announced",
        429: "too many requests",
    }
    return known.get(status, "a fault of the server" if status >= 500 else "refused")


def _advice(status: int) -> str:
    known = {
        401: "`hf auth login`, or check HF_TOKEN; a private repository looks the same as one that does not exist",
        403: "the token has to grant this; `hf auth whoami` says whose it is",
        409: "try again in a moment",
        412: "try again: what is there now is looked at afresh",
        429: "wait a few minutes and try again; with a token more requests are allowed",
    }
    return known.get(status, "nothing was changed here; try again in a few minutes")


def offline_error() -> NetworkError:
    """Nothing may be asked."""
    return NetworkError(
        "the Hub is not asked: offline mode is on",
        hint=f"unset {' and '.join(OFFLINE_VARIABLES)}, or use what was pulled before",
    )


def _without_queries(text: str) -> str:
    """Without what follows the `?` of an address: the signature of a pre-signed one lets anybody in."""
    return re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]*", r"\1?...", text)


def clean(text: object, secret: str | None = None, most: int = 200) -> str:
    """What a stranger wrote, safe to print: one line, printable, short, and without a secret."""
    shown = str(text)
    if secret:
        shown = shown.replace(secret, "***")
    shown = "".join(letter if letter.isprintable() else " " for letter in shown)
    return " ".join(shown.split())[:most]
