"""A notebook that tracks itself: executed by a kernel, recorded with its file, reproduced cell by cell."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from builder import Work
from tracked import listed, nothing_recorded, record_of, run_command

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

EXECUTE = """\
import sys, nbformat, nbclient
from pathlib import Path
place, run, *rest = map(Path, sys.argv[1:])
notebook = nbformat.read(run, as_version=4)
cwd = rest[0] if rest else place.parent
try:
    nbclient.NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(cwd)}}).execute()
finally:
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            print(output.get("text") or output.get("evalue") or "", end="")
"""
TRACKED = """\
with gitexp.track("digits", config={"lr": lr}, seed=3) as exp:
    for step in range(2):
        exp.log({"loss": helper.scale(random.random()) * lr}, step=step)
    exp.output("weights.txt").write_text(str(random.random()))
print(exp.status)"""
CELLS = (
    "import random, sys\nimport nemo_gitexp as gitexp\nimport helper",
    "lr = 0.5\n%time x = 1",
    TRACKED,
    "after = 1",
)


def write_notebook(work: Work, path: str, cells: Sequence[str]) -> Path:
    """Write a notebook with a cell of text between those of code."""
    v4 = nbformat.v4
    made = [v4.new_markdown_cell("what it is about"), *(v4.new_code_cell(cell) for cell in cells)]
    place = work.root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(v4.new_notebook(cells=made), place)
    return place


def execute(
    work: Work, place: Path, run: Path | None = None, *, cwd: Path | None = None, code: int = 0, **env: str
) -> str:
    """Run a notebook in a kernel as Jupyter does; `run` are the cells that the browser holds, not saved yet."""
    (work.root.parent / "execute.py").write_text(EXECUTE)
    words = [str(place), str(run or place), *([str(cwd)] if cwd else [])]
    kernels = {"JUPYTER_PLATFORM_DIRS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    command = [sys.executable, "-W", "ignore", str(work.root.parent / "execute.py"), *words]
    done = run_command(work, command, code=code, **kernels, **env)
    return done.out + done.err


@pytest.fixture
def helped(work: Work) -> Work:
    work.write("böoks/helper.py", "def scale(x):\n    return 2 * x\n")
    return work


def test_a_notebook_is_recorded_with_its_file_and_reproduced(helped: Work) -> None:
    place = write_notebook(helped, "böoks/my book.ipynb", CELLS)
    write_notebook(helped, "another.ipynb", ["x = 1"])
    assert "completed" in execute(helped, place)
    (document,) = listed(helped)
    assert (document["status"], document["seed"], document["config"]) == ("completed", 3, {"lr": 0.5})
    assert "böoks/my book.ipynb" in document["code"]["untracked"]
    record = record_of(helped, document)
    assert (record["workdir"], record["entry"]["kind"], record["entry"]["path"]) == (
        "böoks",
        "notebook",
        "my book.ipynb",
    )
    assert "  note" not in helped.gitexp("show", "latest").out
    place.unlink()
    verdict = helped.gitexp("reproduce", document["experiment"], "--require", "bitwise", "--json").json
    assert (verdict["verdict"], verdict["environment"], len(verdict["outputs"])) == ("bitwise", "same", 1)


def test_what_ran_but_is_not_saved_is_said_and_recorded(helped: Work) -> None:
    place = write_notebook(helped, "böoks/book.ipynb", ["saved = 1", *CELLS])
    unsaved = write_notebook(helped, ".git/run.ipynb", [*CELLS[:2], CELLS[2] + "\n# not saved"])
    execute(helped, place, unsaved, JPY_SESSION_NAME=str(place))
    assert "ran a cell that the saved book.ipynb does not hold" in helped.gitexp("show", "latest").out
    reordered = write_notebook(helped, ".git/run.ipynb", CELLS)
    execute(helped, place, reordered)
    assert "in another order than they stand" in helped.gitexp("show", "latest").out


def test_which_notebook_runs_must_be_known(helped: Work) -> None:
    place = write_notebook(helped, "böoks/book.ipynb", CELLS)
    write_notebook(helped, "copy.ipynb", CELLS)
    said = execute(helped, place, code=1)
    assert "2 notebooks hold the running cell" in said
    unsaved = write_notebook(helped, ".git/run.ipynb", [*CELLS[:2], CELLS[2] + "\n# not saved"])
    assert "no saved notebook holds the running cell" in execute(helped, place, unsaved, code=1)
    assert nothing_recorded(helped)
    named = CELLS[2].replace("seed=3", "seed=3, notebook='book.ipynb'")
    place = write_notebook(helped, "böoks/book.ipynb", [*CELLS[:2], named])
    write_notebook(helped, "copy.ipynb", [*CELLS[:2], named])
    execute(helped, place)
    assert record_of(helped, listed(helped)[0])["entry"]["path"] == "book.ipynb"


def test_a_cell_that_fails_and_a_notebook_that_moves_about(helped: Work) -> None:
    cells = [
        "import os\nstart = os.getcwd()\nos.chdir('..')\nimport sys\nsys.path.insert(0, start)",
        *CELLS[:2],
        CELLS[2],
        CELLS[2].replace("print(exp.status)", "    raise ValueError('no luck')").replace("digits", "broken"),
    ]
    place = write_notebook(helped, "böoks/book.ipynb", cells)
    assert "no luck" in execute(helped, place, code=1)
    good, bad = listed(helped)
    assert (good["status"], bad["status"], bad["error"]["message"]) == ("completed", "failed", "no luck")
    assert record_of(helped, good)["workdir"] == "böoks"
    assert helped.gitexp("reproduce", good["experiment"], "--require", "bitwise", "--json").json["met"] is True


def test_a_notebook_that_left_its_repository_is_recorded_there_all_the_same(helped: Work) -> None:
    place = write_notebook(helped, "böoks/away.ipynb", (CELLS[0], "import os\nos.chdir('/')", "lr = 0.5", TRACKED))
    assert "completed" in execute(helped, place)
    (document,) = listed(helped)
    assert record_of(helped, document)["entry"]["path"] == "away.ipynb"
