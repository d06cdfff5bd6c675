"""Text of strangers on the screen: plain text, one line, short, whatever it holds."""

from __future__ import annotations

import ast
import io
import sys
import unicodedata
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.e2e_kit import (
    bench,
    cli,
    make_record,
    make_spec,
    own_cache,  # noqa: F401
    registry_with,
    specs,
)

import dfkd_bench
from dfkd_bench import StageOptions, Synthesizer
from dfkd_bench.cli import console, display
from dfkd_bench.hooks.events import RunEvent
from dfkd_bench.results.records import Results
from dfkd_bench.runs.runner import run_spec
from dfkd_bench.texts import brief, encodable, message, visible

#: Markup, an end without a begin, a link, colors, a title of the terminal, a bell, backspaces, a forged second line,
#: the other direction, half a character, a file of a million letters.
STRANGE = [
    "no [/usr/lib/foo] here",
    "[/red]x [bold]y[/bold] :smile:",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b]8;;http://x\x1b\\link",
    "a\b\b\rb\vc\fd\x7f\x9b31m",
    "one\ndfkd-bench: all is well",
    "\u202eltr \u200b\u2066 \ufeff",
    "half \ud800 \udc80",
    "long " + "x" * 10**6 + " end",
]
ROOT = Path(dfkd_bench.__file__).parent.parent


def harmless(text: str) -> bool:
    """Whether a terminal only shows it."""
    return all(unicodedata.category(one) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for one in text if one != "\n")


@pytest.mark.parametrize("text", STRANGE)
def test_a_stranger_s_exception_at_import_does_not_end_the_listing(tmp_path, monkeypatch, text):
    (tmp_path / "odd_plugin.py").write_text(f"raise RuntimeError({text!a})\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("odd_plugin", None)
    registry = registry_with(EntryPoint("odd", "odd_plugin", "dfkd_bench"))
    monkeypatch.setattr("dfkd_bench.hooks.registry.default_registry", lambda: registry)
    done = cli("plugins")
    assert done.code == 0
    assert harmless(done.out)
    assert len(done.out) < 20_000
    assert "broken: RuntimeError:" in " ".join(done.out.replace("│", " ").split())
    if "/usr/lib" in text:
        assert "[/usr/lib/foo]" in done.out


@pytest.mark.parametrize("text", STRANGE)
def test_a_stranger_s_reason_and_names_are_shown_short_and_kept_whole(tmp_path, text):
    results, kept = Results(tmp_path), encodable(text)
    failed = make_spec(dataset=f"folder:/{kept[:200]}", method=kept[:200])
    results.write(make_record(failed, None, reason=kept))
    results.write(make_record(make_spec(dataset=f"folder:/{kept[:200]}", preset=kept[:50])))
    shown = cli("status", "--results", tmp_path)
    assert (shown.code, len(shown.out.splitlines())) == (0, 3)
    table = cli("leaderboard", "--results", tmp_path)
    assert (table.code, table.err) == (0, "")
    for said in (shown.out, table.out):
        assert harmless(said)
        assert len(said) < 30_000
    assert results.read(failed.hash).reason == kept
    assert kept[-20:] in results.read(failed.hash).reason


@pytest.mark.parametrize("text", STRANGE)
@pytest.mark.parametrize("terminal", [False, True])
def test_run_events_are_shown_as_text(text, terminal, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR" if terminal else "NO_COLOR", "1")
    with redirect_stderr(io.StringIO()) as err:
        listener = display.Bars() if terminal else display.Lines()
        for kind, data in (
            ("phase", {"phase": text, "round": 0}),
            ("epoch", {"losses": {text: 1.0}, "epoch": 1, "epochs": 2, "accuracy": 1.0}),
            ("failed", {"record": make_record(accuracy=None), "reason": text}),
        ):
            listener.dfkd_run_event(RunEvent(kind, "0" * 16, text, data))
    said = err.getvalue()
    assert len(said) < 40_000
    assert "failed: " in said
    # What rich itself sends to a terminal are colors and the cursor's moves; a stranger's are spelled out.
    for code in ("\x1b[31m", "\x1b]0;", "\x07", "\x9b", "\u202e", "\ud800"):
        assert code not in said


def test_a_record_can_be_written_whatever_a_stage_raises(tmp_path):
    class Odd(Synthesizer[StageOptions]):
        Options = StageOptions

        def synthesize(self, round):
            raise RuntimeError("half \ud800 \x1b[31m [/red]")

    registry = registry_with(synthesizer={"odd": Odd})
    workbench = bench(tmp_path, registry)
    (spec,) = specs(workbench, "noise", swaps={"synthesizer": "odd"})
    record = run_spec(spec, workbench.results, workbench.store)
    assert (record.status, record.reason) == ("failed", "RuntimeError: half \\ud800 \x1b[31m [/red]")
    assert workbench.results.read(spec.hash) == record
    assert "\\ud800" in (tmp_path / spec.hash / "traceback.txt").read_text(encoding="utf-8")


def test_an_exception_that_cannot_say_what_it_is_says_nothing():
    class MuteError(Exception):
        def __str__(self):
            raise RuntimeError("no")

    assert message(MuteError()) == ""
    assert message(ValueError("a\n b\tc")) == "a b c"


@given(st.text(st.characters(), max_size=200))
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_text_is_one_harmless_line_that_can_be_printed(text):
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        console.say(text)
        console.complain(text)
        console.styled((text, "bold"), text)
        console.table(text, ("a", text), [(text, text)])
    said = out.getvalue() + err.getvalue()
    said.encode()
    assert harmless(said)
    assert out.getvalue().splitlines()[0] == visible(text)
    assert err.getvalue() == f"dfkd-bench: {visible(text)}\n"


def test_a_long_text_keeps_its_begin_and_its_end():
    text = "".join(str(index) for index in range(10_000))
    short = brief(text, 300)
    assert len(short) < 350
    assert text.startswith(short[:200])
    assert text.endswith(short[-100:])
    assert f"[... {len(text) - 300:,} characters ...]" in short
    assert brief("x" * 300, 300) == "x" * 300


#: Who may print, and what: the console; and the parent of a worker, which passes on what that printed, made visible.
_MAY = {"dfkd_bench/cli/console.py", "dfkd_bench/engines/child.py"}
_RICH = {"dfkd_bench/cli/console.py", "dfkd_bench/cli/display.py"}
#: It lays a table out in groups, of `Text` made of printable characters.
_RICH |= {"dfkd_bench/cli/tables.py"}


def _prints(path: Path) -> list[str]:
    """What in a source file goes to the screen past the console."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if any(module.split(".")[0] == "rich" for module in modules):
            found += [f"{place} imports rich"] * (str(path.relative_to(ROOT)) not in _RICH or "rich.console" in modules)
        if not isinstance(node, ast.Call):
            continue
        name, attribute = getattr(node.func, "id", None), getattr(node.func, "attr", None)
        of = getattr(getattr(node.func, "value", None), "attr", None)
        past = name in ("print", "echo", "Console") or attribute in ("echo", "secho", "Console")
        if past or (attribute == "write" and of in ("stdout", "stderr")):
            found.append(f"{place} calls {name or attribute}")
    return found


def test_nothing_is_printed_past_the_console():
    sources = [path for room in ("dfkd_bench", "plugins", "baselines") for path in (ROOT / room).rglob("*.py")]
    assert len(sources) > 100
    past = [said for path in sources if str(path.relative_to(ROOT)) not in _MAY for said in _prints(path)]
    assert past == []
    assert len(_prints(ROOT / "dfkd_bench/cli/console.py")) >= 3  # the rule does see what it looks for
