"""The page of a lake: runs, champion and figures by day; untrusted ids stay text, and missing tables leave gaps."""

import re
from html.parser import HTMLParser

from mamdr_core.reports.charts import run_charts, spent
from mamdr_core.reports.lake_facts import LakeFacts
from mamdr_core.reports.page import render_lake
from tests.reports.example_facts import HOSTILE, lake_facts, run_of

NOTHING = LakeFacts(days=[], runs=[], champion=None, drifting=[])


def rows_of_tables(page):
    """The texts of the cells of every table row."""
    found = []

    class Cells(HTMLParser):
        within = False

        def handle_starttag(self, tag, attributes):
            if tag == "tr":
                found.append([])
            elif tag in ("td", "th"):
                found[-1].append("")
                self.within = True

        def handle_endtag(self, tag):
            self.within = self.within and tag not in ("td", "th")

        def handle_data(self, data):
            if self.within:
                found[-1][-1] += data

    Cells().feed(page)
    return found


def test_runs_are_listed_with_the_verdict_their_report_and_the_one_that_serves():
    page = render_lake(lake_facts(), "/data/lake")
    runs = [row for row in rows_of_tables(page) if re.match(r"2026\d+T", row[0])]
    seconds = "444"  # prepare and ranks: what rank 0 did is part of the latter
    third, second, first, failed = runs
    assert third[1:8] == ["2026-01-03", "serves", "passed", "0.7310", "0.7455", "0.6411", "1.020"]
    assert (third[-1], second[2:5], second[-1]) == (seconds, ["ok", "stopped", "0.7020"], seconds)
    assert (first[2], first[7], first[-1]) == ("served", "–", "–")
    assert failed[1:4] == ["–", "failed", "–"]
    linked = re.findall(r'href="([^"#]+)\.html"', page)
    assert linked == [third[0], second[0], failed[0]]
    assert f"Run <code>{third[0]}</code> has served since 2026-01-03 00:00 UTC" in page


def test_days_have_the_domains_that_came_and_left():
    rows = [
        row
        for row in rows_of_tables(render_lake(lake_facts(), "lake"))
        if row[0].startswith("2026-01-0") and len(row) == 8
    ]
    assert rows == [
        ["2026-01-07", "1,002", "100", "9.98%", "20", "2", "–", "7"],
        ["2026-01-06", "1,001", "100", "9.99%", "20", "1", "1", "7"],
        ["2026-01-05", "1,000", "100", "10.00%", "20", "0", "1", "7"],
    ]


def test_hostile_ids_are_text_and_nothing_may_run_or_be_fetched():
    page = render_lake(lake_facts(), HOSTILE[0])
    assert "<script" not in page
    assert "<img" not in page
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page
    assert not re.search(r'(src|href)="(?!data:|#|2026|index)', page)
    names = [row[0] for row in rows_of_tables(page) if len(row) == 4 and row[1] == "2"]
    assert names == list(HOSTILE)


def test_an_empty_lake_has_a_page_that_states_what_is_missing():
    page = render_lake(NOTHING, "lake")
    assert "No run has been promoted." in page
    assert "spark-submit jobs/domain_stats.py" in page
    assert "spark-submit jobs/train_mamdr.py" in page
    assert "<svg" not in page


def test_charts_show_the_promoted_run_of_a_day_and_skip_unknown_figures():
    facts = lake_facts()
    other = run_of(3, test_auc=0.5, test_pcoc=9.0) | {"passed": None, "promoted": False, "page": False}
    page = render_lake(LakeFacts([], [other, *facts.runs], None, []), "lake")
    assert "2026-01-03: 0.7310" in page
    assert "2026-01-03: 0.5000" not in page
    charts = run_charts([run for run in reversed(facts.runs) if run["ds"]])
    assert [chart.count("<title>") for chart in charts.values()] == [3, 2, 2]
    assert spent({"prepare": 1.5, "ranks": 2.5, "inner": 2.0}) == 4.0
