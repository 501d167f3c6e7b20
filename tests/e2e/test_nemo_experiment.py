"""`from nemo_gitexp import Experiment`: a script that uses NeMo Run, with one import changed, has its runs recorded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import pytest
from builder import Work, wait_until
from nemo_work import PRELUDE, Ran, make_nemo_work, run_program
from residue import expect_nothing_left

MANY = (
    PRELUDE
    + """
from pathlib import Path
from nemo_gitexp import Experiment
from nemo_run.run.job import Job
from tasks import fail, train

WORDS = json.loads(os.environ["WORDS"])

def many(exp, lr):
    prep = exp.add(run.Partial(train, lr=lr), name="prep", tail_logs=True)
    group = exp.add([run.Partial(train, lr=0.1, where=Path("data")), run.Script(inline="echo in a group; echo $FOO")],
                    name="grp", dependencies=[prep])
    bad = exp.add(run.Partial(fail, why="as asked"), name="bad", dependencies=[prep])
    exp.add(run.Partial(train), name="after", dependencies=[bad])
    exp.add(run.Script(path="train.py", args=["--lr", "0.5"], entrypoint="python", env={"BAR": "baz"}), name="script")
    exp.add(run.Script(path="train", m=True, args=["--lr", "0.7"], entrypoint="python"),
            executor=run.LocalExecutor(env_vars={"OWN": "1"}), name="module", dependencies=[group])
    exp.add(run.Script(inline="import os\\nprint('py', os.environ['FOO'])", entrypoint="python"), name="inline")

with Experiment("many", executor=EXECUTOR, log_level="WARNING") as exp:
    many(exp, 0.3)
    exp.run()
    exp.status()
    exp.run()
say("many", exp)
exp.logs("grp")
exp.logs("prep", regex="nothing like it")

with Experiment("many", executor=EXECUTOR, clean_mode=True, id="chosen_1") as exp:
    many(exp, 0.4)
    exp.run()
say("changed", exp)

call = run.Script(path="train.py", args=["--lr", "0.25"], entrypoint="python")
exp = Experiment("single", executor=EXECUTOR, skip_status_at_exit=True, enable_goodbye_message=False)
exp.study, exp.seed, exp.purpose = "studied", 7, "To see it."
exp.add(call)
exp.run()
say("single", exp, within=_current_experiment.get(None) is None)
twice = Experiment("single", executor=EXECUTOR, clean_mode=True)
twice.study, twice.seed = "studied", 7
twice.add(call)
twice.run()
say("twice", twice)
first = exp._id
exp.reset()
exp.run(sequential=True)
say("reset", exp, first=first)

try:
    with Experiment("raised", executor=EXECUTOR, clean_mode=True) as exp:
        exp.add(call, name="t")
        exp.run()
        raise RuntimeError("after run")
except RuntimeError as fault:
    say("raised", exp, fault=str(fault))
with Experiment("not-run", executor=EXECUTOR, clean_mode=True) as exp:
    exp.add(call, name="t")
exp.reset()
say("not run", exp)
job = Job(id="given", task=run.Script(inline="echo given"), executor=run.LocalExecutor())
with Experiment("jobs", jobs=[job], clean_mode=True) as exp:
    exp.run()
say("jobs", exp)
secret = run.LocalExecutor(env_vars={"WANDB_API_KEY": "abc-of-wandb", "PLAIN": "1", "COPY": "abc-of-wandb"})
with Experiment("in-order", executor=secret, clean_mode=True) as exp:
    exp.add(run.Script(inline="date +%s%N > $GITEXP_OUTPUTS/at; echo $WANDB_API_KEY"), name="one")
    exp.add(run.Script(inline="date +%s%N > $GITEXP_OUTPUTS/at; echo $MY_TOKEN", env={"MY_TOKEN": "xyz"}), name="two")
    exp.run(sequential=True, detach=True, tail_logs=True)
say("in order", exp)
with Experiment("words", executor=EXECUTOR, clean_mode=True) as exp:
    exp.add(run.Script(path="echo.py", args=WORDS, entrypoint="python"), name="script")
    exp.add(run.Script(path="echo", m=True, args=WORDS, entrypoint="python"), name="module")
    exp.add(run.Script(path="echo.sh", args=WORDS), name="shell")
    exp.add(run.Script(inline="printf '%s\\n' '{name}' '{outputs}' '${seed}' '{{seed}}'"), name="inline")
    exp.run()
say("words", exp)
exp.logs("shell")
exp.logs("script")
exp.logs("module")
exp.logs("inline")
exp = Experiment("word", executor=EXECUTOR, clean_mode=True)
exp.add(run.Script(path="echo.sh", args=WORDS))
exp.run()
say("word", exp)
exp = nemo_gitexp.run(run.Partial(train, lr=0.6), executor=EXECUTOR, seed=5)
say("run", exp)
"""
)


WORDS = ["{name}", "{outputs}", "${seed}", "{{seed}}", "--out={outputs}", '{"a": 1}', "{config.lr}"]


@dataclass(frozen=True)
class Made:
    """A repository in which the script has run."""

    work: Work
    ran: Ran

    def document(self, what: str) -> dict:
        return self.ran.said[what]["document"]

    def record(self, what: str, file: str = "experiment.json") -> dict:
        document = self.document(what)
        path = f"experiments/{document['study']}/record/{file}"
        return json.loads(self.work.git("show", f"{document['experiment']}:{path}"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    work = make_nemo_work(
        tmp_path_factory.mktemp("doors"), many=MANY, echo="import sys\nprint(*sys.argv[1:], sep='\\n')"
    )
    work.write("echo.sh", 'printf "%s\\n" "$@"\n')
    work.commit("echo")
    return Made(work, run_program(work, "many.py", WORDS=json.dumps(WORDS)))


def test_all_tasks_are_one_experiment_and_a_failing_one_stops_its_descendants_only(made: Made) -> None:
    said = made.ran.said["many"]
    assert said["states"] == {
        "prep": "SUCCEEDED",
        "grp": "SUCCEEDED",
        "grp-0": "SUCCEEDED",
        "grp-1": "SUCCEEDED",
        "bad": "FAILED",
        "after": "CANCELLED",
        "script": "SUCCEEDED",
        "module": "SUCCEEDED",
        "inline": "SUCCEEDED",
    }
    document = made.work.gitexp("show", said["document"]["experiment"], "--json").json
    assert document == said["document"]
    assert (document["study"], document["status"], document["seed"]) == ("many", "failed", 42)
    tasks = {task["name"]: task for task in document["tasks"]}
    assert {name: task["status"] for name, task in tasks.items()} == {
        "prep": "completed",
        "grp-0": "completed",
        "grp-1": "completed",
        "bad": "failed",
        "after": "skipped",
        "script": "completed",
        "module": "completed",
        "inline": "completed",
    }
    assert tasks["prep"]["metrics"] == {"loss": pytest.approx(0.1)}
    assert tasks["bad"]["error"]["message"] == "as asked"
    assert document["metrics"]["script/loss"] == pytest.approx(0.5 / 3)
    assert len(made.work.refs("refs/gitexp/many/")) == 2


def test_the_record_holds_configurations_executors_dependencies_and_groups(made: Made) -> None:
    config = made.record("many", "config.json")
    assert config["prep"] == {
        "_partial_": True,
        "_target_": "tasks:train",
        "lr": 0.3,
        "steps": 3,
        "where": ".",
    } | {key: value for key, value in config["prep"].items() if key == "_types_"}
    assert config["script"] == {"entrypoint": "python", "path": "train.py", "args": ["--lr", "0.5"]}
    assert config["module"]["m"] is True
    stages = {stage["name"]: stage for stage in made.record("many")["entry"]["stages"]}
    assert stages["grp-0"]["dependencies"] == stages["bad"]["dependencies"] == ["prep"]
    assert stages["module"]["dependencies"] == ["grp-0", "grp-1"]
    shapes = {name: stage["shape"] for name, stage in stages.items()}
    assert [shapes[name]["group"] for name in ("prep", "grp-0", "grp-1")] == [None, "grp", "grp"]
    assert shapes["prep"] | {"group": "grp"} == shapes["grp-1"]
    assert shapes["script"]["env"] == {"BAR": "baz", "FOO": "bar"}
    assert shapes["module"] == {"nodes": 1, "tasks_per_node": 1, "launcher": None, "env": {"OWN": "1"}, "group": None}


def test_every_verb_works_on_it(made: Made) -> None:
    work, sha = made.work, made.document("many")["experiment"]
    listed = work.gitexp("log", "--json", "--all").json["experiments"]
    assert {item["study"] for item in listed} >= {"many", "studied", "raised", "jobs"}
    log = work.gitexp("logs", sha).out
    assert "── prep ──\ntraining at 0.3" in log
    assert "in a group\nbar" in log
    assert "py bar" in log
    diff = work.gitexp("diff", sha, made.document("changed")["experiment"], "--json").json
    assert diff["config"]["changed"] == {"prep.lr": {"a": 0.3, "b": 0.4}}
    assert diff["metrics"]["prep/loss"]["b"] == pytest.approx(0.4 / 3)
    got = work.root.parent / "got"
    work.gitexp("outputs", sha, "--get", str(got))
    assert (got / "prep" / "weights.txt").read_text() == "0.3"
    work.gitexp("checkout", sha, str(work.root.parent / "state"))
    assert (work.root.parent / "state" / "experiments" / "many" / "record" / "grp-1.sh").exists()
    assert work.gitexp("status", sha, "--json").json["experiments"][0]["status"] == "failed"
    assert work.gitexp("cancel", sha, code=None).code == 3


def test_it_is_reproduced_bit_for_bit(made: Made) -> None:
    verdict = made.work.gitexp("reproduce", made.document("single")["experiment"], "--require", "bitwise", "--json")
    assert (verdict.json["verdict"], verdict.json["met"]) == ("bitwise", True)
    pair = made.document("in order")["experiment"]
    verdict = made.work.gitexp("reproduce", pair, "--require", "executed", "--env", "ignore", "--json").json
    assert verdict["met"]


def test_a_with_block_is_not_needed_and_study_seed_and_purpose_can_be_said(made: Made) -> None:
    said = made.ran.said["single"]
    document = said["document"]
    assert (document["study"], document["seed"], document["purpose"]) == ("studied", 7, "To see it.")
    assert (document["status"], said["states"]) == ("completed", {"train.py": "SUCCEEDED"})
    assert document["topology"]["environment"]["FOO"] == "bar"
    assert document["config"]["args"] == ["--lr", "0.25"]
    assert said["within"]


def test_what_completed_is_not_run_again_unless_it_is_reset(made: Made) -> None:
    first, twice, reset = (made.document(what)["experiment"] for what in ("single", "twice", "reset"))
    assert first == twice != reset
    assert made.ran.said["twice"]["states"] == {"train.py": "SUCCEEDED"}
    assert made.ran.said["reset"]["states"] == {"train.py": "SUCCEEDED"}
    assert made.ran.said["reset"]["id"] != made.ran.said["reset"]["first"] == made.ran.said["single"]["id"]
    assert made.document("reset")["identity"] == made.document("single")["identity"]
    assert "completed before and is not run again; again=True runs it" in made.ran.err


def test_an_exception_in_the_block_goes_on_its_way_and_what_ran_is_recorded(made: Made) -> None:
    said = made.ran.said["raised"]
    assert (said["fault"], said["document"]["status"]) == ("after run", "completed")
    assert made.ran.said["not run"]["document"] is None
    assert not made.work.refs("refs/gitexp/not-run/")


def test_jobs_of_the_constructor_count_and_sequential_ones_wait_for_each_other(made: Made) -> None:
    assert made.document("jobs")["config"] == {"entrypoint": "bash", "inline": "echo given"}
    assert made.ran.said["jobs"]["states"] == {"given": "SUCCEEDED"}
    stages = made.record("in order")["entry"]["stages"]
    assert [(stage["name"], stage["dependencies"]) for stage in stages] == [("one", []), ("two", ["one"])]
    got = made.work.root.parent / "times"
    made.work.gitexp("outputs", made.document("in order")["experiment"], "--get", str(got))
    assert int((got / "one" / "at").read_text()) < int((got / "two" / "at").read_text())
    assert "a local job cannot be left alone; waiting for it" in made.ran.err


def test_run_of_one_call_is_named_after_what_it_calls(made: Made) -> None:
    document = made.document("run")
    assert (document["study"], document["seed"], document["status"]) == ("train", 5, "completed")


def test_secrets_reach_the_job_and_no_record(made: Made) -> None:
    assert "not recorded, for they look like secrets: COPY, MY_TOKEN, WANDB_API_KEY" in made.ran.err
    stages = made.record("in order")["entry"]["stages"]
    assert [stage["shape"]["env"] for stage in stages] == [{"PLAIN": "1"}, {"PLAIN": "1"}]
    assert "── one ──\nabc-of-wandb\n── two ──\nxyz\n" in made.ran.out
    recorded = (made.document("in order")["experiment"], "--", "experiments")
    assert not made.work.git("grep", "-l", "-e", "xyz", "-e", "abc", *recorded, check=False)


def test_words_of_a_script_arrive_as_they_were_given(made: Made) -> None:
    assert set(made.ran.said["words"]["states"].values()) == {"SUCCEEDED"}
    for name, words in {"script": WORDS, "module": WORDS, "shell": WORDS, "inline": WORDS[:4]}.items():
        assert "".join(f"{name} {word}\n" for word in words) in made.ran.err
    entries = {stage["name"]: stage["entry"] for stage in made.record("words")["entry"]["stages"]}
    assert (entries["script"]["args"], entries["script"]["verbatim"]) == (WORDS, True)
    assert (entries["shell"]["argv"][2:], entries["shell"]["verbatim"]) == (WORDS, True)
    assert "verbatim" not in entries["inline"]
    alone = made.document("word")
    assert made.work.gitexp("logs", alone["experiment"]).out.splitlines()[-len(WORDS) :] == WORDS
    again = made.work.gitexp("reproduce", alone["experiment"], code=1)  # it has neither metrics nor outputs
    assert "\n".join(WORDS) in again.out + again.err


@pytest.mark.parametrize("what", ["words", "word", "single", "many"])
def test_it_is_compared_with_the_work_tree(made: Made, what: str) -> None:
    compared = made.work.gitexp("diff", made.document(what)["experiment"], "--worktree", "--json").json
    assert (compared["b"], compared["code"]["files"]) == ("worktree", [])
    assert [compared["config"][part] for part in ("changed", "only_a", "only_b")] == [{}, {}, {}]


def test_what_nemo_run_prints_is_there_and_says_what_was_recorded(made: Made) -> None:
    out = made.ran.out
    assert "Entering Experiment many" in out
    assert "Experiment Status for" in out
    assert "- Status: CANCELLED" in out
    assert f"nemo-gitexp show {made.document('many')['experiment'][:12]}" in out
    assert "run.Experiment.from_id(" in out
    assert "── prep ──\ntraining at 0.3" in out  # added with tail_logs
    assert "training at 0.1" not in out.partition("Experiment Status for")[0]
    assert "many was run already" in made.ran.err
    assert "grp-0 training at 0.1\ngrp-1 in a group\ngrp-1 bar\n" in made.ran.err


def test_nothing_of_ours_is_left_and_the_work_tree_is_as_it_was(made: Made) -> None:
    assert made.work.git("status", "--short") == ""
    expect_nothing_left(made.work)


LATER = (
    PRELUDE
    + """
from nemo_gitexp import Experiment
exp = Experiment.from_id(sys.argv[1])
say("later", exp, kind=type(exp).__name__, result=exp.result)
exp.logs("bad")
exp.status()
exp.cancel("prep")
exp.run()
say("plain", run.Experiment.from_id(sys.argv[1]))
for what, action in {"id": lambda: Experiment.from_id("many_0"), "title": lambda: Experiment.from_title("nothing"),
                     "log of nothing": lambda: exp.logs("nothing")}.items():
    refusal(what, action)
latest = Experiment.from_title("jobs")
latest.reset()
latest.run()
say("latest", latest)
said = Experiment.from_id(sys.argv[2])
said.reset()
said.run()
say("as said", said, told=[said.study, said.seed, said.purpose])
many = Experiment.from_id(sys.argv[1]).reset()
say("restored", many, tasks=[str(getattr(task, "lr", "")) for task in many._jobs[1].tasks],
    waits=[job.dependencies for job in many._jobs], env=[str(job.executor.env_vars) for job in many._jobs[-2:]])
with many:
    many.run()
say("rerun", many)
"""
)


def test_another_process_finds_it_by_id_or_title_and_can_run_it_again(made: Made) -> None:
    made.work.write("sub/later.py", LATER)
    first = made.ran.said["many"]
    ran = run_program(made.work, "later.py", first["id"], made.ran.said["single"]["id"], cwd=made.work.root / "sub")
    (made.work.root / "sub" / "later.py").unlink()
    for what in ("later", "plain"):
        assert ran.said[what]["document"] == first["document"]
        assert ran.said[what]["states"] == first["states"]
    assert (ran.said["later"]["kind"], ran.said["later"]["result"]) == ("Experiment", first["document"]["result"])
    assert "bad ValueError: as asked" in ran.err
    assert "prep does not run any more" in ran.err
    assert "Experiment in inspection mode" in ran.out
    for what in ("id", "title"):
        assert ran.said[what]["error"]["type"] == "UnknownExperimentError"
    assert ran.said["log of nothing"]["error"]["hint"].startswith("the tasks are prep, grp, grp-0")
    assert ran.said["latest"]["document"]["experiment"] != made.document("jobs")["experiment"]
    assert ran.said["latest"]["document"]["config"] == made.document("jobs")["config"]
    assert ran.said["as said"]["told"] == ["studied", 7, "To see it."]
    told = {key: made.document("single")[key] for key in ("study", "seed", "purpose")}
    assert {key: ran.said["as said"]["document"][key] for key in told} == told
    assert ran.said["restored"]["document"] is None
    assert ran.said["restored"]["waits"][1] == ["prep"]
    again = ran.said["rerun"]["document"]
    assert again["config_hash"] == first["document"]["config_hash"]
    assert again["experiment"] != first["document"]["experiment"]
    assert (again["seed"], again["purpose"]) == (42, first["document"]["purpose"])
    record = f"{again['experiment']}:experiments/{again['study']}/record/experiment.json"
    assert json.loads(made.work.git("show", record))["seed_is_default"]
    assert ran.said["rerun"]["states"] == first["states"]


KILLED = (
    PRELUDE
    + """
from nemo_gitexp import Experiment
import time
gate = sys.argv[1]
exp = Experiment("killed", executor=EXECUTOR, clean_mode=True)
with exp:
    exp.add(run.Script(path="wait.py", args=[gate], entrypoint="python"), name="waits")
    exp.add(run.Script(inline="echo after"), name="after", dependencies=["waits"])
    exp.add(run.Script(inline="echo quick"), name="quick")
    exp.run()
    while states(exp)["waits"] != "RUNNING" or not os.path.exists(gate + ".waits"):
        time.sleep(0.02)
    say("running", exp)
say("ended", exp)
"""
)
WAIT = """
import pathlib, sys, time
print("waiting", flush=True)
pathlib.Path(sys.argv[1] + ".waits").touch()
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.02)
print("went on", flush=True)
"""
LOOK = (
    PRELUDE
    + """
from nemo_gitexp import Experiment
exp = Experiment.from_id(sys.argv[1])
say("look", exp)
exp.logs("waits")
if len(sys.argv) > 2:
    exp.cancel(sys.argv[2])
"""
)


@pytest.fixture
def killed(tmp_path) -> Work:
    return make_nemo_work(tmp_path, killed=KILLED, look=LOOK, wait=WAIT)


def start(work: Work, *argv: str) -> subprocess.Popen[bytes]:
    report = work.root.parent / "said-live.jsonl"
    process = subprocess.Popen(
        [sys.executable, *argv],
        cwd=work.root,
        env={**work.env, "SAID": str(report)},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    wait_until(lambda: (work.root.parent / "gate.waits").exists() or process.poll() is not None, 90)
    wait_until(lambda: report.exists() and report.read_text().endswith("\n"), 30)
    return process


def live_said(work: Work) -> dict[str, dict]:
    lines = (work.root.parent / "said-live.jsonl").read_text().splitlines()
    return {line["what"]: line for line in map(json.loads, lines)}


def test_after_the_script_was_killed_its_jobs_are_found_and_collected(killed: Work) -> None:
    gate = killed.root.parent / "gate"
    process = start(killed, "killed.py", str(gate))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    said = live_said(killed)["running"]
    assert said["states"]["waits"] == "RUNNING"
    assert said["states"]["after"] == "PENDING"
    ran = run_program(killed, "look.py", said["id"])
    assert ran.said["look"]["states"]["waits"] == "RUNNING"
    assert ran.said["look"]["document"]["status"] == "running"
    assert "waits waiting\n" in ran.err
    (status,) = killed.gitexp("status", "--json").json["experiments"]
    assert status["status"] == "running"
    gate.touch()
    wait_until(lambda: killed.gitexp("status", "latest", "--json").json["experiments"][0]["status"] == "completed", 60)
    killed.gitexp("collect")
    assert [task["status"] for task in killed.gitexp("show", "latest", "--json").json["tasks"]] == ["completed"] * 3
    ran = run_program(killed, "look.py", said["id"])
    assert set(ran.said["look"]["states"].values()) == {"SUCCEEDED"}
    assert "waits went on\n" in ran.err
    expect_nothing_left(killed)


def test_a_task_is_cancelled_from_another_process_and_what_depends_on_it_skipped(killed: Work) -> None:
    process = start(killed, "killed.py", str(killed.root.parent / "gate"))
    run_program(killed, "look.py", live_said(killed)["running"]["id"], "waits")
    process.communicate(timeout=60)
    said = live_said(killed)["ended"]
    assert said["states"] == {"waits": "CANCELLED", "after": "CANCELLED", "quick": "SUCCEEDED"}
    assert [task["status"] for task in said["document"]["tasks"]] == ["cancelled", "skipped", "completed"]
    assert process.returncode == 0


def test_ctrl_c_cancels_and_is_recorded(killed: Work) -> None:
    process = start(killed, "killed.py", str(killed.root.parent / "gate"))
    os.kill(process.pid, signal.SIGINT)
    out = process.communicate(timeout=60)[0].decode()
    assert process.returncode == -signal.SIGINT, out
    assert "KeyboardInterrupt" in out
    document = killed.gitexp("show", "latest", "--json").json
    assert document["status"] == "cancelled"
    expect_nothing_left(killed)
