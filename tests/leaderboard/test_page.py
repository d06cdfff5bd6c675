"""The leaderboard's page in a real browser: nothing leaves it, nothing of a stranger's runs, the keyboard suffices."""

from __future__ import annotations

import dataclasses
import re
import sys

import pytest
from support.e2e_kit import cli
from support.page_kit import CHROMIUM, HOSTILE, browser, simulate, write_page

from dfkd_bench.leaderboard.build import read_table
from dfkd_bench.leaderboard.figures import write_figures
from dfkd_bench.leaderboard.page import payload
from dfkd_bench.leaderboard.page.pictures import Pictures
from dfkd_bench.leaderboard.page.render import page_text
from dfkd_bench.results.records import Results

in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def address(root, tmp_path_factory):
    return write_page(root, tmp_path_factory.mktemp("page") / "leaderboard.html").as_uri()


@pytest.fixture(scope="module")
def chromium():
    with browser() as found:
        yield found


@pytest.fixture
def page(chromium, address):
    """The page, just opened; at the end nothing was asked of a host and no script failed."""
    found, asked = chromium.new_page(viewport={"width": 390, "height": 844}), []
    wrong: list[str] = []
    found.on("request", lambda request: asked.append(request.url))
    found.on("pageerror", lambda error: wrong.append(str(error)))
    found.on("console", lambda message: wrong.append(message.text))
    found.goto(address)
    yield found
    assert [url for url in asked if not url.startswith("data:")] == [address]
    assert wrong == []
    assert found.evaluate("window.hurt") is None
    found.close()


def column(page, index: int) -> list[str]:
    """Texts of a column of the first table."""
    return page.locator("#board tbody:nth-of-type(1) tr.row").evaluate_all(
        "(rows, index) => rows.map((row) => row.children[index].firstChild.textContent)", index
    )


@in_browser
def test_sorted_by_cost(page):
    seconds = page.get_by_role("button", name="Seconds")
    seconds.click()
    head = page.locator("#board th", has=seconds)
    assert head.get_attribute("aria-sort") == "ascending"
    rising = [float(re.sub(" k$", "e3", text)) for text in column(page, 12)]
    assert rising == sorted(rising)
    assert len(rising) == 10
    seconds.click()
    assert head.get_attribute("aria-sort") == "descending"
    assert [float(re.sub(" k$", "e3", text)) for text in column(page, 12)] == sorted(rising, reverse=True)


@in_browser
def test_filtered_by_dataset_and_text(page):
    page.get_by_label("Dataset").select_option("digits")
    assert page.locator("#count").inner_text() == "20 of 40 rows"
    assert page.locator("#board tbody:visible h2").all_inner_texts()[0].startswith("digits")
    assert page.locator("#cost-cell").evaluate("node => node.selectedOptions[0].text").startswith("digits")
    page.get_by_label("Text").fill("dda")
    assert page.locator("#count").inner_text() == "2 of 40 rows"
    page.get_by_role("button", name="Clear").click()
    page.locator("#count", has_text=re.compile("^40 rows$")).wait_for()


@in_browser
def test_provenance_by_keyboard_alone(page):
    page.locator("#board .open").first.focus()
    page.keyboard.press("Enter")
    dialog = page.locator("#details")
    assert dialog.is_visible()
    text = dialog.inner_text()
    for wanted in (
        "a" * 64,
        "b" * 64,
        "came from",
        "made by hand",
        "Learning curves",
        "Runs",
        "a processor",
        "dfkd-bench",
        "finished",
    ):
        assert wanted in text
    page.locator("#spec summary").focus()
    page.keyboard.press("Enter")
    assert '"method"' in page.locator("#spec pre").inner_text()
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert page.evaluate("document.activeElement.className") == "open"
    page.locator("#board thead button").first.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert column(page, 1) == sorted(column(page, 1), key=str.casefold)
    page.locator("#cost-chart .point").first.focus()
    page.keyboard.press("Enter")
    assert dialog.is_visible()


@in_browser
def test_of_many_rows_the_first_of_each_table_until_all_are_asked_for(chromium, root, tmp_path, monkeypatch):
    monkeypatch.setattr(payload, "MOST_ROWS", 30)  # no table has more than the 10 that it always shows
    page = chromium.new_page()
    page.goto(write_page(root, tmp_path / "all.html").as_uri())
    assert page.locator("#board tr.rest:visible").count() == 0
    monkeypatch.setattr(payload, "MOST_ROWS", 4)
    monkeypatch.setattr(payload, "FEWEST_ROWS", 3)
    page.goto(write_page(root, tmp_path / "first.html").as_uri())
    first = page.locator("#board tbody").first
    assert first.locator("tr.row:visible").count() == 3
    assert page.locator("#count").inner_text() == "40 rows"
    assert page.locator("#cost-chart .point").count() == 10  # charts leave nothing out
    page.get_by_role("button", name="Seconds").click()
    seconds = [float(re.sub(" k$", "e3", text)) for text in column(page, 12)]
    assert seconds == sorted(seconds)  # of all rows: the cheapest are those that are seen
    assert first.locator("tr.row:visible").count() == 3
    page.get_by_label("Text").fill("real-data")
    assert page.locator("#board tr.row:visible").count() == 4
    assert page.locator("#board tr.rest:visible").count() == 0
    page.get_by_label("Text").fill("")
    first.get_by_role("button", name="Show all 10 rows").focus()
    page.keyboard.press("Enter")
    assert first.locator("tr.row:visible").count() == 10
    assert page.locator("#board tr.row:visible").count() == 10 + 3 * 3
    assert page.evaluate("document.activeElement.closest('tr').previousElementSibling.hidden") is False
    assert page.evaluate("document.activeElement.className") == "open"
    page.close()


@in_browser
def test_pictures_charts_and_width(page):
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator("#cost-chart .point").count() == 10
    assert page.locator("#cost-chart .front").get_attribute("d").startswith("M")
    page.locator("#gallery button").first.click()
    assert page.locator("#large-image").evaluate("image => image.naturalWidth") == 240
    assert page.locator("#large-title").inner_text().startswith("dda, seed 0")


def test_strangers_text_stays_text(root):
    text = page_text(read_table(Results(root)), root, Pictures.none)
    assert HOSTILE not in text
    assert "&lt;img src=x" in text
    assert text.count("<script") == 2
    assert "default-src &#39;none&#39;" in text
    assert not re.search(r"(src|href)=\"?https?:", text)


def test_pictures_are_for_the_page_alone(root):
    said = cli("leaderboard", "--results", root, "--form", "csv", "--pictures", "link").sentence()
    assert said == "--pictures is for --form html: other forms show none"


def test_pictures_are_embedded_linked_or_left_out(root, tmp_path):
    table = read_table(Results(root))
    sizes = {}
    for pictures in Pictures:
        text = page_text(table, root, pictures, tmp_path)
        sizes[pictures] = text.count("data:image/webp"), text.count("images.png")
    assert sizes == {Pictures.embed: (12, 0), Pictures.link: (0, 12), Pictures.none: (0, 0)}


def test_small_enough_and_a_missing_curve_is_named(root, tmp_path):
    page = write_page(root, tmp_path / "page.html", pictures=Pictures.none)
    assert page.stat().st_size < 3e6 * 120 / 200
    (curve,) = sorted(root.rglob("curve.csv"))[:1]
    text = curve.read_text(encoding="utf-8")
    try:
        curve.write_text(text + "1\n", encoding="utf-8")
        told: list[str] = []
        page_text(read_table(Results(root)), root, Pictures.none, report=told.append)
    finally:
        curve.write_text(text, encoding="utf-8")
    assert len(told) == 1
    assert "it was changed" in told[0]


def test_figures_are_the_same_bytes_twice(root, tmp_path):
    pytest.importorskip("matplotlib", reason="the extra `figures` is not installed")
    table = read_table(Results(root))
    table = dataclasses.replace(table, cells=table.cells[:2])
    once, again = (write_figures(table, root, tmp_path / name, pytest.fail) for name in ("once", "again"))
    assert len(once) == 18
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]


def test_figures_without_matplotlib_are_one_sentence(root, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ended = cli("figures", "--results", root, "--out", tmp_path / "figures")
    assert ended.sentence() == "figures need matplotlib: pip install dfkd-bench[figures]"
    assert not (tmp_path / "figures").exists()
