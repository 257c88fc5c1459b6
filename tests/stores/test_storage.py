"""Checkpoints and packages in an object store, against a real server: complete and intact, or not valid."""

from collections.abc import Callable

import pytest
import torch
from safetensors.torch import save_file

from mamdr_core.engine.parameters import Shared
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.engine.vector_buffers import MemoryBuffer
from mamdr_core.parallel.collective import SingleProcess
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.object_store import StorePath, as_path
from mamdr_core.training.checkpoint.checkpoints import CheckpointLocation, find_checkpoint
from mamdr_core.training.files.folders import fetched, remove, staged
from mamdr_core.training.files.manifest import MANIFEST, hash_files, write_manifest, write_texts
from mamdr_core.training.package import load_package, publish_package, save_rank
from mamdr_core.training.worker import train_rank
from tests.stores.conftest import BUCKET, client
from tests.stores.proxy import Proxy
from tests.training.rank_tasks import assert_same, parameters
from tests.training.test_checkpoints import assert_same_result, run

pytestmark = pytest.mark.slow


@pytest.fixture
def make_folder(store: str) -> Callable[..., StorePath]:
    """A folder in the store with a file of numbers under a manifest."""

    def make(path: str) -> StorePath:
        folder = as_path(f"s3a://{BUCKET}/{path}")
        with staged(folder) as local:
            save_file({"x": torch.arange(4)}, local / "x.safetensors")
            write_manifest(local, hash_files(local, ["x.safetensors"]))
        return folder

    return make


def test_a_stopped_run_resumes_bit_for_bit_from_the_newest_intact_checkpoint(make_task, monkeypatch, store, caplog):
    undisturbed, stopped = make_task(1), make_task(1)
    expected = train_rank(undisturbed, SingleProcess())
    folder = as_path(f"s3a://{BUCKET}/checkpoints/run")
    run(stopped, 1, CheckpointLocation(str(folder)), monkeypatch, 3)
    newest = find_checkpoint(folder).newest  # a round here is shorter than an upload: not after each has one begun
    assert newest >= 2
    file = f"checkpoints/run/{newest}/shared.safetensors"
    damaged = bytearray(client(store).get_object(Bucket=BUCKET, Key=file)["Body"].read())
    damaged[-1] ^= 1
    client(store).put_object(Bucket=BUCKET, Key=file, Body=bytes(damaged))
    place = find_checkpoint(folder)
    assert place == CheckpointLocation(str(folder), newest - 1, newest + 1)
    assert f"checkpoint {folder}/{newest}: file shared.safetensors is damaged" in caplog.text
    found = run(stopped, 1, place)
    assert_same(parameters(stopped), parameters(undisturbed), exactly=True)
    assert_same_result(found, expected)
    remove(folder)
    assert find_checkpoint(folder) == CheckpointLocation(str(folder))
    remove(folder)


def test_what_breaks_off_before_its_manifest_is_not_valid(store):
    folder = as_path(f"s3a://{BUCKET}/broken")

    def write():
        with staged(folder) as local:
            (local / "a").write_text("a")
            raise ValueError("the disk is full")

    with pytest.raises(ValueError, match="full"):
        write()
    assert not folder.exists()
    message = f"s3a://{BUCKET}/broken is not a checkpoint: its {MANIFEST} cannot be read"
    with pytest.raises(MamdrError, match=message), fetched(folder, "checkpoint"):
        pass


def test_files_that_are_open_outlive_the_local_copy(make_folder, tmp_path):
    with fetched(make_folder("copied"), "package", str(tmp_path)) as local:
        assert local.parent == tmp_path
        stream = (local / MANIFEST).open()
    assert list(tmp_path.iterdir()) == []
    assert "x.safetensors" in stream.read()
    stream.close()


def test_a_package_is_saved_by_ranks_sealed_and_loaded_as_on_a_disk(store, tmp_path):
    for folder in (str(tmp_path / "package"), f"s3a://{BUCKET}/package"):
        specific = SpecificStore([4], MemoryBuffer(torch.zeros(3)), torch.zeros(3))
        saved = save_rank(folder, 0, Shared(torch.arange(3.0), {"user": torch.ones(5, 2)}), specific)
        with pytest.raises(MamdrError, match=f"{folder} is not a model package"):
            load_package(folder)
        publish_package(
            folder, folder, saved, {"config.yaml": "{}", "pinned.json": "{}", "metrics.json": '{"run_id": "r"}'}
        )
        package = load_package(folder)
        assert package.shared.dense.tolist() == [0.0, 1.0, 2.0]
        assert package.metrics == {"run_id": "r"}
        assert {domain: change.dense.tolist() for domain, change in package.specific.items()} == {4: [0.0] * 3}
    client(store).put_object(Bucket=BUCKET, Key="package/pinned.json", Body=b"[]")
    with pytest.raises(MamdrError, match=f"model package s3a://{BUCKET}/package: file pinned.json is damaged"):
        load_package(f"s3a://{BUCKET}/package")


@pytest.mark.parametrize("file", ["a.txt", MANIFEST])
def test_a_connection_cut_during_an_upload_leaves_nothing_valid(store, monkeypatch, file):
    proxy = Proxy(int(store.rpartition(":")[2]))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
    folder = as_path(f"s3a://{BUCKET}/cut before {file}")

    def write():
        with staged(folder) as local:
            write_manifest(local, write_texts(local, {"a.txt": "a" * 1_000_000}))

    proxy.cut_at(file.encode())
    with pytest.raises(OSError, match="NETWORK_CONNECTION"):
        write()
    assert proxy.cuts == 1
    proxy.restore()
    assert not (folder / MANIFEST).exists()
    write()
    with fetched(folder, "checkpoint") as local:
        assert (local / "a.txt").read_text() == "a" * 1_000_000
