"""The worker refuses what is not as recorded, and says what the job changed."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest
from run_directory import Run, manifest_rows, script

from nemo_gitexp.worker.manifest import allowance, verify_workspace


def refused(run: Run, kind: str, *paths: str) -> dict:
    """Run and expect a refusal that names exactly these paths."""
    result = run.go(script("train.py"))
    assert result["status"] == "failed"
    assert not result["job_started"]
    assert result["error"]["type"] == kind
    assert result["error"]["paths"] == sorted(paths)
    assert not (run.dir / "child.json").exists()
    assert run.exit_code == 1
    return result


def prepared(run: Run) -> Run:
    run.put("train.py", "print('ran')")
    run.put("lib/helper.py", "x = 1")
    run.put("tool.sh", "#!/bin/sh\n", mode=0o755)
    run.put(".git", "gitdir: elsewhere")
    (run.workspace / "link").symlink_to("lib/helper.py")
    (run.workspace / "dangling").symlink_to("nowhere")
    run.prepare()
    rows = [row for row in manifest_rows(run.workspace) if row[0] != ".git"]
    (run.dir / "manifest.json").write_text(__import__("json").dumps({"files": rows}))
    return run


def test_the_recorded_state_runs(run: Run):
    assert prepared(run).go(script("train.py"))["status"] == "completed", run.json("result.json")["error"]


@pytest.mark.parametrize(
    "change,path",
    [
        (lambda ws: (ws / "lib/helper.py").write_text("x = 2"), "lib/helper.py"),
        (lambda ws: (ws / "lib/helper.py").write_text("x = 1\n"), "lib/helper.py"),
        (lambda ws: (ws / "lib/helper.py").unlink(), "lib/helper.py"),
        (lambda ws: (ws / "lib/extra.py").write_text(""), "lib/extra.py"),
        (lambda ws: (ws / "tool.sh").chmod(0o644), "tool.sh"),
        (lambda ws: (ws / "lib/helper.py").chmod(0o755), "lib/helper.py"),
        (lambda ws: ((ws / "link").unlink(), (ws / "link").symlink_to("train.py")), "link"),
        (lambda ws: ((ws / "link").unlink(), (ws / "link").write_text("x = 1")), "link"),
        (lambda ws: ((ws / "train.py").unlink(), (ws / "train.py").symlink_to("lib/helper.py")), "train.py"),
        (lambda ws: os.mkfifo(ws / "pipe"), "pipe"),
        (lambda ws: ((ws / "tool.sh").unlink(), os.mkfifo(ws / "tool.sh")), "tool.sh"),
    ],
)
def test_any_other_file_is_refused(run: Run, change, path):
    change(prepared(run).workspace)
    result = refused(run, "WorkspaceMismatchError", path)
    assert path in result["error"]["message"]


def test_at_most_twenty_paths_are_named(run: Run):
    prepared(run)
    for number in range(30):
        run.put(f"new/{number:02}.txt", "")
    refused(run, "WorkspaceMismatchError", *(f"new/{number:02}.txt" for number in range(20)))
    assert "and 10 more" in run.json("result.json")["error"]["message"]


def test_allowed_extras_may_be_there(run: Run):
    prepared(run)
    run.put(".dvc/tmp/lock", "")
    run.put(".dvc/config.local", "[core]")
    run.plan["allow_extra"] = [".dvc/tmp", ".dvc/config.local"]
    assert run.go(script("train.py"))["status"] == "completed"
    assert run.json("result.json")["stray_files"] == []


def test_a_prefix_is_no_prefix_of_a_name():
    allowed = allowance(["a"], [".dvc/tmp/"])
    assert all(map(allowed, ["a", ".dvc/tmp", ".dvc/tmp/x"]))
    assert not any(map(allowed, [".dvc/tmpx", "ab", ".dvc"]))


def pin(run: Run, *paths: str) -> None:
    """Declare inputs as the launcher would have verified them."""
    files = []
    for path in paths:
        status = (run.workspace / path).stat()
        md5 = hashlib.md5((run.workspace / path).read_bytes()).hexdigest()
        files.append([path, md5, status.st_size, status.st_mtime_ns, status.st_ino])
    run.plan["inputs"] = [{"path": "data", "pin": "0" * 32 + ".dir", "size_bytes": 1, "files": files, "kinds": []}]


def with_data(run: Run, code: str = "print('ran')") -> Run:
    run.put("train.py", code)
    run.prepare()
    run.put("data/a.npz", "aaaa")
    run.put("data/b.npz", "bbbb")
    pin(run, "data/a.npz", "data/b.npz")
    return run


def test_data_as_pinned_run_also_when_only_touched(run: Run):
    os.utime(with_data(run).workspace / "data/a.npz", ns=(1, 1))
    result = run.go(script("train.py"))
    assert (result["status"], result["inputs_changed"]) == ("completed", [])


@pytest.mark.parametrize(
    "change,kind,path",
    [
        (lambda data: (data / "a.npz").write_text("aaab"), "DataMismatchError", "data/a.npz"),
        (lambda data: (data / "b.npz").unlink(), "DataMismatchError", "data/b.npz"),
        (lambda data: (data / "c.npz").write_text("c"), "WorkspaceMismatchError", "data/c.npz"),
    ],
)
def test_other_data_are_refused(run: Run, change, kind, path):
    change(with_data(run).workspace / "data")
    refused(run, kind, path)


def behind_a_link(run: Run, code: str = "print('ran')") -> Path:
    """Put data that nobody hashed behind a link, as a manifest has them; return where they really are."""
    run.put("train.py", code)
    run.prepare()
    live = run.workspace.parent / "live"
    live.mkdir()
    (live / "a.bin").write_text("aaaa")
    (run.workspace / "data").symlink_to(live)
    pin(run, "data/a.bin")
    (item,) = run.plan["inputs"]
    item["files"] = [[path, "", *state] for path, _, *state in item["files"]]
    item["kinds"] = ["symlink"]
    return live


def test_data_that_nobody_hashed_run_while_their_state_is_the_same(run: Run):
    (behind_a_link(run) / "not-listed").write_text("what else lies there is compared by whoever makes the link")
    result = run.go(script("train.py"))
    assert (result["status"], result["inputs_changed"]) == ("completed", [])


def test_data_that_nobody_hashed_are_refused_when_they_were_touched(run: Run):
    os.utime(behind_a_link(run) / "a.bin", ns=(1, 1))
    refused(run, "DataMismatchError", "data/a.bin")


def test_data_that_nobody_hashed_and_the_job_touched_are_named(run: Run):
    behind_a_link(run, "import os; os.utime('data/a.bin', (1, 1))")
    assert run.go(script("train.py"))["inputs_changed"] == ["data/a.bin"]


def test_data_that_the_job_changed_are_named(run: Run):
    code = "open('data/a.npz', 'r+').write('x'); import os; os.utime('data/b.npz', (1, 1))"
    assert with_data(run, code).go(script("train.py"))["inputs_changed"] == ["data/a.npz"]


def test_outputs_that_are_there_already_are_refused(run: Run):
    run.put("train.py", "print('ran')")
    run.outputs.mkdir()
    (run.outputs / "model.pt").write_text("old")
    refused(run, "OutputsNotEmptyError", "model.pt")


def test_a_reproduction_refuses_an_external_output_that_exists(run: Run, tmp_path):
    run.put("train.py", "print('ran')")
    (tmp_path / "site/ckpt").mkdir(parents=True)
    run.plan["outputs"] = [{"path": str(tmp_path / "site/ckpt"), "keep": "in-place"}]
    run.plan["kind"] = "reproduction"
    (tmp_path / "site/ckpt/old.pt").write_text("")
    refused(run, "OutputsNotEmptyError", str(tmp_path / "site/ckpt"))
    (tmp_path / "site/ckpt/old.pt").unlink()
    (run.dir / "result.json").unlink()
    result = run.go(script("train.py"))
    assert (result["job_started"], result["error"]["type"]) == (True, "MissingOutputError")  # empty is not made


def test_a_finished_run_is_not_run_twice(run: Run):
    run.put("train.py", "print('ran')")
    first = run.go(script("train.py"))
    with pytest.raises(AssertionError, match="has its result already"):
        run.go(script("train.py"))
    assert run.json("result.json") == first
    assert run.log == "ran\n"


def test_a_damaged_manifest_or_a_missing_directory_is_a_result_too(run: Run):
    run.put("train.py", "")
    (run.dir / "manifest.json").write_text("{")
    result = run.go(script("train.py"))
    assert (result["status"], result["error"]["type"], result["job_started"]) == ("failed", "ValueError", False)
    (run.dir / "result.json").unlink()
    (run.dir / "manifest.json").unlink()
    refused_cwd = run.go(script("train.py"), cwd=str(run.workspace / "gone"))
    assert refused_cwd["error"]["type"] == "WorkspaceMismatchError"


def test_stray_and_changed_files_are_listed_and_compiled_python_is_not(run: Run):
    run.put("helper.py", "")
    run.put("kept.txt", "a")
    code = "import helper, os\nopen('stray.txt', 'w')\nos.makedirs('d'); open('d/x', 'w')\n"
    code += "open('kept.txt', 'a').write('b')"
    run.put("train.py", code)
    result = run.go(script("train.py"), unset_env=["PYTHONDONTWRITEBYTECODE"])
    assert result["stray_files"] == ["d/x", "stray.txt"]
    assert result["changed_files"] == ["kept.txt"]
    assert (run.workspace / "__pycache__").exists()


def test_ten_thousand_files_are_verified_within_a_second(tmp_path: Path):
    for directory in range(100):
        (tmp_path / str(directory)).mkdir()
        for file in range(100):
            (tmp_path / str(directory) / f"{file}.py").write_text(f"{directory} {file}\n" * 50)
    rows = manifest_rows(tmp_path)
    took = []
    for _ in range(3):
        start = time.process_time()
        assert verify_workspace(str(tmp_path), rows, lambda path: False).faults == {}
        took.append(time.process_time() - start)
    assert min(took) < 1.0
