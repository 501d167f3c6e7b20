"""Manifests: what counts of data too large to read, what is refused, and what is said to have changed."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest

from nemo_gitexp.data.manifest import (
    LISTING_DAYS,
    Manifest,
    drop_old_listings,
    find_listing,
    keep_listing,
    read_manifest,
)
from nemo_gitexp.data.restore import Shelves, restore_inputs
from nemo_gitexp.data.verified import VerifiedFiles
from nemo_gitexp.errors import DataDriftError, DataError, UntrackedDataError

HOUR_NS = 3_600_000_000_000


def put(root: Path, *names: str, size_bytes: int = 1 << 30) -> None:
    """Make files that have a size and no blocks, an hour old."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, size_bytes)
        os.utime(path, ns=(HOUR_NS, HOUR_NS))


def names(manifest: Manifest) -> list[str]:
    return [row.name for row in manifest.rows]


def restore(root: Path, workspace: Path, pin, listings: Path | None = None):
    workspace.mkdir()
    shelves = Shelves(listings=listings)
    return restore_inputs(workspace, [pin], repo_root=root, verified=VerifiedFiles(None), shelves=shelves)


def test_ten_thousand_files_of_a_terabyte_in_all_are_listed_and_none_is_read(tmp_path):
    put(tmp_path / "huge", *(f"{n % 100:02}/{n:05}.bin" for n in range(10_000)), size_bytes=10**9)
    begun = time.process_time()
    pin = read_manifest(tmp_path, "huge").pin
    assert time.process_time() - begun < 5  # reading one file of them takes longer
    assert (pin.n_files, pin.size_bytes, pin.strength) == (10_000, 10**13, "manifest")
    (restored,) = restore(tmp_path, tmp_path / "ws", pin)
    assert (len(restored.files), restored.kinds, restored.size_bytes) == (10_000, ("symlink",), 10**13)
    assert (tmp_path / "ws/huge").resolve() == tmp_path / "huge"


@pytest.mark.parametrize(
    "change,name,words",
    [
        (lambda top: os.truncate(top / "a/1.bin", 5), "a/1.bin", "1073741824 -> 5 bytes"),
        (lambda top: os.utime(top / "b.bin", ns=(1, 1)), "b.bin", "another modification time"),
        (lambda top: (top / "b.bin").unlink(), "b.bin", "gone"),
        (lambda top: (top / "c.bin").touch(), "c.bin", "new"),
    ],
)
def test_what_changed_is_refused_and_named(tmp_path, change, name, words):
    put(tmp_path / "huge", "a/1.bin", "b.bin")
    before = read_manifest(tmp_path, "huge")
    keep_listing(tmp_path / "listings", before)
    change(tmp_path / "huge")
    with pytest.raises(DataDriftError) as caught:
        restore(tmp_path, tmp_path / "ws", before.pin, tmp_path / "listings")
    assert f"{name}: {words}" in caught.value.message
    assert [(item["kind"], item["name"]) for item in caught.value.facts["drift"]] == [("data", f"huge/{name}")]
    with pytest.raises(DataDriftError, match="names, sizes, times"):
        restore(tmp_path, tmp_path / "other", before.pin)


def test_a_damaged_listing_says_nothing(tmp_path):
    put(tmp_path, "one.bin")
    manifest = read_manifest(tmp_path, "one.bin")
    assert find_listing(tmp_path, manifest.digest) is None
    keep_listing(tmp_path, manifest)
    assert find_listing(tmp_path, manifest.digest) == manifest.listing
    (kept,) = tmp_path.glob("*.jsonl")
    kept.write_bytes(b"[]\n")
    assert find_listing(tmp_path, manifest.digest) is None
    assert find_listing(None, manifest.digest) is None


@pytest.mark.parametrize("use", ["pinned", "read", "restored", "not at all"])
def test_a_listing_goes_when_nobody_has_used_it_for_long(tmp_path, use):
    listings, now = tmp_path / "listings", time.time()
    put(tmp_path / "huge", "b.bin")
    manifest = read_manifest(tmp_path, "huge")
    keep_listing(listings, manifest)
    (kept,) = listings.iterdir()
    os.utime(kept, (0, 0))
    uses = {
        "pinned": lambda: keep_listing(listings, manifest),
        "read": lambda: find_listing(listings, manifest.digest),
        "restored": lambda: restore(tmp_path, tmp_path / "ws", manifest.pin, listings),
        "not at all": lambda: None,
    }
    uses[use]()
    drop_old_listings(listings, now)
    assert kept.exists() == (use != "not at all")
    drop_old_listings(listings, now + (LISTING_DAYS + 1) * 86400)
    assert list(listings.iterdir()) == []


def test_a_single_file_may_be_pinned_so_too(tmp_path):
    put(tmp_path, "data/one.bin", size_bytes=7)
    pin = read_manifest(tmp_path, "data/one.bin").pin
    (restored,) = restore(tmp_path, tmp_path / "ws", pin)
    assert [(file.path, file.size_bytes) for file in restored.files] == [("data/one.bin", 7)]


def test_links_are_followed_as_a_job_follows_them(tmp_path):
    put(tmp_path / "disk", "shards/0.bin", "one.bin")
    put(tmp_path / "huge", "own.bin")
    (tmp_path / "huge/shards").symlink_to(tmp_path / "disk/shards")
    (tmp_path / "huge/one.bin").symlink_to(tmp_path / "disk/one.bin")
    (tmp_path / "huge/gone.bin").symlink_to("nowhere")
    (tmp_path / "mounted").symlink_to("huge")
    before = read_manifest(tmp_path, "mounted")
    assert names(before) == ["gone.bin", "one.bin", "own.bin", "shards/0.bin"]
    assert before.digest == read_manifest(tmp_path, "huge").digest
    (restored,) = restore(tmp_path, tmp_path / "ws", before.pin)
    assert len(restored.files) == 3
    os.truncate(tmp_path / "disk/shards/0.bin", 3)
    assert read_manifest(tmp_path, "huge").digest != before.digest


def test_links_in_a_circle_are_refused(tmp_path):
    put(tmp_path / "huge", "a/b/0.bin")
    (tmp_path / "huge/a/b/up").symlink_to(tmp_path / "huge/a")
    with pytest.raises(DataError, match="leads back to a directory above it"):
        read_manifest(tmp_path, "huge")


def test_what_is_not_there_or_empty_is_refused(tmp_path):
    with pytest.raises(UntrackedDataError, match="does not exist"):
        read_manifest(tmp_path, "huge")
    (tmp_path / "huge/deeper").mkdir(parents=True)
    with pytest.raises(UntrackedDataError, match="is an empty directory") as caught:
        read_manifest(tmp_path, "huge")
    assert "is it mounted?" in caught.value.hint


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs a directory that changes by being listed")
def test_files_that_vanish_while_they_are_listed_are_refused():
    # The descriptor that lists /proc/self/fd is listed in it, and is closed when its turn comes.
    with pytest.raises(DataDriftError, match="changes while it is listed"):
        read_manifest(Path("/proc/self"), "fd")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("closed", ["huge/a/0.bin", "huge/a", "huge/a/1.idx"])
def test_what_cannot_be_read_is_refused_by_name(closed):
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        root = Path(folder)
        root.chmod(0o755)
        put(root, "huge/a/0.bin", "huge/a/1.idx", size_bytes=4)
        (root / closed).chmod(0)
        os.seteuid(65534)
        try:
            with pytest.raises(DataError, match="cannot be listed") as caught:
                read_manifest(root, "huge")
        finally:
            os.seteuid(0)
        assert str(root / closed) in caught.value.message
