"""The page shows results, explains how to obtain missing ones, and escapes all texts."""

import json
import re
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest

from mamdr_core.reports.page import embedded, render, shown
from tests.reports.example_facts import HOSTILE, empty_facts, make_facts, run_row


class Reader(HTMLParser):
    """Elements that a page has, with its texts."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)


def words(page):
    return " ".join(" ".join(Reader(page).texts).split())


def test_figures_use_a_minus_sign_and_unknown_ones_a_dash():
    assert [shown(value, "+.4f") for value in (-0.00123, 0.5, None, float("nan"))] == ["−0.0012", "+0.5000", "–", "–"]


def test_the_header_shows_the_verdict_and_the_figures():
    text = words(render(make_facts(), 10))
    assert "✗ Stopped by the gate" in text
    assert "weighted AUC of the newest day is .0211 below the champion's (gate.day_drop .01)" in text
    assert "Mean test AUC 0.7312 over" in text
    assert re.search(r"against joint training and [−+][\d.]+ against the champion", text)


def test_the_header_shows_that_a_run_passed_and_serves():
    facts = make_facts()
    passed = facts.decision | {"passed": True, "reasons": ["mean AUC is .002 above the champion's"]}
    promoted = [{"kind": "promote", "promoted_at": facts.run["started_at"]}]
    text = words(render(make_facts(decision=passed, promotions=promoted), 10))
    assert "✓ Passed the gate promoted 2026-01-07 03:15 UTC" in text
    assert "mean AUC is .002 above the champion's" in text


def test_the_table_has_every_domain_once_with_its_figures():
    facts = make_facts(57)
    page = render(facts, 10)
    table = json.loads(re.search(r'<script type="application/json" id="domains">(.*?)</script>', page, re.S)[1])
    assert table["ids"] == facts.ids
    by_label = {column["label"]: column for column in table["columns"]}
    assert by_label["test rows"]["values"] == facts.figures["rows"].tolist()
    auc = facts.figures["auc"]
    assert by_label["AUC"]["values"] == [None if np.isnan(value) else round(value * 1e4) for value in auc]
    assert "oracle" not in by_label  # unknown in every domain


def test_hostile_ids_and_errors_are_text():
    facts = make_facts(ids=HOSTILE, run=run_row(error="</p><script>1</script>", config="</code></pre><script>2"))
    tags = Reader(render(facts, 10)).tags
    assert [attributes.get("type") for tag, attributes in tags if tag == "script"] == ["application/json", None]
    assert not {tag for tag, _ in tags} & {"img", "b"}
    plain = Reader(render(make_facts(7), 10)).tags
    assert [tag for tag, _ in tags].count("section") == [tag for tag, _ in plain].count("section")


@pytest.mark.parametrize("text", [*HOSTILE, "<!--<script>", "]]>"])
def test_embedded_json_reads_back_and_cannot_end_its_element(text):
    found = embedded({"ids": [text]})
    assert not set(found) & set("<>&\u2028\u2029")
    assert json.loads(found) == {"ids": [text]}


def test_nothing_is_fetched_and_only_the_one_script_may_run():
    page = render(make_facts(), 10)
    tags = Reader(page).tags
    fetching = [attributes for tag, attributes in tags for name in ("src", "href") if name in attributes]
    targets = {attributes["href"] for attributes in fetching if not attributes["href"].startswith(("#", "data:"))}
    assert targets == {"index.html"}  # the page of the lake, next to this one
    policy = next(attributes["content"] for tag, attributes in tags if "http-equiv" in attributes)
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    assert "url(" not in page


def test_every_section_has_a_heading_and_every_chart_a_text_alternative():
    tags = Reader(render(make_facts(), 10)).tags
    ids = {attributes.get("id") for _, attributes in tags}
    sections = [attributes for tag, attributes in tags if tag == "section"]
    assert len(sections) == 11
    assert all(attributes["aria-labelledby"] in ids for attributes in sections)
    links = {attributes["href"][1:] for tag, attributes in tags if tag == "a" and attributes["href"][0] == "#"}
    assert links == {attributes["id"] for attributes in sections}
    assert all(attributes["aria-label"] for tag, attributes in tags if tag == "svg")


def test_learned_variances_of_a_mixed_model_are_drawn():
    variances = {"user": 0.25, "w.bias": 0.36, "w.user*item.0": 0.01, "w.user*item.1": 0.04}
    page = render(make_facts(run=run_row(specific_kind="mixed", variances=variances)), 2)
    assert "user 0.500; w.bias 0.600; w.user*item.1 0.200" in page
    assert "w.user*item.0" not in page
    assert "What the mixed model has learned" not in render(make_facts(), 10)


@pytest.mark.parametrize("status", ["failed", "stopped", "running"])
def test_a_run_without_figures_has_a_page_that_explains_why(status):
    row = dict.fromkeys(("test_auc", "val_auc", "weighted_test_auc", "seconds", "train_rows", "domains", "epochs"))
    text = words(render(empty_facts(status=status, error="rank 1 failed", **row), 10))
    assert ("Still running" if status == "running" else f"Run {status}") in text
    assert "rank 1 failed" in text
    for part in (
        "To have it judged: spark-submit jobs/gate.py --config FILE --set gate.run_id=20260107T031500-mamdr-1f0c2a",
        "To count them: spark-submit jobs/domain_stats.py",
        "No validation of this run is recorded in training_curves",
        "To measure it: spark-submit jobs/conflict.py",
        "The run recorded no times",
        "No figures by domain are recorded for this run",
    ):
        assert part in text


def test_one_domain_and_domains_without_an_auc_have_a_page():
    assert "Mean test AUC 0.7312 over 1 of 1 domains" in words(render(make_facts(1), 10))
    facts = make_facts(20)
    facts.figures["auc"][:] = np.nan
    for run in (facts.joint, facts.before):
        run.own[:] = np.nan
    text = words(render(facts, 10))
    assert "No domain of the test split has an AUC" in text
    assert "shares no domain with an AUC" in text


def test_pages_of_joint_training_and_of_a_first_day():
    facts = make_facts(30, joint=None, before=None, run=run_row(method="joint"), decision=None)
    text = unescape(words(render(facts, 10)))
    assert "This run is joint training itself" in text
    assert "This run started from no other" in text
    assert "Not judged by the gate" in text
    first = make_facts(30).decision | {"passed": True, "champion_run_id": None, "champion_auc": None}
    assert "There was no champion to compare it with." in words(render(make_facts(30, decision=first), 10))
