"""Checkpoints and packages in an object store, against a real server: complete and intact, or not valid."""

import logging
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import save_file

from mamdr_core.engine.parameters import Shared
from mamdr_core.engine.slots import MemorySlots
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.errors import MamdrError
from mamdr_core.object_store import StorePath, place_of
from mamdr_core.training.checkpoints import find_checkpoint
from mamdr_core.training.package import load_package, save_rank, seal_package
from mamdr_core.training.sealed import MANIFEST, facts_of, seal
from mamdr_core.training.storage import fetched, remove, staged, verify
from tests.stores.conftest import BUCKET, client

pytestmark = pytest.mark.slow


@pytest.fixture
def make_sealed(store: str) -> Callable[..., StorePath]:
    """A folder in the store with a file of numbers under a manifest."""

    def make(path: str, sealed: bool = True) -> StorePath:
        folder = place_of(f"s3a://{BUCKET}/{path}")
        with staged(folder) as local:
            save_file({"x": torch.arange(4)}, local / "x.safetensors")
            if sealed:
                seal(local, facts_of(local, ["x.safetensors"]))
        return folder

    return make


def test_the_newest_checkpoint_that_is_whole_and_intact_is_found(store, make_sealed, caplog):
    run = make_sealed("found/1").parent
    make_sealed("found/2")
    make_sealed("found/3")
    make_sealed("found/4", sealed=False)
    client(store).put_object(Bucket=BUCKET, Key="found/3/x.safetensors", Body=b"damaged")
    with caplog.at_level(logging.WARNING):
        place = find_checkpoint(run)
    assert (place.folder, place.newest, place.next_number) == (f"s3a://{BUCKET}/found", 2, 5)
    assert f"checkpoint s3a://{BUCKET}/found/3: file x.safetensors is damaged" in caplog.text
    client(store).delete_object(Bucket=BUCKET, Key="found/2/x.safetensors")
    assert find_checkpoint(run).newest == 1
    remove(run)
    assert not run.exists()
    assert find_checkpoint(run).newest is None
    remove(run)


def test_what_breaks_off_before_its_manifest_is_not_valid(store):
    folder = place_of(f"s3a://{BUCKET}/broken")

    def write():
        with staged(folder) as local:
            (local / "a").write_text("a")
            raise ValueError("the disk is full")

    with pytest.raises(ValueError, match="full"):
        write()
    assert not folder.exists()
    with pytest.raises(MamdrError, match=f"s3a://{BUCKET}/broken is not a checkpoint: its {MANIFEST} cannot be read"):
        verify(folder, "checkpoint")


def test_files_that_are_open_outlive_the_local_copy(make_sealed, tmp_path):
    with fetched(make_sealed("copied"), "package", str(tmp_path)) as local:
        assert local.parent == tmp_path
        stream = (local / MANIFEST).open()
    assert list(tmp_path.iterdir()) == []
    assert "x.safetensors" in stream.read()
    stream.close()


def test_a_package_is_saved_by_ranks_sealed_and_loaded_as_on_a_disk(store, tmp_path):
    for folder in (str(tmp_path / "package"), f"s3a://{BUCKET}/package"):
        specific = SpecificStore([4], MemorySlots(torch.zeros(3)), torch.zeros(3))
        saved = save_rank(folder, 0, Shared(torch.arange(3.0), {"user": torch.ones(5, 2)}), specific)
        with pytest.raises(MamdrError, match=f"{folder} is not a model package"):
            load_package(folder)
        seal_package(
            folder, folder, saved, {"config.yaml": "{}", "pinned.json": "{}", "metrics.json": '{"run_id": "r"}'}
        )
        package = load_package(folder)
        assert package.shared.dense.tolist() == [0.0, 1.0, 2.0]
        assert package.metrics == {"run_id": "r"}
        assert {domain: change.dense.tolist() for domain, change in package.specific.items()} == {4: [0.0] * 3}
    client(store).put_object(Bucket=BUCKET, Key="package/pinned.json", Body=b"[]")
    with pytest.raises(MamdrError, match=f"model package s3a://{BUCKET}/package: file pinned.json is damaged"):
        load_package(f"s3a://{BUCKET}/package")
