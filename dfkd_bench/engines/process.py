"""One run in a process of its own, and the row of one whose process ended without a record."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any, Literal

from dfkd_bench import claims, progress
from dfkd_bench.engines.settings import Settings
from dfkd_bench.engines.worker import NO_MEMORY
from dfkd_bench.errors import DfkdError
from dfkd_bench.events import RunEvent
from dfkd_bench.files import replacing
from dfkd_bench.records import Record, Results, Status
from dfkd_bench.spec import RunSpec

__all__ = ["Children", "Ending", "Relay", "leave_row", "run_apart", "stands"]

Relay = Callable[[RunEvent], None]


@dataclass(frozen=True)
class Ending:
    """How a try to do a run ended.

    Attributes:
        kind: `record` (the results folder has it), `held` (another process does it), or `problem`: something that the
            user can mend stands in the way, and there is no record.
        sentence: the problem.
    """

    kind: Literal["record", "held", "problem"]
    sentence: str = ""


def stands(found: Record | None, before: Record | None, retry: bool) -> bool:
    """Whether a record is not to be made again; `before` is what was there when the grid was started."""
    return found is not None and (found.status == "finished" or not retry or found != before)


class Children:
    """The processes that are going on, so that all can be ended at once."""

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
    settings: Settings,
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
        relay: is told what happens in the run.
        environment: variables for the process.

    Raises:
        DfkdError: the results folder cannot be read or written.
    """
    results = Results(settings.results)
    claim = claims.take(results.path, spec.hash)
    if claim is None:
        return Ending("held")
    try:
        if stands(results.read(spec.hash), before, settings.retry):
            return Ending("record")
        child = children.start(environment or {})
        if child is None:
            return Ending("held")
        talk = _Talk(child, relay, results)
        try:
            talk.ask({"spec": spec.model_dump(mode="json"), "settings": settings.model_dump(mode="json")})
            if talk.listen(until="ready"):
                talk.ready = True
                claim.release()
                talk.go()
                talk.listen(until="end")
            talk.close()
        finally:
            children.forget(child)
    finally:
        claim.release()
    if talk.held or children.ending:
        return Ending("held")
    problem = talk.problem or talk.stillborn()
    if problem is not None:
        return Ending("problem", problem)
    return _judge(spec, settings, before, talk, relay)


class _Talk:
    """What parent and worker say to each other."""

    def __init__(self, child: subprocess.Popen[str], relay: Relay, results: Results) -> None:
        self.ready, self.held, self.problem = False, False, None
        self.last_words = collections.deque[str](maxlen=60)
        self._child, self._relay, self._results = child, relay, results
        self._reader = threading.Thread(target=self._read_errors, args=(child.stderr,), daemon=True)
        self._reader.start()

    def _read_errors(self, stream: IO[str]) -> None:
        for line in stream:
            self.last_words.append(line)
            # Whoever listened may be gone; if nobody read on, the worker would wait for ever.
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(line)

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
        assert self._child.stdout is not None
        for line in self._child.stdout:
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

    def _pass_on(self, event: dict[str, Any]) -> None:
        if event["kind"] in ("finished", "failed"):
            event["data"]["record"] = self._results.read(event["run"])
        self._relay(RunEvent(**event))

    def stillborn(self) -> str | None:
        """What was wrong if the worker ended before its run began."""
        if self.ready:
            return None
        said = next((line.strip() for line in reversed(self.last_words) if line.strip()), "it said nothing")
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


def _judge(spec: RunSpec, settings: Settings, before: Record | None, talk: _Talk, relay: Relay) -> Ending:
    """The worker has ended: with a record, or without one."""
    results = Results(settings.results)
    claim = claims.take(results.path, spec.hash, wait=1)
    if claim is None:
        return Ending("held")  # another engine goes on with it already
    try:
        if stands(results.read(spec.hash), before, settings.retry):
            return Ending("record")
        status, reason = _cause(talk.status)
        record = leave_row(spec, settings, status, reason, "".join(talk.last_words))
    finally:
        claim.release()
    relay(RunEvent("failed", spec.hash, spec.title, {"reason": reason, "record": record}))
    return Ending("record")


def _cause(status: int) -> tuple[Status, str]:
    if status == NO_MEMORY:
        return "out-of-memory", "MemoryError: not even the record could be written"
    if status >= 0:
        return "killed", f"the process ended with exit status {status} and left no record"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    perhaps = ", perhaps for memory" if name == "SIGKILL" else ""
    return "killed", f"the process was killed by {name}{perhaps}"


def leave_row(spec: RunSpec, settings: Settings, status: Status, reason: str, last_words: str = "") -> Record:
    """Write the record of a run whose process can write none. The caller holds the run.

    Raises:
        DfkdError: it cannot be written.
    """
    results = Results(settings.results)
    results.require_writable()
    found = progress.read(results, spec.hash)
    if found is None:
        found = _nothing_known(spec, settings)
    record = found.record(status, reason)
    results.write(record)
    folder = results.folder(spec.hash)
    if last_words:
        with replacing(folder / "traceback.txt") as temporary:
            temporary.write_text(last_words, encoding="utf-8")
    (folder / "progress.json").unlink(missing_ok=True)
    return record


def _nothing_known(spec: RunSpec, settings: Settings) -> progress.Progress:
    from dfkd_bench.environment import describe, execution
    from dfkd_bench.plugins import default_registry
    from dfkd_bench.staging import priors_of

    registry = default_registry()
    try:
        priors = priors_of(spec, registry)
    except DfkdError:
        priors = {}
    where = execution(settings.device, settings.precision, settings.data_root, here=False)  # type: ignore[arg-type]
    return progress.Progress.begin(spec, priors, describe(where, registry))
