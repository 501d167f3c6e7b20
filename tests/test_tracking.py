"""A block of a program that nobody launched is an experiment like any other, whatever happens in the block."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from builder import Work
from tracked import (
    TRACKED,
    end,
    listed,
    nothing_recorded,
    record_of,
    result_of,
    run_command,
    run_python,
    start_python,
    stream_of,
)

import nemo_gitexp as gitexp
from nemo_gitexp.errors import CanonicalFormError, GitexpError, InvalidNameError, UsageError


def block(body: str, after: str = "", **track: object) -> str:
    """Return a script with one tracked block."""
    said = "".join(f", {key}={value!r}" for key, value in track.items())
    inner = "".join(f"    {line}\n" for line in body.splitlines())
    head = "import os, signal, sys, time\nimport nemo_gitexp as gitexp\n"
    return f'{head}with gitexp.track("digits"{said}) as exp:\n{inner}{after}'


def test_a_block_is_recorded_with_its_code_metrics_and_outputs(work: Work) -> None:
    work.write("notes.txt", "not committed")
    body = (
        'exp.log({"loss": 0.5}, step=0)\nexp.output("deep/model.txt").write_text("w")\n'
        '(exp.outputs / "plain.txt").write_text("p")\n'
        'assert (exp.seed, exp.config, exp.status) == (7, {"lr": 0.1, "seed": 7}, "running")\n'
        'gitexp.log_metrics({"best": 0.25})'
    )
    said = run_python(
        work,
        block(
            body, "print(exp.status, exp.sha, exp.name)\n", config={"lr": 0.1, "seed": 7}, purpose="to see", model="mlp"
        ),
    )
    (document,) = listed(work)
    assert said.out.split() == ["completed", document["experiment"], document["name"]]
    assert (document["study"], document["status"], document["seed"]) == ("digits", "completed", 7)
    assert (document["purpose"], document["config"]) == ("to see", {"lr": 0.1, "seed": 7})
    assert document["metrics"] == {"loss": 0.5, "best": 0.25}
    assert stream_of(work, document) == [{"step": 0, "loss": 0.5}, {"step": None, "best": 0.25}]
    assert [output["path"] for output in document["outputs"]] == ["deep", "plain.txt"]
    assert sorted(document["code"]["untracked"]) == ["notes.txt", "tracked.py"]
    assert work.git("show", f"{document['experiment']}:notes.txt") == "not committed"
    assert "_mlp_none_tracked_v" in document["name"]
    assert record_of(work, document)["tracked"] == {"name": "digits", "ordinal": 1}
    assert document["branch"] == f"exp/digits/{document['name']}"
    shown = work.gitexp("show", "latest").out
    assert "best" in shown
    assert "ran in" not in shown
    assert work.gitexp("diff", "latest", "--worktree", "--json", code=None).json["config"]["changed"] == {}


ENDINGS = [
    ("raise ValueError('no luck')", 1, "failed", 1, "ValueError"),
    ("sys.exit()", 0, "completed", 0, None),
    ("sys.exit(0)", 0, "completed", 0, None),
    ("sys.exit(3)", 3, "failed", 3, "ExitCodeError"),
    ("sys.exit('bad')", 1, "failed", 1, "ExitCodeError"),
    ("os.kill(os.getpid(), signal.SIGINT); time.sleep(9)", -2, "cancelled", 130, "CancelledError"),
    ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)", 143, "cancelled", 143, "CancelledError"),
]


@pytest.mark.parametrize("body, exit_code, status, recorded, kind", ENDINGS)
def test_a_block_ends_as_it_was_left(
    work: Work, body: str, exit_code: int, status: str, recorded: int, kind: str | None
) -> None:
    said = run_python(work, block(f'exp.log({{"loss": 0.5}}, step=0)\n{body}'), code=exit_code)
    (document,) = listed(work)
    assert (document["status"], document["metrics"]) == (status, {"loss": 0.5})
    assert result_of(work, document)["exit_code"] == recorded
    assert (document["error"] or {}).get("type") == kind
    if kind == "ValueError":
        assert said.err.rstrip().endswith("ValueError: no luck")
        assert document["error"]["message"] == "no luck"
        assert "    raise ValueError('no luck')" in document["error"]["log_tail"]
        assert "no luck" in work.gitexp("logs", "latest").out


def test_a_handler_of_the_programs_own_keeps_sigterm(work: Work) -> None:
    body = "os.kill(os.getpid(), signal.SIGTERM)\nprint(caught)"
    script = "import signal\ncaught = []\nsignal.signal(signal.SIGTERM, lambda *_: caught.append(1))\n"
    assert run_python(work, script + block(body)).out == "[1]\n"
    after = "print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)"
    assert run_python(work, block("pass", after)).out == "True\n"
    assert [document["status"] for document in listed(work)] == ["completed", "completed"]


def test_a_block_that_ended_itself_lets_sigterm_go(work: Work) -> None:
    body = "from nemo_gitexp.session import Ending\nexp.end(Ending('completed', 0))"
    after = "print(exp.status, signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)"
    assert run_python(work, block(body, after)).out == "completed True\n"


def test_sigterm_while_a_block_ends_waits_for_its_result(work: Work) -> None:
    body = "exp.output('big').write_bytes(os.urandom(100_000_000))\nimport threading\n"
    body += "threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()"
    run_python(work, block(body), code=143)
    (document,) = listed(work)
    assert (document["status"], len(document["outputs"])) == ("completed", 1)


def test_a_program_that_goes_on_although_it_was_asked_to_stop_is_cancelled_all_the_same(work: Work) -> None:
    text = """\
import time
import nemo_gitexp as gitexp, nemo_gitexp.ownworker
nemo_gitexp.ownworker.PATIENCE_S = 0.2
with gitexp.track("digits") as exp:
    print("ready", flush=True)
    try:
        time.sleep(60)
    except SystemExit:
        while exp.status == "running":
            time.sleep(0.05)
print(exp.status)
"""
    process = start_python(work, text)
    assert work.gitexp("cancel", "latest", "--json").json["status"] == "cancelled"
    assert (process.communicate()[0], process.returncode) == (b"cancelled\n", 0)


WAITING = block('exp.log({"loss": 0.5}, step=0)\nprint("ready", flush=True)\ntime.sleep(60)')


def test_a_killed_block_runs_until_then_and_is_lost_with_its_metrics(work: Work) -> None:
    process = start_python(work, WAITING)
    (document,) = work.gitexp("status", "--json").json["experiments"]
    assert (document["status"], document["jobs"]) == ("running", [f"pid-{process.pid}"])
    end(process)
    (document,) = listed(work)
    assert (document["status"], document["metrics"]) == ("lost", {"loss": 0.5})
    assert document["started"] <= document["ended"]


def test_no_lost_run_ends_before_it_began(work: Work) -> None:
    process = start_python(work, WAITING)
    (run,) = (work.root / ".git/gitexp/runs").iterdir()
    started = datetime.fromisoformat(json.loads((run / "started.json").read_text())["at"])
    end(process)
    for path in run.rglob("*"):
        os.utime(path, (int(started.timestamp()),) * 2)  # in whole seconds, as some file systems and copies keep them
    (document,) = listed(work)
    assert document["status"] == "lost"
    assert datetime.fromisoformat(document["ended"]) == started


def test_a_running_block_can_be_cancelled(work: Work) -> None:
    process = start_python(work, WAITING)
    assert work.gitexp("cancel", "latest", "--json").json["status"] == "cancelled"
    process.communicate()
    assert process.returncode == 143


def test_a_block_that_is_cancelled_twice_still_cleans_up(work: Work) -> None:
    body = "try:\n    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(9)\nfinally:\n"
    body += "    os.kill(os.getpid(), signal.SIGTERM)\n    print('cleaned')"
    assert run_python(work, block(body), code=143).out == "cleaned\n"
    assert listed(work)[0]["status"] == "cancelled"


def test_a_request_by_file_alone_reaches_a_block_on_another_host(work: Work) -> None:
    process = start_python(work, WAITING)
    (run_dir,) = (work.root / ".git/gitexp/runs").iterdir()
    (run_dir / "cancel.json").write_text("{}")
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert listed(work)[0]["status"] == "cancelled"


def test_two_processes_at_once_record_one_experiment_each(work: Work) -> None:
    processes = [start_python(work, WAITING) for _ in range(2)]
    for process in processes:
        end(process, signal.SIGTERM)
    found = listed(work)
    assert [document["status"] for document in found] == ["cancelled", "cancelled"]
    assert len({document["name"] for document in found}) == 2


def test_a_forked_child_neither_ends_the_block_nor_is_caught_by_its_sigterm(work: Work) -> None:
    text = """\
import os, signal, sys, time
import nemo_gitexp as gitexp
parent = os.getpid()
def child(how):
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    how()
try:
    with gitexp.track("digits") as exp:
        exp.log({"loss": 1.0}, step=0)
        def leaving():
            exp.log({"loss": 2.0}, step=1)
            sys.exit(5)
        print(child(leaving), child(lambda: os.kill(os.getpid(), signal.SIGTERM)))
        exp.log({"loss": 3.0}, step=2)
finally:
    if os.getpid() != parent:
        os._exit(5)
print(exp.status)
"""
    assert run_python(work, text).out == "5 -15\ncompleted\n"
    (document,) = listed(work)
    assert [row["loss"] for row in stream_of(work, document)] == [1.0, 2.0, 3.0]


def test_wherever_nothing_can_be_recorded_the_error_is_typed_and_nothing_is(work: Work, tmp_path: Path) -> None:
    catching = (
        "import nemo_gitexp as gitexp\ntry:\n    with gitexp.track('digits') as exp:\n        print('inside')\n"
        "except gitexp.GitexpError as error:\n    print(type(error).__name__, bool(error.hint))\n"
    )
    elsewhere = tmp_path / "no repository"
    elsewhere.mkdir()
    (elsewhere / "x.py").write_text(catching)
    said = run_command(work, [sys.executable, "x.py"], cwd=elsewhere, GIT_CEILING_DIRECTORIES=str(tmp_path))
    assert said.out == "NotARepositoryError True\n"
    unborn = Work(tmp_path / "unborn", work.env)
    unborn.root.mkdir()
    unborn.git("init", "-q")
    assert run_python(unborn, catching).out == "RepositoryError True\n"
    nameless = {key: "" for key in work.env if key.startswith(("GIT_AUTHOR", "GIT_COMMITTER"))}
    assert run_python(work, catching, **nameless).out == "IdentityMissingError True\n"
    work.write("key.pem", "secret")
    assert run_python(work, catching).out == "SnapshotRefusedError True\n"
    (work.root / "key.pem").unlink()
    base = work.commit()
    work.git("checkout", "-q", "-b", "other")
    work.write("train.py", "other")
    work.commit()
    work.git("checkout", "-q", "main")
    work.write("train.py", "mine")
    assert base != work.commit()
    work.git("merge", "other", check=False)
    assert run_python(work, catching).out == "SnapshotRefusedError True\n"
    assert nothing_recorded(work)
    assert nothing_recorded(unborn)


def test_an_attempt_that_recorded_nothing_is_not_counted(work: Work) -> None:
    text = """\
import os
import nemo_gitexp as gitexp
tracked = lambda: gitexp.track("digits", config={"lr": 0.1})
try:
    with tracked():
        raise SystemError("a secret was recorded")
except gitexp.GitexpError:
    os.unlink("key.pem")
with tracked() as exp:
    exp.log({"loss": 0.5})
"""
    work.write("key.pem", "secret")
    run_python(work, text)
    (document,) = listed(work)
    assert record_of(work, document)["tracked"] == {"name": "digits", "ordinal": 1}


def test_a_run_directory_that_cannot_be_made_leaves_no_experiment(work: Work) -> None:
    work.write(".git/gitexp/runs", "in the way")
    said = run_python(work, block("pass"), code=1)
    assert "StateDirectoryError" in said.err
    (work.root / ".git/gitexp/runs").unlink()
    assert nothing_recorded(work)


def test_a_result_that_cannot_be_written_never_hides_the_programs_own_error(work: Work) -> None:
    removing = "import shutil, pathlib\nshutil.rmtree(exp.outputs.parent)\n"
    said = run_python(work, block(f"{removing}raise ValueError('mine')"), code=1)
    assert "ValueError: mine" in said.err
    assert "nemo-gitexp collect" in said.err
    said = run_python(work, block(removing), code=1)
    assert "StateDirectoryError" in said.err


def test_a_result_that_cannot_be_recorded_now_is_recorded_by_whoever_looks_next(work: Work) -> None:
    blocking = 'open(f".git/refs/gitexp/digits/{exp.name}.lock", "w").close()'
    said = run_python(work, block(blocking, "print(exp.status)"))
    assert said.out == "completed\n"
    assert "nemo-gitexp collect" in said.err
    for lock in (work.root / ".git/refs/gitexp/digits").glob("*.lock"):
        lock.unlink()
    assert [document["status"] for document in listed(work)] == ["completed"]


def test_ctrl_c_while_the_outputs_are_read_is_a_cancelled_experiment_with_its_metrics(work: Work) -> None:
    body = "exp.log({'loss': 0.5})\nexp.output('big').write_bytes(os.urandom(100_000_000))\nimport threading\n"
    body += "threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGINT)).start()"
    run_python(work, block(body), code=-2)
    (document,) = listed(work)
    assert (document["status"], document["metrics"], document["outputs"]) == ("cancelled", {"loss": 0.5}, [])


def test_trackers_that_cannot_be_read_cost_a_block_nothing_else(work: Work) -> None:
    body = """\
run = exp.outputs / "mlruns" / "0" / "abc"
(run / "metrics").mkdir(parents=True)
(run / "meta.yaml").write_text("run_id: abc\\nstart_time: " + "9" * 400 + "\\n")
(run / "metrics" / "loss").write_text("1 0.5 0\\n")
exp.log({"own": 1.0})
"""
    run_python(work, block(body))
    in_the_way = '(exp.outputs.parent / "tracker-metrics.jsonl").mkdir()\n'
    run_python(work, block(body + in_the_way))
    metrics = [document["metrics"] for document in listed(work)]
    assert sorted(metrics, key=len) == [{"own": 1.0}, {"own": 1.0, "loss": 0.5}]
    assert {document["status"] for document in listed(work)} == {"completed"}
    assert [output["path"] for document in listed(work) for output in document["outputs"]] == ["mlruns", "mlruns"]
    remarks = [result_of(work, document, "run.json")["remarks"] for document in listed(work)]
    assert sorted(map(len, remarks)) == [0, 1]
    assert str(work.root) not in str(remarks)


def test_an_output_that_cannot_be_read_fails_the_experiment(work: Work) -> None:
    body = "(exp.outputs / 'loop').mkdir()\nexp.log({'loss': 0.5})\n"
    body += "os.mkfifo(exp.outputs / 'loop' / 'pipe')\n(exp.outputs / 'x').symlink_to('/proc/self/mem')"
    run_python(work, block(body, "print(exp.status)\n"))
    (document,) = listed(work)
    assert (document["status"], document["error"]["type"]) == ("failed", "OSError")


def test_the_definition_of_the_study_says_what_the_block_does_not(work: Work) -> None:
    work.write(
        "experiments/digits/experiment.yaml",
        "purpose: from the file\nmodel: cnn\ncommand: python train.py\nseed: 9\noutputs: [never.pt]\n"
        "metrics: {loss: {goal: min, tolerance: 0.5}}\n",
    )
    run_python(work, block("exp.log({'loss': 1.0})\nassert exp.seed == 9"))
    run_python(work, block("exp.log({'loss': 1.2})", purpose="my own", seed=4, dataset="toy"))
    first, second = listed(work)
    assert (first["purpose"], first["seed"], first["status"]) == ("from the file", 9, "completed")
    assert (second["purpose"], second["seed"]) == ("my own", 4)
    assert "_cnn_toy_training" in second["name"]
    assert record_of(work, first)["metrics"]["goals"]["loss"] == {"goal": "min", "tolerance": 0.5, "volatile": False}


def test_only_what_was_set_before_python_started_is_recorded_as_its_environment(work: Work) -> None:
    run_python(work, block("pass") * 2, OMP_NUM_THREADS="2")
    assert len(listed(work)) == 2
    for document in listed(work):
        assert document["topology"]["environment"] == {"OMP_NUM_THREADS": "2"}
        assert result_of(work, document, "run.json")["settings"]["hash_seed"] is None
        assert result_of(work, document, "run.json")["settings"]["seeds"]["python"] == 42


def test_determinism_off_seeds_nothing_and_needs_a_reason(work: Work) -> None:
    assert "needs a reason" in run_python(work, block("pass", determinism="off"), code=1).err
    drawing = "import random\nrandom.seed(3)\nfirst = random.random()\nrandom.seed(3)\n"
    body = "import random\nassert random.random() == first"
    run_python(work, drawing + block(body, determinism="off", determinism_reason="speed"))
    (document,) = listed(work)
    assert (document["determinism"], record_of(work, document)["determinism_reason"]) == ("off", "speed")


def test_a_source_file_that_changed_after_it_was_imported_is_said_and_recorded(work: Work) -> None:
    work.write("helper.py", "x = 1\n")
    text = "import os, time, helper\nos.utime('helper.py', (time.time() + 60,) * 2)\n" + block("pass")
    said = run_python(work, text)
    assert "may have run another helper.py" in said.err
    (document,) = listed(work)
    assert "may have run another helper.py" in work.gitexp("show", document["experiment"]).out


def test_a_module_that_was_edited_before_the_block_imported_it_is_said_too(work: Work) -> None:
    work.write("helper.py", "x = 1\n")
    body = "open('helper.py', 'a').write('y = 2')\nos.utime('helper.py', (time.time() + 60,) * 2)\nimport helper"
    run_python(work, block(body))
    (document,) = listed(work)
    assert result_of(work, document, "run.json")["remarks"] == [
        "ran another helper.py than the recorded one, which was changed before it was imported"
    ]


@pytest.mark.parametrize(
    "said, error",
    [
        ({"study": ""}, InvalidNameError),
        ({"study": 3}, InvalidNameError),
        ({"config": 3}, CanonicalFormError),
        ({"config": {"a": object()}}, CanonicalFormError),
        ({"seed": -1}, UsageError),
        ({"seed": "1"}, UsageError),
        ({"determinism": "much"}, UsageError),
        ({"data": "data.csv"}, UsageError),
    ],
)
def test_what_is_said_wrongly_is_refused_at_once(said: dict, error: type[GitexpError]) -> None:
    with pytest.raises(error):
        gitexp.track(**{"study": "digits", **said})


def test_the_handle_refuses_what_makes_no_sense(work: Work) -> None:
    text = """\
import nemo_gitexp as gitexp
def refused(call):
    try:
        call()
    except gitexp.GitexpError as error:
        print(type(error).__name__, dict(error.facts).get("status"))
tracked = gitexp.track("digits")
with tracked as exp:
    for name in ("../x", "/x", ".", ""):
        refused(lambda: exp.output(name))
    refused(lambda: exp.log({"loss": "low"}))
    refused(tracked.__enter__)
refused(lambda: exp.log({"loss": 1.0}))
"""
    assert run_python(work, text).out == "UsageError None\n" * 4 + (
        "MetricValueError None\nUsageError None\nAlreadyFinishedError completed\n"
    )
    (document,) = listed(work)
    assert document["metrics"] == {}


SPAWNING = """\
import multiprocessing
import nemo_gitexp as gitexp
def work():
    with gitexp.track("digits"):
        pass
if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=work)
    process.start()
    process.join()
"""


def test_what_is_typed_interactively_is_recorded_and_never_run_again(work: Work) -> None:
    run_command(work, [sys.executable, "-"], stdin=block("exp.log({'loss': 1.0})"))
    run_command(work, [sys.executable, "-i"], stdin=block("exp.log({'loss': 1.0})") + "\n")
    run_python(work, SPAWNING)
    found = listed(work)
    whys = [record_of(work, document)["entry"]["why"] for document in found]
    assert whys == [
        "a program read from standard input",
        "an interactive session",
        "a child process of another program",
    ]
    refused = work.gitexp("reproduce", found[1]["experiment"], "--json", code=3)
    assert "an interactive session" in refused.err + refused.out
    assert work.gitexp("reproduce", found[1]["experiment"], "--require", "restored").code == 0
    shown = work.gitexp("show", found[1]["experiment"]).out
    assert "no command runs it again" in shown
    assert "nemo-gitexp reproduce" not in shown
    assert work.gitexp("logs", found[1]["experiment"]).out == ""
    process = start_python(work, WAITING)
    end(process)
    assert work.gitexp("launch", found[1]["experiment"], code=3).code == 3
    assert work.gitexp("diff", found[0]["experiment"], "--worktree", code=None).code in (0, 1)


def test_of_several_ranks_only_the_first_records(work: Work) -> None:
    body = "exp.log({'loss': 1.0})\nexp.output('x').write_text('1')\nimport random\nprint(exp.sha, random.random())"
    second = run_python(work, block(body, seed=1), RANK="1", WORLD_SIZE="2")
    assert nothing_recorded(work)
    first = run_python(work, block(body, seed=1), RANK="0", WORLD_SIZE="2")
    assert second.out.split()[0] == "None"
    assert first.out.split()[1] != second.out.split()[1]
    (document,) = listed(work)
    assert record_of(work, document)["entry"]["why"] == "one of several processes that another program started"


def test_a_rank_that_records_nothing_knows_its_own_metrics(work: Work) -> None:
    script = "import nemo_gitexp as gitexp\ntracker = gitexp.ExperimentTracker('digits')\n"
    script += "tracker.start_experiment('a', {})\ngitexp.log_metrics({'loss': 0.5}, step=0)\n"
    script += "tracker.complete_experiment('a', {'best': 1})\nprint(sorted(tracker.experiments['a'].metrics.items()))\n"
    assert run_python(work, script).out == run_python(work, script, RANK="1", WORLD_SIZE="2").out


def test_the_heartbeat_ends_with_the_block(work: Work) -> None:
    text = block("pass", "import threading\nprint([t.name for t in threading.enumerate()])\n")
    said = run_python(work, text.replace("print(", "time.sleep(0.1); print("))
    assert said.out == "['MainThread']\n"


def test_importing_track_is_cheap() -> None:
    heavy = "{'git', 'dvc', 'torch', 'nemo_run'}"
    code = f"import nemo_gitexp, sys; nemo_gitexp.track('a'); print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_the_script_of_a_repository_is_found_from_elsewhere(work: Work, tmp_path: Path) -> None:
    run_python(work, TRACKED, cwd=tmp_path, GIT_CEILING_DIRECTORIES=str(tmp_path))
    (document,) = listed(work)
    assert record_of(work, document)["entry"]["path"] == "tracked.py"
    assert document["status"] == "completed"
