"""Follows a page of the documentation as a reader does: block after block, in one folder.

A block with a title is written to that file; those of bash and Python are run. Comments before a block say more of it:

    <!-- needs: jq, /dev/video0 -->  a program, a package, a device or a variable ($INSTALL) that may be lacking
    <!-- interrupted -->             it goes on until Ctrl-C, which it gets after its first answer
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

PATIENCE = 900  # seconds for a block
STARTED = 0.1  # seconds between looks for a first record

_FENCE = re.compile(
    r"(?P<marks>(?:^[ ]*<!-- [^\n]+ -->\n)*)"
    r"^(?P<indent>[ ]*)```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?[^\n]*\n(?P<text>.*?)\n(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        language: After the fence.
        title: The file that it is; empty if it is none.
        needs: What it needs that may be lacking, between commas.
        interrupted: Whether it goes on until it is interrupted.
        text: Its lines.
        where: The page and the line.
    """

    language: str
    title: str
    needs: str
    interrupted: bool
    text: str
    where: str

    @property
    def runs(self) -> bool:
        """Whether there is something to run."""
        return self.language in ("bash", "python") and not self.title

    @property
    def lacks(self) -> list[str]:
        """What it needs and is not here."""
        return [name for name in self.needs.split(", ") if name and not _here(name)]


def _here(name: str) -> bool:
    if name.startswith("$"):
        return name[1:] in os.environ
    if "/" in name:
        return os.access(name, os.R_OK | os.W_OK)
    return bool(shutil.which(name)) or any(True for _ in distributions(name=name))


def blocks(path: Path) -> list[Block]:
    """The blocks of a page.

    Raises:
        ValueError: A comment before a block says something else than those above.
    """
    text, found = path.read_text(), []
    for match in _FENCE.finditer(text):
        where = f"{path.name}:{text.count(chr(10), 0, match.start('language')) + 1}"
        marks = re.findall(r"<!-- (.+?) -->", match["marks"])
        needs = [mark.removeprefix("needs: ") for mark in marks if mark.startswith("needs: ")]
        if len(needs) + marks.count("interrupted") != len(marks):
            raise ValueError(f"{where}: {marks}")
        lines = re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
        title, interrupted = match["title"] or "", "interrupted" in marks
        found.append(Block(match["language"], title, ", ".join(needs), interrupted, lines, where))
    return found


def follow(blocks: Sequence[Block]) -> list[str]:
    """Do what a page says, in the current folder; what was left out, and what it lacks."""
    names: dict[str, object] = {"__name__": "docs"}
    left_out = []
    for block in blocks:
        if block.title:
            Path(block.title).parent.mkdir(parents=True, exist_ok=True)
            Path(block.title).write_text(block.text + "\n")
        elif block.runs and block.lacks:
            left_out.append(f"{block.where} lacks {', '.join(block.lacks)}")
        elif block.runs and block.language == "python":
            exec(compile(block.text, block.where, "exec"), names)
        elif block.runs:
            _run(block)
    return left_out


def _run(block: Block) -> None:
    command = ["bash", "-euo", "pipefail", "-c", block.text]
    with tempfile.NamedTemporaryFile() as said, tempfile.TemporaryFile("w+", errors="replace") as told:
        shell = subprocess.Popen(command, stdout=said, stderr=told, start_new_session=True)
        try:
            answered = not block.interrupted or _answers(shell, [said.name, *re.findall(r" -o (\S+)", block.text)])
            if block.interrupted and shell.poll() is None:
                os.killpg(shell.pid, signal.SIGINT)
            status = shell.wait(PATIENCE)
        finally:
            if shell.poll() is None:
                os.killpg(shell.pid, signal.SIGKILL)
                shell.wait()
        told.seek(0)
        assert status == (130 if block.interrupted else 0), f"{block.where} ended with {status}: {told.read()[-2000:]}"
        assert answered, f"{block.where} answered no clip"


def _answers(shell: subprocess.Popen[bytes], places: Sequence[str]) -> bool:
    """Wait for the first record of a clip that could be answered; whether one came before the end."""
    end = time.monotonic() + PATIENCE
    while shell.poll() is None and time.monotonic() < end:
        if any(os.path.exists(place) and '"ok"' in Path(place).read_text() for place in places):
            return True
        time.sleep(STARTED)
    return False
