"""Paths in an object store, against a real server."""

import pytest

from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.object_store import as_path, is_remote

pytestmark = pytest.mark.slow


def test_a_path_in_the_store_does_what_one_on_a_disk_does(store, tmp_path):
    for folder in (tmp_path / "new", as_path("s3a://mamdr/paths")):
        folder.mkdir(parents=True, exist_ok=True)
        assert not (folder / "a.txt").exists()
        (folder / "a.txt").write_text("eins", encoding="utf-8")
        (folder / "a.txt").write_text("zwei", encoding="utf-8")
        (folder / "empty").touch()
        assert (folder / "a.txt").read_text(encoding="utf-8") == "zwei"
        assert (folder.is_dir(), folder.is_file(), (folder / "a.txt").is_file()) == (True, False, True)
        assert sorted(child.name for child in folder.iterdir()) == ["a.txt", "empty"]
        assert (folder / "a.txt").parent.name == folder.name
        (folder / "empty").unlink()
        (folder / "empty").unlink(missing_ok=True)
        assert not (folder / "empty").exists()
        with pytest.raises(FileNotFoundError):
            (folder / "empty").read_text()


def test_another_kind_of_store_is_refused_before_anything_is_read():
    assert not is_remote("/data/lake")
    with pytest.raises(MamdrError, match="gs://lake/packages: models and checkpoints need a folder on a disk or in S3"):
        is_remote("gs://lake/packages")
    assert str(as_path("s3a://bucket/a/") / "b") == "s3a://bucket/a/b"
