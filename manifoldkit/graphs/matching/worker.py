"""A process that solves pairs and can be stopped, which LAD itself cannot."""

import json
import queue
import subprocess
import sys
import threading
from typing import Any

from manifoldkit.graphs.matching import lad_worker
from manifoldkit.graphs.matching.views import View


class Worker:
    """A process that runs LAD on what it reads, one line of JSON a pair."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, lad_worker.__file__],  # a script: no import of ours
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answers: queue.SimpleQueue = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._ready = False

    def await_start(self) -> None:
        """Wait until the process reads its input."""
        if self._ready:
            return
        try:
            self._ready = bool(self._answers.get(timeout=120))
        except queue.Empty:
            self._ready = False
        if not self._ready:
            raise RuntimeError("the solver's process did not start")

    def _read(self) -> None:
        stream: Any = self._process.stdout
        for line in stream:
            self._answers.put(line)
        self._answers.put("")

    def ask(
        self,
        query: View,
        graph: View,
        induced: bool,
        budget: float,
        domains: list | None,
    ) -> dict | None:
        """Return the answer, or None when it does not come in time."""
        task = [
            [query.graph.num_nodes, query.links.tolist()],
            [graph.graph.num_nodes, graph.links.tolist()],
            query.terms.directed,
            induced,
            domains,
        ]
        stream: Any = self._process.stdin
        stream.write(json.dumps(task) + "\n")
        stream.flush()
        try:
            line = self._answers.get(timeout=budget)
        except queue.Empty:
            return None
        if not line:
            raise RuntimeError("the solver's process ended unexpectedly")
        return json.loads(line)

    def close(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
