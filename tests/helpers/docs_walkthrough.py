"""Run the code blocks of a page of the documentation in order, in one folder.

A block with a title is written to that file; bash and Python blocks are run. Comments before a block describe it:

    <!-- needs: jq, /dev/video0 -->  programs, packages, devices or variables ($INSTALL) that it requires
    <!-- interrupted -->             it runs until Ctrl-C, which is sent after its first record
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

TIMEOUT_S = 900  # for a block
POLL_S = 0.1  # between checks for a first record

_FENCE = re.compile(
    r"(?P<marks>(?:^[ ]*<!-- [^\n]+ -->\n)*)"
    r"^(?P<indent>[ ]*)```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?[^\n]*\n(?P<text>.*?)\n(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        language: The language after the fence.
        title: The file to write it to, or empty.
        needs: Requirements, separated by commas.
        interrupted: Whether it runs until it is interrupted.
        text: Its lines.
        where: Page and line.
    """

    language: str
    title: str
    needs: str
    interrupted: bool
    text: str
    where: str

    @property
    def runs(self) -> bool:
        """Whether the block is run."""
        return self.language in ("bash", "python") and not self.title

    @property
    def missing(self) -> list[str]:
        """Requirements that are missing on this machine."""
        return [name for name in self.needs.split(", ") if name and not _is_available(name)]


def _is_available(name: str) -> bool:
    if name.startswith("$"):
        return name[1:] in os.environ
    if "/" in name:
        return os.access(name, os.R_OK | os.W_OK)
    return bool(shutil.which(name)) or any(True for _ in distributions(name=name))


def read_blocks(path: Path) -> list[Block]:
    """Read the code blocks of a page.

    Raises:
        ValueError: An unknown comment is before a block.
    """
    text, blocks = path.read_text(), []
    for match in _FENCE.finditer(text):
        where = f"{path.name}:{text.count(chr(10), 0, match.start('language')) + 1}"
        marks = re.findall(r"<!-- (.+?) -->", match["marks"])
        needs = [mark.removeprefix("needs: ") for mark in marks if mark.startswith("needs: ")]
        if len(needs) + marks.count("interrupted") != len(marks):
            raise ValueError(f"{where}: {marks}")
        lines = re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
        title, interrupted = match["title"] or "", "interrupted" in marks
        blocks.append(Block(match["language"], title, ", ".join(needs), interrupted, lines, where))
    return blocks


def run_blocks(blocks: Sequence[Block]) -> list[str]:
    """Run blocks in the current folder and return those that were skipped, with what is missing."""
    names: dict[str, object] = {"__name__": "docs"}
    skipped = []
    for block in blocks:
        if block.title:
            Path(block.title).parent.mkdir(parents=True, exist_ok=True)
            Path(block.title).write_text(block.text + "\n")
        elif block.runs and block.missing:
            skipped.append(f"{block.where} needs {', '.join(block.missing)}")
        elif block.runs and block.language == "python":
            exec(compile(block.text, block.where, "exec"), names)
        elif block.runs:
            _run(block)
    return skipped


def _run(block: Block) -> None:
    command = ["bash", "-euo", "pipefail", "-c", block.text]
    with tempfile.NamedTemporaryFile() as stdout, tempfile.TemporaryFile("w+", errors="replace") as stderr:
        shell = subprocess.Popen(command, stdout=stdout, stderr=stderr, start_new_session=True)
        try:
            outputs = [stdout.name, *re.findall(r" -o (\S+)", block.text)]
            has_record = not block.interrupted or _wait_for_record(shell, outputs)
            if block.interrupted and shell.poll() is None:
                os.killpg(shell.pid, signal.SIGINT)
            status = shell.wait(TIMEOUT_S)
        finally:
            if shell.poll() is None:
                os.killpg(shell.pid, signal.SIGKILL)
                shell.wait()
        stderr.seek(0)
        message = f"{block.where} ended with {status}: {stderr.read()[-2000:]}"
        assert status == (130 if block.interrupted else 0), message
        assert has_record, f"{block.where} wrote no record"


def _wait_for_record(shell: subprocess.Popen[bytes], outputs: Sequence[str]) -> bool:
    """Wait for the first record with a prediction; return whether there was one before the command ended."""
    end = time.monotonic() + TIMEOUT_S
    while shell.poll() is None and time.monotonic() < end:
        if any(os.path.exists(output) and '"ok"' in Path(output).read_text() for output in outputs):
            return True
        time.sleep(POLL_S)
    return False
