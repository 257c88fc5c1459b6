"""The command line that jobs share: a job's own options set keys, and its help shows an example."""

import json

import pytest

from mamdr_core.config.command_line import Option, run_job
from mamdr_core.config.job_config import Config

RESUME = Option("--resume", key="train.resume", metavar="RUN_ID", const="newest", help="go on")


def show_resume(config: Config):
    """Show train.resume."""
    return {"resume": config.train.resume}


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ([], ""),
        (["--resume"], "newest"),
        (["--resume", "a-run"], "a-run"),
        (["--set", "train.resume=a-run"], "a-run"),
        (["--resume", "--set", "train.resume=a-run"], "newest"),
    ],
)
def test_a_jobs_own_option_sets_its_key(capsys, arguments, value):
    assert run_job(show_resume, arguments, own=[RESUME]) == 0
    assert json.loads(capsys.readouterr().out)["resume"] == value


def test_an_option_may_take_no_value(capsys):
    flag = Option("--again", key="train.dry_run", metavar="", const="true", help="check")

    def checked(config: Config):
        """Show train.dry_run."""
        return {"dry_run": config.train.dry_run}

    for arguments, value in (([], False), (["--again"], True)):
        assert run_job(checked, arguments, own=[flag]) == 0
        assert json.loads(capsys.readouterr().out)["dry_run"] is value


def test_an_option_is_known_to_the_jobs_that_have_it_alone(capsys):
    with pytest.raises(SystemExit) as stopped:
        run_job(show_resume, ["--resume"])
    assert stopped.value.code == 2
    assert "unrecognized arguments: --resume" in capsys.readouterr().err


def test_the_help_shows_the_jobs_examples_or_else_a_plain_one(capsys):
    def trained(config: Config):
        """Train.

        Example:
            spark-submit jobs/trained.py --config my.yaml --resume
        """

    for job, example in (
        (show_resume, "show_resume.py --config conf/demo.yaml"),
        (trained, "trained.py --config my.yaml --resume"),
    ):
        with pytest.raises(SystemExit):
            run_job(job, ["--help"], own=[RESUME])
        printed = capsys.readouterr().out
        assert printed.count("Example") == 1
        assert f"    spark-submit jobs/{example}\n" in printed
