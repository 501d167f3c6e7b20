"""Reports: what a reader sees, at 80 columns, with and without colours, whatever the documents hold."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
from sample_documents import SHA_A, SHA_B, environment, experiment, output

from nemo_gitexp.comparison import compare_experiments
from nemo_gitexp.drift import compare_environments
from nemo_gitexp.errors import SnapshotRefusedError, UsageError
from nemo_gitexp.report.diff import MARKDOWN_LIMIT, render_diff, render_diff_html, render_diff_markdown
from nemo_gitexp.report.error import error_document, render_error
from nemo_gitexp.report.experiment import render_experiment, render_run_summary, render_status
from nemo_gitexp.report.log import default_columns, render_log, render_log_csv
from nemo_gitexp.report.terminal import Style
from nemo_gitexp.report.verdict import cost_words, render_verdict
from nemo_gitexp.topology import count_devices
from nemo_gitexp.verdict import Circumstances, MetricRules, RunOutcome, judge

PLAIN = Style(color=False, width=80)
COLOURED = Style(color=True, width=80)
EVIL = "\x1b]0;owned\x07\x1b[2J<script>alert(1)</script> | `x` @team \u202e\nsecond"

FAILED = experiment(
    experiment=SHA_B,
    status="failed",
    metrics={},
    metric_stats={},
    outputs=[],
    duration_s=0.4,
    error={"type": "ValueError", "message": "no", "exit_code": 1, "signal": None, "log_tail": ["epoch 1", " 1%\r 9%"]},
)
HOSTILE = experiment(
    purpose=EVIL,
    expected=EVIL,
    name=EVIL,
    study=EVIL,
    ref=EVIL,
    branch=EVIL,
    status=EVIL,
    executor=EVIL,
    jobs=[EVIL],
    links=[{"tracker": EVIL, "run": EVIL, "name": EVIL, "project": EVIL, "url": EVIL, "path": EVIL}],
    started=EVIL,
    progress={"at": EVIL, "age_s": 1.0, "step": 1, "metrics": {EVIL: EVIL}, "elsewhere": True},
    config={EVIL: EVIL, "list": [EVIL]},
    metrics={EVIL: 1.0, "m": EVIL},
    metric_stats={EVIL: {"last": EVIL, "min": 0, "max": 1, "n": 1}},
    topology={EVIL: EVIL},
    inputs=[{"path": EVIL, "pin": EVIL, "strength": EVIL, "size_bytes": 1}],
    outputs=[output(EVIL, sha256=EVIL), output("x", digest=EVIL)],
    tasks=[{"name": EVIL, "status": EVIL}, {"name": EVIL, "status": "failed"}],
    error={"type": EVIL, "message": EVIL, "exit_code": 1, "signal": None, "log_tail": [EVIL]},
    reproductions={"best": EVIL, "count": 2},
    code={"commit": EVIL, "tree": EVIL, "key": EVIL, "base": EVIL, "dirty": True, "untracked": [EVIL]},
)
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


def changed_experiment():
    return experiment(
        experiment=SHA_B,
        config={"hidden": 64, "lr": 0.05, "clip": 1.0, "optimizer": {"name": "adam"}},
        metrics={"accuracy": 0.97, "loss": 0.18},
        outputs=[output(sha256="22" * 32)],
    )


def difference(a, b, **changes):
    arguments = {
        "code_files": [{"path": "train.py", "change": "M", "insertions": 3, "deletions": 1}],
        "environment_a": environment(),
        "environment_b": environment(torch="2.12.1"),
        "goals": {"accuracy": "max", "loss": "min"},
    }
    return compare_experiments(a, b, **{**arguments, **changes})


def verdict(got, *, required="metrics", metrics=({"step": 0, "loss": 0.5},), tolerances=None, steps=None):
    name, drift = compare_environments(environment(), environment(torch="2.12.1", rich="15"), ["rich"])
    return judge(
        RunOutcome("completed", 0, metrics, (output(),)),
        got,
        experiment=SHA_A,
        required=required,
        rules=MetricRules(tolerances or {}),
        circumstances=Circumstances(name, drift, "content"),
        steps=steps,
    )


def all_reports(style: Style) -> dict[str, str]:
    a, b = experiment(), changed_experiment()
    rows = [{"step": step, "loss": 1 / (step + 1), "accuracy": 0.5} for step in range(40)]
    missed = verdict(RunOutcome("completed", 0, ({"step": 0, "loss": 0.7},), (output(),)))
    return {
        "show": render_experiment(a, style=style, rows=rows),
        "show failed": render_experiment(FAILED, style=style),
        "summary": render_run_summary(FAILED, style=style),
        "status": render_status([a, FAILED, experiment(status="running", jobs=["123"])], style=style),
        "log": render_log([a, FAILED], style=style),
        "diff": render_diff(difference(a, b), a, b, style=style),
        "diff all": render_diff(difference(a, b), a, b, show_all=True, style=style),
        "verdict": render_verdict(missed, style=style),
        "error": render_error(SnapshotRefusedError("two files", hint="git rm", paths=["a", "b"]), style=style),
    }


@pytest.mark.parametrize("name", list(all_reports(PLAIN)))
def test_reports_fit_80_columns_and_colours_only_add_colour(name):
    plain, coloured = all_reports(PLAIN)[name], all_reports(COLOURED)[name]
    assert max(len(line) for line in plain.splitlines()) <= 80
    assert not re.search(r"[ \t]$", plain, re.MULTILINE)
    assert plain.endswith("\n")
    assert "\x1b" not in plain
    assert "\x1b" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


def test_nothing_a_record_holds_reaches_the_terminal_as_a_command():
    drift = ({"kind": EVIL, "name": EVIL, "recorded": EVIL, "here": None},)
    outcome = RunOutcome("completed", 0, ({"step": 0, EVIL: 1.0},), (output(EVIL, sha256=EVIL),))
    hostile_verdict = judge(
        outcome,
        outcome,
        experiment=EVIL,
        required="metrics",
        rules=MetricRules({}),
        circumstances=Circumstances("drifted", drift, "content"),
    )
    files = [{"path": EVIL, "change": "M", "insertions": None, "deletions": None}]
    hostile_diff = difference(
        experiment(), HOSTILE, code_files=files, environment_b={**environment(), "packages": {EVIL: EVIL}}
    )
    for text in (
        render_experiment(HOSTILE, style=PLAIN),
        render_run_summary(HOSTILE, style=PLAIN),
        render_run_summary(experiment(duplicate_of=SHA_B, name=EVIL), style=PLAIN),
        render_status([HOSTILE], style=PLAIN),
        render_log([HOSTILE], style=PLAIN),
        render_log([HOSTILE], ["purpose", "config.list", "metrics", "started"], style=PLAIN),
        render_diff(hostile_diff, experiment(), HOSTILE, show_all=True, style=PLAIN),
        render_diff_markdown(hostile_diff, experiment(), HOSTILE),
        render_diff_html(hostile_diff, experiment(), HOSTILE),
        render_verdict(hostile_verdict, style=PLAIN),
        render_error(UsageError(EVIL, hint=EVIL, paths=[EVIL + "2"]), style=PLAIN),
    ):
        assert not CONTROL.search(text)


def test_show_ends_with_commands_to_copy():
    text = render_experiment(experiment(), style=PLAIN)
    assert text.endswith(
        "Next\n"
        "  reproduce  nemo-gitexp reproduce a1b2c3d4e5f6\n"
        "  compare    nemo-gitexp diff a1b2c3d4e5f6\n"
        "  review     git log -p --reverse b0b0b0b0b0b0..f0f0f0f0f0f0\n"
        "  files      nemo-gitexp outputs a1b2c3d4e5f6 --get DIR\n"
    )


@pytest.mark.parametrize(
    "changes, words",
    [
        ({}, "reproduce: nemo-gitexp reproduce a1b2c3d4e5f6"),
        ({"status": "running"}, "follow: nemo-gitexp logs a1b2c3d4e5f6 -f"),
        ({"status": "recorded", "result": None, "duration_s": None}, "run it: nemo-gitexp launch a1b2c3d4e5f6"),
        ({"status": "failed"}, "whole log: nemo-gitexp logs a1b2c3d4e5f6"),
        ({"duplicate_of": SHA_A}, "run it once more: add --again"),
        ({"duplicate_of": SHA_A, "status": "running"}, "this experiment is running already"),
    ],
)
def test_a_run_ends_with_what_to_type_next(changes, words):
    assert words in render_run_summary(experiment(**changes), style=PLAIN)


def test_a_failure_shows_its_error_and_the_end_of_its_log():
    text = render_run_summary(FAILED, style=PLAIN)
    assert "Error  exit code 1\n  ValueError: no\n  | epoch 1\n  |  9%\n" in text


def test_a_signal_is_named():
    error = {"type": "SignalError", "message": "killed by SIGKILL", "exit_code": None, "signal": 9, "log_tail": []}
    assert "killed by signal 9" in render_experiment(experiment(error=error), style=PLAIN)


def test_the_diff_reads_summary_first_then_a_line_a_change():
    a, b = experiment(), changed_experiment()
    assert render_diff(difference(a, b), a, b, style=PLAIN) == (
        "a  a1b2c3d4 digits/20250101_120000_mlp_digits_training_v1a2b3c4d\n"
        "b  e4f5a6b7 digits/20250101_120000_mlp_digits_training_v1a2b3c4d\n"
        "\n"
        "3 config keys, 1 code file (+3 -1), 1 package; 1 metric differs, 1 output\n"
        "differs\n"
        "+ only in b   - only in a   ~ differs   a -> b\n"
        "\n"
        "Metrics  one run on each side: a difference may be chance\n"
        "     metric       a     b  b - a\n"
        "  ~  accuracy  0.95  0.97  +0.02  b is better\n"
        "     loss      0.18  0.18   same\n"
        "\n"
        "Config\n"
        "  +  clip             1.0\n"
        "  ~  lr               0.1 -> 0.05\n"
        "  -  optimizer.betas  [0.9,0.999]\n"
        "\n"
        "Code\n"
        "  ~  train.py    +3 -1\n"
        "\n"
        "Environment\n"
        "  ~  torch  2.13.0 -> 2.12.1\n"
        "\n"
        "Outputs\n"
        "  ~  model.pt  111111111111 -> 222222222222  12.3 kB\n"
    )


def test_no_difference_is_said_in_one_line():
    same = difference(experiment(), experiment(), code_files=[], environment_b=environment())
    text = render_diff(same, experiment(), experiment(), style=PLAIN)
    assert text.splitlines()[-1] == "same config, seed, code, data and environment; same results"


def test_an_environment_key_without_contents_is_reported_as_such():
    b = experiment(environment_key=None)
    text = render_diff(difference(experiment(), b, environment_b={}), experiment(), b, style=PLAIN)
    assert "contents not known on both sides" in text


def test_markdown_cells_cannot_break_the_table():
    b = experiment(config={"a|b": "x`|`y", "hidden": 64})
    text = render_diff_markdown(difference(experiment(), b), experiment(), b)
    line = next(line for line in text.splitlines() if "a\\|b" in line)
    assert line == '| + | `a\\|b` |  | `` "x`\\|`y" `` |  |'
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 6 for row in text.splitlines() if row.startswith("|"))


def test_markdown_stays_below_the_limit_of_a_comment():
    config = {f"key{number:05}": "v" * 300 for number in range(5000)}
    b = experiment(config=config)
    text = render_diff_markdown(difference(experiment(), b), experiment(), b)
    assert len(text) <= MARKDOWN_LIMIT
    assert re.search(r"… and 4,?9\d\d more|… and \d+ more", text)


def test_html_is_self_contained_escaped_and_the_same_every_time():
    b = experiment(config={"<script>alert(1)</script>": "&"})
    page = render_diff_html(difference(experiment(), b), experiment(), b)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"(src|href)=|https?:|@import|url\(", page)
    assert page == render_diff_html(difference(experiment(), b), experiment(), b)


@pytest.mark.parametrize(
    "got, arguments, words",
    [
        (RunOutcome("completed", 0, ({"step": 0, "loss": 0.5},), (output(),)), {}, "bitwise: matched on 1 re-run\n"),
        (None, {"required": "restored"}, "restored: the state is proven equal, nothing was run\n"),
        (RunOutcome("failed", 1), {}, "restored, metrics not reached: the run did not finish well"),
        (RunOutcome("completed", 0, (), (output(),)), {}, "executed, metrics not reached: it ran to its end, but"),
        (
            RunOutcome("completed", 0, ({"step": 1, "loss": 0.5},), (output(),)),
            {},
            "its metric stream does not start at the recorded first step",
        ),
        (RunOutcome("completed", 0), {"metrics": ()}, "executed, metrics not reached: its outputs differ"),
        (
            RunOutcome("completed", 0, ({"step": 0, "loss": 0.5},), (output(sha256="22" * 32),)),
            {"required": "bitwise"},
            "metrics, bitwise not reached: the metrics are within the tolerances, but",
        ),
        (RunOutcome("stopped", None, ({"step": 0, "loss": 0.5},)), {"steps": 1}, "bitwise[0-1]: matched on 1 re-run\n"),
        (
            RunOutcome("stopped", None, ({"step": 0, "loss": 0.7},)),
            {"steps": 1, "required": "executed"},
            "executed[0-1]: ran as far as it was asked to\n",
        ),
        (
            RunOutcome("stopped", None, ({"step": 0, "loss": 0.7},)),
            {"steps": 1},
            "executed[0-1], metrics not reached: it ran as far as it was asked to, but its metrics",
        ),
    ],
)
def test_the_verdict_says_what_was_reached_or_missed(got, arguments, words):
    text = render_verdict(verdict(got, **arguments), style=Style(width=200))
    assert words.strip() in text.splitlines()[0]
    assert "reproducible" not in text


def test_a_missed_verdict_names_the_step_and_the_ranked_drift():
    text = render_verdict(verdict(RunOutcome("completed", 0, ({"step": 0, "loss": 0.7},), (output(),))), style=PLAIN)
    assert "The metric streams first differ in loss, at step 0\n" in text
    assert "  numerics  torch  2.13.0 -> 2.12.1\n  loaded    rich   13.9.4 -> 15\n" in text


def test_the_number_of_re_runs_is_said():
    document = verdict(RunOutcome("completed", 0, ({"step": 0, "loss": 0.5},), (output(),)))
    assert "matched on 3 re-runs" in render_verdict(document, style=PLAIN, runs=3)
    assert "bitwise (best of 3 re-runs)" in render_experiment(
        experiment(reproductions={"best": "bitwise", "count": 3}), style=PLAIN
    )


def test_the_log_shows_the_metrics_most_experiments_have():
    documents = [experiment(metrics={"a": 1.0, "z": 1.0}), experiment(metrics={"z": 2.0, "val/f.1": 3.0}), FAILED]
    assert default_columns(documents)[-3:] == ("metrics.`a`", "metrics.`z`", "duration_s")
    text = render_log(documents, ["experiment", "metrics.`val/f.1`", "lr", "config.optimizer", "missing"], style=PLAIN)
    assert text.splitlines()[0].split() == ["experiment", "val/f.1", "lr", "optimizer", "missing"]
    assert text.splitlines()[1].split()[::4] == ["a1b2c3d4", "-"]
    assert text.splitlines()[2].split()[:3] == ["a1b2c3d4", "3", "0.1"]


def test_an_empty_log_says_so():
    assert render_log([], style=PLAIN) == "no experiments here\n"
    assert render_status([], style=PLAIN) == "no experiments here\n"


def test_csv_holds_full_values_and_reads_back():
    document = experiment(name='a,"b"', metrics={"loss": 0.1234567890123, "f.1": "NaN"})
    table = list(csv.DictReader(io.StringIO(render_log_csv([document, FAILED]))))
    assert table[0]["experiment"] == SHA_A
    assert table[0]["name"] == 'a,"b"'
    assert table[0]["metrics.loss"] == "0.1234567890123"
    assert table[0]["metrics.f.1"] == "NaN"
    assert json.loads(table[0]["config.optimizer"]) == {"name": "adam", "betas": [0.9, 0.999]}
    assert table[1]["metrics.loss"] == ""
    assert render_log_csv([document], ["name", "lr"]).splitlines()[0] == "name,lr"


def test_an_error_names_its_facts_once_and_ends_with_the_hint():
    error = SnapshotRefusedError(
        "a looks like a secret", hint="add it to .gitignore", paths=["a", *"bcdefghijklmnopqrstuvwxyz"]
    )
    lines = render_error(error, style=PLAIN).splitlines()
    assert lines[0] == "error: a looks like a secret"
    assert "  a" not in lines
    assert lines[-2].endswith("more")
    assert lines[-1] == "hint: add it to .gitignore"


def test_an_error_document_is_json_whatever_the_facts(tmp_path):
    document = error_document(UsageError("no", hint="yes", path=tmp_path, names={"b", "a"}, type="shadowed", n=1))
    assert json.loads(json.dumps(document)) == {
        "schema": 1,
        "error": {
            "type": "UsageError",
            "message": "no",
            "hint": "yes",
            "path": str(tmp_path),
            "names": ["a", "b"],
            "n": 1,
        },
    }


def test_what_a_run_cost_is_counted_by_nodes_and_their_devices():
    shaped = {"nodes": 2, "tasks_per_node": 4, "devices": 8}
    assert cost_words(experiment(duration_s=3600.0, topology=shaped)) == "1 h on 2 nodes with 8 devices each"
    assert (
        cost_words(experiment(duration_s=90.0, topology={"nodes": 1, "tasks_per_node": 4})) == "1 min 30 s on 4 devices"
    )
    assert count_devices({"nodes": None, "tasks_per_node": None, "devices": None}) == (1, 1)
    assert count_devices({**shaped, "devices": 0}) == (2, 4)


def test_what_another_machine_said_of_a_run_has_its_age():
    progress = {"at": "2026-01-01T00:00:00Z", "age_s": 180.0, "step": 7, "metrics": {"loss": 0.5}, "elsewhere": True}
    running = experiment(status="running", progress=progress)
    assert "running 3 min ago" in render_log([running], style=Style(width=200))
    assert "step 7  loss 0.5" in render_status([running, experiment()], style=Style(width=200))
    assert "progress" not in render_status([experiment()], style=Style(width=200))
    here = experiment(status="running", progress={**progress, "elsewhere": False})
    assert "ago" not in render_log([here], style=Style(width=200))
