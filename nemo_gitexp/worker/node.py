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
from .finish import SIGNAL_EXIT_BASE, TRACKED_FILE, describe_end, error_report, exit_code, iso_time, write_result
from .inputs import input_states
from .lastword import forbids_start
from .machine import keep_fresh, started_document
from .manifest import Verification
from .pace import nothing_to_check
from .ranks import Ranks
from .refusal import find_refusal, verify_plan
from .remains import NOTHING_LEFT, Remains
from .restart import Restart
from .stage import StagePlace
from .steps import StepCounter
from .trackerenv import hand_over_ids, run_id_of
from .watch import CancelledError, Canceller, Job, never_started, start_job, watch_job, watch_scheduled_job

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping

    from .shapes import ErrorReport, JobEnd, JobOrder, Plan

RESERVES = {"reserve.bin": 64 * 1024, "job-reserve.bin": 32 * 1024}
"""Space set aside for the result and for the job's own error, should the job fill the disk."""

REFUSED_EXIT = 3


def failed_end(failure: Mapping[str, object]) -> dict[str, object]:
    """Return the parts of an end that another rank's word on its own failure replaces."""
    error = failure.get("error")
    said = dict(error) if isinstance(error, dict) else {"type": "ExitCodeError", "message": "failed"}
    said["message"] = f"rank {failure.get('rank')}: {said.get('message')}"
    numbers = {"exit_code": failure.get("exit_code"), "signal": failure.get("signal")}
    return {**numbers, "error": said, "cancelled": None, "interrupted": None, "started": True}


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
        self._restart = Restart(plan, self._ranks, os.environ) if plan.get("scheduled") else None
        self._canceller = Canceller(plan["cancel"], is_scheduled=self._restart is not None)
        self._stage = StagePlace(plan) if plan.get("stage") else None
        self._is_command = plan["entry"]["kind"] == "command"
        self._remains: Remains | None = None

    def run(self) -> int:
        """Run the job and write result.json, unless a scheduler interrupts it; return the exit code of this process."""
        over = self._exit_code_of_what_is_over()
        if over is not None:
            return over
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
        if self._ranks.is_first:
            return self._conclude(end, started, time.monotonic() - clock)
        if end["interrupted"]:
            return SIGNAL_EXIT_BASE + end["interrupted"]
        if not end["cancelled"]:
            self._ranks.tell_end(end, describe_end(end, read_document(self._ranks.file("error.json"))))
        return exit_code(end)

    def _exit_code_of_what_is_over(self) -> int | None:
        """Return what to leave with where nothing is left to do; None where there is."""
        has_result = os.path.exists(self._path("result.json"))
        if self._restart is None:
            if not has_result or not os.path.exists(self._ranks.file("started.json")):
                return None
            sys.stderr.write(f"gitexp: {self._run_dir} has its result already\n")
            return REFUSED_EXIT
        if has_result:
            sys.stderr.write(f"gitexp: {self._run_dir} has its result already, nothing is left to do\n")
            return 0
        word = forbids_start(self._run_dir)
        if word:
            sys.stderr.write(f"gitexp: {self._run_dir} is over: the scheduler said {word}\n")
        return REFUSED_EXIT if word else None

    def _conclude(self, end: JobEnd, started: float, duration_s: float) -> int:
        """Write what rank 0 has to say about the end, and return the exit code."""
        restart = self._restart
        end = self._blame(end)
        if restart and end["interrupted"]:
            restart.leave_interrupted(end)
            return SIGNAL_EXIT_BASE + end["interrupted"]
        left = self._what_is_left(end)
        if restart and restart.is_superseded():
            sys.stderr.write(f"gitexp: {self._run_dir} was started again elsewhere, which counts\n")
            return REFUSED_EXIT
        if restart:
            started, duration_s = restart.whole(started, duration_s)
        code = write_result(self._plan, end, left, started, duration_s)
        if restart:
            restart.leave_ended(end)
        if self._stage:
            self._stage.conclude()
        return code

    def _blame(self, end: JobEnd) -> JobEnd:
        """Return the end as that of another rank that failed by itself, unless this one did so too.

        One that has ended well waits for the others; one that was told to end may have been told because of another.
        """
        if self._ranks.is_alone or end["cancelled"] == "request":
            return end
        if end["exit_code"] == 0 and not (end["error"] or end["stopped"] or end["cancelled"] or end["interrupted"]):
            self._ranks.wait_for_ends(self._canceller.is_asked)
            end["cancelled"], end["interrupted"] = self._canceller.reason(), self._canceller.interruption()
        elif not (end["interrupted"] or end["cancelled"]):
            return end
        failure = self._ranks.find_failure()
        return end if failure is None else {**end, **failed_end(failure)}  # type: ignore[typeddict-item]  # its keys

    def _prepare(self, started: float) -> None:
        if self._restart:
            self._restart.begin(started)
        own = self._ranks.file("started.json")
        write_document(own, started_document(iso_time(started)))
        threading.Thread(target=keep_fresh, args=(own,), daemon=True).start()
        for name, size_bytes in RESERVES.items() if self._ranks.is_first else ():
            write_bytes(self._path(name), os.urandom(size_bytes))  # random: no file system can make it small
        if self._ranks.is_first and os.path.exists(self._path(TRACKED_FILE)):
            os.unlink(self._path(TRACKED_FILE))  # of an earlier start of this run
        os.makedirs(self._plan["outputs_dir"], exist_ok=True)

    def _verified_run(self) -> JobEnd:
        is_asked = self._canceller.is_asked
        blocked = self._stage.wait(is_asked) if self._stage else None
        if blocked:
            return never_started(blocked)
        if self._stage:
            self._stage.take_slot(is_asked)
        verification, refusal = self._verify() if self._ranks.is_verifier else (Verification(), None)
        refusal = refusal or self._ranks.wait(is_asked)
        if refusal:
            return never_started(refusal)
        if is_asked():
            return never_started(None, self._canceller.reason(), self._canceller.interruption())
        argv, env = self._job_argv(), self._job_environment()
        data = input_states(self._plan["workspace"], self._plan["inputs"])
        before = self._restart.before() if self._restart else None
        remains = Remains(self._plan, verification, data, env, before)
        if self._restart and before is None:
            self._restart.keep_before(remains.earlier_document())
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
            is_restart = self._restart is not None and self._restart.is_restart
            verification = verify_plan(self._plan, is_restart=is_restart)
            refusal = find_refusal(self._plan, verification, is_restart=is_restart)
        except Exception as fault:
            self._ranks.tell(error_report(fault))
            raise
        self._ranks.tell(refusal)
        return verification, refusal

    def _watch(self, job: Job) -> JobEnd:
        limit = self._plan["stop_after_steps"]
        restart, grace_s = self._restart, self._plan["grace_s"]
        steps = StepCounter(self._path("metrics.jsonl"), limit, restart.offset if restart else 0) if limit else None
        try:
            if restart:
                graces_s = (grace_s, restart.grace_s)
                end = watch_scheduled_job(job, self._canceller, steps, graces_s, restart.tell_interrupted)
                end = restart.judge(end)
            else:
                end = watch_job(job, self._canceller, steps, grace_s)
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
        if self._plan["probe_interpreter"]:
            from .probe import probe_environment

            probed = probe_environment(self._plan, env)
            if probed.document and self._ranks.is_first:
                write_document(self._path("job-environment.json"), probed.document)
            if probed.pythonpath and self._is_command:  # a job of ours redirects its own imports
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
