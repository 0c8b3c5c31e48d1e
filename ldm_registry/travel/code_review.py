"""What somebody else's Python does, as far as it can be seen by reading: nothing is imported and nothing is run.

A reader's aid, not a proof: code that wants to hide finds ways. What stands here is what a person should look at
before they trust the code; what they trust is the digest of all of it.
"""

from __future__ import annotations

import ast
import re
import tokenize
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from ldm_registry.errors import IntegrityError
from ldm_registry.hub import clean

NOTABLE_IMPORTS: Mapping[str, str] = {
    "aiohttp": "network",
    "asyncio": "network and processes",
    "atexit": "runs code at the end",
    "base64": "encoded content",
    "builtins": "changes the language",
    "cffi": "native code",
    "cloudpickle": "runs code on loading",
    "code": "runs text as code",
    "codecs": "encoded content",
    "ctypes": "native code",
    "dill": "runs code on loading",
    "ftplib": "network",
    "gc": "reaches other objects",
    "getpass": "asks for secrets",
    "glob": "files",
    "http": "network",
    "httpx": "network",
    "huggingface_hub": "network",
    "importlib": "imports by name",
    "inspect": "reaches other code",
    "joblib": "runs code on loading",
    "keyring": "secrets",
    "marshal": "byte code",
    "mmap": "memory and files",
    "multiprocessing": "processes",
    "os": "files, processes, environment",
    "pathlib": "files",
    "paramiko": "network",
    "pickle": "runs code on loading",
    "pkgutil": "imports by name",
    "platform": "about this machine",
    "pty": "processes",
    "requests": "network",
    "runpy": "runs files as code",
    "shelve": "runs code on loading",
    "shutil": "files",
    "signal": "processes",
    "site": "changes how Python starts",
    "smtplib": "network",
    "socket": "network",
    "socketserver": "network",
    "ssl": "network",
    "subprocess": "processes",
    "sys": "the interpreter",
    "tempfile": "files",
    "threading": "runs beside the rest",
    "torch.hub": "fetches and runs code",
    "torch.utils.cpp_extension": "compiles native code",
    "types.CodeType": "makes code objects",
    "types.FunctionType": "makes code objects",
    "urllib": "network",
    "webbrowser": "opens pages",
    "winreg": "the registry of Windows",
    "zlib": "encoded content",
}
NOTABLE_NAMES: Mapping[str, str] = {
    "__builtins__": "reaches what is built in",
    "__import__": "imports by name",
    "breakpoint": "stops for a debugger",
    "compile": "makes code from text",
    "eval": "runs text as code",
    "exec": "runs text as code",
    "globals": "reaches names by text",
    "input": "asks the user",
    "open": "files",
    "vars": "reaches names by text",
}
NOTABLE_ATTRIBUTES: Mapping[str, str] = {
    "__code__": "reaches byte code",
    "__globals__": "reaches other modules",
    "__reduce__": "runs code on loading",
    "__reduce_ex__": "runs code on loading",
    "__subclasses__": "reaches other classes",
    "cpp_extension": "compiles native code",
    "from_pretrained": "fetches from the network",
    "load_library": "native code",
}
NOTABLE_CALLS: Mapping[str, str] = {
    "numpy.load": "may run code on loading",
    "np.load": "may run code on loading",
    "torch.hub.load": "fetches and runs code",
    "torch.jit.load": "runs code on loading",
    "torch.load": "may run code on loading",
}
LONG_TEXT = re.compile(r"[A-Za-z0-9+/=_\-\s]{400,}|[0-9a-fA-Fx\\\s]{400,}")
MISLEADING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that make a line read otherwise than it runs (CVE-2021-42574)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A line that deserves a look.

    Attributes:
        path: Of the file.
        line: Counted from 1.
        what: As it is written, shortened.
        why: In a word or two.
    """

    path: str
    line: int
    what: str
    why: str


@dataclass(frozen=True, slots=True)
class CodeReview:
    """What reading the code has shown.

    Attributes:
        files: How many Python files.
        lines: Of those files, without blank ones and comments.
        findings: In the order of files and lines.
        imports: The top-level modules that are imported anywhere.
    """

    files: int
    lines: int
    findings: tuple[Finding, ...]
    imports: frozenset[str]

    def to_dict(self) -> dict[str, Any]:
        """The review as a JSON document."""
        findings = [
            {"path": found.path, "line": found.line, "what": found.what, "why": found.why}
            for found in self.findings
        ]
        return {
            "python_files": self.files,
            "lines": self.lines,
            "imports": sorted(self.imports),
            "findings": findings,
        }


def review_code(files: Mapping[str, bytes]) -> CodeReview:
    """Read Python files.

    Args:
        files: Content by path; those that do not end in `.py` or `.pyi` are passed over.

    Raises:
        IntegrityError: A file is no Python that can be read, or reads otherwise than it runs; all of them.
    """
    problems: list[str] = []
    findings: list[Finding] = []
    imports: set[str] = set()
    lines = count = 0
    for path, content in sorted(files.items()):
        if not path.endswith((".py", ".pyi")):
            continue
        count += 1
        tree = _tree(path, content, problems)
        if tree is None:
            continue
        lines += _lines_of_code(content)
        findings += sorted(set(_findings(path, tree)), key=lambda found: (found.line, found.what))
        imports |= {name.partition(".")[0] for node in ast.walk(tree) for name in _imported(node)}
    if problems:
        raise IntegrityError(
            "there is code that cannot be read, so that nobody can know what it does", problems
        )
    return CodeReview(count, lines, tuple(findings), frozenset(imports))


def _tree(path: str, content: bytes, problems: list[str]) -> ast.Module | None:
    where = clean(path)
    try:
        encoding, _ = tokenize.detect_encoding(BytesIO(content).readline)
        if encoding not in ("utf-8", "utf-8-sig"):
            problems.append(f"{where}: written in {clean(encoding)}, expected UTF-8")
            return None
        text = content.decode(encoding)
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        problems.append(f"{where}: {type(error).__name__}: {clean(error)}")
        return None
    misleading = sorted(MISLEADING & set(text))
    if misleading:
        names = ", ".join(unicodedata.name(letter) for letter in misleading)
        problems.append(f"{where}: holds characters that reorder what is shown ({names})")
        return None
    return tree


def _lines_of_code(content: bytes) -> int:
    lines = (line.strip() for line in content.splitlines())
    return sum(bool(line) and not line.startswith(b"#") for line in lines)


def _findings(path: str, tree: ast.Module) -> Iterator[Finding]:
    for node in ast.walk(tree):
        for what, why in _notable(node):
            yield Finding(path, getattr(node, "lineno", 1), clean(what, most=80), why)
    for node in tree.body:
        if isinstance(node, ast.For | ast.While | ast.With) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        ):
            yield Finding(path, node.lineno, clean(_first_line(node), most=80), "runs when it is imported")


def _notable(node: ast.AST) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        said = {why for name in _imported(node) for why in _reasons(name)}
        if said:
            yield _first_line(node), "; ".join(sorted(said))
    elif isinstance(node, ast.Name):
        if node.id in NOTABLE_NAMES:
            yield node.id, NOTABLE_NAMES[node.id]
        if not node.id.isascii():
            yield node.id, "a name with letters that may look like others"
    elif isinstance(node, ast.Attribute):
        if node.attr in NOTABLE_ATTRIBUTES:
            yield f"...{node.attr}", NOTABLE_ATTRIBUTES[node.attr]
        elif node.attr in ("CodeType", "FunctionType") and _dotted(node).startswith("types."):
            yield _dotted(node), "makes code objects"
    elif isinstance(node, ast.Call):
        yield from _notable_call(node)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
        text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
        if LONG_TEXT.search(text):
            yield f"{text[:32]}... ({len(text)} characters)", "may be encoded content"


def _notable_call(node: ast.Call) -> Iterator[tuple[str, str]]:
    name = _dotted(node.func)
    if name in NOTABLE_CALLS:
        yield name, NOTABLE_CALLS[name]
    computed = len(node.args) > 1 and not isinstance(node.args[1], ast.Constant)
    if name in ("getattr", "setattr") and computed:
        yield f"{name} with a computed name", "reaches names by text"


def _imported(node: ast.AST) -> Iterable[str]:
    """Dotted names of what one statement imports; a relative import stays in the package."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def _reasons(name: str) -> Iterator[str]:
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        start = ".".join(parts[:length])
        for table in (NOTABLE_IMPORTS, NOTABLE_CALLS):
            if start in table:
                yield table[start]


def _dotted(node: ast.expr) -> str:
    """`a.b.c` of a chain of attributes; empty for anything else. Not recursive, the chain may be long."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute) and len(parts) < 8:
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def _first_line(node: ast.AST) -> str:
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = ", ".join(alias.name for alias in node.names)
        return f"import {names}" if isinstance(node, ast.Import) else f"from {node.module} import {names}"
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return f"{_dotted(node.value.func) or 'a call'}(...)"
    return f"{type(node).__name__.lower()} ..."
