from __future__ import annotations

from pathlib import Path

import pytest

from ldm_registry.errors import IntegrityError
from ldm_registry.travel.code_review import review_code


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("import os", "import os"),
        ("import numpy, subprocess as s", "import numpy, subprocess"),
        ("from urllib.request import urlopen", "from urllib.request import urlopen"),
        ("from torch import hub", "from torch import hub"),
        ("from torch.utils.cpp_extension import load", "from torch.utils.cpp_extension import load"),
        ("x = eval('1')", "eval"),
        ("f = exec", "exec"),
        ("__import__('o' + 's')", "__import__"),
        ("x = __builtins__['eval']", "__builtins__"),
        ("x = getattr(y, 'sys' + 'tem')", "getattr with a computed name"),
        ("x = ().__class__.__base__.__subclasses__()", "...__subclasses__"),
        ("x = torch.load('w.pt')", "torch.load"),
        ("import types; f = types.FunctionType(code, {})", "types.FunctionType"),
        ("from importlib import import_module", "from importlib import import_module"),
        ("import ctypes, pickle, socket", "import ctypes, pickle, socket"),
        (f"x = '{'QUJD' * 200}'", f"{'QUJD' * 8}... (800 characters)"),
        ("print('hello')", "print(...)"),
        ("ореn = 1", "ореn"),
        ("def f():\n    import os", "import os"),
        ("if False:\n    import os", "import os"),
        ("class A:\n    eval('1')", "eval"),
    ],
)
def test_what_deserves_a_look_is_found(line: str, what: str) -> None:
    review = review_code({"p/a.py": line.encode()})
    assert what in {found.what for found in review.findings}
    assert all(found.path == "p/a.py" and found.line >= 1 and found.why for found in review.findings)


def test_plain_networks_deserve_no_look() -> None:
    code = (
        b'"""Eq. 7."""\n\nfrom __future__ import annotations\n\nimport math\n\nimport torch\nfrom torch import nn\n\n\n'
        b"# a comment\nclass Net(nn.Module):\n    def forward(self, x):\n"
        b"        return [m(x) for m in self.modules()][0] * math.sqrt(2)\n"
    )
    review = review_code({"p/net.py": code, "p/table.json": b"import os"})
    assert review.findings == ()
    assert (review.files, review.lines) == (1, 8)
    assert review.imports == {"__future__", "math", "torch"}


@pytest.mark.parametrize(
    "content",
    [
        b"def (",
        b"\xff\xfe",
        b"a = 1\0",
        b"# -*- coding: utf-7 -*-\n",
        b"# -*- coding: no-such -*-\n",
        "x = 1  # \u2066".encode(),
        b"-" * 50_000 + b"1",
        b"+".join([b"1"] * 50_000),
        b"[" * 300 + b"]" * 300,
    ],
    ids=range(9),
)
def test_code_that_cannot_be_read_for_sure_is_refused(content: bytes) -> None:
    with pytest.raises(IntegrityError, match="nobody can know"):
        review_code({"p/a.py": content, "p/b.py": b"x = 1\n"})


def test_reading_runs_nothing(tmp_path: Path) -> None:
    review_code({"p/a.py": f"open({str(tmp_path)!r} + '/mark', 'w')".encode()})
    assert not list(tmp_path.iterdir())
