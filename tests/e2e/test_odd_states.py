"""The whole loop works in every state a repository can be in, and leaves that state as it was."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from builder import SCRIPT, Work, make_work
from residue import expect_nothing_left

LISTING = """\
import hashlib, json, os
found = {}
for base, names, files in os.walk("."):
    names[:] = [name for name in names if name not in (".git", "record")]
    for name in files + [name for name in names if os.path.islink(os.path.join(base, name))]:
        path = os.path.join(base, name)
        if os.path.islink(path):
            found[path[2:]] = "-> " + os.readlink(path)
        elif name != ".git":
            bits = "x" if os.access(path, os.X_OK) else "-"
            found[path[2:]] = bits + hashlib.sha256(open(path, "rb").read()).hexdigest()
with open(os.path.join(os.environ["GITEXP_OUTPUTS"], "seen.json"), "w") as file:
    json.dump(found, file)
with open(os.environ["GITEXP_METRICS"], "a") as stream:
    stream.write(json.dumps({"files": len(found)}) + "\\n")
"""
"""A job whose output is what it saw: each file with its mode and bytes, but for the record itself."""


def loop(work: Work, *args: str, script: str = "train.py", cwd: Path | None = None) -> dict:
    """Run, check that the user's state is as before, reproduce bit for bit; return the experiment."""
    before = state_of(work)
    ran = work.gitexp("run", "--json", *args, "--", "python", script, "--lr", "0.1", cwd=cwd).json
    assert ran["status"] == "completed"
    assert ran["config"] == {"lr": 0.1}
    assert ran["metrics"] == {"loss": 0.1 / 3}
    again = work.gitexp("reproduce", ran["experiment"][:9], "--require", "bitwise", "--json", cwd=cwd).json
    assert again["verdict"] == "bitwise"
    assert state_of(work) == before
    leaves_nothing_behind(work)
    return ran


def state_of(work: Work) -> tuple[object, ...]:
    """Return HEAD, the index' bytes and time, and every file with its bytes and time."""
    git_dir = Path(work.git("rev-parse", "--absolute-git-dir"))
    head, index = git_dir / "HEAD", git_dir / "index"
    files = {}
    for base, names, found in os.walk(work.root):
        names[:] = [name for name in names if name != ".git"]
        for name in found:
            path = Path(base, name)
            status = path.lstat()
            files[str(path)] = (None if path.is_symlink() else path.read_bytes(), status.st_mtime_ns, status.st_mode)
    branches = {ref: sha for ref, sha in work.refs("refs/heads/").items() if not ref.startswith("refs/heads/exp/")}
    return head.read_bytes(), index.read_bytes(), index.stat().st_mtime_ns, files, branches


def leaves_nothing_behind(work: Work) -> None:
    """No workspace, temporary ref or temporary file of ours is left."""
    common = Path(work.git("rev-parse", "--path-format=absolute", "--git-common-dir"))
    assert ".git/gitexp" not in work.git("worktree", "list")
    assert work.refs("refs/gitexp-tmp/") == {}
    assert not list((common / "gitexp/tmp").glob("*"))
    assert not list((common / "gitexp/workspaces").glob("*"))
    assert "error" not in work.git("fsck", "--connectivity-only", "--no-dangling")


def test_detached_head(work: Work) -> None:
    work.commit("second")
    work.git("checkout", "-q", "--detach", "HEAD~1")
    ran = loop(work)
    assert ran["code"]["base"] == work.git("rev-parse", "HEAD")
    assert ran["branch"] == f"exp/train/{ran['name']}"


def test_linked_worktree_with_changes_of_its_own(work: Work, tmp_path: Path) -> None:
    work.git("worktree", "add", "-q", "-b", "side", str(tmp_path / "linked"))
    linked = Work(tmp_path / "linked", work.env)
    linked.write("train.py", SCRIPT + "# only here\n")
    ran = loop(linked)
    assert ran["code"]["dirty"]
    assert linked.git("show", f"{ran['code']['commit']}:train.py").endswith("# only here")
    # Both work trees are one repository: the main one knows the experiment.
    assert work.gitexp("show", "latest", "--json").json["experiment"] == ran["experiment"]


def test_shallow_clone(work: Work, tmp_path: Path) -> None:
    work.commit("second")
    work.git("clone", "-q", "--depth", "1", f"file://{work.root}", str(tmp_path / "shallow"))
    shallow = Work(tmp_path / "shallow", work.env)
    loop(shallow)
    refused = shallow.gitexp("show", "nothing-like-it", "--json", code=3).json["error"]
    assert "--unshallow" in refused["hint"] or "--deepen" in refused["hint"]


def test_signed_commits(work: Work, tmp_path: Path) -> None:
    key = tmp_path / "home" / "signing key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    signers = tmp_path / "home" / "signers"
    signers.write_text(f"ada@example.org {key.with_suffix('.pub').read_text()}")
    for name, value in {
        "gpg.format": "ssh",
        "user.signingkey": str(key),
        "commit.gpgsign": "true",
        "gpg.ssh.allowedSignersFile": str(signers),
    }.items():
        work.git("config", name, value)
    work.write("train.py", SCRIPT + "# dirty\n")
    ran = loop(work)
    work.git("verify-commit", ran["code"]["commit"])
    work.git("verify-commit", ran["experiment"])
    # A result commit is the same wherever it is collected, so nobody's key may be in it.
    assert "gpgsig" not in work.git("cat-file", "commit", ran["result"])


def test_a_signature_that_cannot_be_made_is_one_clear_error(work: Work) -> None:
    work.git("config", "commit.gpgsign", "true")
    work.git("config", "gpg.format", "ssh")
    work.git("config", "user.signingkey", "/nowhere/key")
    refused = work.gitexp("run", "--json", "--", "python", "train.py", code=3).json["error"]
    assert refused["type"] == "GitCommandError"
    assert work.refs() == {}
    assert work.refs("refs/gitexp-tmp/") == {}


def test_a_prune_by_another_git_takes_nothing_from_a_snapshot(work: Work, tmp_path: Path) -> None:
    real = shutil.which("git", path=work.env["PATH"])
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    # Just before the first commit is written, everything that no ref names yet goes.
    fake.write_text(
        f"""#!/bin/sh
case "$*" in *fast-import*)
  [ -e '{tmp_path}/pruned' ] || {{ '{real}' prune --expire=now; touch '{tmp_path}/pruned'; }} ;;
esac
exec '{real}' "$@"
"""
    )
    fake.chmod(0o755)
    work.write("train.py", SCRIPT + "# dirty\n")
    work.write("new/file.py", "x = 1\n")
    pruning = Work(work.root, {**work.env, "PATH": f"{fake.parent}{os.pathsep}{work.env['PATH']}"})
    ran = pruning.gitexp("run", "--record-only", "--json", "--", "python", "train.py").json
    assert (tmp_path / "pruned").exists()
    assert work.git("show", f"{ran['code']['commit']}:new/file.py") == "x = 1"
    assert "missing" not in work.git("fsck", "--no-dangling")


def test_spaces_and_other_letters_in_every_path(tmp_path: Path) -> None:
    place = tmp_path / "Ünï côdé 日本" / "my work"
    work = make_work(place, tmp_path / "home é", files={"src dir/träin it.py": SCRIPT})
    work.write("däta file.txt", "new\n")
    ran = loop(work, script="src dir/träin it.py")
    assert ran["code"]["untracked"] == ["däta file.txt"]
    assert ran["study"].startswith("train-it-")
    assert work.gitexp("outputs", "latest", "--get", "öut put").out.strip().endswith("weights.txt")
    assert (work.root / "öut put" / "weights.txt").read_text() == "0.1"


BYTES_NAMES = """\
import os
with open(os.environb[b"GITEXP_OUTPUTS"] + b"/caf\\xe9.txt", "w") as file:
    file.write("x")
with open(b"stray\\xff", "w") as file:
    file.write("x")
raise ValueError("not text: " + os.fsdecode(b"\\xff"))
"""


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems refuse names that are no UTF-8")
def test_names_and_messages_that_are_no_utf8(tmp_path: Path) -> None:
    place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/d\xff/work"))
    work = make_work(place, tmp_path / "home", files={"odd.py": BYTES_NAMES})
    assert work.gitexp("run", "--json", "--", "python", "train.py").json["status"] == "completed"
    (work.root / os.fsdecode(b"new\xff.txt")).write_text("x")
    odd = work.gitexp("run", "--json", "-m", os.fsdecode(b"m\xff"), "--", "python", "odd.py", code=1).json
    assert (odd["error"]["type"], odd["error"]["message"]) == ("ValueError", "not text: \udcff")
    assert odd["code"]["untracked"] == ["new\udcff.txt"]
    assert [item["path"] for item in odd["outputs"]] == ["caf\udce9.txt"]
    assert work.gitexp("outputs", "latest", "--get", "got").code == 0
    assert (work.root / "got" / os.fsdecode(b"caf\xe9.txt")).read_text() == "x"
    for verb in (["log"], ["show", "latest"], ["diff", "latest:train", "latest:odd"], ["status"], ["collect"]):
        work.gitexp(*verb)
        work.gitexp("--json", *verb)
    expect_nothing_left(work)


def test_a_branch_named_exp_costs_only_the_branch(work: Work) -> None:
    work.git("branch", "exp")
    answered = work.gitexp("run", "--json", "--", "python", "train.py")
    assert answered.json["branch"] is None
    assert answered.json["status"] == "completed"
    assert "warning" in answered.err
    assert "branch named exp" in answered.err
    assert list(work.refs()) == [answered.json["ref"]]


def test_sha256_repository(tmp_path: Path) -> None:
    work = make_work(tmp_path / "work", tmp_path / "home", GIT_DEFAULT_HASH="sha256")
    work.write("train.py", SCRIPT + "# dirty\n")
    ran = loop(work)
    assert len(ran["experiment"]) == 64
    assert work.gitexp("show", ran["result"][:12], "--json").json["experiment"] == ran["experiment"]
    work.gitexp("diff", "latest", "--worktree")


def test_sparse_checkout(work: Work) -> None:
    work.write("far/away.py", "x = 1\n")
    work.commit()
    work.git("sparse-checkout", "set", "--cone", "near")
    assert not (work.root / "far").exists()
    ran = loop(work)
    assert work.git("ls-tree", "-r", "--name-only", ran["experiment"], "far") == "far/away.py"
    assert work.git("sparse-checkout", "list") == "near"


def test_run_directories_inside_the_work_tree_enter_no_experiment(work: Work) -> None:
    work.env["NEMO_GITEXP_RUN_ROOT"] = "runs"
    work.gitexp("run", "--", "python", "train.py")
    assert work.git("status", "--porcelain") == ""
    again = work.gitexp("run", "--json", "--", "python", "train.py", "--lr", "0.2").json
    assert again["code"]["untracked"] == []


def test_inside_a_hook_where_git_names_its_own_index(work: Work) -> None:
    hook = work.root / ".git/hooks/post-commit"
    command = work.command("run", "--record-only", "--json", "--", "python", "train.py")[0]
    hook.write_text(f"#!/bin/sh\n'{command}' run --record-only --json -- python train.py > '{work.root.parent}/said'\n")
    hook.chmod(0o755)
    work.write("train.py", SCRIPT + "# in the commit\n")
    work.write("later.py", "not in the commit\n")
    work.git("commit", "-q", "train.py", "-m", "runs the hook with a temporary index")
    ran = json.loads((work.root.parent / "said").read_text())
    assert ran["code"]["base"] == work.git("rev-parse", "HEAD")
    assert ran["code"]["untracked"] == ["later.py"]


def test_every_verb_ignores_an_inherited_repository(work: Work, tmp_path: Path) -> None:
    other = make_work(tmp_path / "other", tmp_path / "home")
    theirs = other.root / ".git"
    inherited = {"GIT_DIR": str(theirs), "GIT_INDEX_FILE": str(theirs / "index"), "GIT_PREFIX": ""}
    inside = Work(work.root, {**work.env, **inherited, "GIT_LITERAL_PATHSPECS": "1"})
    ran = inside.gitexp("run", "--record-only", "--json", "--", "python", "train.py").json
    work.git("remote", "add", "origin", str(other.root))
    inside.gitexp("init")
    assert "refs/gitexp" in work.git("config", "--get-all", "remote.origin.fetch")
    assert other.git("config", "--get-regexp", "remote", check=False) == ""
    assert (work.root / ".gitattributes").exists()
    assert work.refs() == {ran["ref"]: ran["experiment"]}
    assert other.refs() == {}
    for verb in (["log"], ["show", "latest"], ["status"], ["diff", "latest", "--worktree"]):
        inside.gitexp(*verb)


def test_from_a_subdirectory_and_from_elsewhere(work: Work, tmp_path: Path) -> None:
    work.write("deep/down/here.txt", "x\n")
    work.write("tools/other.py", SCRIPT)
    work.commit()
    ran = loop(work, cwd=work.root / "deep/down")
    # A script that is only to be found from where the command was typed runs from there.
    near = work.gitexp("run", "--json", "--", "python", "other.py", cwd=work.root / "tools").json
    assert near["status"] == "completed"
    seen = work.gitexp("-C", "work/deep", "show", "latest:train", "--json", cwd=tmp_path).json
    assert seen["experiment"] == ran["experiment"]
    assert work.gitexp("show", "-C", str(work.root), "latest:train", "--json", cwd=tmp_path).json == seen


def test_a_tree_of_everything_odd_is_what_the_job_sees(work: Work, tmp_path: Path) -> None:
    work.git("config", "protocol.file.allow", "always")
    work.env["GIT_ALLOW_PROTOCOL"] = "file"
    work.write("look.py", LISTING)
    work.write(".gitattributes", "*.bat eol=crlf\n*.up filter=shout\n*.bin filter=lfs diff=lfs merge=lfs -text\n")
    work.git("config", "filter.shout.clean", "tr a-z A-Z")
    work.git("config", "filter.shout.smudge", "tr A-Z a-z")
    work.git("config", "filter.shout.required", "true")
    if shutil.which("git-lfs"):
        work.git("lfs", "install", "--local")
    work.write("go.bat", "echo\r\n")
    work.write("loud.up", "quiet on disk\n")
    work.write("weights.bin", bytes(range(256)))
    work.write("gone.txt", "soon deleted\n")
    work.write("old.txt", "renamed\n" * 20)
    work.write("tool.sh", "#!/bin/sh\n")
    inner = make_work(tmp_path / "inner", tmp_path / "home", files={"deep.py": "d = 1\n"})
    outer = make_work(tmp_path / "outer", tmp_path / "home", files={"lib.py": "v = 1\n"})
    outer.env["GIT_ALLOW_PROTOCOL"] = "file"
    outer.git("submodule", "--quiet", "add", str(inner.root), "nested sub")
    outer.commit()
    work.git("submodule", "--quiet", "add", str(outer.root), "deps/my lib")
    work.git("submodule", "--quiet", "update", "--init", "--recursive")
    work.commit()
    library = Work(work.root / "deps/my lib", work.env)
    library.write("lib.py", "v = 2\n")
    library.commit("never pushed")
    work.write("go.bat", "echo\r\nagain\r\n")
    work.write("loud.up", "louder\n")
    work.write("weights.bin", bytes(range(255, -1, -1)))
    (work.root / "gone.txt").unlink()
    work.git("mv", "old.txt", "new name.txt")
    (work.root / "tool.sh").chmod(0o755)
    for name, target in {"link": "go.bat", "dangling": "no/where", "dir link": "deps"}.items():
        (work.root / name).symlink_to(target)
    for name in ("-x", "new\nline", 'quo"te', "日本.txt"):
        work.write(name, f"{name}\n")
    work.write("intended.py", "x = 1\n")
    work.git("add", "-N", "intended.py")
    before = state_of(work)
    ran = work.gitexp("run", "--json", "--", "python", "look.py").json
    assert ran["status"] == "completed", ran["error"]
    work.gitexp("outputs", "latest", "--get", str(tmp_path / "got"))
    seen = json.loads((tmp_path / "got/seen.json").read_text())
    here = subprocess.run(
        ["python", str(work.root / "look.py")],
        cwd=work.root,
        env={**work.env, "GITEXP_OUTPUTS": str(tmp_path), "GITEXP_METRICS": os.devnull},
        check=False,
    )
    assert here.returncode == 0
    assert seen == json.loads((tmp_path / "seen.json").read_text())
    assert state_of(work) == before
    assert work.gitexp("reproduce", "latest", "--require", "bitwise", "--json").json["met"]
    leaves_nothing_behind(work)


def test_another_submodule_state_is_missed_when_its_commit_is_gone(work: Work, tmp_path: Path) -> None:
    work.env["GIT_ALLOW_PROTOCOL"] = "file"
    library = make_work(tmp_path / "library", tmp_path / "home", files={"lib.py": "v = 1\n"})
    work.git("submodule", "--quiet", "add", str(library.root), "lib")
    work.commit()
    ran = work.gitexp("run", "--record-only", "--json", "--", "python", "train.py").json
    shutil.rmtree(work.root / "lib")
    refused = work.gitexp("launch", ran["experiment"], "--json", code=3).json["error"]
    assert refused["type"] == "WorkspaceError"
    assert "git submodule update --init" in refused["hint"]
    work.git("submodule", "--quiet", "update", "--init")
    assert work.gitexp("launch", ran["experiment"], "--json").json["status"] == "completed"


@pytest.mark.parametrize("args", [["--again"], ["--again", "-C", "."]])
def test_global_options_may_stand_behind_the_verb(work: Work, args: list[str]) -> None:
    assert work.gitexp("run", *args, "--record-only", "--json", "--", "python", "train.py").json["status"] == "recorded"


def test_a_linked_worktree_inside_the_work_tree_is_another_state(work: Work) -> None:
    work.git("worktree", "add", "-q", "-b", "feature", "trees/feature")
    ran = work.gitexp("run", "--json", "--", "python", "train.py").json
    assert (ran["status"], ran["code"]["dirty"], ran["code"]["untracked"]) == ("completed", False, [])
    work.env["NEMO_GITEXP_WORKSPACE_ROOT"] = str(work.root / "spaces")
    work.gitexp("run", "--again", "--keep", "--", "python", "train.py")
    assert work.gitexp("run", "--json", "--", "python", "train.py").json["duplicate_of"]


@pytest.mark.parametrize(
    "url, recorded",
    [
        ("https://ada:p@ss@host.example/x.git", "https://host.example/x.git"),
        ("https://token@host.example/x.git?private_token=abc", "https://host.example/x.git"),
        ("git@host.example:x/y.git", "git@host.example:x/y.git"),
        ("/home/ada/x.git", None),
    ],
)
def test_the_remote_is_recorded_without_anything_secret(work: Work, url: str, recorded: str | None) -> None:
    work.git("remote", "add", "origin", url)
    sha = work.gitexp("run", "--record-only", "--json", "--", "python", "train.py").json["experiment"]
    text = work.git("show", f"{sha}:experiments/train/record/experiment.json")
    assert json.loads(text)["code"]["remote"] == recorded
