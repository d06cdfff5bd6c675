"""One run in a process of its own."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import IO, Any

from dfkd_bench.engines.base import Ending, Relay
from dfkd_bench.engines.lost_run import cause_of_death, write_lost_record
from dfkd_bench.engines.settings import WorkerSettings
from dfkd_bench.errors import DfkdError
from dfkd_bench.hooks.events import RunEvent
from dfkd_bench.results import locks
from dfkd_bench.results.records import Record, Results
from dfkd_bench.spec import RunSpec
from dfkd_bench.texts import brief, visible

__all__ = ["Children", "run_apart"]


# How soon it is seen that a worker has ended whose pipe somebody else holds.
_LOOK_SECONDS = 0.5


class Children:
    """The processes that are running, so that all can be ended at once."""

    def __init__(self) -> None:
        self.ending = False
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()

    def start(self, environment: Mapping[str, str]) -> subprocess.Popen[str] | None:
        """Start a worker, unless all are being ended.

        Raises:
            DfkdError: the system gives no process.
        """
        # The worker sees the modules that this process sees, and its own folder is not one of them by chance.
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)  # noqa: PTH109
        command = [sys.executable, "-P", "-c", "from dfkd_bench.engines.worker import main; main()"]
        with self._lock:
            if self.ending:
                return None
            try:
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    encoding="utf-8",
                    errors="replace",
                    env={**os.environ, "PYTHONPATH": path, **environment},
                )
            except OSError as error:
                raise DfkdError(f"no worker process can be started ({error.strerror}): try fewer --jobs") from error
            self._running.add(child)
            return child

    def forget(self, child: subprocess.Popen[str]) -> None:
        """It has ended."""
        with self._lock:
            self._running.discard(child)

    def end(self) -> None:
        """End all of them now; a checkpoint is whole at any moment."""
        with self._lock:
            self.ending = True
            for child in self._running:
                child.kill()


def run_apart(
    spec: RunSpec,
    settings: WorkerSettings,
    *,
    before: Record | None,
    children: Children,
    relay: Relay,
    environment: Mapping[str, str] | None = None,
) -> Ending:
    """Do a run in a process of its own, unless it is done or another process does it.

    Args:
        spec: what to run.
        settings: where and how.
        before: its record when the grid was started.
        children: who ends the process if need be.
        relay: called with what happens in the run.
        environment: variables for the process.

    Raises:
        DfkdError: the results folder cannot be read or written.
    """
    results = Results(settings.results)
    lock = locks.acquire(results.path, spec.hash)
    if lock is None:
        return Ending("held")
    try:
        if settings.again.stands(results.read(spec.hash), before):
            return Ending("found")
        child = children.start(environment or {})
        if child is None:
            return Ending("held")
        talk = _Pipe(child, relay, results)
        try:
            talk.ask({"spec": spec.model_dump(mode="json"), "settings": settings.model_dump(mode="json")})
            if talk.listen(until="ready"):
                talk.ready = True
                lock.release()
                talk.go()
                talk.listen(until="end")
            talk.close()
        finally:
            children.forget(child)
    finally:
        lock.release()
    if talk.held or children.ending:
        return Ending("held")
    problem = talk.problem or talk.startup_failure()
    if problem is not None:
        return Ending("problem", problem)
    return _conclude(spec, settings, before, talk, relay)


class _Pipe:
    """What parent and worker say to each other."""

    def __init__(self, child: subprocess.Popen[str], relay: Relay, results: Results) -> None:
        self.ready, self.held, self.made, self.problem = False, False, False, None
        self.stderr_tail = collections.deque[str](maxlen=60)
        self._child, self._relay, self._results = child, relay, results
        self._heard = b""
        self._reader = threading.Thread(target=self._read_errors, args=(child.stderr,), daemon=True)
        self._reader.start()

    def _read_errors(self, stream: IO[str]) -> None:
        for line in stream:
            self.stderr_tail.append(line)
            # Whoever listened may be gone; if nobody read on, the worker would wait for ever.
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(visible(brief(line.rstrip("\n"))) + "\n")

    def _write(self, text: str) -> None:
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(text)
            self._child.stdin.flush()
        except OSError:
            return  # it is dead: its exit status says more

    def ask(self, request: Mapping[str, Any]) -> None:
        self._write(json.dumps(request) + "\n")

    def go(self) -> None:
        self._write("go\n")

    def listen(self, until: str) -> bool:
        """Hear the worker until it says the word; false if it ends before."""
        while (line := self._next_line()) is not None:
            try:
                message = json.loads(line)
            except ValueError:
                return False  # it was killed while it said this
            self.held = self.held or "held" in message
            self.problem = message.get("problem", self.problem)
            if "event" in message:
                self._pass_on(message["event"])
            if until in message:
                return True
        return False

    def _next_line(self) -> str | None:
        """What it says next; None when it has ended, though a process that it left behind may hold the pipe open."""
        assert self._child.stdout is not None
        pipe = self._child.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while b"\n" not in self._heard:
                ended = self._child.poll() is not None
                if not selector.select(timeout=0 if ended else _LOOK_SECONDS):
                    if ended:
                        return None
                    continue
                block = os.read(pipe, 1 << 16)
                if not block:
                    return None
                self._heard += block
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode("utf-8", "replace")

    def _pass_on(self, event: dict[str, Any]) -> None:
        if event["kind"] in ("finished", "failed"):
            self.made = True
            event["data"]["record"] = self._results.read(event["run"])
        self._relay(RunEvent(**event))

    def startup_failure(self) -> str | None:
        """What was wrong if the worker ended before its run began."""
        if self.ready:
            return None
        said = next((line.strip() for line in reversed(self.stderr_tail) if line.strip()), "it said nothing")
        return f"a worker process ended with exit status {self.status} before its run began: {said}"

    def close(self) -> None:
        """Wait for its end."""
        self.status = self._child.wait()
        self._reader.join(timeout=5)
        for stream in (self._child.stdin, self._child.stdout):
            assert stream is not None
            try:
                stream.close()
            except OSError:
                continue  # what could not be sent to a dead process


def _conclude(spec: RunSpec, settings: WorkerSettings, before: Record | None, talk: _Pipe, relay: Relay) -> Ending:
    """The worker has ended: with a record, or without one."""
    results = Results(settings.results)
    lock = locks.acquire(results.path, spec.hash, wait=1)
    if lock is None:
        return Ending("held")  # another engine runs it already
    try:
        if settings.again.stands(results.read(spec.hash), before):
            return Ending("record" if talk.made else "found")
        status, reason = cause_of_death(talk.status)
        record = write_lost_record(spec, settings, status, reason, "".join(talk.stderr_tail))
    finally:
        lock.release()
    relay(RunEvent("failed", spec.hash, spec.title, {"reason": reason, "record": record}))
    return Ending("record")
