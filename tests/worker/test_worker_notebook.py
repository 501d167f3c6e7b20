"""The code cells of a notebook run in order in one `__main__`, with IPython and without it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from run_directory import Run

from nemo_gitexp.worker.notebook import code_cells

CELLS = [
    "import pickle, sys\nclass Thing: pass\nx = 1",
    "x += 1\nprint(x, __name__, pickle.loads(pickle.dumps(Thing())).__class__ is Thing, sys.argv, sys.path[0] == '')",
    "",
]


def notebook(*cells: str) -> str:
    """Return a notebook of format 4 with a cell of text in front."""
    code = [{"cell_type": "code", "metadata": {}, "source": cell.splitlines(keepends=True)} for cell in cells]
    text = {"cell_type": "markdown", "metadata": {}, "source": "x = 1/0"}
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [text, *code]})


def entry(path: str) -> dict[str, object]:
    return {"kind": "notebook", "path": path, "args": []}


WITHOUT_IPYTHON = "import sys\nsys.modules['IPython'] = None\n"


@pytest.fixture(params=["ipython", "plain"])
def python(request: pytest.FixtureRequest, run: Run) -> str:
    """Run with IPython, or hide it from the job."""
    if request.param == "plain":
        run.put("hidden/sitecustomize.py", WITHOUT_IPYTHON)
        run.plan["env"] = {**run.plan["env"], "PYTHONPATH": str(run.workspace / "hidden")}  # type: ignore[dict-item]
    else:
        pytest.importorskip("IPython")
    return str(request.param)


def test_the_cells_share_one_main_and_run_in_order(run: Run, python: str) -> None:
    run.put("my böok.ipynb", notebook(*CELLS))
    assert run.go(entry("my böok.ipynb"))["status"] == "completed", run.log
    assert "2 __main__ True ['my böok.ipynb'] True" in run.log


def test_the_first_error_ends_it_and_names_the_cell(run: Run, python: str) -> None:
    run.put("book.ipynb", notebook("a = 1", "def f():\n    raise ValueError('no luck')\nf()", "print('never')"))
    result = run.go(entry("book.ipynb"))
    assert result["error"] == {"type": "ValueError", "message": "no luck"}
    assert "raise ValueError('no luck')" in run.log
    assert run.log.count("Traceback") == 1
    assert "never" not in run.log


def test_magics_need_ipython_and_without_it_the_error_says_so(run: Run, python: str) -> None:
    run.put("book.ipynb", notebook("%time x = 1", "!echo from the shell"))
    result = run.go(entry("book.ipynb"))
    if python == "ipython":
        assert (result["status"], "from the shell" in run.log) == ("completed", True)
    else:
        assert result["error"]["type"] == "MagicsError"
        assert "book.ipynb[1] uses IPython's magics" in result["error"]["message"]


@pytest.mark.parametrize("text", ["{}", "[]", '{"cells": 3}', "nothing", ""])
def test_a_file_that_is_no_notebook_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "book.ipynb").write_text(text)
    with pytest.raises(ValueError):
        code_cells(str(tmp_path / "book.ipynb"))


def test_running_a_notebook_leaves_the_users_ipython_alone(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("IPython")
    run.put("book.ipynb", notebook("x = 1"))
    home = tmp_path / "home"
    home.mkdir()
    assert run.go(entry("book.ipynb"), env={"HOME": str(home), "GITEXP_RUN_DIR": str(run.dir)})["status"] == "completed"
    assert list(home.iterdir()) == []
