"""Every code block of README and docs is run or checked, or states why it cannot be.

A reason is an HTML comment on the line before the block: `<!-- not run: needs a GPU -->`, or
`<!-- run by tests/serving/test_files.py -->`.
"""

import os
import re
import subprocess
import sys

import pytest
import yaml

from mamdr_core.config.job_config import parse_config
from tests.docs.commands import check_command, commands_of
from tests.docs.pages import BLOCKS, PAGES, ROOT, blocks_of, prose_of

RUN_ELSEWHERE = {("queries.md", "sql"), ("operations.md", "sql")}
"""Pages whose blocks of a language another test runs, all of them: lake/test_queries.py, promotion/test_gate.py."""
OWN_PACKAGE = ROOT / "tests/plugin_package"
"""The package of docs/extending.md."""
SHELL = ("", "bash", "sh")
QUICK = "--conf spark.sql.codegen.wholeStage=false --conf spark.sql.codegen.factoryMode=NO_CODEGEN pyspark-shell"
"""Code that Spark generates for a query takes longer than the few rows of a page."""


def of_language(*languages):
    return pytest.mark.parametrize(
        "block", [block for block in BLOCKS if block.language in languages], ids=lambda block: block.place
    )


def scripts():
    """Pages with Python to run, and it; those that start Spark are slow."""
    for page in PAGES:
        parts = [block.text for block in blocks_of(page) if block.language == "python" and not block.reason]
        if parts:
            marks = [pytest.mark.slow] if "spark" in "".join(parts) else []
            yield pytest.param("\n".join(parts), id=page.name, marks=marks)


@pytest.fixture
def folder(tmp_path, monkeypatch, request):
    """A folder to run in, with what commands expect in theirs; my.yaml is that of the tutorial for its own blocks."""
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    block = getattr(request.node, "callspec", None) and request.node.callspec.params.get("block")
    page = block.page if block and block.page.name == "tutorial.md" else ROOT / "README.md"
    mine = next(block for block in blocks_of(page) if block.language == "yaml")
    (tmp_path / "my.yaml").write_text(mine.text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_a_block_is_run_or_states_why_not(block):
    runs = block.language in ("python", "yaml") or (block.page.name, block.language) in RUN_ELSEWHERE
    assert runs or block.reason, f"{block.place}: run it in a test, or precede it by <!-- not run: the reason -->"
    for test in re.findall(r"tests/[\w/.]+", block.reason or ""):
        assert (ROOT / test).exists(), test


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_are_fenced(page):
    """An indented one would escape these tests."""
    before = ""
    for line in prose_of(page).splitlines():
        assert not line.startswith("    ") or before.startswith((" ", "- ", "1")), f"{page.name}: fence {line}"
        before = line or before


@pytest.mark.parametrize("script", list(scripts()))
def test_python_runs(script, folder):
    (folder / "page.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(OWN_PACKAGE)])}
    environment["PYSPARK_SUBMIT_ARGS"] = QUICK
    done = subprocess.run([sys.executable, "page.py"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_files_of_the_example_package_are_shown_as_they_are():
    shown = [block.text for block in blocks_of(ROOT / "docs/extending.md")]
    for file in ("residual.py", "largest_first.py"):
        assert (OWN_PACKAGE / "click_models" / file).read_text() in shown, file


@of_language("yaml")
def test_yaml_is_a_configuration(block):
    if not block.reason:
        parse_config(yaml.safe_load(block.text))


def test_the_configuration_of_the_tutorial_reads_the_columns_of_its_csv(folder):
    """By the script that writes the file, and the excerpt of it that the page shows."""
    script, excerpt, mine = (
        next(block.text for block in blocks_of(ROOT / "docs/tutorial.md") if block.language == language)
        for language in ("python", "text", "yaml")
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    written = (folder / "clicks.csv").read_text().splitlines()
    assert set(excerpt.splitlines()) <= set(written)
    assert len(written) == 20_001
    config = parse_config(yaml.safe_load(mine))
    assert (config.input.path, config.input.format) == ("clicks.csv", "csv")
    features = [feature.expression or feature.name for feature in config.features if not feature.history]
    read = set(re.findall(r"[a-z_]+", " ".join([*vars(config.input.columns).values(), *features])))
    assert read - {"to_timestamp", "buy", "ln"} == set(written[0].split(","))


@of_language(*SHELL)
def test_commands_name_what_exists_and_jobs_take_their_arguments(block, folder, capsys):
    commands = commands_of(block.text)
    assert commands
    for words in commands:
        check_command(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_within_the_text_are_right_too(page, folder, capsys):
    for inline in re.findall(r"`([^`\n]+)`", prose_of(page)):
        if re.search(r"spark-submit jobs/[a-z]|^make ", inline) and "..." not in inline:
            for words in commands_of(inline):
                check_command(words)


@pytest.mark.parametrize("job", sorted((ROOT / "jobs").glob("[!_]*.py")), ids=lambda job: job.stem)
def test_the_examples_of_a_jobs_help_are_right(job, folder, capsys):
    examples = re.findall(r"^ +(spark-submit jobs/.*)$", job.read_text(), re.MULTILINE)
    for words in commands_of("\n".join(examples)):
        check_command(words)


def test_what_is_wrong_is_found(folder, capsys):
    for wrong in (
        "make nothing",
        ".venv/bin/spark-submit jobs/nothing.py",
        "spark-submit jobs/evaluate.py --config conf/nothing.yaml",
        "spark-submit jobs/evaluate.py --config conf/demo.yaml --set evaluate.spilt=val",
        "spark-submit jobs/evaluate.py --nothing",
        "python -m mamdr_core.nothing",
    ):
        (words,) = commands_of(wrong)
        with pytest.raises(AssertionError):
            check_command(words)
