"""Print the shell commands that the README tells a newcomer to run.

They are the fenced blocks that open with ```` ```bash NAME ````; `readme_commands.py README.md NAME` prints one.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

BLOCK = re.compile(r"^```(?:bash|sh) (?P<name>[\w-]+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(text: str) -> dict[str, str]:
    """The marked blocks of a Markdown text, by name.

    Raises:
        ValueError: Two blocks have one name.
    """
    blocks: dict[str, str] = {}
    for match in BLOCK.finditer(text):
        if match["name"] in blocks:
            raise ValueError(f"two blocks are marked {match['name']!r}")
        blocks[match["name"]] = match["body"]
    return blocks


def main() -> int:
    """Print the block that is asked for; 1 when there is none."""
    path, name = sys.argv[1:]
    blocks = commands(Path(path).read_text(encoding="utf-8"))
    if name not in blocks:
        print(f"{path} has no block marked {name!r}, only {sorted(blocks)}", file=sys.stderr)
        return 1
    print(blocks[name], end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
