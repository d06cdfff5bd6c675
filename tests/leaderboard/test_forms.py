"""Every form of the leaderboard says the same, and text of strangers does nothing in any of them."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from contextlib import redirect_stdout
from pathlib import Path

import pandas as pd
import pytest
from support.e2e_kit import cli, make_record, make_spec

from dfkd_bench.cli.tables import print_table
from dfkd_bench.hooks.registry import default_registry
from dfkd_bench.leaderboard import bibtex, latex, markdown, view
from dfkd_bench.leaderboard.bibtex import bibtex_text
from dfkd_bench.leaderboard.build import build_table, read_table
from dfkd_bench.leaderboard.columns import COLUMNS, document, pandas_types
from dfkd_bench.leaderboard.csv_form import csv_text
from dfkd_bench.leaderboard.latex import latex_text
from dfkd_bench.leaderboard.markdown import markdown_text
from dfkd_bench.leaderboard.page.pictures import Pictures
from dfkd_bench.leaderboard.page.render import page_text
from dfkd_bench.leaderboard.text import amount, plain, signed
from dfkd_bench.planning.installed import Installed
from dfkd_bench.results.records import Results

ROOT = Path(__file__).parents[2]
#: What is committed. Beside it lies what a user of this checkout has measured.
REFERENCE = ROOT / "results" / "reference" / "digits-quick"
HOSTILE = (
    '=HYPERLINK("http://evil.example","x")<script>alert(1)</script><img src=x onerror=alert(1)>'
    r"\input{/etc/passwd}\end{tabular}%$_^~#&{}[red]x[/red]`rm`|a|**b**__c__[d](javascript:e)"
    "\x1b[31m\x07\u202e\ud800中é\n# heading"
)


@pytest.fixture(scope="module")
def ours():
    """The table of the repository's own records."""
    return read_table(Results(REFERENCE), Installed(default_registry()))


@pytest.fixture(scope="module")
def hostile():
    # A lone surrogate cannot be in a spec, whose hash is of UTF-8.
    name = HOSTILE.replace("\ud800", "")
    records = [
        make_record(make_spec(method=name, dataset=name, preset=name, seed=seed), accuracy)
        for seed, accuracy in enumerate((50.0, 51.0, 52.0))
    ]
    spec = make_spec(method=f"+{name}", dataset=name, preset=name)
    return build_table([*records, make_record(spec, None, reason=HOSTILE * 50)])


def screen(table) -> str:
    with redirect_stdout(io.StringIO()) as out:
        print_table(table)
    return out.getvalue()


def loaded(table) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(csv_text(table)), dtype=pandas_types(), keep_default_na=False, na_values=[""])


def test_all_forms_have_the_same_rows_in_the_same_order(ours):
    rows = [view.cells_of(row) for _, row in ours.rows()]
    assert len(rows) == 16
    (cell,) = ours.cells
    shown = [
        line
        for line in screen(ours).splitlines()
        if line.startswith("│") and line.count("none") + line.count("data") + line.count("image")
    ]
    assert [
        tuple(c.strip() for c in line.strip("│").split("│")) for line in shown if "not data-free" not in line
    ] == rows
    lines = [line for line in markdown_text(ours).splitlines() if line.startswith("| ")]
    cells = [[c.strip().replace("\\", "") for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert [tuple(c) for c in cells if not c[1].startswith("**")][1:] == rows
    lines = [line for line in latex_text(ours).splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    cells = [[c.strip().replace("{-}", "-").replace("\\", "") for c in line[:-3].split("&")] for line in lines]
    assert [tuple(c) for c in cells][1:] == rows
    table = loaded(ours)
    assert [f"{value:.2f}" for value in table["accuracy_percent"]] == [row[4] for row in rows]
    assert list(table["method"]) == [row[1] for row in rows]
    assert [amount(value) for value in table["total_flop"]] == [row[11] for row in rows]
    for note in view.notes(cell):
        assert markdown.escaped(note) in markdown_text(ours)
        assert latex.escaped(note) in latex_text(ours)
        assert note in " ".join(screen(ours).split())


def test_the_table_of_the_repository_says_what_its_records_say(ours):
    table = loaded(ours)
    for path in REFERENCE.rglob("record.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        row = table[table["runs"] == record["run"]].iloc[0]
        assert row["accuracy_percent"] == record["accuracy"]["last"]
        assert json.loads(row["accuracy_by_seed_percent"]) == {"0": record["accuracy"]["last"]}
        assert row["oracle_best_percent"] == record["accuracy"]["oracle_best"]
        assert row["total_flop"] == sum(phase["flops"] for phase in record["cost"].values())
        assert row["total_seconds"] == pytest.approx(sum(phase["seconds"] for phase in record["cost"].values()))
        assert row["peak_memory_bytes"] == max(phase["peak_memory"] for phase in record["cost"].values())
        assert (row["test_images"], row["teacher_accuracy_percent"]) == (359, 99.4429)
    kinds = dict(zip(table["method"], table["kind"], strict=True))
    assert {name for name, kind in kinds.items() if kind == "null baseline"} == {"noise", "one-image", "other-dataset"}
    assert {name for name, kind in kinds.items() if kind == "reference"} == {"real-data", "scratch"}


def test_the_repositorys_csv_is_that_of_its_records():
    folder = REFERENCE
    made = csv_text(read_table(Results(folder), Installed(default_registry())))
    assert (folder / "leaderboard.csv").read_text(encoding="utf-8") == made


def test_the_csv_loads_with_the_documented_types(ours):
    table = loaded(ours)
    assert list(table.columns) == [column.name for column in COLUMNS]
    assert {name: str(dtype) for name, dtype in table.dtypes.items()} == pandas_types()
    # `none` is a prior and an augmenter's name, not a hole.
    assert set(table["prior"]) == {"none", "image", "data"}
    assert not table["accuracy_percent"].isna().any()
    assert table["place"].isna().all()


def test_the_columns_are_documented():
    assert document() in (ROOT / "docs" / "leaderboard-columns.md").read_text(encoding="utf-8")


def test_hostile_text_is_text_in_the_csv(hostile):
    first, second = csv.DictReader(io.StringIO(csv_text(hostile)))
    assert first["method"].startswith("'=HYPERLINK(")
    assert second["method"].startswith("'+=HYPERLINK(")
    text = csv_text(hostile)
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e\ud800]", text)
    assert len(text.splitlines()) == 3
    text.encode()


def test_hostile_text_is_text_in_markdown(hostile):
    text = markdown_text(hostile)
    assert "<" not in text
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e\ud800]", text)
    assert not re.search(r"(?<!\\)[`$~]", text)
    assert not re.search(r"(?<!\\)\]\(", text)
    assert "://" not in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {len(view.COLUMNS) + 1}
    assert not [line for line in text.splitlines() if line and not re.match(r"(\||### |\* )", line)]


def test_hostile_text_is_text_in_latex(hostile):
    text = latex_text(hostile)
    text.encode("ascii")
    assert r"\input" not in text
    assert r"\textbackslash{}input\{/etc/passwd\}\textbackslash{}end\{tabular\}\%\$\_" in text
    assert "[U+4E2D]\\'{e}" in text
    assert text.count(r"\end{tabular}") == 1
    assert not [line for line in text.splitlines() if re.search(r"(?<!\\)%", line) and not line.endswith("{%")][1:]


def test_hostile_text_is_text_on_the_screen(hostile):
    text = screen(hostile)
    assert "[red]x[/red]" in "".join(re.sub(r"[│\s]", "", line) for line in text.splitlines())
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e\ud800]", text)
    assert len(text) < 20_000


def test_text_is_one_line_of_what_can_be_printed():
    assert plain("a\n\tb  c") == "a b c"
    assert plain("\x1b[31m\u202ex\ud800\ue000") == r"\x1b[31m\u202ex\ud800\ue000"
    assert plain("x" * 400, 10) == "xxxxxxxxx…"
    assert len(plain("x" * 10**6)) == 300
    assert plain("x" * 300) == "x" * 300


def test_numbers_are_written_with_three_digits_and_a_prefix():
    numbers = (0, 7, 999, 1000, 61440, 1_234_567, 99_960, 29.6e12, 0.5, 84.4, None)
    assert [amount(n) for n in numbers] == [
        "0", "7", "999", "1.00 k", "61.4 k", "1.23 M", "100 k", "29.6 T", "0.50", "84.4", "-",
    ]  # fmt: skip
    assert (amount(2**31, 1024), amount(1000, 1024)) == ("2.00 Gi", "1000")
    assert (signed(0.004), signed(-0.004), signed(1.0), signed(-1.5), signed(None)) == (
        "0.00",
        "0.00",
        "+1.00",
        "-1.50",
        "-",
    )


def test_bibtex_has_each_paper_once_and_names_what_has_none(ours):
    text = bibtex_text(ours, Installed(default_registry()))
    entries = re.findall(r"^@\w+\{([^,]+),", text, re.MULTILINE)
    assert len(entries) == len(set(entries))
    # dda and dda-released share a paper; noise, other-dataset and scratch have none.
    assert len(entries) == len({key.dataset for key, _ in ours.rows()}) + 12
    assert "% method dda, method dda-released\n@" in text
    assert "% method noise: no entry\n" in text


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("@misc{a, title={b {c} d}}", True),
        ("@misc{a, title={b}", False),
        ("@misc{a, title={b}} x", False),
        ("@misc{a, title={b}}\n@misc{c, title={d}}", False),
        ("misc{a, title={b}}", False),
        ("@misc{a}, title={b}", False),
        ("", False),
    ],
)
def test_only_a_whole_bibtex_entry_is_one(text, good):
    assert bibtex.is_entry(text) == good


def test_a_long_table_is_cut_on_the_screen_alone():
    table = build_table([make_record(make_spec(method=f"m{n}"), 50.0) for n in range(203)])
    assert len(loaded(table)) == 203
    assert "3 more rows are in leaderboard.csv." in screen(table)
    assert screen(table).count("│ m") == 200


@pytest.mark.parametrize(
    ("form", "start"),
    [("csv", "dataset,"), ("markdown", "### digits"), ("latex", "% Made"), ("bibtex", "% dataset digits\n@misc{")],
)
def test_every_form_is_printed_or_written_by_one_command(tmp_path, form, start):
    folder = tmp_path / "results"
    Results(folder).write(make_record())
    printed = cli("leaderboard", "--results", folder, "--form", form)
    assert printed.code == 0, printed
    assert printed.out.startswith(start)
    assert not (folder / "leaderboard.csv").exists()
    written = cli("leaderboard", "--results", folder, "--form", form, "--output", tmp_path / "made")
    assert (written.code, written.out) == (0, "")
    assert (tmp_path / "made").read_text(encoding="utf-8") == printed.out


def test_an_older_record_is_used_and_a_cut_or_foreign_one_is_named(tmp_path):
    results = Results(tmp_path)
    old = make_record(make_spec(seed=1), 60.0)
    plain_old = old.model_dump(mode="json") | {"schema_version": 1, "curve": []}
    del plain_old["curve_sha256"]
    results.write(old).write_text(json.dumps(plain_old), encoding="utf-8")
    results.write(make_record(make_spec(seed=0), 50.0))
    cut = results.write(make_record(make_spec(seed=2)))
    cut.write_bytes(cut.read_bytes()[:-200])
    foreign = tmp_path / "other" / "record.json"
    foreign.parent.mkdir()
    foreign.write_text('{"title": "a record by the Beatles"}', encoding="utf-8")
    done = cli("leaderboard", "--results", tmp_path, "--form", "csv")
    assert done.code == 1
    (row,) = csv.DictReader(io.StringIO(done.out))
    assert (row["seeds"], row["accuracy_percent"]) == ("2", "55.0")
    assert sorted(str(path) in done.err for path in (cut, foreign)) == [True, True]
    assert len(done.err.splitlines()) == 2


@pytest.mark.slow
def test_the_latex_compiles(tmp_path, ours, hostile):
    if shutil.which("pdflatex") is None:
        pytest.skip("there is no pdflatex: apt-get install texlive-latex-base")
    # Debian's base has no booktabs; what it draws is no matter here.
    lines = "".join(rf"\let\{name}\hline" for name in ("toprule", "midrule", "bottomrule"))
    head = r"\documentclass{article}\usepackage{graphicx}\IfFileExists{booktabs.sty}{\usepackage{booktabs}}"
    head += f"{{{lines}}}"
    body = latex_text(ours) + latex_text(hostile)
    for encoding in ("", r"\usepackage[T1]{fontenc}"):
        paper = rf"{head}{encoding}\begin{{document}}{body}\end{{document}}"
        (tmp_path / "paper.tex").write_text(paper, encoding="ascii")
        done = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"],
            cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:]
        assert (tmp_path / "paper.pdf").stat().st_size > 10_000


def test_every_form_says_where_ranks_do_not_follow_the_means():
    spread = (-12.2, -7.0, 0.0, 7.0, 12.2)
    points = {
        "best": [90 + d / 100 for d in spread],
        "second": [78 + d / 100 for d in reversed(spread)],
        "wild": [77 + d for d in spread],
    }
    table = build_table(
        make_record(make_spec(method=name, seed=seed), accuracy)
        for name, accuracies in points.items()
        for seed, accuracy in enumerate(accuracies)
    )
    (cell,) = table.cells
    assert [(row.method, row.standing.label) for row in cell.rows] == [("best", "1="), ("second", "3"), ("wild", "1=")]
    said = "Ranks do not follow the means here: wild has rank 1= with a lower mean than second."
    assert said in " ".join(screen(table).split())
    for form in (markdown_text(table), latex_text(table), page_text(table, Path(), Pictures.none)):
        assert said in form
    assert "better one than a row with a higher mean" in document()  # a CSV has no room for notes
    records = [make_record(make_spec(method=name, seed=n), 80.0 + n) for name in "ab" for n in range(3)]
    assert "do not follow" not in markdown_text(build_table(records))
