"""Slurm's words as its commands print them; the commands themselves run in tests/slurm."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from nemo_gitexp.errors import SchedulerError
from nemo_gitexp.processes import Completed
from nemo_gitexp.scheduler import FORGOTTEN, JobWord, ask_slurm, cancel_jobs


class Cluster:
    """Answers like the commands of a cluster and keeps what was asked."""

    def __init__(self, **answers: Completed) -> None:
        self.answers = answers
        self.asked: list[Sequence[str]] = []

    def __call__(self, argv: Sequence[str]) -> Completed:
        self.asked.append(argv)
        if argv[0] not in self.answers:
            raise SchedulerError(f"{argv[0]} cannot be run")
        return self.answers[argv[0]]


def said(text: str, code: int = 0, error: str = "") -> Completed:
    return Completed(code, text.encode(), error.encode())


def test_one_question_is_asked_for_all_jobs_and_wait_statuses_are_read() -> None:
    lines = ["1|PENDING|0|Resources|", "2|RUNNING|0|None|", "3|FAILED|1792|NonZeroExitCode|", "4|FAILED|9|None|"]
    cluster = Cluster(squeue=said("\n".join([*lines, "5|COMPLETING|0|None|", "6|TIMEOUT|15|TimeLimit|"])))
    words = ask_slurm(cluster, ["1", "2", "3", "4", "5", "6"])
    assert len(cluster.asked) == 1
    assert words == {
        "1": JobWord("PENDING", reason="Resources"),
        "2": JobWord("RUNNING"),
        "3": JobWord("FAILED", 7, None, "NonZeroExitCode"),
        "4": JobWord("FAILED", None, 9),
        "5": JobWord("COMPLETING"),
        "6": JobWord("TIMEOUT", None, 15, "TimeLimit"),
    }
    assert [job for job, word in words.items() if word.is_final] == ["3", "4", "6"]


def test_accounting_is_asked_for_what_the_queue_has_forgotten() -> None:
    cluster = Cluster(
        squeue=said("8|RUNNING|0|None|"), sacct=said("7|CANCELLED by 1000|0:15\n9|FAILED|3:0\n9.batch|FAILED|3:0\n")
    )
    words = ask_slurm(cluster, ["7", "8", "9"])
    assert cluster.asked[1][:4] == ["sacct", "-nPX", "-j", "7,9"]
    assert words["7"] == JobWord("CANCELLED", 0, 15)
    assert words["9"] == JobWord("FAILED", 3, None)


@pytest.mark.parametrize(
    "answers",
    [
        {"squeue": said("", 1, "slurm_load_jobs error: Invalid job id specified")},
        {
            "squeue": said("", 1, "slurm_load_jobs error: Invalid job id specified"),
            "sacct": said("", 1, "Slurm accounting storage is disabled"),
        },
    ],
    ids=["no sacct", "no accounting"],
)
def test_a_job_that_nobody_knows_any_more_is_forgotten_and_has_ended(answers: dict[str, Completed]) -> None:
    (word,) = ask_slurm(Cluster(**answers), ["7"]).values()
    assert (word.state, word.is_final) == (FORGOTTEN, True)


def test_a_scheduler_that_does_not_answer_says_nothing_about_its_jobs() -> None:
    down = said("", 1, "slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    with pytest.raises(SchedulerError, match=r"squeue does not answer: .*connect failure"):
        ask_slurm(Cluster(squeue=down, sacct=said("7|FAILED|1:0")), ["7"])


def test_many_ids_are_asked_for_in_parts() -> None:
    ids = [str(number) for number in range(1, 1202)]
    cluster = Cluster(squeue=said("\n".join(f"{job}|RUNNING|0|None|" for job in ids)))
    assert len(ask_slurm(cluster, ids)) == 1201
    assert len(cluster.asked) == 3


def test_many_jobs_are_cancelled_in_parts_and_one_that_fails_keeps_none_of_the_others() -> None:
    ids = [str(number) for number in range(1, 1202)]
    cluster = Cluster(scancel=said(""))
    cancel_jobs(cluster, ids)
    assert [job for argv in cluster.asked for job in argv[1:]] == ids
    assert len(cluster.asked) == 3  # one argument of ssh holds 128 KiB
    denied = Cluster(scancel=said("", 1, "Access/permission denied"))
    with pytest.raises(SchedulerError, match="denied"):
        cancel_jobs(denied, ids)
    assert [job for argv in denied.asked for job in argv[1:]] == ids


def test_cancelling_names_the_jobs_and_what_has_ended_already_is_no_error() -> None:
    cluster = Cluster(scancel=said("", 1, "scancel: error: Kill job error on job id 7: Invalid job id specified"))
    cancel_jobs(cluster, ["7", "8"], waiting_only=True)
    cancel_jobs(cluster, [])
    assert cluster.asked == [["scancel", "--state=PENDING", "7", "8"]]
    with pytest.raises(SchedulerError, match=r"scancel does not answer: .*denied"):
        cancel_jobs(Cluster(scancel=said("", 1, "Access/permission denied")), ["7"])
