"""The pages in headless Chromium: both colour schemes, a phone, sorting, search, and no requests."""

import os
import shutil
from pathlib import Path

import pytest

from mamdr_core.reports.lake_facts import LakeFacts
from mamdr_core.reports.page import render, render_lake
from tests.reports.example_facts import HOSTILE, empty_facts, lake_facts, make_facts

pytestmark = pytest.mark.slow
N = 5000
DESKTOP, PHONE = {"width": 1200, "height": 900}, {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        executable = shutil.which("chromium") or playwright.chromium.executable_path
        if not Path(executable).exists():
            pytest.skip("no Chromium: apt-get install chromium, or playwright install chromium")
        # Chromium's sandbox does not work for root.
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        launched = playwright.chromium.launch(executable_path=executable, args=sandbox)
        yield launched
        launched.close()


@pytest.fixture
def show(browser, tmp_path):
    """Opens a report; console messages, errors and requests fail the test."""
    complaints, pages = [], []

    def show(facts, viewport=DESKTOP, scheme="light"):
        text = render_lake(facts, "lake") if isinstance(facts, LakeFacts) else render(facts, 10)
        (tmp_path / "report.html").write_text(text, encoding="utf-8")
        page = browser.new_page(viewport=viewport, color_scheme=scheme)
        pages.append(page)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        opened = (tmp_path / "report.html").as_uri()
        page.on(
            "request", lambda request: None if request.url in (opened, "data:,") else complaints.append(request.url)
        )
        page.goto(opened)
        return page

    yield show
    for page in pages:
        page.close()
    assert complaints == []


def column(page, number):
    return page.locator(f"#box tbody tr:not(.space) > :nth-child({number})").all_text_contents()


def test_all_domains_are_sorted_and_searched_by_keyboard(show):
    facts = make_facts(N)
    page = show(facts)
    assert page.locator("#found").text_content() == "5,000 domains"
    assert page.locator("#box tbody tr").count() < 60  # of 5,000
    assert page.locator('th[aria-sort="descending"]').all_text_contents() == ["train rows"]
    rows = sorted(facts.figures["train_rows"], reverse=True)
    assert column(page, 2) == [f"{value:,.0f}" for value in rows[: len(column(page, 2))]]

    page.get_by_role("button", name="domain", exact=True).press("Enter")
    assert column(page, 1)[:3] == ["theme-0", "theme-1", "theme-2"]
    assert page.locator('th[aria-sort="ascending"]').all_text_contents() == ["domain"]
    page.keyboard.press("Enter")
    assert column(page, 1)[0] == "theme-4999"

    auc = page.get_by_role("button", name="AUC", exact=True)
    known = sorted(value for value in facts.figures["auc"] if value == value)
    for first in (known[-1], known[0]):
        auc.press("Enter")
        assert column(page, 5)[0] == f"{first:.4f}"
    page.locator("#box").evaluate("box => { box.scrollTop = box.scrollHeight }")
    page.locator("#box tbody").filter(has_text="–").wait_for()
    assert column(page, 5)[-1] == "–"  # unknown values come last in both directions

    page.get_by_label("Search for a domain").fill("THEME-77")
    assert page.locator("#found").text_content() == "11 of 5,000 domains"
    assert all("theme-77" in name for name in column(page, 1))
    page.get_by_label("Search for a domain").fill("nowhere")
    assert page.locator("#found").text_content() == "0 of 5,000 domains"
    assert column(page, 1) == []


def test_the_pointer_names_a_dot_of_many(show):
    facts = make_facts(N)
    page = show(facts)
    largest = int(facts.figures["train_rows"].argmax())
    chart = page.locator("#size svg")
    chart.scroll_into_view_if_needed()
    place = chart.evaluate(
        """(svg, figures) => {
          const axes = JSON.parse(svg.dataset.dots);
          const [x, y] = axes.map(({ low, high, log, from, to }, number) => {
            const scale = log ? Math.log : (value) => value;
            const share = (scale(figures[number]) - scale(low)) / (scale(high) - scale(low));
            return from + share * (to - from);
          });
          const at = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM());
          return [at.x, at.y];
        }""",
        [facts.figures["train_rows"][largest], facts.figures["auc"][largest]],
    )
    page.mouse.move(*place)
    assert chart.locator("text.pointed").text_content() == f"theme-{largest}: {facts.figures['auc'][largest]:.4f}"
    page.mouse.move(0, 0)
    assert chart.locator("text.pointed").count() == 0


def test_scrolling_renders_the_visible_rows(show):
    page = show(make_facts(N))
    page.get_by_role("button", name="domain", exact=True).click()
    page.locator("#box").evaluate("box => { box.scrollTop = 34 * 2500 }")
    page.locator("#box tbody").filter(has_text="theme-2505").wait_for()
    assert page.locator("#box tbody tr").count() < 60


@pytest.mark.parametrize("facts", [make_facts(40), lake_facts()], ids=["run", "lake"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_colour_schemes_have_contrast(show, scheme, facts):
    page = show(facts, scheme=scheme)
    for selector in ("h2", ".muted", "svg text", "section p", ".good", ".bad", "nav a"):
        ratio = page.evaluate(CONTRAST, selector)
        assert ratio >= 4.5, selector  # WCAG 2.1, AA


CONTRAST = """selector => {
  const light = (color) => {
    const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255)
      .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const element = document.querySelector(selector);
  const style = getComputedStyle(element);
  let behind = element;
  while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
  const [high, low] = [element instanceof SVGElement ? style.fill : style.color,
    getComputedStyle(behind).backgroundColor].map(light).sort((one, other) => other - one);
  return (high + 0.05) / (low + 0.05);
}"""


@pytest.mark.parametrize(
    "facts", [make_facts(200), make_facts(200, ids=HOSTILE), lake_facts()], ids=["run", "hostile ids", "lake"]
)
def test_on_a_phone_only_tables_scroll_sideways(show, facts):
    page = show(facts, viewport=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    size = page.evaluate(
        "() => { const text = document.querySelector('svg text');"
        " return parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a }"
    )
    assert size >= 9.5  # pixels


def test_hostile_ids_are_shown_unchanged_in_the_table(show):
    page = show(make_facts(ids=HOSTILE))
    assert page.title() == "mamdr · 2026-01-07 · MAMDR report"
    assert sorted(column(page, 1)) == sorted(HOSTILE)
    page.get_by_label("Search for a domain").fill("<b>")
    assert column(page, 1) == [HOSTILE[2]]


def test_the_page_of_a_failed_run_has_no_script_errors(show):
    page = show(empty_facts(status="failed", error="<b>boom</b>"), viewport=PHONE)
    assert page.get_by_text("<b>boom</b>").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
