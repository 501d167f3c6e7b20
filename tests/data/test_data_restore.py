"""A workspace gets exactly the pinned content or nothing; a damaged cache is noticed before and after a run."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import NAME, DvcRepo, dvc, git

from nemo_gitexp.data.cache import find_cache
from nemo_gitexp.data.changes import changed_after_run, quarantine_damaged
from nemo_gitexp.data.manifest import read_manifest
from nemo_gitexp.data.restore import restore_inputs
from nemo_gitexp.data.store import object_stores
from nemo_gitexp.data.verified import VerifiedFiles, hash_file
from nemo_gitexp.data.worktree import worktree_state
from nemo_gitexp.errors import DataDriftError, MissingDataError, WorkspaceError
from nemo_gitexp.inputpin import InputPin


@pytest.fixture
def restore(repo, verified, tell):
    def call(*paths: str, workspace: Path | None = None, pins=None, **more):
        place = workspace or repo.workspace()
        chosen = pins if pins is not None else [repo.pin(path) for path in paths]
        return place, restore_inputs(
            place, chosen, repo_root=repo.root, verified=verified, progress=tell, **more
        )  # fmt: skip

    return call


def overwrite(path: Path, text: str) -> None:
    """Write in place, as root may through a read-only hard link."""
    path.chmod(0o644)
    path.write_text(text)


def test_file_and_directory_are_put_in_place(repo, restore):
    workspace, (file, folder) = restore(NAME, "data/raw")
    assert (workspace / NAME).read_bytes() == (repo.root / NAME).read_bytes()
    assert sorted(path.relative_to(workspace).as_posix() for path in (workspace / "data/raw").rglob("*.txt")) == [
        "data/raw/inner/again.txt", "data/raw/inner/ö two.txt", "data/raw/one.txt",
    ]  # fmt: skip
    assert (workspace / "data/raw/empty").read_bytes() == b""
    assert file.size_bytes == file.pin.size_bytes
    assert folder.size_bytes == folder.pin.size_bytes
    assert len(folder.files) == folder.pin.n_files == 4


def test_plan_entry_holds_what_a_stat_finds(restore):
    workspace, (restored,) = restore("data/raw")
    document = restored.to_json()
    assert set(document) == {"path", "pin", "size_bytes", "files", "kinds", "strength"}
    for path, md5, size, mtime_ns, inode in document["files"]:
        status = (workspace / path).stat()
        assert (status.st_size, status.st_mtime_ns, status.st_ino) == (size, mtime_ns, inode)
        assert hash_file(workspace / path) == md5


def test_no_symbolic_link_is_made_and_links_are_read_only(restore):
    workspace, (restored,) = restore("data/raw")
    place = workspace / "data/raw/one.txt"
    assert not place.is_symlink()
    assert restored.kinds in {("hardlink",), ("reflink",)}
    if restored.kinds == ("hardlink",):
        assert stat.S_IMODE(place.stat().st_mode) == 0o444


def test_dvc_itself_finds_the_workspace_clean(repo, restore):
    workspace, _ = restore(NAME, "data/raw", "data/made.txt", "data/chain", "data/drift.txt")
    from nemo_gitexp.data.cache import configure_workspace

    configure_workspace(workspace, find_cache(repo.root))
    assert "up to date" in dvc(workspace, "status")
    assert git(workspace, "status", "--porcelain") == ""


def test_executable_input_is_a_copy_with_the_bit(repo, restore):
    pin = repo.pin(NAME)
    program = InputPin(pin.path, pin.pin, pin.size_bytes, 1, source=pin.source, executable=True)
    workspace, (restored,) = restore(pins=[program])
    assert restored.kinds == ("copy",)
    assert os.access(workspace / NAME, os.X_OK)
    assert not repo.object(NAME).stat().st_mode & 0o111


def test_taken_path_is_refused(repo, restore):
    workspace = repo.workspace()
    (workspace / NAME).write_text("from git")
    with pytest.raises(WorkspaceError) as caught:
        restore(NAME, workspace=workspace)
    assert caught.value.facts["paths"] == [NAME]


def test_symbolic_link_out_of_the_workspace_is_refused(repo, restore, tmp_path):
    workspace = repo.workspace()
    shutil.rmtree(workspace / "data")
    (workspace / "data").symlink_to(tmp_path)
    with pytest.raises(WorkspaceError, match="leads out of the workspace"):
        restore(NAME, workspace=workspace)


def test_corrupt_object_is_set_aside_and_fetched_anew(repo, restore, said):
    good = repo.object(NAME).read_bytes()
    overwrite(repo.object(NAME), "not what my name says")
    workspace, _ = restore(NAME)
    assert (workspace / NAME).read_bytes() == good
    assert repo.object(NAME).read_bytes() == good
    assert [path.name for path in repo.object(NAME).parent.glob("*.corrupt-1")]
    assert any("corrupt" in line for line in said)


def test_corruption_through_a_hard_link_is_noticed_although_verified_before(repo, restore):
    first, _ = restore("data/raw")
    overwrite(first / "data/raw/one.txt", "the job wrote here, as root may")
    second, _ = restore("data/raw", workspace=repo.workspace("second"))
    assert (second / "data/raw/one.txt").read_text() == "one"
    assert (second / "data/raw/inner/again.txt").read_text() == "one"


def test_corrupt_directory_listing_is_set_aside(repo, restore):
    overwrite(repo.object("data/raw"), "[]")
    workspace, _ = restore("data/raw")
    assert (workspace / "data/raw/one.txt").read_text() == "one"


def test_missing_objects_come_from_the_users_own_work_tree_where_it_has_them(repo, restore, said):
    repo.forget_remote()
    shutil.rmtree(repo.cache)
    overwrite(repo.root / "data/drift.txt", "changed since")
    workspace, _ = restore(NAME, "data/raw")
    assert hash_file(workspace / NAME) == repo.pin(NAME).pin
    assert hash_file(repo.object(NAME)) == repo.pin(NAME).pin
    assert [line for line in said if "taken from" in line]
    with pytest.raises(MissingDataError):
        restore("data/drift.txt", workspace=repo.workspace("second"))


def test_missing_objects_come_from_the_remote(repo, restore, said):
    repo.forget_copies()
    shutil.rmtree(repo.cache)
    workspace, _ = restore(NAME, "data/raw", "data/made.txt")
    assert hash_file(workspace / NAME) == repo.pin(NAME).pin
    assert (workspace / "data/made.txt").is_file()
    assert any("remotes" in line for line in said)
    assert git(workspace, "status", "--porcelain") == ""


def test_all_missing_inputs_are_named_at_once_with_commands(repo, restore):
    repo.forget_copies()
    repo.forget_remote()
    shutil.rmtree(repo.cache)
    with pytest.raises(MissingDataError) as caught:
        restore(NAME, "data/raw")
    assert caught.value.facts["missing"] == [NAME, "data/raw"]
    assert "dvc pull" in caught.value.hint
    assert f"'{NAME}' data/raw" in caught.value.hint


def test_unreachable_remote_is_quoted(repo, restore):
    repo.forget_copies()
    shutil.rmtree(repo.cache)
    shutil.rmtree(repo.root.parent / "remote")
    with pytest.raises(MissingDataError) as caught:
        restore(NAME)
    assert any("remote" in reason for reason in caught.value.facts["reasons"])


def test_what_the_chosen_remote_does_not_have_comes_from_another(repo, restore):
    config = repo.root / ".dvc" / "config"
    empty = repo.root.parent / "empty"
    empty.mkdir()
    config.write_text(config.read_text().replace("remote = store", "remote = near"))
    with config.open("a") as file:
        file.write(f"['remote \"near\"']\n    url = {empty}\n")
    repo.forget_copies()
    shutil.rmtree(repo.cache)
    workspace, _ = restore(NAME, "data/raw")
    assert hash_file(workspace / NAME) == repo.pin(NAME).pin


def test_a_stage_without_its_own_inputs_is_not_run(repo, restore):
    repo.forget_copies()
    repo.forget_remote()
    shutil.rmtree(repo.cache)
    with pytest.raises(MissingDataError) as caught:
        restore("data/made.txt")
    assert "the DVC stage prepare needs data/raw" in caught.value.facts["reasons"]
    assert "failed" not in caught.value.message


def test_missing_stage_output_is_made_again_and_the_workspace_stays_clean(repo, restore, said):
    repo.forget_copies()
    repo.forget_remote()
    wanted = repo.object("data/made.txt")
    wanted.unlink()
    workspace, (restored,) = restore("data/made.txt")
    assert wanted.is_file()
    assert hash_file(workspace / "data/made.txt") == restored.pin.pin
    assert any("stage prepare" in line for line in said)
    assert git(workspace, "status", "--porcelain", "--ignored").split() == ["!!", "data/made.txt"]
    assert [path.name for path in workspace.parent.iterdir()] == ["ws"]


def test_chain_of_missing_stages_is_made_from_its_start(repo, restore):
    repo.forget_copies()
    repo.forget_remote()
    repo.object("data/made.txt").unlink()
    repo.object("data/chain").unlink()
    workspace, _ = restore("data/chain")
    assert sorted(path.name for path in (workspace / "data/chain").iterdir()) == ["a.txt", "b.txt"]
    assert not (workspace / "data/made.txt").exists()


def test_stage_that_makes_something_else_is_not_accepted(repo, restore):
    repo.forget_copies()
    repo.forget_remote()
    repo.object("data/drift.txt").unlink()
    with pytest.raises(MissingDataError) as caught:
        restore("data/drift.txt")
    assert "now makes another data/drift.txt" in caught.value.message
    assert "dvc repro drift" in caught.value.hint


def test_stage_that_fails_is_quoted(repo, restore):
    repo.forget_copies()
    repo.forget_remote()
    repo.object("data/drift.txt").unlink()
    workspace = repo.workspace()
    (workspace / "drift.py").write_text("raise SystemExit('no such luck')\n")
    with pytest.raises(MissingDataError, match="stage drift failed"):
        restore("data/drift.txt", workspace=workspace)


def test_cache_of_the_main_work_tree_serves_a_linked_one(repo, restore, verified):
    linked = repo.workspace("linked")
    workspace = repo.workspace("ws")
    pin = repo.pin(NAME)
    repo.forget_remote()
    with pytest.raises(MissingDataError):
        restore_inputs(workspace, [pin], repo_root=linked, verified=verified)
    restore_inputs(workspace, [pin], repo_root=linked, verified=verified, main_root=repo.root)
    assert hash_file(workspace / NAME) == pin.pin


def test_changes_of_a_job_are_told_apart(repo, restore):
    workspace, inputs = restore(NAME, "data/raw", "data/made.txt")
    assert changed_after_run(workspace, inputs) == ()
    overwrite(workspace / NAME, "wrote through")
    (workspace / "data/raw/one.txt").unlink()
    made = workspace / "data/made.txt"
    text = made.read_bytes()
    made.unlink()
    made.write_bytes(text)
    changed = {item.path: item.damaged_cache for item in changed_after_run(workspace, inputs)}
    assert changed == {NAME: inputs[0].kinds == ("hardlink",), "data/raw/one.txt": False}


def test_damaged_objects_are_quarantined(repo, restore):
    workspace, inputs = restore(NAME)
    overwrite(workspace / NAME, "wrote through")
    moved = quarantine_damaged(object_stores(find_cache(repo.root)), changed_after_run(workspace, inputs))
    if inputs[0].kinds == ("hardlink",):
        assert [path.name for path in moved] == [repo.object(NAME).name + ".corrupt-1"]
        assert not repo.object(NAME).exists()
    assert quarantine_damaged(object_stores(find_cache(repo.root)), changed_after_run(workspace, inputs)) == ()


def test_verification_is_remembered(repo, restore, tmp_path, verified):
    restore("data/raw")
    verified.flush()
    status = repo.object("data/made.txt").stat()
    assert verified.known(status) is None
    with VerifiedFiles(tmp_path / "verified.db") as again:
        md5 = repo.pin("data/raw").pin
        assert again.known((repo.cache / "files/md5" / md5[:2] / md5[2:]).stat()) is None  # listings are read whole
        one = hash_file(repo.root / "data/raw/one.txt")
        assert again.known((repo.cache / "files/md5" / one[:2] / one[2:]).stat()) == one


def test_manifest_input_is_linked_after_comparison(repo, restore):
    big = repo.root / "scratch" / "shards"
    big.mkdir(parents=True)
    (big / "0.bin").write_bytes(b"x" * 1000)
    (big / "0.idx").write_bytes(b"index")
    pin = read_manifest(repo.root, "scratch/shards").pin
    assert (pin.strength, pin.size_bytes, pin.n_files) == ("manifest", 1005, 2)
    workspace, (restored,) = restore(pins=[pin])
    assert restored.kinds == ("symlink",)
    assert (workspace / "scratch/shards/0.bin").read_bytes() == b"x" * 1000
    (big / "0.bin").write_bytes(b"y" * 1001)
    with pytest.raises(DataDriftError):
        restore(pins=[pin], workspace=repo.workspace("second"))


def test_manifest_sees_an_index_changed_in_place(repo):
    (repo.root / "shards").mkdir()
    index = repo.root / "shards" / "train.idx"
    index.write_bytes(b"1234")
    before, status = read_manifest(repo.root, "shards").pin, index.stat()
    index.write_bytes(b"4321")
    os.utime(index, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert read_manifest(repo.root, "shards").pin.pin != before.pin


def test_worktree_state_of_files_and_directories(repo, verified):
    assert {worktree_state(repo.root, repo.pin(path), verified) for path in (NAME, "data/raw", "data/chain")} == {
        "match"
    }
    (repo.root / NAME).unlink()
    assert worktree_state(repo.root, repo.pin(NAME), verified) == "absent"
    (repo.root / "data/raw/new.txt").write_text("new")
    assert worktree_state(repo.root, repo.pin("data/raw"), verified) == "differs"
    overwrite(repo.root / "data/made.txt", "other")
    assert worktree_state(repo.root, repo.pin("data/made.txt"), verified) == "differs"


def test_files_that_dvcignore_leaves_out_do_not_count(repo, verified):
    (repo.root / ".dvcignore").write_text("*.tmp\n")
    (repo.root / "data/raw/x.tmp").write_text("ignored")
    assert worktree_state(repo.root, repo.pin("data/raw"), verified) == "match"
    (repo.root / "data/raw/x.txt").write_text("not ignored")
    assert worktree_state(repo.root, repo.pin("data/raw"), verified) == "differs"


def test_dvc_in_a_subdirectory_of_the_repository(tmp_path, verified):
    root = tmp_path / "mono"
    project = root / "projects" / "a b"
    project.mkdir(parents=True)
    git(root, "init", "-q", "-b", "main")
    dvc(project, "init", "-q", "--subdir")
    (project / "x.txt").write_text("x")
    dvc(project, "add", "-q", "x.txt")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "x")
    repo = DvcRepo(root)
    cache = find_cache(root, "projects/a b/x.txt")
    assert (cache.relative, cache.cache_dir) == ("projects/a b", project / ".dvc" / "cache")
    assert find_cache(root) == cache
    workspace = repo.workspace()
    restore_inputs(workspace, [repo.pin("projects/a b/x.txt")], repo_root=root, verified=verified)
    assert (workspace / "projects/a b/x.txt").read_text() == "x"


def test_restores_at_once_share_cache_and_memory(repo, tmp_path):
    pins = [repo.pin(NAME), repo.pin("data/raw")]
    workspaces = [repo.workspace(f"ws {number}") for number in range(4)]
    overwrite(repo.object(NAME), "corrupt")
    documents = [pin.to_json() for pin in pins]
    codes = [
        AT_ONCE.format(pins=documents, root=str(repo.root), workspace=str(place), memory=str(tmp_path / "v.db"))
        for place in workspaces
    ]
    processes = [subprocess.Popen([sys.executable, "-c", code]) for code in codes]
    assert [process.wait() for process in processes] == [0, 0, 0, 0]
    assert {hash_file(workspace / NAME) for workspace in workspaces} == {pins[0].pin}


AT_ONCE = """
from pathlib import Path
from nemo_gitexp.fields import FieldReader
from nemo_gitexp.inputpin import parse_input_pin
from nemo_gitexp.data.restore import restore_inputs
from nemo_gitexp.data.verified import VerifiedFiles
with VerifiedFiles(Path({memory!r})) as memory:
    pins = [parse_input_pin(FieldReader(pin, "pin")) for pin in {pins!r}]
    restore_inputs(Path({workspace!r}), pins, repo_root=Path({root!r}), verified=memory)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_corrupt_object_in_a_cache_of_somebody_else_is_passed_over(template):
    """A shared cache we may not write: what is good is used, what is corrupt is named and not used."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        shutil.copytree(template, Path(folder) / "all", symlinks=True)
        Path(folder).chmod(0o755)
        (Path(folder) / "all").chmod(0o755)
        repo = DvcRepo(Path(folder) / "all" / "repo")
        overwrite(repo.object(NAME), "corrupt")
        repo.forget_remote()
        workspace = repo.workspace()
        for path in [workspace, *workspace.rglob("*")]:
            os.chown(path, 65534, 65534, follow_symlinks=False)
        code = AS_NOBODY.format(
            good=repo.pin("data/raw").to_json(),
            bad=repo.pin(NAME).to_json(),
            root=str(repo.root),
            workspace=str(workspace),
        )
        env = {"PATH": os.environ["PATH"], "HOME": folder}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)
        assert done.stdout.splitlines() == [str([str(repo.object(NAME))])], done.stderr
        assert (workspace / "data/raw/one.txt").read_text() == "one"
        assert repo.object(NAME).read_text() == "corrupt"


AS_NOBODY = """
import os
from pathlib import Path
from nemo_gitexp.data.cache import find_cache
from nemo_gitexp.fields import FieldReader
from nemo_gitexp.inputpin import parse_input_pin
from nemo_gitexp.data.restore import restore_inputs
from nemo_gitexp.data.verified import VerifiedFiles
from nemo_gitexp.errors import MissingDataError
root, workspace, memory = Path({root!r}), Path({workspace!r}), VerifiedFiles(None)
find_cache(root)  # imports what only root may read
os.setegid(65534)
os.seteuid(65534)
restore_inputs(workspace, [parse_input_pin(FieldReader({good!r}, "pin"))], repo_root=root, verified=memory)
try:
    restore_inputs(workspace, [parse_input_pin(FieldReader({bad!r}, "pin"))], repo_root=root, verified=memory)
except MissingDataError as fault:
    print(fault.facts["corrupt"])
"""
