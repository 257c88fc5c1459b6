"""Passwords and keys of a configuration are not stored, sent to ranks or printed."""

import pytest
import yaml

from mamdr_core.config.command_line import run_job
from mamdr_core.config.job_config import dump_config, load_config, parse_config
from mamdr_core.runtime.errors import MamdrError

OPTIONS = {
    "header": "true",
    "password": "hunter2",
    "fs.s3a.secret.key": "hunter2",
    "sessionToken": "hunter2",
    "pwd": "hunter2",
    "url": "jdbc:postgresql://reader:hunter2@db/logs",
    "endpoint": "https://store/logs?sv=2024&X-Amz-Credential=hunter2&X-Amz-Signature=hunter2#part",
}


def test_secret_options_are_hidden_where_stored_and_usable_by_the_job():
    config = parse_config({"input": {"path": "raw", "options": OPTIONS}})
    assert config.input.options == OPTIONS
    text = dump_config(config)
    assert "hunter2" not in text
    assert yaml.safe_load(text)["input"]["options"] == {
        "header": "true",
        "password": "***",
        "fs.s3a.secret.key": "***",
        "sessionToken": "***",
        "pwd": "***",
        "url": "jdbc:postgresql://***@db/logs",
        "endpoint": "https://store/logs?sv=2024&X-Amz-Credential=***&X-Amz-Signature=***#part",
    }
    assert parse_config(yaml.safe_load(text)).input.path == "raw"


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"lake": {"root": "s3a://AKIA:hunter2@lake/mine"}}, "lake.root: s3a://\\*\\*\\*@lake/mine"),
        ({"input": {"path": "s3a://AKIA:hunter2@logs/day"}}, "input.path: s3a://\\*\\*\\*@logs/day"),
        ({"lake": {"root": "s3a://AKIA:hun/ter/hunter2@lake/mine"}}, "lake.root: s3a://\\*\\*\\*@lake/mine"),
        ({"lake": {"root": "s3a://hunter2@lake/mine"}}, "lake.root: s3a://\\*\\*\\*@lake/mine"),
        ({"tracking": {"mlflow": "https://:hunter2@mlflow"}}, "tracking.mlflow: https://\\*\\*\\*@mlflow"),
        ({"tracking": {"mlflow": "https://hunter2@mlflow"}}, "tracking.mlflow: https://\\*\\*\\*@mlflow"),
        (
            {"input": {"path": "https://store/logs?sv=1&sig=hunter2"}},
            "input.path: https://store/logs\\?sv=1&sig=\\*\\*\\*",
        ),
        ({"input": {"path": "https://store/logs?access_token=hunter2"}}, "input.path: https://store/logs"),
        ({"input": {"path": "https://store/logs?AWSAccessKeyId=hunter2"}}, "input.path: https://store/logs"),
        (
            {"features": [{"name": "v", "kind": "vector", "of": "user", "size": 2, "path": "s3a://a:hunter2@b/v"}]},
            "features.0.path: s3a",
        ),
    ],
)
def test_credentials_in_a_url_are_refused_without_repeating_them(values, key):
    with pytest.raises(MamdrError, match=f"^{key}.*contains credentials") as error:
        parse_config(values)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "root",
    [
        "https://store/lake?author=me&keys=3&design=2",
        "/logs/day?key=1",
        "abfss://container@account.dfs.core.windows.net/lake",
        "hdfs://name:8020/of@night/lake",
        "/lakes/at:home@night",
    ],
)
def test_urls_without_a_password_are_taken(root):
    assert parse_config({"lake": {"root": root}}).lake.root == root


def test_neither_log_nor_json_nor_the_printed_config_repeats_a_secret(tmp_path, capfd):
    def ingest_clicks(config):
        """Does nothing."""
        return {}

    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"input": {"options": OPTIONS}}))
    for arguments, code in (
        (["--config", str(file)], 0),
        (["--config", str(file), "--print-config"], 0),
        (["--config", str(file), "--set", "input.path=s3a://AKIA:hunter2@logs/day"], 2),
        (["--set", "input.options.password=[hunter2"], 2),
        (["--set", "input.options.password={hunter2: 1}"], 2),
        (["--set", "input.password=hunter2"], 2),
    ):
        assert run_job(ingest_clicks, arguments) == code
        output = capfd.readouterr()
        assert "hunter2" not in output.out + output.err, arguments


def test_an_unreadable_file_is_reported_by_line_and_not_by_its_text(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("input:\n  options: {password: hunter2\n")
    with pytest.raises(MamdrError, match=r"config\.yaml: not valid YAML \(.* in line 3\)") as error:
        load_config(str(file))
    assert "hunter2" not in str(error.value)
