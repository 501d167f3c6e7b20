"""The worker runs a job and writes its result, under every Python."""

from __future__ import annotations

from run_directory import Run, script


def test_a_script_completes_and_its_outputs_are_hashed(any_run: Run):
    code = "import os; open(os.environ['GITEXP_OUTPUTS'] + '/model.txt', 'w').write('hello'); print(1)"
    any_run.put("train.py", code)
    result = any_run.go(script("train.py"))
    assert result["error"] is None
    assert result["status"] == "completed"
    assert any_run.log == "1\n"
    (output,) = result["outputs"]
    assert output["path"] == "model.txt"
    assert output["md5"] == "5d41402abc4b2a76b9719d911017c592"
    assert output["sha256"].startswith("2cf24dba5fb0a30e")
    assert (output["size_bytes"], output["is_dir"], output["keep"]) == (5, False, "dvc")
