"""Objects are stored under the hash of their content or not at all, and DVC reads what we wrote."""

from __future__ import annotations

import hashlib
import json
import stat

import pytest
from conftest import dvc, git
from hypothesis import given
from hypothesis import strategies as st

from nemo_gitexp.data.links import Linker
from nemo_gitexp.data.listing import hash_tree, parse_entries, render_entries
from nemo_gitexp.data.store import ObjectStore
from nemo_gitexp.data.verified import VerifiedFiles
from nemo_gitexp.errors import CorruptDataError, MissingDataError, StateDirectoryError


@pytest.fixture
def store(tmp_path) -> ObjectStore:
    return ObjectStore(tmp_path / "store")


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "out"
    (root / "deep er" / "größe").mkdir(parents=True)
    (root / "deep er" / "größe" / "a.txt").write_text("a")
    (root / "deep er" / "b").write_text("b")
    (root / "empty").write_text("")
    return root


def add_tree(store: ObjectStore, root) -> str:
    md5, entries = hash_tree(root, VerifiedFiles(None))
    for path, member in entries:
        store.add_file(root / path, member)
    assert store.add_dir(entries) == md5
    return md5


def test_file_is_stored_read_only_and_comes_back(store, tmp_path):
    (tmp_path / "x").write_bytes(b"content")
    md5 = hashlib.md5(b"content").hexdigest()
    assert not store.has(md5)
    store.add_file(tmp_path / "x", md5)
    assert store.has(md5)
    assert store.read(md5) == b"content"
    assert stat.S_IMODE(store.path_of(md5).stat().st_mode) == 0o444
    store.checkout(md5, tmp_path / "new" / "y")
    assert (tmp_path / "new" / "y").read_bytes() == b"content"
    assert (tmp_path / "new" / "y").stat().st_mode & stat.S_IWUSR


@pytest.mark.parametrize("link", [True, False])
def test_wrong_hash_stores_nothing(store, tmp_path, link):
    (tmp_path / "x").write_bytes(b"content")
    with pytest.raises(CorruptDataError):
        store.add_file(tmp_path / "x", "0" * 32, link=link)
    assert not store.has("0" * 32)
    assert list((store.root / "tmp").iterdir()) == []


def test_linked_file_shares_its_inode_or_its_blocks(store, tmp_path):
    (tmp_path / "x").write_bytes(b"content")
    md5 = hashlib.md5(b"content").hexdigest()
    store.add_file(tmp_path / "x", md5, link=True)
    assert store.read(md5) == b"content"


def test_corrupt_object_is_replaced_when_added_again(store, tmp_path):
    md5 = store.add_bytes(b"content")
    store.path_of(md5).chmod(0o644)
    store.path_of(md5).write_bytes(b"spoilt")
    with pytest.raises(CorruptDataError):
        store.read(md5)
    with pytest.raises(CorruptDataError):
        store.checkout(md5, tmp_path / "y")
    assert not (tmp_path / "y").exists()
    assert store.add_bytes(b"content") == md5
    assert store.read(md5) == b"content"


def test_directory_comes_back_whole(store, tree, tmp_path):
    md5 = add_tree(store, tree)
    assert store.has(md5)
    store.checkout(md5, tmp_path / "again")
    assert hash_tree(tmp_path / "again", VerifiedFiles(None)) == hash_tree(tree, VerifiedFiles(None))


def test_directory_with_a_missing_file_is_not_there(store, tree, tmp_path):
    md5 = add_tree(store, tree)
    store.quarantine(store.entries(md5)[0][1])
    assert not store.has(md5)
    with pytest.raises(MissingDataError):
        store.checkout(md5, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_listing_of_files_never_stored_is_refused(store):
    with pytest.raises(MissingDataError):
        store.add_dir([("a", "0" * 32)])


def test_hash_of_a_directory_is_that_of_dvc(repo):
    for path in ("data/raw", "data/chain"):
        md5, entries = hash_tree(repo.root / path, VerifiedFiles(None))
        assert md5 == repo.pin(path).pin
        assert len(entries) == repo.pin(path).n_files


def test_dvc_accepts_objects_we_wrote(repo, tree, tmp_path):
    pin_file = repo.root / "ours.dvc"
    md5 = add_tree(ObjectStore(repo.cache), tree)
    pin_file.write_text(f"outs:\n- md5: {md5}\n  hash: md5\n  path: ours\n")
    dvc(repo.root, "checkout", "-q", "ours.dvc")
    assert (repo.root / "ours" / "deep er" / "größe" / "a.txt").read_text() == "a"
    assert "up to date" in dvc(repo.root, "status", "ours.dvc")
    dvc(repo.root, "push", "-q", "ours.dvc")
    remote = ObjectStore(repo.root.parent / "remote")
    assert remote.has(md5)
    git(repo.root, "status")


@pytest.mark.parametrize(
    "listing",
    [
        [{"relpath": "../x", "md5": "0" * 32}],
        [{"relpath": "/etc/x", "md5": "0" * 32}],
        [{"relpath": "", "md5": "0" * 32}],
        [{"relpath": "x", "md5": "../../secret"}],
        [{"relpath": "x"}],
        {"relpath": "x"},
        "x",
        3,
    ],
)
def test_hostile_listing_is_refused(listing):
    with pytest.raises(CorruptDataError):
        parse_entries(json.dumps(listing).encode(), "x")


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1).filter(
    lambda name: name not in {".", ".."}
)


@given(st.dictionaries(names, st.integers(0, 2**128 - 1)))
def test_listings_round_trip(files):
    entries = tuple(sorted((path, f"{number:032x}") for path, number in files.items()))
    assert parse_entries(render_entries(entries), "x") == entries


def test_unwritable_store_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StateDirectoryError):
        ObjectStore(tmp_path / "file" / "store").add_bytes(b"x")


def test_shared_store_is_group_writable(tmp_path):
    store = ObjectStore(tmp_path / "store", is_shared=True)
    md5 = store.add_bytes(b"x")
    assert stat.S_IMODE(store.path_of(md5).parent.stat().st_mode) == 0o2775


def test_quarantine_keeps_every_damaged_copy(store):
    md5 = store.add_bytes(b"x")
    first = store.quarantine(md5)
    store.add_bytes(b"x")
    second = store.quarantine(md5)
    assert (first.name[-2:], second.name[-2:]) == ("-1", "-2")
    assert store.quarantine(md5) is None


def test_linker_falls_back_to_copying(tmp_path):
    (tmp_path / "x").write_text("x")
    assert Linker(("copy",)).place(tmp_path / "x", tmp_path / "y") == "copy"
    assert (tmp_path / "y").stat().st_ino != (tmp_path / "x").stat().st_ino
    shm = __import__("pathlib").Path("/dev/shm")
    if shm.is_dir() and shm.stat().st_dev != tmp_path.stat().st_dev:
        other = shm / f"gitexp-test-{tmp_path.name}"
        try:
            assert Linker(("reflink", "hardlink", "copy")).place(tmp_path / "x", other) == "copy"
        finally:
            other.unlink(missing_ok=True)
