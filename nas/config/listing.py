"""The files of several settings, ``+experiment=NAME`` and ``+debug=NAME``, as ``--help`` lists them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

KINDS = ("experiment", "debug")
WIDTH = 80


def listing(verb: str, folders: Iterable[Path]) -> str:
    """Lines for a terminal: the files for ``nas-VERB`` below ``folders``, and how each begins to explain itself.

    A file whose first lines show a command is for that command alone.
    """
    found = [path for kind in KINDS for folder in folders for path in sorted((folder / kind).glob("*.yaml"))]
    rows = [(f"+{path.parent.name}={path.stem}", about) for path in found for about in _about(path, verb)]
    width = max((len(word) for word, _ in rows), default=0)
    return "\n".join(f"  {word:<{width}}  {about}".rstrip() for word, about in rows) or "  none"


def _about(path: Path, verb: str) -> Iterator[str]:
    text = "\n".join(re.findall(r"^#(?! @package)(.*)", path.read_text(errors="replace"), re.MULTILINE))
    commands = re.findall(r"^     .*(?:nas-|nas\.cli\.)(\w+) ", text, re.MULTILINE)
    if not commands or verb in commands:
        sentence = re.split(r"[.;]\s|\n\n", f"{text}\n\n")[0]
        yield textwrap.shorten(sentence.rstrip(":"), WIDTH, placeholder=" ...")
