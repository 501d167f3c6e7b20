"""What a job logs is a line of the stream at once, from its first rank alone; outside a run it is nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nemo_gitexp import log_metrics
from nemo_gitexp.metrics import parse_metric_lines


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GITEXP_METRICS", str(tmp_path / "metrics.jsonl"))
    return tmp_path / "metrics.jsonl"


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


@pytest.mark.parametrize("metrics, step", [({"loss": "low"}, 1), ({"loss": True}, 1), ({"loss": 0.5}, "one")])
def test_what_is_no_number_is_refused_and_leaves_no_line(stream: Path, metrics: dict, step: object) -> None:
    with pytest.raises(TypeError):
        log_metrics(metrics, step=step)  # type: ignore[arg-type]
    assert not stream.exists() or stream.read_bytes() == b""


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
