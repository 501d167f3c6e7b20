"""What a job is told to call itself, what it logged into trackers, where its runs are seen: seen from the worker."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_directory import Run
from tensorboard.compat.proto import event_pb2, summary_pb2
from tracker_writers import framed
from wandb.proto import wandb_internal_pb2 as proto

from nemo_gitexp.trackerids import tracker_ids
from nemo_gitexp.worker.logged import leave_logged
from nemo_gitexp.worker.outputs import hash_output
from nemo_gitexp.worker.pace import nothing_to_check
from nemo_gitexp.worker.stamped import stable_names
from nemo_gitexp.worker.trackerenv import hand_over_ids
from nemo_gitexp.worker.trackerlinks import public_address
from nemo_gitexp.worker.trackerplaces import Job, find_places, leave_tracked
from nemo_gitexp.worker.watch import CancelledError

IDS = {"run_id": "0123456789abcdef00000001", "name": "digits"}
DUMPS = "import json, os; print(json.dumps({n: v for n, v in os.environ.items() if n[:5] in ('WANDB', 'MLFLO')}))"


def script(text: str) -> dict[str, object]:
    return {"kind": "code", "code": text, "args": []}


def handed(
    run: Run, launch: dict[str, str] | None = None, recorded: dict[str, str] | None = None, kind: str = "run"
) -> dict[str, str]:
    """Return what a job finds in its environment: that of the launch, and that of the definition above it."""
    run.plan["env"].update(recorded or {})
    run.go(script(DUMPS), env=launch, tracker_ids=IDS, experiment="0123", kind=kind)
    return json.loads(run.log)


def test_a_job_is_told_its_id_and_name(run: Run) -> None:
    told = handed(run)
    tags = json.loads(told.pop("MLFLOW_RUN_CONTEXT"))
    assert tags == {"gitexp.experiment": "0123", "gitexp.run": IDS["run_id"], "mlflow.runName": "digits"}
    assert told == {
        "WANDB_RUN_ID": IDS["run_id"],
        "WANDB_RESUME": "allow",
        "WANDB_NAME": "digits",
        "WANDB_DIR": str(run.dir),
        "MLFLOW_RUN_NAME": "digits",
    }


def test_what_the_user_has_set_wins(run: Run) -> None:
    told = handed(
        run, {"WANDB_RUN_ID": "mine", "WANDB_NAME": "shell", "MLFLOW_RUN_NAME": "shell"}, recorded={"WANDB_NAME": "x"}
    )
    assert (told["WANDB_RUN_ID"], told["WANDB_NAME"], told["MLFLOW_RUN_NAME"]) == ("mine", "x", "shell")
    assert "WANDB_RESUME" not in told
    assert json.loads(told["MLFLOW_RUN_CONTEXT"])["mlflow.runName"] == "shell"


def test_no_id_of_the_original_reaches_a_reproduction(run: Run) -> None:
    others = {"WANDB_RUN_ID": "original", "WANDB_RESUME": "must", "MLFLOW_RUN_ID": "original"}
    told = handed(run, others, kind="reproduction", recorded={"WANDB_RUN_ID": "original"})
    assert (told["WANDB_RUN_ID"], told["WANDB_RESUME"]) == (IDS["run_id"], "allow")
    assert "MLFLOW_RUN_ID" not in told


def test_a_job_that_launches_another_does_not_pass_its_own_id_on(run: Run) -> None:
    ids = {"run_id": "f" * 24, "name": "outer"}
    outer: dict[str, str] = {}
    hand_over_ids(outer, {**run.plan, "tracker_ids": ids, "run_dir": f"/runs/{'f' * 40}.1"}, rank=0)
    assert (outer["WANDB_RUN_ID"], outer["WANDB_NAME"]) == (ids["run_id"], "outer")
    told = handed(run, {**outer, "WANDB_NAME": "mine"})
    assert told.pop("WANDB_NAME") == "mine", "what the job sets for those that it launches wins"
    assert "outer" not in json.dumps(told)
    assert "f" * 16 not in json.dumps(told)
    assert told["WANDB_RUN_ID"] == IDS["run_id"]


def test_ids_are_those_of_the_run_and_of_nothing_else() -> None:
    sha = "ab" * 20
    first = tracker_ids(sha, "run.1", "digits", reproduction=False)
    assert first == tracker_ids(sha, "run.1", "digits", reproduction=False)
    others = [
        tracker_ids(sha, "run.2", "digits", reproduction=False),
        tracker_ids(sha, "run.repro.1", "digits", reproduction=True),
        tracker_ids(sha, "run.1", "digits", "train", reproduction=False),
    ]
    assert len({first["run_id"], *(ids["run_id"] for ids in others)}) == 4
    assert all(ids["run_id"].startswith(sha[:16]) and ids["run_id"].isalnum() for ids in others)
    assert tracker_ids(sha, "run.1", "d" * 300, "train", reproduction=True)["name"].endswith("d/train-reproduction")
    assert len(tracker_ids(sha, "run.1", "d" * 300, "train", reproduction=True)["name"]) == 128


FAKE_WANDB = """\
class Run:
    def __init__(self, id): self.url = f"https://ada:secret@wandb.example/team/proj/runs/{id}?apiKey=secret"
def init(project=None, id=None, resume=None): return Run(id)
"""


def test_the_address_of_a_run_is_noted_without_its_secrets(run: Run) -> None:
    run.put("wandb.py", FAKE_WANDB)
    result = run.go(script("import wandb; wandb.init(id='abc')"), tracker_ids=IDS)
    (link,) = result["links"]
    assert (link["tracker"], link["run"]) == ("wandb", "abc")
    assert link["url"] == "https://wandb.example/team/proj/runs/abc"
    assert "secret" not in (run.dir / "result.json").read_text()


def test_a_reproduction_does_not_write_into_a_run_that_the_code_names(run: Run) -> None:
    run.put("wandb.py", FAKE_WANDB)
    result = run.go(script("import wandb; wandb.init(id='abc', resume='must')"), tracker_ids=IDS, kind="reproduction")
    (link,) = result["links"]
    assert link["run"].startswith(IDS["run_id"])
    assert "leaves abc alone" in run.log


def test_a_module_of_the_users_that_is_called_wandb_stays_as_it_is(run: Run) -> None:
    run.put("wandb.py", "value = 1")
    assert run.go(script("import wandb; print(wandb.value)"), tracker_ids=IDS)["status"] == "completed"
    assert run.log == "1\n"


PRINTED = """\
print("wandb: \\x1b[34m\\U0001f680 View run at \\x1b[33mhttps://wandb.ai/team/proj/runs/abc\\x1b[0m")
print("\\U0001f3c3 View run great-auk at: http://u:p@mlflow.example:5000/#/experiments/1/runs/def")
print("see https://elsewhere.example/runs/9")
"""


def test_addresses_that_trackers_print_are_links(run: Run) -> None:
    links = run.go(script(PRINTED), tracker_ids=IDS)["links"]
    assert [(link["tracker"], link["run"], link["url"]) for link in links] == [
        ("wandb", "abc", "https://wandb.ai/team/proj/runs/abc"),
        ("mlflow", "def", "http://mlflow.example:5000/#/experiments/1/runs/def"),
    ]


@pytest.mark.parametrize(
    "url, safe",
    [
        ("https://user:key@host:8443/a?token=1#/x?token=2", "https://host:8443/a#/x"),
        ("http://[::1]:5000/", "http://[::1]:5000/"),
        ("https://host/a#access_token=1", "https://host/a"),
        ("file:///store", None),
        ("https://", None),
        ("https://user:p/w@host/x", "https://host/x"),
        ("", None),
    ],
)
def test_an_address_holds_no_secret(url: str, safe: str | None) -> None:
    assert public_address(url) == safe


def event_file(path: Path, scalars: list[tuple[str, int, float]], wall_time: float = 1.0) -> Path:
    """Write an event file as TensorBoard's own writer frames it."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        writer = RecordWriter(file)
        writer.write(event_pb2.Event(wall_time=wall_time, file_version="brain.Event:2").SerializeToString())
        for number, (tag, step, value) in enumerate(scalars):
            summary = summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=tag, simple_value=value)])
            event = event_pb2.Event(wall_time=wall_time + number, step=step, summary=summary)
            writer.write(event.SerializeToString())
        writer.flush()
    return path


def mlflow_run(store: Path, run_id: str, metrics: dict[str, str], tags: dict[str, str] | None = None) -> None:
    directory = store / "0" / run_id
    for kind, values in (("metrics", metrics), ("tags", tags or {})):
        for name, text in values.items():
            path = directory / kind / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    (directory / "meta.yaml").write_text(f"run_id: {run_id}\nstart_time: 5\nstatus: 3\nlifecycle_stage: active\n")


def logged(run: Run) -> list[dict[str, float]]:
    path = run.dir / "tracker-metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def go(run: Run, made: Path, **plan: object) -> dict:
    """Run a job that makes what lies in a directory: `outputs/…` in its outputs, `work/…` in its working directory."""
    code = (
        "import os, shutil\n"
        f"for name, goal in (('outputs', os.environ['OUT']), ('work', '.')):\n"
        f"    if os.path.isdir(os.path.join({str(made)!r}, name)):\n"
        f"        shutil.copytree(os.path.join({str(made)!r}, name), goal, dirs_exist_ok=True, symlinks=True)\n"
    )
    return run.go(script(code), env={"OUT": str(run.outputs)}, tracker_ids=IDS, **plan)


EVENTS = "events.out.tfevents.1600000000.host.1.0"


def test_mlflow_has_a_name_before_tensorboard_has_it(run: Run, tmp_path: Path) -> None:
    made = tmp_path / "made"
    event_file(made / "outputs" / "tb" / EVENTS, [("loss", 0, 9.0), ("rate", 0, 0.5)])
    mlflow_run(made / "work" / "mlruns", "a" * 32, {"loss": "1 0.5 0\n2 0.25 1\n", "system/cpu": "1 2 0\n"})
    result = go(run, made)
    assert logged(run) == [{"loss": 0.5, "step": 0}, {"loss": 0.25, "step": 1}, {"rate": 0.5, "step": 0}]
    assert result["trackers"] == {"rows": 3, "damaged": 0}
    assert [link["tracker"] for link in result["links"]] == ["mlflow", "tensorboard"]


def test_of_a_shared_store_only_runs_of_this_job_are_read(run: Run, tmp_path: Path) -> None:
    store = tmp_path / "a store"
    mlflow_run(store, "a" * 32, {"loss": "1 0.5 0\n"}, {"gitexp.run": IDS["run_id"]})
    mlflow_run(store, "b" * 32, {"loss": "1 9.5 0\n"}, {"gitexp.run": "another"})
    mlflow_run(store, "c" * 32, {"loss": "1 9.5 0\n"})
    run.go(script("pass"), env={"MLFLOW_TRACKING_URI": store.as_uri()}, tracker_ids=IDS)
    assert logged(run) == [{"loss": 0.5, "step": 0}]


def test_what_came_with_the_code_and_what_links_lead_to_is_not_read(run: Run, tmp_path: Path) -> None:
    event_file(run.workspace / "runs" / EVENTS, [("old", 0, 1.0)])
    elsewhere = event_file(tmp_path / "elsewhere" / EVENTS, [("other", 0, 1.0)])
    made = tmp_path / "made" / "outputs"
    made.mkdir(parents=True)
    (made / EVENTS).symlink_to(elsewhere)
    (made / "dir").symlink_to(elsewhere.parent)
    result = go(run, tmp_path / "made")
    assert (logged(run), result["links"]) == ([], [])


def test_a_name_of_several_log_directories_says_whose_it_is(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "made" / "outputs"
    event_file(out / "logs" / "train" / EVENTS, [("loss", 0, 1.0), ("rate", 0, 0.5)])
    event_file(out / "logs" / "test" / EVENTS, [("loss", 0, 2.0)])
    event_file(out / "logs" / "Nov30_21-55-00_host" / EVENTS, [("loss", 0, 3.0)])
    go(run, tmp_path / "made")
    named = {name: value for row in logged(run) for name, value in row.items() if name != "step"}
    assert named == {"train/loss": 1.0, "rate": 0.5, "test/loss": 2.0, "run1/loss": 3.0}


def test_a_stage_reads_what_lies_in_its_own_outputs(run: Run, tmp_path: Path) -> None:
    made = tmp_path / "made"
    event_file(made / "outputs" / EVENTS, [("mine", 0, 1.0)])
    event_file(made / "work" / EVENTS, [("whose", 0, 1.0)])
    stage = {"name": "s", "run": str(run.dir), "dependencies": [], "results": {}, "slots": 1}
    go(run, made, stage=stage)
    assert logged(run) == [{"mine": 1.0, "step": 0}]


def test_a_damaged_event_file_is_counted_and_the_rest_is_read(run: Run, tmp_path: Path) -> None:
    path = event_file(tmp_path / "made" / "outputs" / EVENTS, [("loss", 0, 1.0), ("loss", 1, 2.0)])
    path.write_bytes(path.read_bytes()[:-3])
    result = go(run, tmp_path / "made")
    assert logged(run) == [{"loss": 1.0, "step": 0}]
    assert (result["status"], result["trackers"]) == ("completed", {"rows": 1, "damaged": 1})


def test_a_failed_job_keeps_what_it_had_logged(run: Run, tmp_path: Path) -> None:
    path = event_file(tmp_path / EVENTS, [("loss", 0, 1.0)])
    result = run.go(
        script(f"import os, shutil, sys; shutil.copy({str(path)!r}, os.environ['OUT']); sys.exit(4)"),
        env={"OUT": str(run.outputs)},
        tracker_ids=IDS,
    )
    assert (result["status"], logged(run)) == ("failed", [{"loss": 1.0, "step": 0}])


@pytest.mark.parametrize("start", ["9" * 400, "²", "-5", "9" * 18])
def test_a_time_that_is_none_costs_neither_the_run_nor_its_outputs(run: Run, tmp_path: Path, start: str) -> None:
    made = tmp_path / "made"
    mlflow_run(made / "work" / "mlruns", "a" * 32, {"loss": "1 0.5 0\n"})
    meta = made / "work" / "mlruns" / "0" / ("a" * 32) / "meta.yaml"
    meta.write_text(meta.read_text().replace("start_time: 5", f"start_time: {start}"))
    (made / "outputs").mkdir()
    (made / "outputs" / "model.bin").write_bytes(b"weights")
    result = go(run, made)
    assert (result["status"], [output["path"] for output in result["outputs"]]) == ("completed", ["model.bin"])
    assert (logged(run), result["trackers"]) == ([{"loss": 0.5, "step": 0}], {"rows": 1, "damaged": 0})


def test_trackers_that_cannot_be_read_cost_the_run_nothing_else(run: Run, tmp_path: Path) -> None:
    out = event_file(tmp_path / "made" / "outputs" / "tb" / EVENTS, [("loss", 0, 1.0)])
    in_the_way = "import os; os.mkdir(os.path.join(os.path.dirname(os.environ['OUT']), 'tracker-metrics.jsonl'))\n"
    copying = f"import shutil; shutil.copytree({str(out.parent)!r}, os.environ['OUT'] + '/tb')"
    result = run.go(script(in_the_way + copying), env={"OUT": str(run.outputs)}, tracker_ids=IDS)
    assert (result["status"], [output["path"] for output in result["outputs"]]) == ("completed", ["tb"])
    assert (result["links"], result["trackers"]) == ([], {"rows": 0, "damaged": 1})
    (remark,) = result["remarks"]
    assert remark.startswith("left files of its trackers that could not be read (IsADirectoryError: ")


def raising(fault: Exception) -> Callable[[str], bool]:
    def is_known(_: str) -> bool:
        raise fault

    return is_known


def test_only_who_cancels_ends_the_reading_of_trackers(tmp_path: Path) -> None:
    event_file(tmp_path / EVENTS, [("loss", 0, 1.0)])
    places = {"outputs_dir": str(tmp_path / "outputs"), "run_dir": str(tmp_path / "run"), "workspace": str(tmp_path)}
    plan = {**places, "cwd": str(tmp_path), "inputs": []}
    left = leave_tracked(Job(plan, {}, 0.0, raising(ZeroDivisionError("odd"))), nothing_to_check)
    assert left["remarks"] == ["left files of its trackers that could not be read (ZeroDivisionError: odd)"]
    with pytest.raises(CancelledError):
        leave_tracked(Job(plan, {}, 0.0, raising(CancelledError("ada"))), nothing_to_check)


def digest(root: Path, path: str) -> str | None:
    report = hash_output(str(root), {"path": path, "keep": "dvc"})
    assert report is not None
    return report["digest"]


def test_equal_events_have_one_digest_whenever_and_wherever_they_were_logged(tmp_path: Path) -> None:
    scalars = [("loss", 0, 1.0), ("loss", 1, 0.5)]
    early = event_file(tmp_path / "a" / "Nov30_21-55-00_host" / EVENTS, scalars, 1.0)
    late = event_file(
        tmp_path / "b" / "Dec01_01-00-00_other" / EVENTS.replace("1600000000", "1700000001"), scalars, 9.0
    )
    other = event_file(tmp_path / "c" / "Nov30_21-55-00_host" / EVENTS, [("loss", 0, 1.0), ("loss", 1, 0.25)], 1.0)
    assert digest(tmp_path, "a") == digest(tmp_path, "b")
    assert digest(tmp_path, "a") != digest(tmp_path, "c")
    assert digest(early.parent, early.name) == digest(late.parent, late.name)
    assert digest(early.parent, early.name) != digest(other.parent, other.name)
    (tmp_path / "b" / "model.bin").write_bytes(b"x")
    assert digest(tmp_path, "a") != digest(tmp_path, "b")
    early.write_bytes(early.read_bytes()[:-1])
    assert digest(early.parent, early.name) is None


def test_a_directory_without_files_of_trackers_has_the_digest_that_it_always_had(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "20301130-215500.txt").write_text("x")
    assert digest(tmp_path, "d") is None


def test_names_that_hold_the_time_are_numbered_in_its_order() -> None:
    paths = [f"runs/Nov30_21-55-0{second}_host/{EVENTS}" for second in (3, 1)]
    assert sorted(stable_names([*paths, "runs/version_0/a.txt"]).values()) == [
        "runs/run1/events1",
        "runs/run2/events1",
        "runs/version_0/a.txt",
    ]
    assert stable_names(reversed(paths))[paths[1]] == "runs/run1/events1"


OPENED: list[str] | None = None


def note_opened(event: str, arguments: tuple) -> None:
    if OPENED is not None and event == "open" and isinstance(arguments[0], str):
        OPENED.append(arguments[0])


sys.addaudithook(note_opened)


def test_for_the_digest_of_a_directory_each_run_is_read_once(tmp_path: Path) -> None:
    global OPENED  # noqa: PLW0603 - hooks stay for good
    mlflow_run(tmp_path / "o" / "mlruns", "a" * 32, {"loss": "1 0.5 0\n"})
    log = tmp_path / "o" / "wandb" / "run-1" / "run-abc.wandb"
    log.parent.mkdir(parents=True)
    log.write_bytes(b":W&B\xe1\xbe\0")
    OPENED = []
    assert digest(tmp_path, "o")
    opened, OPENED = OPENED, None
    metric = tmp_path / "o" / "mlruns" / "0" / ("a" * 32) / "metrics" / "loss"
    assert [opened.count(str(path)) for path in (log, metric)] == [2, 2]  # for its hashes, and for what was logged


class Calls:
    """A check that does something when it is called for the so manieth time."""

    def __init__(self, number: int, then: Callable[[], None]) -> None:
        self.left = number
        self.then = then

    def __call__(self) -> None:
        self.left -= 1
        if not self.left:
            self.then()


def cancel() -> None:
    raise CancelledError("ada")


def many_steps(path: Path, kind: str) -> None:
    """Write 3,000 steps as a tracker writes them; less than a megabyte."""
    if kind == "tensorboard":
        event_file(path / EVENTS, [("loss", step, 0.5) for step in range(3000)])
        event_file(path / f"{EVENTS}.2", [])
    elif kind == "mlflow":
        mlflow_run(path / "mlruns", "a" * 32, {"loss": "".join(f"1 0.5 {step}\n" for step in range(3000))})
    else:
        (path / "wandb" / "run-1").mkdir(parents=True)
        record = proto.Record(history=proto.HistoryRecord(item=[proto.HistoryItem(key="loss", value_json="0.5")]))
        (path / "wandb" / "run-1" / "run-abc.wandb").write_bytes(
            framed([*[record.SerializeToString()] * 3000, proto.Record(exit=proto.RunExitRecord()).SerializeToString()])
        )


@pytest.mark.parametrize("kind", ["tensorboard", "wandb", "mlflow"])
def test_of_too_many_values_the_first_are_kept_and_a_remark_says_so(tmp_path: Path, kind: str) -> None:
    many_steps(tmp_path / "o", kind)
    plan = {"outputs_dir": str(tmp_path / "o"), "run_dir": str(tmp_path), "tracked": True, "cwd": str(tmp_path)}
    places = find_places(Job(plan, {}, 0.0, lambda _: False))
    left = leave_logged(plan, places, nothing_to_check, most=2500)
    assert (left.trackers, len(left.links)) == ({"rows": 2500, "damaged": 0}, 1)
    assert left.remarks[0].startswith("logged more than 2,500 numbers into its trackers")
    rows = [json.loads(line) for line in (tmp_path / "tracker-metrics.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in rows] == [0.5] * 2500
    assert leave_logged(plan, places, nothing_to_check, most=3000) == (
        left.links,
        {"rows": 3000, "damaged": 0},
        [],
    )


@pytest.mark.parametrize("kind", ["tensorboard", "wandb", "mlflow"])
def test_who_cancels_waits_for_no_reader(tmp_path: Path, kind: str) -> None:
    many_steps(tmp_path / "o", kind)
    files = sum(path.is_file() for path in tmp_path.rglob("*"))
    with pytest.raises(CancelledError):
        hash_output(str(tmp_path), {"path": "o", "keep": "dvc"}, Calls(files + 2, cancel))
    plan = {"outputs_dir": str(tmp_path / "o"), "run_dir": str(tmp_path), "tracked": True, "cwd": str(tmp_path)}
    job = Job(plan, {}, 0.0, lambda _: False)
    with pytest.raises(CancelledError):
        leave_tracked(job, Calls(7, cancel))
    assert leave_tracked(job, nothing_to_check)["trackers"] == {"rows": 3000, "damaged": 0}


def test_a_log_that_goes_while_outputs_are_hashed_costs_its_own_digest_alone(tmp_path: Path) -> None:
    many_steps(tmp_path / "o", "wandb")
    (tmp_path / "o" / "z.txt").write_text("the last")
    log = tmp_path / "o" / "wandb" / "run-1" / "run-abc.wandb"
    report = hash_output(str(tmp_path), {"path": "o", "keep": "dvc"}, Calls(2, log.unlink))
    assert report is not None
    assert (report["digest"], [row[0] for row in report["files"]]) == (None, ["wandb/run-1/run-abc.wandb", "z.txt"])


@pytest.mark.parametrize(
    "name, stable",
    [
        ("Nov30_21-55-00_host", "run1"),
        ("Nov30_21-55-00_my-host.example_lr0.1", "run1_lr0.1"),
        ("20301130-215500", "run1"),
        ("run-20301130_215500-abc.log", "run-run1-abc.log"),
        ("2030-11-30_21-55-00", "run1"),
        ("1600000000.1234567", "run1"),
        (EVENTS, "events1"),
        ("step_0000001000", None),
        ("ckpt_000000012345.pt", None),
        ("Nov31_25-55-00_host", None),
        ("20301330-215500", None),
        ("1600000000", None),
        ("events.out.tfevents.step", None),
    ],
)
def test_only_real_times_in_names_that_loggers_write_are_replaced(name: str, stable: str | None) -> None:
    assert stable_names([f"a/{name}/b"]) == {f"a/{name}/b": f"a/{stable or name}/b"}


@given(
    st.sampled_from(["step_{}", "step_{:08d}", "{:010d}.pt", "ckpt-{:012d}", "{}", "{:014d}", "iter_{:07d}_0000"]),
    st.sampled_from(["{}/model", "Nov30_21-55-00_host_{}", "20301130-215500/{}", "{}_20301130-215500.txt"]),
    st.tuples(*[st.one_of(st.integers(0, 10**14), st.integers(15 * 10**8, 2 * 10**9))] * 2),
)
def test_two_step_numbers_never_get_one_name(form: str, place: str, steps: tuple[int, int]) -> None:
    one, other = (place.format(form.format(step)) for step in steps)
    assert (stable_names([one])[one] == stable_names([other])[other]) is (one == other)


def test_steps_beside_an_event_file_are_not_equal(tmp_path: Path) -> None:
    for place, step in (("a", 1000), ("b", 2000)):
        event_file(tmp_path / place / EVENTS, [("loss", 0, 1.0)])
        (tmp_path / place / f"step_{step:010d}.json").write_text("{}")
    assert digest(tmp_path, "a") != digest(tmp_path, "b")


def test_only_directories_of_loggers_go_by_their_order(tmp_path: Path) -> None:
    for place, time in (("a", "20301130-215500"), ("b", "20301201-010000")):
        event_file(tmp_path / place / "fit" / time / "train" / EVENTS, [("loss", 0, 1.0)])
        (tmp_path / place / "fit" / time / "notes.txt").write_text("x")
    assert digest(tmp_path, "a") == digest(tmp_path, "b")
    for place, time in (("a", "20301130-215500"), ("b", "20301201-010000")):
        (tmp_path / place / f"{time}.txt").write_text("x")
    assert digest(tmp_path, "a") != digest(tmp_path, "b")


def test_months_are_in_the_order_of_the_year() -> None:
    found = stable_names(["Dec01_00-00-01_host/x", "Nov30_23-59-59_host/x"])
    assert found["Nov30_23-59-59_host/x"] == "run1/x"


def test_a_number_never_makes_a_name_that_is_there() -> None:
    assert stable_names(["run1/x", "20301130-215500/x"]) == {"run1/x": "run1/x", "20301130-215500/x": "run2/x"}
