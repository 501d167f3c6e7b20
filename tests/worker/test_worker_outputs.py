"""Outputs are found, hashed as DVC hashes, and missed when they are missing."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest
from run_directory import Run, script

MAKE = """
import os
out = os.environ["GITEXP_OUTPUTS"]
os.makedirs(out + "/ckpt/deep")
for name in ("ckpt/b.bin", "ckpt/a.bin", "ckpt/deep/\u00fc.bin", "ckpt/Z", "model.pt", "extra/log.txt", "metrics.json"):
    os.makedirs(os.path.dirname(out + "/" + name), exist_ok=True)
    open(out + "/" + name, "w").write(name)
"""


def test_a_directory_has_the_md5_that_dvc_gives_it(run: Run):
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db import HashFileDB
    from dvc_objects.fs import LocalFileSystem

    run.put("train.py", MAKE)
    result = run.go(script("train.py"), outputs=[{"path": "ckpt", "keep": "dvc"}])
    (output,) = result["outputs"]
    filesystem = LocalFileSystem()
    database = HashFileDB(filesystem, str(run.root / "odb"))
    _, _, tree = build(database, str(run.outputs / "ckpt"), filesystem, "md5")
    assert output["md5"] == tree.hash_info.value
    assert [row[0] for row in output["files"]] == ["Z", "a.bin", "b.bin", "deep/ü.bin"]
    assert output["files"][1] == ["a.bin", hashlib.md5(b"ckpt/a.bin").hexdigest(), 10]
    assert (output["is_dir"], output["size_bytes"], output["digest"]) == (True, 42, None)


def test_a_linked_directory_is_treated_as_dvc_treats_it(run: Run, tmp_path):
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db import HashFileDB
    from dvc_objects.fs import LocalFileSystem

    code = (
        "import os\nos.chdir(os.environ['GITEXP_OUTPUTS'])\nos.makedirs('d/real')\nopen('d/real/f', 'w').write('x')\n"
    )
    run.put("train.py", code + "os.symlink('real', 'd/linked')\n")
    (output,) = run.go(script("train.py"))["outputs"]
    _, _, tree = build(
        HashFileDB(LocalFileSystem(), str(tmp_path / "odb")), str(run.outputs / "d"), LocalFileSystem(), "md5"
    )
    assert output["md5"] == tree.hash_info.value


def test_without_declared_outputs_everything_at_the_top_is_one(run: Run):
    run.put("train.py", MAKE)
    result = run.go(script("train.py"))
    assert [(item["path"], item["keep"]) for item in result["outputs"]] == [
        ("ckpt", "dvc"), ("extra", "dvc"), ("metrics.json", "dvc"), ("model.pt", "dvc"),
    ]  # fmt: skip
    assert result["undeclared_outputs"] == []


def test_without_declared_outputs_what_holds_no_file_is_not_missed(run: Run):
    code = "import os\nos.chdir(os.environ['GITEXP_OUTPUTS'])\nos.makedirs('empty/deep')\nos.mkfifo('pipe')\n"
    run.put("train.py", code + "os.symlink('nowhere', 'dangling')\nopen('model.pt', 'w').write('x')\n")
    result = run.go(script("train.py"))
    assert [item["path"] for item in result["outputs"]] == ["model.pt"]
    assert (result["status"], result["missing_outputs"], result["error"]) == ("completed", [], None)


def test_what_was_declared_is_hashed_and_the_rest_is_undeclared(run: Run):
    run.put("train.py", MAKE)
    outputs = [{"path": "ckpt/a.bin", "keep": "digest"}, {"path": "model.pt", "keep": "in-place"}]
    result = run.go(script("train.py"), outputs=outputs, metrics_file="metrics.json")
    found = [(item["path"], item["keep"]) for item in result["outputs"]]
    assert found == [("ckpt/a.bin", "digest"), ("model.pt", "in-place")]
    assert result["undeclared_outputs"] == ["ckpt/Z", "ckpt/b.bin", "ckpt/deep/ü.bin", "extra/log.txt"]
    assert result["metrics_file"] == "declared-metrics.json"


def test_a_missing_output_fails_the_run(run: Run):
    run.put("train.py", MAKE)
    outputs = [{"path": "model.pt", "keep": "dvc"}, {"path": "best.pt", "keep": "dvc"}]
    result = run.go(script("train.py"), outputs=outputs)
    assert result["status"] == "failed"
    assert result["exit_code"] == 0
    assert result["error"] == {"type": "MissingOutputError", "message": "not made: best.pt", "paths": ["best.pt"]}
    assert result["missing_outputs"] == ["best.pt"]
    assert len(result["outputs"]) == 1


def test_an_absolute_output_is_hashed_where_it_lies(run: Run, tmp_path):
    place = tmp_path / "scratch" / "ckpt.bin"
    place.parent.mkdir()
    run.put("train.py", f"open({str(place)!r}, 'w').write('hello')")
    result = run.go(script("train.py"), outputs=[{"path": str(place), "keep": "in-place"}])
    assert result["status"] == "completed"
    assert result["outputs"][0]["md5"] == "5d41402abc4b2a76b9719d911017c592"


def test_an_external_output_from_before_that_the_job_did_not_touch_is_missing(run: Run, tmp_path):
    stale, renewed = tmp_path / "stale", tmp_path / "renewed"
    for folder in (stale, renewed):
        folder.mkdir()
        (folder / "ckpt.bin").write_text("hello")
    run.put("train.py", f"open({str(renewed / 'ckpt.bin')!r}, 'w').write('hello')")
    declared = [{"path": str(folder), "keep": "in-place"} for folder in (stale, renewed)]
    result = run.go(script("train.py"), outputs=declared)
    assert (result["status"], result["error"]["type"]) == ("failed", "MissingOutputError")
    assert result["missing_outputs"] == [str(stale)]
    assert [output["path"] for output in result["outputs"]] == [str(renewed)]


def test_links_pipes_and_empty_directories_do_not_stop_the_hashing(run: Run):
    run.put(
        "train.py",
        "import os\nos.chdir(os.environ['GITEXP_OUTPUTS'])\nos.makedirs('d/empty')\n"
        "open('d/f', 'w').write('hello')\n"
        "os.symlink('f', 'd/link')\nos.symlink('nowhere', 'd/dangling')\n"
        "os.mkfifo('d/pipe')\nos.symlink('d/f', 'top')\n",
    )
    result = run.go(script("train.py"))
    directory, top = result["outputs"]
    assert [row[0] for row in directory["files"]] == ["f", "link"]
    assert top["md5"] == "5d41402abc4b2a76b9719d911017c592"


@pytest.mark.parametrize("where", ["cwd", "outputs"])
@pytest.mark.parametrize("name", ["metrics.json", "sub/m.csv"])
def test_the_metrics_file_is_found_below_the_working_directory_then_below_the_outputs(run: Run, where, name):
    base = "''" if where == "cwd" else "os.environ['GITEXP_OUTPUTS']"
    code = f"import os\np = os.path.join({base}, {name!r})\nos.makedirs(os.path.dirname(p) or '.', exist_ok=True)\n"
    run.put("train.py", code + "open(p, 'w').write('x')")
    result = run.go(script("train.py"), metrics_file=name)
    assert result["metrics_file"] == "declared-metrics" + Path(name).suffix
    assert (run.dir / result["metrics_file"]).read_text() == "x"
    assert result["stray_files"] == []


def test_a_metrics_file_that_came_with_the_code_is_no_result(run: Run):
    run.put("metrics.json", '{"accuracy": 1}')
    run.put("train.py", "")
    result = run.go(script("train.py"), metrics_file="metrics.json")
    assert result["metrics_file"] is None


def test_a_metrics_file_that_the_job_rewrote_is_one(run: Run):
    run.put("metrics.json", '{"accuracy": 1}')
    run.put("train.py", "open('metrics.json', 'w').write('{}')")
    assert run.go(script("train.py"), metrics_file="metrics.json")["metrics_file"] == "declared-metrics.json"


def test_a_file_with_tensors_has_a_tensor_digest_and_so_has_its_directory(run: Run):
    run.put(
        "train.py",
        "import numpy as np, os\nout = os.environ['GITEXP_OUTPUTS']\nos.mkdir(out + '/d')\n"
        "np.save(out + '/d/a.npy', np.arange(3))\nopen(out + '/d/t', 'w')\nnp.savez(out + '/b.npz', x=np.eye(2))",
    )
    result = run.go(script("train.py"))
    assert all(item["digest"].startswith("sha256:") for item in result["outputs"])


def test_outputs_of_a_failed_run_are_kept_too(run: Run):
    run.put("train.py", MAKE + "raise RuntimeError('diverged')")
    result = run.go(script("train.py"), outputs=[{"path": "model.pt", "keep": "dvc"}, {"path": "no", "keep": "dvc"}])
    assert result["error"] == {"type": "RuntimeError", "message": "diverged"}
    assert result["missing_outputs"] == ["no"]
    assert [item["path"] for item in result["outputs"]] == ["model.pt"]
    assert run.json("error.json")["traceback"].splitlines()[-1] == "RuntimeError: diverged"
    assert "_gitexp_worker" not in run.json("error.json")["traceback"]


def test_result_names_times_machine_and_log(run: Run):
    run.put("train.py", "print('x' * 9)")
    result = run.go(script("train.py"))
    assert result["schema"] == 1
    assert result["started"] <= result["ended"]
    assert len(result["started"]) == len("2026-01-01T00:00:00.000000Z")
    assert 0 < result["duration_s"] < 60
    assert result["log_bytes"] == 10
    assert result["hardware"]["cpu_count"] == os.cpu_count()
    started = run.json("started.json")
    assert set(started) == {"at", "pid", "pid_start", "boot_id", "host"}
    assert started["at"] == result["started"]
    assert json.loads((run.dir / "child.json").read_text())["pid"] > 0
    assert not list(run.dir.glob("*.tmp"))
    assert not list(run.dir.glob("*reserve.bin"))


def test_an_exception_that_cannot_say_itself_is_recorded_by_its_type(run: Run):
    run.put("train.py", "class Mute(Exception):\n    def __str__(self): raise ValueError\n\nraise Mute\n")
    error = run.go(script("train.py"))["error"]
    assert (error["type"], error["message"]) == ("Mute", "it has no message: its __str__ fails")


def test_a_deep_recursion_ends_as_fast_as_python_ends_it(run: Run):
    run.put("train.py", "import sys\nsys.setrecursionlimit(100000)\ndef deeper(): deeper()\ndeeper()\n")
    begun = time.monotonic()
    assert run.go(script("train.py"))["error"]["type"] == "RecursionError"
    assert time.monotonic() - begun < 20  # 45 s and more when every frame is looked at from every frame


def test_a_link_to_a_directory_elsewhere_is_no_output(run: Run):
    run.put(
        "train.py",
        "import os\n"
        "out = os.environ['GITEXP_OUTPUTS']\n"
        "os.symlink('/', out + '/root')\n"
        "os.mkdir(out + '/epoch3')\n"
        "open(out + '/epoch3/w', 'w').write('1')\n"
        "os.symlink('epoch3', out + '/best')\n",
    )
    result = run.go(script("train.py"))
    assert [item["path"] for item in result["outputs"]] == ["best", "epoch3"]
    assert result["undeclared_outputs"] == ["root"]
    assert result["status"] == "completed"


def test_a_job_that_removes_its_workspace_keeps_its_outputs(run: Run):
    run.put(
        "train.py",
        "import os, shutil\n"
        "open(os.environ['GITEXP_OUTPUTS'] + '/w', 'w').write('1')\n"
        "shutil.rmtree(os.path.dirname(os.path.abspath(__file__)))\n",
    )
    result = run.go(script("train.py"))
    assert (result["status"], result["changed_files"]) == ("completed", ["train.py"])
    assert [item["path"] for item in result["outputs"]] == ["w"]
