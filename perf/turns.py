"""Implementations that are measured in turns: each is a process that waits until it is asked."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path


class Implementation:
    """A process that answers with lines of JSON: once when it is ready, then its seconds at every turn.

    Attributes
    ----------
    name : str
    ready : dict
        Its first answer.
    seconds, ratios : list of float
        Of all turns so far; `ratios` are for who compares.
    """

    def __init__(
        self, name: str, command: Sequence[str | Path], environment: dict[str, str]
    ) -> None:
        self.name = name
        self.seconds: list[float] = []
        self.ratios: list[float] = []
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        )  # fmt: skip
        self.ready = self.answer()

    def answer(self) -> dict:
        """Wait for a line of JSON of the process; others are of its libraries."""
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"{self.name} failed: see above")

    def run(self) -> None:
        """Take a turn."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.seconds.append(self.answer()["seconds"])

    def stop(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()
