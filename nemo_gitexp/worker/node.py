"""The worker process of a node: verifies the state, starts the job, watches it, writes the result. Nothing else.

`python start.py RUN/plan.json` arrives here. Everything that is decided about a run is decided by the launcher; this
room only refuses what is not as recorded.
"""

from __future__ import annotations

import json
import marshal
import os
import sys
import threading
import time

from .documents import read_document, write_bytes, write_document
from .finish import TRACKED_FILE, describe_end, error_report, exit_code, iso_time, write_result
from .inputs import input_states
from .machine import keep_fresh, started_document
from .manifest import Verification
from .pace import nothing_to_check
from .ranks import Ranks
from .refusal import find_refusal, verify_plan
from .remains import NOTHING_LEFT, Remains
from .stage import StagePlace
from .steps import StepCounter
from .trackerenv import hand_over_ids, run_id_of
from .watch import CancelledError, Canceller, Job, never_started, start_job, watch_job

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .shapes import ErrorReport, JobEnd, JobOrder, Plan

RESERVES = {"reserve.bin": 64 * 1024, "job-reserve.bin": 32 * 1024}
"""Space set aside for the result and for the job's own error, should the job fill the disk."""

REFUSED_EXIT = 3


def main(plan_path: str) -> None:
    """Do the whole run that the plan describes, then exit: 0 completed or stopped, otherwise as the job did."""
    with open(plan_path, "rb") as file:
        plan: Plan = json.loads(file.read().decode())
    sys.exit(Node(plan).run())


class Node:
    """One run on one node.

    Args:
        plan: what the launcher asks for.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._run_dir = plan["run_dir"]
        self._ranks = Ranks(plan, os.environ)
        self._canceller = Canceller(plan["cancel"])
        self._stage = StagePlace(plan) if plan.get("stage") else None
        self._is_command = plan["entry"]["kind"] == "command"
        self._remains: Remains | None = None

    def run(self) -> int:
        """Run the job and write result.json, whatever happens; return the exit code of this process."""
        if os.path.exists(self._path("result.json")) and os.path.exists(self._ranks.file("started.json")):
            sys.stderr.write(f"gitexp: {self._run_dir} has its result already\n")
            return REFUSED_EXIT
        self._canceller.listen()
        started, clock = time.time(), time.monotonic()
        try:
            self._prepare(started)
            if os.path.exists(self._path("abandoned.json")):
                # First said, then looked: whoever gave the run up meanwhile did it the other way round.
                sys.stderr.write(f"gitexp: {self._run_dir} was given up before its job started\n")
                return REFUSED_EXIT
            end = self._verified_run()
        except Exception as fault:  # noqa: BLE001 - a run without a result would look lost
            end = never_started(error_report(fault))
            end["started"] = os.path.exists(self._ranks.file("child.json"))
        if not self._ranks.is_first:
            return exit_code(end)
        left = self._what_is_left(end)
        code = write_result(self._plan, end, left, started, time.monotonic() - clock)
        if self._stage:
            self._stage.conclude()
        return code

    def _prepare(self, started: float) -> None:
        own = self._ranks.file("started.json")
        write_document(own, started_document(iso_time(started)))
        threading.Thread(target=keep_fresh, args=(own,), daemon=True).start()
        for name, size_bytes in RESERVES.items() if self._ranks.is_first else ():
            write_bytes(self._path(name), os.urandom(size_bytes))  # random: no file system can make it small
        if self._ranks.is_first and os.path.exists(self._path(TRACKED_FILE)):
            os.unlink(self._path(TRACKED_FILE))  # of an earlier start of this run
        os.makedirs(self._plan["outputs_dir"], exist_ok=True)

    def _verified_run(self) -> JobEnd:
        blocked = self._stage.wait(self._canceller.reason) if self._stage else None
        if blocked:
            return never_started(blocked)
        if self._stage:
            self._stage.take_slot(self._canceller.reason)
        verification, refusal = self._verify() if self._ranks.is_verifier else (Verification(), None)
        refusal = refusal or self._ranks.wait(self._canceller.reason)
        if refusal:
            return never_started(refusal)
        if self._canceller.reason():
            return never_started(None, self._canceller.reason())
        argv, env = self._job_argv(), self._job_environment()
        data = input_states(self._plan["workspace"], self._plan["inputs"])
        remains = Remains(self._plan, verification.states, data, env)
        log, child = self._ranks.file("log.txt"), self._ranks.file("child.json")
        if self._stage:
            self._stage.look_at_results()
        try:
            job = start_job(argv, cwd=self._plan["cwd"], env=env, log=log, child=child)
        except OSError as fault:
            message = f"{argv[0]} cannot be started: {fault.strerror or fault}"
            return never_started({"type": "CommandNotFoundError", "message": message})
        self._remains = remains
        end = self._watch(job)
        if self._stage and end["exit_code"] == 0:
            end["error"] = self._stage.changed_results()
            if self._is_command:
                self._stage.keep_directory(self._plan["outputs_dir"])
        return end

    def _what_is_left(self, end: JobEnd) -> dict[str, object]:
        """Return what the job left; who cancels while that is read, which may be long, cancels the run."""
        if self._remains is None:
            return NOTHING_LEFT
        check = nothing_to_check if end["cancelled"] else self._canceller.check
        try:
            return self._remains.document(check)
        except CancelledError as reason:
            end["cancelled"] = str(reason)
        except Exception as fault:  # noqa: BLE001 - a run without a result would look lost
            if describe_end(end, None) is None:
                end["error"] = error_report(fault)
        return NOTHING_LEFT

    def _verify(self) -> tuple[Verification, ErrorReport | None]:
        """Verify for this node, and tell the others: they wait for this word, whatever it is."""
        try:
            verification = verify_plan(self._plan)
            refusal = find_refusal(self._plan, verification)
        except Exception as fault:
            self._ranks.tell(error_report(fault))
            raise
        self._ranks.tell(refusal)
        return verification, refusal

    def _watch(self, job: Job) -> JobEnd:
        limit = self._plan["stop_after_steps"]
        steps = StepCounter(self._path("metrics.jsonl"), limit) if limit else None
        try:
            end = watch_job(job, self._canceller, steps, self._plan["grace_s"])
        except BaseException:
            job.stop(0)
            raise
        if end["stopped"] and steps and self._ranks.is_first:
            steps.cut()
        return end

    def _job_environment(self) -> dict[str, str]:
        place = self._plan.get("variables")
        given = {name: str(value) for name, value in ((read_document(place) if place else None) or {}).items()}
        env = {**os.environ, **given, **self._plan["env"]}
        env.setdefault("PYTHONUNBUFFERED", "1")
        env["PWD"] = self._plan["cwd"]  # as a shell there would
        if not self._ranks.is_first and "GITEXP_METRICS" in self._plan["env"]:
            env["GITEXP_METRICS"] = self._ranks.file("metrics.jsonl")  # rank 0's are recorded, and nobody's among them
        for name in self._plan["unset_env"]:
            env.pop(name, None)
        hand_over_ids(env, self._plan, self._ranks.rank)
        if self._is_command and self._plan["probe_interpreter"]:
            from .probe import probe_environment

            probed = probe_environment(self._plan, env)
            if probed.document:
                write_document(self._path("job-environment.json"), probed.document)
            if probed.pythonpath:
                env["PYTHONPATH"] = probed.pythonpath
        return env

    def _job_argv(self) -> list[str]:
        plan = self._plan
        if self._is_command:
            return plan["entry"]["argv"]
        order = self._ranks.file("job.order")
        write_bytes(order, marshal.dumps(dict(self._job_order()), 2))  # 2: the form that every Python 3 reads
        return [plan["interpreter"] or sys.executable, *plan["interpreter_flags"], sys.argv[0], "--job", order]

    def _job_order(self) -> JobOrder:
        plan = self._plan
        is_configured = plan["entry"]["kind"] in ("function", "call")
        stage = plan.get("stage")
        return {
            "run_dir": self._run_dir,
            "report": self._ranks.file("job.json"),
            "error": self._ranks.file("error.json"),
            "returned": self._ranks.file("function.json"),
            "workspace": plan["workspace"],
            "user_root": plan["user_root"],
            "trusted_roots": plan["trusted_roots"],
            "entry": plan["entry"],
            "config": (read_document(plan["config"]) or {}) if is_configured else {},
            "stage": {"results": stage["results"], "outputs": plan["outputs_dir"]} if stage else None,
            "seed": plan["seed"],
            "is_alone": self._ranks.is_alone,
            "determinism": plan["determinism"],
            "interpreter_flags": plan["interpreter_flags"],
            "own_wandb_id": run_id_of(plan, self._ranks.rank) if plan["kind"] == "reproduction" else None,
        }

    def _path(self, name: str) -> str:
        return os.path.join(self._run_dir, name)
