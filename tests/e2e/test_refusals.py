"""What cannot be done is refused by one typed error with a hint, and loses nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builder import SCRIPT, Work, make_work
from residue import expect_nothing_left

from nemo_gitexp.asked import read_study
from nemo_gitexp.errors import DefinitionError

STUDY = """\
purpose: to be refused
command: python train.py --lr {config.lr}
config: {lr: 0.1, layers: {hidden: 64}}
"""
RUN = ("run", "--json", "--", "python", "train.py")


def refused(work: Work, *args: str, cwd: Path | None = None, code: int = 3) -> dict:
    """Run a call that must be refused; check the answer's form and that nothing of it is left; return the error."""
    before = work.refs("refs/") if work.git("rev-parse", "--git-dir", check=False) else {}
    answered = work.gitexp(*args, *([] if "--json" in args else ["--json"]), cwd=cwd, code=code)
    document = answered.json
    assert list(document) == ["schema", "error"]
    assert document["schema"] == 1
    error = document["error"]
    assert error["message"]
    assert error["hint"]
    assert "Traceback" not in answered.err
    assert not error["message"].endswith(".")
    if before:
        assert work.refs("refs/") == before
    return error


@pytest.fixture
def studied(work: Work) -> Work:
    work.write("experiments/digits/experiment.yaml", STUDY)
    work.commit()
    return work


# ------------------------------------------------------------------------------------------------------- repositories


def test_outside_a_repository(tmp_path: Path) -> None:
    work = make_work(tmp_path / "elsewhere", tmp_path / "home")
    plain = tmp_path / "plain"
    plain.mkdir()
    for verb in (RUN, ("log", "--json"), ("init", "--json"), ("show", "latest", "--json")):
        error = refused(work, *verb, cwd=plain)
        assert error["type"] == "NotARepositoryError"
        assert "git init" in error["hint"]
    assert refused(work, "-C", str(tmp_path / "nowhere"), "log")["type"] == "NotARepositoryError"
    assert refused(work, "log", cwd=work.root / ".git")["type"] == "NotARepositoryError"


def test_a_repository_without_commits(tmp_path: Path) -> None:
    work = make_work(tmp_path / "elsewhere", tmp_path / "home")
    empty = tmp_path / "empty"
    empty.mkdir()
    work.git("init", "-q", cwd=empty)
    (empty / "train.py").write_text(SCRIPT)
    error = refused(work, *RUN, cwd=empty)
    assert error["type"] == "RepositoryError"
    assert "git commit" in error["hint"]
    assert work.gitexp("log", "--json", cwd=empty).json["experiments"] == []
    assert refused(work, "show", "latest", cwd=empty)["type"] == "UnknownExperimentError"


def test_a_bare_repository(work: Work, tmp_path: Path) -> None:
    work.git("clone", "-q", "--bare", ".", str(tmp_path / "bare.git"))
    error = refused(work, *RUN, cwd=tmp_path / "bare.git")
    assert error["type"] == "NotARepositoryError"
    assert "git clone" in error["hint"]


def test_an_unmerged_index(work: Work) -> None:
    work.git("checkout", "-q", "-b", "side")
    work.write("train.py", SCRIPT + "# side\n")
    work.commit()
    work.git("checkout", "-q", "main")
    work.write("train.py", SCRIPT + "# main\n")
    work.commit()
    work.git("merge", "side", check=False)
    error = refused(work, *RUN)
    assert error["type"] == "SnapshotRefusedError"
    assert error["paths"] == ["train.py"]


def test_what_must_not_enter_git(work: Work) -> None:
    make_work(work.root / "inner", work.root.parent / "home")
    assert refused(work, *RUN)["paths"] == ["inner/"]
    shutil.rmtree(work.root / "inner")
    work.write(".env", "TOKEN=1\n")
    assert refused(work, *RUN)["paths"] == [".env"]
    (work.root / ".env").unlink()
    work.write("big.bin", b"\0" * 11_000_000)
    assert "dvc add big.bin" in refused(work, *RUN)["hint"]
    work.write("pyproject.toml", "[tool.nemo-gitexp]\nmax_untracked_file_mb = 20\n")
    assert work.gitexp(*RUN[:2], "--record-only", *RUN[2:]).json["status"] == "recorded"


def test_a_clean_tree_may_be_demanded(work: Work) -> None:
    work.gitexp("run", "--require-clean", "--record-only", "--", "python", "train.py")
    work.write("new.py", "x = 1\n")
    assert refused(work, *RUN[:2], "--require-clean", *RUN[2:])["type"] == "SnapshotRefusedError"


# --------------------------------------------------------------------------------------------------- names and words


@pytest.mark.parametrize("name", ["..", "a..b", "a.lock", "-x", ".hidden", "a/b", "a b", "a" * 300, "é", "a\nb", "@{"])
def test_a_name_that_git_would_not_take(work: Work, name: str) -> None:
    error = refused(work, "init", f"--study={name}", code=2)
    assert error["type"] == "InvalidNameError"
    assert error["suggestion"]
    assert len(error["message"]) < 200
    assert not (work.root / "experiments").exists()


@pytest.mark.parametrize(
    "args, kind, word",
    [
        (("run", "digitz"), "UnknownStudyError", "digits"),
        (("run", "digits", "lrr=1"), "UnknownKeyError", "lr"),
        (("run", "digits", "layers.hiden=1"), "UnknownKeyError", "layers.hidden"),
        (("run", "digits", "~hidden"), "UnknownKeyError", "layers.hidden"),
        (("run", "digits", "--executor", "locale"), "UnknownExecutorError", "local"),
        (("run", "../digits"), "InvalidNameError", "digits"),
        (("run", "lr=0.1"), "UsageError", "STUDY lr=0.1"),
        (("run",), "UsageError", "STUDY"),
        (("run", "--determinism", "none", "digits"), "UsageError", "seeded"),
        (("run", "--determinism", "off", "digits"), "UsageError", "determinism_reason"),
        (("run", "digits", "--seed", "-1"), "UsageError", "--help"),
        (("run", "digits", "--bogus"), "UsageError", "--help"),
        (("rnu",), "UsageError", "--help"),
        (("run", "digits", "lr"), "OverrideError", ""),
        (("run", "--", "python", "trian.py"), "UsageError", "train.py"),
        (("run", "--", "python", "../other.py"), "UsageError", ""),
        (("run", "lr=1", "--", "python", "train.py"), "UsageError", "COMMAND"),
        (("run", "--"), "UsageError", "COMMAND|python"),
        (("log", "--where", "config.lr >"), "UsageError", ""),
        (("diff", "--format", "pdf"), "UsageError", "md"),
    ],
)
def test_an_unknown_word_is_a_usage_error_that_names_the_nearest(
    studied: Work, args: tuple[str, ...], kind: str, word: str
) -> None:
    at = args.index("--") if "--" in args else len(args)
    error = refused(studied, *args[:at], "--json", *args[at:], code=2)
    assert error["type"] == kind
    assert any(part in error["hint"] + error["message"] for part in word.split("|"))


def test_a_command_does_not_start_from_another_configuration(studied: Work) -> None:
    base = studied.gitexp("run", "--record-only", "--json", "digits").json["experiment"]
    error = refused(studied, "run", "--json", "--from", base, "--", "python", "train.py", code=2)
    assert (error["type"], error["hint"]) == ("UsageError", "nemo-gitexp run STUDY --from EXP")


def test_a_script_that_git_ignores_is_refused_before_anything_runs(work: Work) -> None:
    work.write(".gitignore", "scratch/\n")
    work.write("scratch/try.py", SCRIPT)
    error = refused(work, "run", "--json", "--", "python", "scratch/try.py", code=2)
    assert "git add -f scratch/try.py" in error["hint"]
    # From inside its directory too.
    assert refused(work, "run", "--json", "--", "python", "try.py", cwd=work.root / "scratch", code=2) == error


def test_an_unknown_interpreter(work: Work) -> None:
    error = refused(work, "run", "--json", "--", "python9.9", "train.py")
    assert error["type"] == "EnvironmentCaptureError"


# ---------------------------------------------------------------------------------------------------------- documents


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 10)}]\n" for n in range(8)
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        "- a list\n",
        "just words\n",
        "",
        "purpose: [\n",
        "purpose: a\npurpose: b\ncommand: x\n",
        "purpose: !!python/object/apply:os.system [touch sprung]\ncommand: x\n",
        "purpose: a\n---\npurpose: b\n",
        "purpose: a\ncommand: x\n1: 2\n",
        "command: python train.py\n",
        "purpose: a\n",
        "purpose: a\ncommand: x\nfunction: a:b\n",
        "purpose: a\ncommand: x\nmetric: {}\n",
        "purpose: a\ncommand: 'python \"train.py'\n",
        "purpose: a\ncommand: python train.py\ndata: [../outside]\n",
        "purpose: a\ncommand: python train.py\nseed: many\n",
        "purpose: \udcff\ncommand: x\n",
        "[" * 5000,
    ],
)
def test_a_definition_that_cannot_be_accepted(tmp_path: Path, text: str) -> None:
    path = tmp_path / "experiments/s/experiment.yaml"
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DefinitionError) as refusal:
        read_study(tmp_path, "s")
    assert "experiments/s/experiment.yaml" in refusal.value.message
    assert refusal.value.hint
    assert refusal.value.exit_code == 3


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        "- a list\n",
        "purpose: !!python/object/apply:os.system [touch sprung]\ncommand: x\n",
        "purpose: a\ncommand: python train.py {outptus}\n",
        "purpose: a\ncommand: python train.py\nconfig: nowhere.yaml\n",
        "purpose: a\ncommand: python train.py\nconfig: bomb.yaml\n",
    ],
)
def test_a_bad_definition_is_refused_before_anything_is_recorded(work: Work, text: str) -> None:
    work.write("bomb.yaml", BOMB)
    work.write("experiments/s/experiment.yaml", text)
    error = refused(work, "run", "s")
    assert error["type"] in ("DefinitionError", "DocumentError")
    assert not (work.root / "sprung").exists()


@pytest.mark.parametrize(
    "text, word",
    [
        ("[tool.nemo-gitexp]\nthread = 2\n", "threads"),
        ("[tool.nemo-gitexp]\nthreads = 'two'\n", "threads"),
        ("[tool.nemo-gitexp\n", "pyproject.toml"),
    ],
)
def test_a_setting_that_cannot_be_accepted(work: Work, text: str, word: str) -> None:
    work.write("pyproject.toml", text)
    error = refused(work, *RUN)
    assert error["type"] == "SettingsError"
    assert word in error["message"] + error["hint"]


# -------------------------------------------------------------------------------------------------------- the machine


def test_git_does_not_know_who_you_are(work: Work) -> None:
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"):
        del work.env[name]
    work.git("config", "user.useConfigOnly", "true")
    error = refused(work, *RUN)
    assert error["type"] == "IdentityMissingError"
    assert "git config user.name" in error["hint"]
    work.git("config", "user.name", "Ada")
    work.git("config", "user.email", "ada@example.org")
    assert work.gitexp(*RUN[:2], "--record-only", *RUN[2:]).json["status"] == "recorded"


def _with_git(work: Work, directory: Path, script: str) -> Work:
    directory.mkdir()
    fake = directory / "git"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    return Work(work.root, {**work.env, "PATH": f"{directory}{os.pathsep}{work.env['PATH']}"})


def test_git_is_too_old(work: Work, tmp_path: Path) -> None:
    old = _with_git(work, tmp_path / "old", "echo git version 2.30.2")
    answered = old.gitexp(*RUN, code=3).json["error"]
    assert answered["type"] == "GitVersionError"
    assert "2.30" in answered["message"]
    assert "2.38" in answered["message"]


def test_a_vendors_git_version_is_understood(work: Work, tmp_path: Path) -> None:
    real = shutil.which("git", path=work.env["PATH"])
    said = 'if [ "$1" = version ]; then echo "git version 2.39.5 (Apple Git-154)"; else exec ' + f'{real} "$@"; fi'
    assert _with_git(work, tmp_path / "apple", said).gitexp("log", "--json").json["experiments"] == []


def test_git_is_not_installed(work: Work, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    bare = Work(work.root, {**work.env, "PATH": str(tmp_path / "nothing")})
    for args in (RUN, ("log", "--json")):
        error = bare.gitexp(*args, code=3).json["error"]
        assert error["type"] == "GitVersionError"
        assert "install git" in error["hint"]


def _mounts() -> bool:
    return sys.platform == "linux" and os.geteuid() == 0 and shutil.which("mount") is not None


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Return a function that mounts something; all is unmounted at the end."""
    if not _mounts():
        pytest.skip("mounting needs root on Linux")
    mounted: list[Path] = []

    def mount(where: Path, *options: str) -> None:
        done = subprocess.run(["mount", *options, str(where)], capture_output=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"this machine does not let us mount: {done.stderr.decode().strip()}")
        if where not in mounted:
            mounted.append(where)

    yield mount
    for where in reversed(mounted):
        subprocess.run(["umount", "-l", str(where)], check=True)


def test_a_read_only_repository_can_be_read_and_not_written(work: Work, mount: Callable[..., None]) -> None:
    ran = work.gitexp(*RUN).json
    expect_nothing_left(work)
    mount(work.root, "--bind", str(work.root))
    mount(work.root, "-o", "remount,ro,bind")
    assert work.gitexp(*RUN).json["duplicate_of"] == ran["experiment"]
    for args in ((*RUN, "--lr", "0.5"), ("init", "--json"), ("reproduce", "latest", "--json")):
        error = refused(work, *args)
        assert error["type"] in ("StateDirectoryError", "GitCommandError")
        assert "ead-only" in error["message"]
    assert work.gitexp("log", "--json").json["experiments"][0]["experiment"] == ran["experiment"]
    assert work.gitexp("show", "latest", "--json").json["status"] == "completed"
    work.gitexp("diff", "latest", "latest")
    work.gitexp("status")


def test_a_full_disk_loses_nothing(tmp_path: Path, mount: Callable[..., None]) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    mount(place, "-t", "tmpfs", "-o", "size=8m", "tmpfs")
    work = make_work(place / "work", tmp_path / "home")
    first = work.gitexp(*RUN).json
    _fill(place)
    for args in (RUN, ("run", "--json", "--", "python", "train.py", "--lr", "0.5")):
        answered = work.gitexp(*args, code=None)
        if answered.code == 0:
            assert answered.json["duplicate_of"] == first["experiment"]
            continue
        assert answered.code == 3, answered
        assert "space" in answered.json["error"]["message"]
    assert work.gitexp("log", "--json").json["experiments"][0]["metrics"] == first["metrics"]
    (place / "ballast").unlink()
    again = work.gitexp("run", "--json", "--", "python", "train.py", "--lr", "0.5").json
    assert again["status"] == "completed"
    assert "error" not in work.git("fsck", "--no-dangling")
    assert work.refs("refs/gitexp-tmp/") == {}


def _fill(place: Path) -> None:
    with (place / "ballast").open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 512, 1):
            try:
                while file.write(b"\0" * size) == size:
                    pass
            except OSError:
                continue
