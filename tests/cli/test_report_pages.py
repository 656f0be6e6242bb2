"""Reports in a browser, on the phone and on the desk: nothing is run, asked for or broken by what stands in them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxtune.report import write_report
from mlxtune.report.compare import compare, compare_page
from mlxtune.text import clean
from tests.helpers.browser import CHROMIUM, Tab, tab
from tests.helpers.fake_run import Fake, fake_run, pictures
from tests.helpers.hostile import HOSTILE

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
WIDTHS = {"phone": 390, "desk": 1280}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    calm = fake_run(folder / "calm", Fake())
    hostile = fake_run(folder / "hostile", Fake(rows=len(HOSTILE) * 2, texts=tuple(HOSTILE)))
    other = fake_run(folder / "other", Fake(seed=1, recipe={"lora": {"rank": 4}}))
    alone = fake_run(folder / "alone", Fake(right_before=None, steps=0))
    runs = {"calm": calm, "hostile": hostile, "alone": alone}
    files = {name: write_report(run, picture=pictures(run))[0] for name, run in runs.items()}
    files["compare"] = folder / "compare.html"
    files["compare"].write_text(compare_page(compare([calm, other])), encoding="utf-8")
    return files


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with tab(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.mark.parametrize("dark", [False, True], ids=("light", "dark"))
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("page", ["calm", "hostile", "alone", "compare"])
def test_quiet_closed_and_no_wider_than_the_screen(
    pages: dict[str, Path], browser: Tab, page: str, width: int, dark: bool
) -> None:
    browser.open(pages[page], width=width, dark=dark)
    assert browser.said == []
    assert [url for url in browser.asked if not url.startswith("data:")] == [pages[page].as_uri()]
    assert browser.run("document.documentElement.scrollWidth") <= width
    hidden = browser.run(
        "[...document.querySelectorAll('h1, h2, .card, figure, .notice')].filter(e => e.checkVisibility())"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 1).length"
    )
    assert hidden == 0
    ground, ink = browser.run("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
    assert (ground == "rgb(255, 255, 255)") is not dark and ground != ink


def test_the_answer_is_seen_without_scrolling(pages: dict[str, Path], browser: Tab) -> None:
    for width, height in ((390, 800), (1280, 800)):
        browser.open(pages["calm"], width=width, height=height)
        bottom = browser.run("document.querySelector('.scores tbody tr').getBoundingClientRect().bottom")
        assert bottom < height and "relaxed accuracy" in browser.run("document.querySelector('h1').textContent").lower()


def test_search_and_filters(pages: dict[str, Path], browser: Tab) -> None:
    browser.open(pages["calm"], width=1280)
    shown = "[...document.querySelectorAll('[data-item]')].filter(e => e.checkVisibility()).map(e => e.textContent)"
    everything = browser.run(shown)
    assert 40 < len(everything) <= 60
    browser.type("[data-search]", "  COLOR has ")
    found = browser.run(shown)
    assert found == [text for text in everything if "color has" in text.lower() or ("color" in text and "has" in text)]
    assert 0 < len(found) < len(everything) and browser.run("document.querySelector('[data-shown]').textContent") == str(
        len(found)
    )
    browser.type("select[name=bucket]", "fixed")
    fixed = browser.run(shown)
    assert 0 < len(fixed) < len(found) and all("fixed" in text for text in fixed)
    assert browser.run("[...document.querySelectorAll('.bucket')].filter(e => e.checkVisibility()).length") == 1
    browser.type("[data-search]", "no such words")
    assert browser.run(shown) == []
    browser.type("[data-search]", "")
    browser.type("select[name=bucket]", "")
    browser.type("select[name=cause]", "form sentence")
    sentences = browser.run(shown)
    assert 0 < len(sentences) < len(everything) and all("form sentence" in text for text in sentences)


def test_without_a_script_everything_is_there(pages: dict[str, Path], browser: Tab) -> None:
    browser.command("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.command("Page.navigate", url=pages["calm"].as_uri() + "?still")
        deadline = time.monotonic() + 30
        cards, finder = _still(browser)
        while len(cards) <= 40 and time.monotonic() < deadline:  # no script tells that the page is there
            time.sleep(0.1)
            cards, finder = _still(browser)
    finally:
        browser.command("Emulation.setScriptExecutionDisabled", value=False)
    assert len(cards) > 40 and len(finder) == 1


def _still(browser: Tab) -> tuple[list[int], list[int]]:
    """What is shown of the examples, and the hidden field that would search them."""
    root = browser.command("DOM.getDocument", depth=1)["root"]["nodeId"]
    selectors = ("[data-item]:not([hidden])", "[data-finder][hidden]")
    try:
        cards, finder = (browser.command("DOM.querySelectorAll", nodeId=root, selector=one)["nodeIds"] for one in selectors)
    except AssertionError:  # the page has just taken the place of the one before it
        return [], []
    return cards, finder


def test_hostile_texts_are_words(pages: dict[str, Path], browser: Tab) -> None:
    assert len(HOSTILE) >= 60
    browser.open(pages["hostile"], width=390)
    assert browser.run("document.title") == f"{' '.join(_printable(HOSTILE[0]).split())}: report"
    assert browser.run("document.querySelectorAll('script, iframe, object, embed, form, base, link').length") == 1
    words = " ".join(browser.run("document.body.textContent").split())
    told = [text for text in HOSTILE if " ".join(clean(text).split())[:100] in words]
    # The page shows a sample of the rows: two of each text, 60 examples.
    assert len(told) > 40


@pytest.mark.parametrize("page", ["calm", "alone"])
def test_what_a_cause_means_is_seen_on_a_phone(pages: dict[str, Path], browser: Tab, page: str) -> None:
    for width in WIDTHS.values():
        browser.open(pages[page], width=width)
        cells = "[...document.querySelectorAll('.causes :is(th, td)')].filter(e => e.checkVisibility())"
        rows = browser.run("[...document.querySelectorAll('.causes tbody tr')].map(e => e.getBoundingClientRect().height)")
        assert len(rows) > 2 and max(rows) < 200
        assert browser.run(f"{cells}.filter(e => e.matches('.why')).length") == len(rows)
        assert browser.run(f"Math.max(...{cells}.map(e => e.getBoundingClientRect().right))") <= width
        assert browser.run(f"{cells}.filter(e => e.scrollWidth > e.clientWidth + 1).length") == 0


@pytest.mark.parametrize("dark", [False, True], ids=("light", "dark"))
def test_it_prints_on_white(pages: dict[str, Path], browser: Tab, dark: bool) -> None:
    browser.open(pages["calm"], width=1280, dark=dark)
    pdf = browser.command("Page.printToPDF")["data"]
    assert len(pdf) > 20_000
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    try:
        browser.command("Emulation.setEmulatedMedia", media="print", features=scheme)
        style = "getComputedStyle(document.documentElement)"
        colours = {key: browser.run(f"{style}.getPropertyValue('{key}')") for key in ("--ground", "--good", "--bad", "--plot1")}
    finally:
        browser.command("Emulation.setEmulatedMedia", media="")
    assert colours == {"--ground": "#fff", "--good": "#1a6e37", "--bad": "#b3261e", "--plot1": "#1f5fa8"}


def _printable(text: str) -> str:
    return "".join(char for char in text if char.isprintable())
