"""The process that executes one run, started by `engines.process`.

It reads the spec and the settings as one line of JSON, says that it is ready, waits for the word to start, and sends
what happens in the run as lines of JSON. It ends itself when its standard input closes: then its parent is gone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from typing import Any, TextIO

from dfkd_bench.hooks.specs import hookimpl

__all__ = ["NO_MEMORY", "main"]

#: Exit status of a worker that had not even the memory to write a record.
NO_MEMORY = 99
_TICK_SECONDS = 0.2
_LOCK_SECONDS = 5.0


class _Teller:
    """Sends a run's events to the parent; the steps of a phase no more often than a person can read."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._ticked = 0.0

    def send(self, **message: Any) -> None:
        self._out.write(json.dumps(message, default=str) + "\n")
        self._out.flush()

    @hookimpl
    def dfkd_run_event(self, event: Any) -> None:
        """Pass it on. The parent reads a record in the results folder."""
        if event.kind == "progress" and event.data["done"] != event.data["total"]:
            if time.monotonic() - self._ticked < _TICK_SECONDS:
                return
            self._ticked = time.monotonic()
        data = {name: value for name, value in event.data.items() if name != "record"}
        self.send(event={"kind": event.kind, "run": event.run, "title": event.title, "data": data})


def _private_output() -> TextIO:
    """The pipe to the parent; what anybody prints goes to standard error from now on."""
    private = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(private, "w", encoding="utf-8")


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    """Do one run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, and it decides
    teller = _Teller(_private_output())
    asked = json.loads(sys.stdin.readline())
    from dfkd_bench.engines.settings import WorkerSettings
    from dfkd_bench.errors import DfkdError
    from dfkd_bench.results.locks import HeldError
    from dfkd_bench.runs.runner import run_spec
    from dfkd_bench.spec import RunSpec
    from dfkd_bench.workbench import Workbench

    try:
        settings = WorkerSettings.model_validate(asked["settings"])
        bench = Workbench.make(
            results=settings.results,
            teachers=settings.teachers,
            data_root=settings.data_root,
            device=settings.device,  # type: ignore[arg-type]
            precision=settings.precision,  # type: ignore[arg-type]
            deterministic=settings.deterministic,
            compile=settings.compile,
            graphs=settings.graphs,
        )
        # The parent holds the run until all is ready, so that a dozen engines do not start a dozen processes for it.
        teller.send(ready=True)
        if not sys.stdin.readline():
            os._exit(1)
        threading.Thread(target=_end_with_parent, daemon=True).start()
        bench.registry.listen(teller)
        run_spec(
            RunSpec.model_validate(asked["spec"]),
            bench.results,
            bench.store,
            checkpoint_seconds=settings.checkpoint_seconds,
            retry=settings.again.failed,
            rerun_stale=settings.again.stale,
            keep_bank=settings.keep_bank,
            wait=_LOCK_SECONDS,
        )
    except HeldError:
        teller.send(held=True)
    except DfkdError as error:
        teller.send(problem=str(error))
    except MemoryError:
        os._exit(NO_MEMORY)
    teller.send(end=True)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not through the interpreter's end: what a plugin left running (threads, other processes' locks) cannot hold it up.
    os._exit(0)
