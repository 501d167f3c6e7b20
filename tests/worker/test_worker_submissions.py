"""A job that hands its work to NeMo Run is noticed, in whichever of its processes that happens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

from nemo_gitexp.worker.submissions import (
    ERROR,
    MOST_NAMED,
    NOTE_FILE,
    cover_submissions,
    describe_submissions,
    find_submissions,
)

PROGRAM = """\
import sys
sys.path.insert(0, {fake!r})
from nemo_gitexp.worker.submissions import watch_submissions
watch_submissions({run_dir!r})
import nemo_run.run.experiment as room
print(room.Experiment("first")._run_dag(detach=True), room.Experiment("second")._run_dag())
"""
FAKE = """\
class Experiment:
    def __init__(self, name):
        self._id = name
    def _run_dag(self, **options):
        return self._id, options
"""


def fake_module() -> ModuleType:
    module = ModuleType("nemo_run.run.experiment")
    exec(FAKE, module.__dict__)
    return module


def test_a_submission_is_noted_by_the_process_that_makes_it_and_goes_its_way(tmp_path: Path) -> None:
    package = tmp_path / "fake" / "nemo_run" / "run"
    package.mkdir(parents=True)
    for place in (package.parent, package):
        (place / "__init__.py").touch()
    (package / "experiment.py").write_text(FAKE)
    program = PROGRAM.format(fake=str(tmp_path / "fake"), run_dir=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "('first', {'detach': True}) ('second', {})\n"
    assert find_submissions(str(tmp_path)) == ["first", "second"]


def test_a_submission_is_noted_once_however_often_it_is_watched(tmp_path: Path) -> None:
    module = fake_module()
    cover_submissions(module, str(tmp_path))
    cover_submissions(module, str(tmp_path))
    module.Experiment("only")._run_dag()
    assert (tmp_path / NOTE_FILE).read_text() == "only\n"


def test_a_run_directory_that_is_gone_stops_no_submission(tmp_path: Path, capsys) -> None:
    module = fake_module()
    cover_submissions(module, str(tmp_path / "gone"))
    assert module.Experiment("name")._run_dag() == ("name", {})
    assert "cannot note that name was submitted" in capsys.readouterr().err


def test_another_nemo_run_without_that_method_is_left_alone(tmp_path: Path) -> None:
    module = ModuleType("nemo_run.run.experiment")
    module.Experiment = SimpleNamespace()
    cover_submissions(module, str(tmp_path))
    assert vars(module.Experiment) == {}


def test_what_was_submitted_is_named_with_what_records_it(tmp_path: Path) -> None:
    assert describe_submissions(str(tmp_path)) is None
    (tmp_path / NOTE_FILE).write_text("".join(f"exp_{number}\n" for number in range(MOST_NAMED + 2)))
    report = describe_submissions(str(tmp_path))
    assert report is not None
    assert report["type"] == ERROR
    assert "exp_4 and 2 more" in report["message"]
    assert "nemo-gitexp run FILE.py:RECIPE" in report["message"]
