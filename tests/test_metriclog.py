"""What a program logs is a line of the stream at once, from its first rank alone; outside a run it is nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nemo_gitexp import log_metrics, metriclog
from nemo_gitexp.errors import MetricValueError, StateDirectoryError
from nemo_gitexp.metriclog import Discard, MetricLog, enter, leave
from nemo_gitexp.metrics import parse_metric_lines


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in ("RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GITEXP_METRICS", str(tmp_path / "metrics.jsonl"))
    yield tmp_path / "metrics.jsonl"
    if metriclog._STREAM is not None:  # it stays open as long as a process does
        metriclog._STREAM.close()
        metriclog._STREAM = None


def test_numbers_and_steps_of_any_library_are_lines_of_the_stream(stream: Path) -> None:
    log_metrics({"loss": np.float32(0.5), "seen": np.int64(3)}, step=np.int64(7))  # type: ignore[arg-type,dict-item]
    log_metrics({"loss": float("nan")}, step=8)
    log_metrics({"accuracy": 1})
    rows, bad = parse_metric_lines(stream.read_bytes())
    assert bad == 0
    assert rows == (
        {"step": 7, "loss": 0.5, "seen": 3.0},
        {"step": 8, "loss": "NaN"},
        {"step": None, "accuracy": 1},
    )


NO_NUMBERS = [
    ({"loss": "low"}, 1, "loss"),
    ({"loss": True}, 1, "loss"),
    ({"good": 1.0, "loss": np.zeros(2)}, 1, "loss"),
    ({"loss": None}, 1, "loss"),
    ({3: 1.0}, 1, "3"),
    ({"loss": 0.5}, "one", "step"),
    ([("loss", 0.5)], 1, ""),
]


@pytest.mark.parametrize("metrics, step, key", NO_NUMBERS)
def test_what_is_no_number_is_refused_and_leaves_no_line(stream: Path, metrics: dict, step: object, key: str) -> None:
    with pytest.raises(MetricValueError) as caught:
        log_metrics(metrics, step=step)  # type: ignore[arg-type]
    assert isinstance(caught.value, TypeError)
    assert caught.value.facts["key"] == key
    assert not stream.exists() or stream.read_bytes() == b""
    with pytest.raises(MetricValueError):
        Discard().log(metrics, step=step)  # type: ignore[arg-type]


def test_only_the_first_rank_writes(stream: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    log_metrics({"loss": 0.5}, step=1)
    assert not stream.exists()


FORKING = """\
import os, nemo_gitexp
nemo_gitexp.log_metrics({"loss": 0.5}, step=1)
if os.fork() == 0:
    nemo_gitexp.log_metrics({"loss": 0.25}, step=2)
    os._exit(0)
os.wait()
nemo_gitexp.log_metrics({"loss": 0.125}, step=3)
"""


def test_a_forked_process_adds_lines_of_its_own(stream: Path) -> None:
    subprocess.run([sys.executable, "-c", FORKING], check=True)
    assert [row["step"] for row in parse_metric_lines(stream.read_bytes())[0]] == [1, 2, 3]


def test_outside_a_run_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITEXP_METRICS", raising=False)
    log_metrics({"loss": 0.5}, step=1)


def test_what_was_entered_last_takes_the_metrics_of_this_process(stream: Path, tmp_path: Path) -> None:
    outer, inner = MetricLog(str(tmp_path / "outer")), MetricLog(str(tmp_path / "inner"), "b/")
    for log in (outer, inner):
        enter(log)
    log_metrics({"loss": 1.0}, step=1)
    leave(inner)
    log_metrics({"loss": 2.0}, step=1)
    leave(outer)
    log_metrics({"loss": 3.0}, step=1)
    for log in (outer, inner):
        log.close()
    found = [parse_metric_lines(path.read_bytes())[0] for path in (tmp_path / "inner", tmp_path / "outer", stream)]
    assert found == [({"step": 1, "b/loss": 1.0},), ({"step": 1, "loss": 2.0},), ({"step": 1, "loss": 3.0},)]
    assert inner.latest == {"loss": 1.0}


def test_threads_write_whole_lines(tmp_path: Path) -> None:
    log = MetricLog(str(tmp_path / "metrics.jsonl"))
    threads = [
        threading.Thread(target=lambda: [log.log({"a": 0.5, "b": 1.5}, step=step) for step in range(500)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    lines = (tmp_path / "metrics.jsonl").read_bytes().splitlines()
    assert len(lines) == 2000
    assert all(set(json.loads(line)) == {"a", "b", "step"} for line in lines)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_said_by_type_and_place() -> None:
    log = MetricLog("/dev/full")
    with pytest.raises(StateDirectoryError) as caught:
        log.log({"a": 0.5}, step=1)
    log.close()
    assert caught.value.facts["path"] == "/dev"


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(StateDirectoryError):
        MetricLog(str(tmp_path / "no" / "metrics.jsonl"))
