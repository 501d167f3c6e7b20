"""Many recorded experiments on their way: so many at a time through one launcher, each to its own result.

Knows neither how they were chosen nor who looks on; one that fails, or cannot be started, stops none of the others.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from nemo_gitexp.catalog import Site, document_of, read_current, recorded_document, refresh
from nemo_gitexp.claims import Claim, claim_unfinished
from nemo_gitexp.collect import discard_run
from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.errors import GitexpError, SchedulerError
from nemo_gitexp.execution import (
    ASK_S,
    CANCEL_PATIENCE_S,
    LOOK_S,
    POLL_S,
    Conditions,
    Silence,
    announce,
    cancel_and_wait,
    finish_run,
    require_start,
    start_run,
)
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.moments import iso_now
from nemo_gitexp.rundir import RunPaths
from nemo_gitexp.runs import RunState, inspect_run, leave_cancelled, request_cancel
from nemo_gitexp.scheduled import cancel_waiting, look_at_runs
from nemo_gitexp.store import Experiment, verify_experiment
from nemo_gitexp.submitters import Launcher
from nemo_gitexp.tidy import tidy
from nemo_gitexp.tips import REMOTE_PREFIX, list_tips

WAITING, RUNNING, ELSEWHERE, ENDED = "waiting", "running", "elsewhere", "ended"


@dataclass(slots=True, eq=False)
class Child:
    """One combination of a sweep.

    Args:
        values: what varies, by dotted key.
        document: its experiment as it is known now; of an earlier one where that was run before.
        stage: waiting (claimed by us), running (submitted by us), elsewhere (another process runs it) or ended.
        experiment: what is to be run; None for what others run or ran.
        paths: its reserved run directory.
        conditions: how it is to be run.
        fault: why it could not be started.
        was_known: it had ended before, and counts.
        is_adopted: it was recorded before, by whomever: its commits are checked before it runs.
    """

    values: Mapping[str, JsonValue]
    document: ExperimentDoc
    stage: str
    experiment: Experiment | None = None
    paths: RunPaths | None = None
    conditions: Conditions | None = None
    fault: GitexpError | None = None
    was_known: bool = False
    is_adopted: bool = False

    @property
    def status(self) -> str:
        """How it stands in one word, as `status` would say it; unstarted where it could not be started."""
        if self.fault is not None:
            return "unstarted"
        if self.stage == RUNNING:
            return "running"
        return "waiting" if self.stage == WAITING else self.document["status"]


class Board(Protocol):
    """Whoever looks on; every method is called from one thread."""

    def update(self, children: Sequence[Child], elapsed_s: float) -> None:
        """Take how all stand, many times a second."""

    def ended(self, child: Child, children: Sequence[Child]) -> None:
        """Take one that has just ended."""

    def say(self, line: str) -> None:
        """Take one line about what is being done."""


def child_of(claim: Claim, values: Mapping[str, JsonValue], conditions: Conditions) -> Child:
    """Return the child that a claim makes."""
    if claim.experiment is not None:
        document = recorded_document(claim.experiment, None)
        is_adopted = claim.outcome == "adopted"
        return Child(values, document, WAITING, claim.experiment, claim.paths, conditions, is_adopted=is_adopted)
    if claim.earlier is None:
        raise RuntimeError("a claim is an experiment or an earlier one")
    # One that somebody runs in another clone will end there, and be seen here after a `pull`.
    is_remote = claim.earlier["ref"].startswith(REMOTE_PREFIX)
    if claim.outcome == "duplicate" or is_remote:
        return Child(values, claim.earlier, ENDED, was_known=True)
    return Child(values, claim.earlier, ELSEWHERE, conditions=conditions)


class Sweep:
    """Runs the children of a sweep.

    Args:
        site: where.
        children: all of them, in the order in which they are started.
        launcher: takes the prepared runs.
        width: how many may run at the same time.
        board: who looks on.
    """

    def __init__(self, site: Site, children: Sequence[Child], launcher: Launcher, width: int, board: Board) -> None:
        self._site = site
        self._children = children
        self._by_stage: dict[str, list[Child]] = {stage: [] for stage in (WAITING, RUNNING, ELSEWHERE, ENDED)}
        for child in children:
            self._by_stage[child.stage].append(child)
        self._launcher = launcher
        self._width = max(1, width)
        self._board = board
        self._unannounced: list[tuple[Experiment, RunPaths]] = []
        self._begun = time.monotonic()
        self._next_look = self._begun + LOOK_S

    def run(self) -> bool:
        """Run until all have ended; return whether Ctrl-C came first.

        Interrupted, what runs is cancelled and recorded so, and what waits stays recorded only. A second Ctrl-C leaves
        at once.
        """
        gc.enable()  # it may take weeks
        try:
            self._go_on()
        except KeyboardInterrupt:
            self._stop()
            return True
        except BaseException:
            self._release_waiting()
            raise
        return False

    def _go_on(self) -> None:
        try:
            tidy(self._site)
        except (GitexpError, OSError) as fault:
            self._board.say(f"warning: what killed processes left was not tidied up: {fault}")
        while len(self._by_stage[ENDED]) < len(self._children):
            is_starting = self._start_next()
            if not is_starting:
                self._announce()
            is_busy = self._finish_ended() or is_starting
            self._board.update(self._children, time.monotonic() - self._begun)
            if not is_busy:
                time.sleep(POLL_S)

    def _in(self, stage: str) -> list[Child]:
        return list(self._by_stage[stage])

    def _move(self, child: Child, stage: str) -> None:
        self._by_stage[child.stage].remove(child)
        child.stage = stage
        self._by_stage[stage].append(child)

    def _start_next(self) -> bool:
        """Start the next that waits, if it may run; return whether there was one."""
        waiting, running = self._by_stage[WAITING], self._by_stage[RUNNING]
        if not waiting or len(running) >= self._width:
            return False
        child = waiting[0]
        experiment, paths, conditions = _claimed(child)
        try:
            if child.is_adopted:
                verify_experiment(self._site.repository, experiment)
            start_run(self._site, experiment, paths, conditions, self._launcher, Silence())
        except (GitexpError, OSError) as fault:
            self._give_up(child, fault)
            return True
        self._move(child, RUNNING)
        self._unannounced.append((experiment, paths))
        return True

    def _announce(self) -> None:
        """Tell other clones what has started; of many that start one after the other all at once: it is 20 ms each."""
        if self._unannounced:
            going = [(experiment, paths) for experiment, paths in self._unannounced if not paths.result.exists()]
            announce(self._site, going, self._board)
            self._unannounced.clear()

    def _ask_schedulers(self) -> None:
        """Ask the schedulers that have some of the runs, once for all of them."""
        submitted = [paths for child in self._in(RUNNING) if (paths := child.paths) and paths.submitted.exists()]
        if submitted:
            look_at_runs(submitted, self._warn)
            self._next_look = time.monotonic() + ASK_S

    def _warn(self, text: str) -> None:
        self._board.say(f"warning: {text}")

    def _drop_cancelled(self) -> None:
        """See to those that somebody cancelled while they waited: they never start."""
        for child in self._in(WAITING):
            _, paths, _ = _claimed(child)
            if paths.cancel.exists():
                leave_cancelled(paths)
                self._move(child, RUNNING)  # and has ended

    def _finish_ended(self) -> bool:
        """Record the results of those that have ended; return whether there was one."""
        is_time = time.monotonic() > self._next_look
        if is_time:
            self._next_look = time.monotonic() + LOOK_S
            self._ask_schedulers()
            self._look_elsewhere()
            self._drop_cancelled()
        found = False
        for child in self._in(RUNNING):
            _, paths, _ = _claimed(child)
            if not paths.result.exists() and not is_time:
                continue
            state = inspect_run(paths)
            if state.status in ("finished", "dead", "void"):
                self._finish(child, state)
                found = True
                self._start_next()  # before the next result is recorded: nobody need wait for that
        return found

    def _finish(self, child: Child, state: RunState) -> None:
        experiment, _, _ = _claimed(child)
        try:
            require_start(self._site, state)
            child.document = read_current(self._site, finish_run(self._site, experiment.tip, state)).document
        except (GitexpError, OSError) as fault:
            self._give_up(child, fault)
            return
        self._end(child)

    def _give_up(self, child: Child, fault: GitexpError | OSError) -> None:
        child.fault = fault if isinstance(fault, GitexpError) else GitexpError(str(fault))
        self._end(child)

    def _end(self, child: Child) -> None:
        self._move(child, ENDED)
        self._board.ended(child, self._children)

    def _look_elsewhere(self) -> None:
        """See how those stand that others run; what their process left unfinished is ours to run."""
        others = self._in(ELSEWHERE)
        if not others:
            return
        self._next_look = time.monotonic() + ASK_S  # git and perhaps a scheduler are asked about them
        tips = {str(tip.record): tip for tip in list_tips(self._site.repository, remotes=False)}
        for child in others:
            if child.document["experiment"] not in tips:  # somebody deleted it
                self._end(child)
        others = self._in(ELSEWHERE)
        now, live = refresh(self._site, [tips[child.document["experiment"]] for child in others])
        left = [tip for tip in now if tip.record not in live and tip.status in (None, "lost")]
        claims = {claim.experiment.sha: claim for claim in claim_unfinished(self._site, left) if claim.experiment}
        for child, tip in zip(others, now, strict=True):
            if tip.record in claims:
                claim = claims[tip.record]
                child.experiment, child.paths, child.is_adopted = claim.experiment, claim.paths, True
                self._move(child, WAITING)
            elif tip.status not in (None, "lost"):
                child.document = document_of(self._site, tip)
                self._end(child)

    def _stop(self) -> None:
        """Cancel what runs, leave recorded what waits."""
        self._board.say("cancelling (once more Ctrl-C leaves without waiting)")
        running = self._in(RUNNING)
        for child in running:
            request_cancel(_claimed(child)[1], iso_now())
        self._release_waiting()
        # All of them before any is waited for: patience may end first.
        cancel_waiting([_claimed(child)[1] for child in running], self._warn)
        patience = time.monotonic() + CANCEL_PATIENCE_S
        for child in running:
            _, paths, _ = _claimed(child)
            state = inspect_run(paths)
            if state.status not in ("finished", "dead", "void") and time.monotonic() < patience:
                try:
                    state = cancel_and_wait(paths, Silence())
                except SchedulerError as fault:
                    self._warn(fault.message)
            if state.status in ("finished", "dead"):
                self._finish(child, state)

    def _release_waiting(self) -> None:
        """Give back what was claimed and never started: it stays recorded."""
        for child in self._in(WAITING):
            experiment, paths, _ = _claimed(child)
            if paths.result.exists():  # Ctrl-C came while it was prepared
                self._finish(child, inspect_run(paths))
                continue
            if paths.supervisor.exists():  # or while it was handed over
                self._finish(child, cancel_and_wait(paths, Silence()))
                continue
            discard_run(self._site.repository, paths)
            child.document = recorded_document(experiment, None)


def _claimed(child: Child) -> tuple[Experiment, RunPaths, Conditions]:
    if child.experiment is None or child.paths is None or child.conditions is None:
        raise RuntimeError("this child of a sweep is not ours to run")
    return child.experiment, child.paths, child.conditions
