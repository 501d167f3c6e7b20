"""Answers on stdout, talk on stderr; plain when piped, quiet when asked; a closed pipe stops nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from builder import Work, wait_until
from gated import make_gated

VERBS = ("init", "run", "launch", "reproduce", "status", "logs", "cancel", "collect")
VERBS += ("log", "show", "outputs", "checkout", "diff")


def test_answers_go_to_stdout_and_talk_and_the_jobs_log_to_stderr(work: Work) -> None:
    ran = work.gitexp("run", "--", "python", "train.py")
    assert "lr is 0.1" in ran.err
    assert "recorded " in ran.err
    assert "lr is 0.1" not in ran.out
    assert "completed" in ran.out
    assert "\x1b" not in ran.out + ran.err


def test_quiet_is_silent_but_for_the_answer(work: Work) -> None:
    ran = work.gitexp("run", "-q", "--", "python", "train.py")
    assert ran.err == ""
    assert "completed" in ran.out


def test_json_is_one_document_with_the_schema_first(work: Work) -> None:
    for words in (
        ["run", "--json", "--", "python", "train.py"],
        ["log", "--json"],
        ["status", "--json"],
        ["show", "--json", "latest"],
    ):
        out = work.gitexp(*words).out
        assert out.startswith('{"schema": 1')
        json.loads(out)


@pytest.mark.parametrize(
    "words, code, kind",
    [
        (["run", "--json", "nosuch"], 2, "UnknownStudyError"),
        (["run", "--json"], 2, "UsageError"),
        (["run", "--json", "--no-such-option"], 2, "UsageError"),
        (["--json", "nosuchverb"], 2, "UsageError"),
        (["show", "--json", "nosuch"], 3, "UnknownExperimentError"),
        (["-C", "/", "log", "--json"], 3, "NotARepositoryError"),
        (["cancel", "--json", "nosuch"], 3, "UnknownExperimentError"),
        (["launch", "--json", "nosuch"], 3, "UnknownExperimentError"),
    ],
)
def test_errors_under_json_are_documents_on_stdout(work: Work, words: list[str], code: int, kind: str) -> None:
    answer = work.gitexp(*words, code=code)
    document = answer.json
    assert list(document) == ["schema", "error"]
    assert document["error"]["type"] == kind
    assert document["error"]["message"]
    assert document["error"]["hint"]


def test_errors_in_words_go_to_stderr_with_a_hint(work: Work) -> None:
    answer = work.gitexp("show", "nosuch", code=3)
    assert answer.out == ""
    assert "nosuch" in answer.err
    assert "hint" in answer.err


def test_colour_is_off_when_asked_so_on_a_terminal(work: Work) -> None:
    work.gitexp("run", "--", "python", "train.py")
    for words, env, coloured in (
        (["show", "latest"], {}, True),
        (["--no-color", "show", "latest"], {}, False),
        (["show", "latest", "--no-color"], {}, False),
        (["show", "latest"], {"NO_COLOR": "1"}, False),
        (["show", "latest"], {"TERM": "dumb"}, False),
    ):
        assert ("\x1b[" in on_terminal(work, words, env)) is coloured, (words, env)


def on_terminal(work: Work, words: list[str], env: dict[str, str]) -> str:
    """Return what a command says on a terminal that `script` makes."""
    import os
    import pty

    master, slave = pty.openpty()
    process = subprocess.Popen(
        work.command(*words),
        cwd=work.root,
        env={**work.env, "TERM": "xterm", **env},
        stdout=slave,
        stderr=slave,
        stdin=slave,
    )
    os.close(slave)
    text = b""
    while True:
        try:
            got = os.read(master, 65536)
        except OSError:
            break
        if not got:
            break
        text += got
    os.close(master)
    process.wait(timeout=60)
    return text.decode()


def test_a_reader_that_has_seen_enough_is_no_error(work: Work) -> None:
    work.gitexp("run", "--", "python", "train.py")
    for words in (["log"], ["show", "latest"], ["logs", "latest"], ["log", "--json"]):
        process = work.start(*words)
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
        process.stderr.close()
        assert (process.wait(timeout=60), err) == (0, b""), words


def test_a_run_goes_on_to_its_result_when_nobody_reads_its_talk_any_more(tmp_path: Path) -> None:
    gated = make_gated(tmp_path)
    process = gated.start("--json")
    assert process.stderr is not None
    process.stderr.close()
    gated.open()
    assert process.stdout is not None
    assert json.loads(process.stdout.read())["status"] == "completed"
    process.stdout.close()
    assert process.wait(timeout=60) == 0


def test_a_failed_run_says_so_by_its_exit_code_although_nobody_reads_the_answer(tmp_path: Path) -> None:
    gated = make_gated(tmp_path)
    gated.work.write("gated.py", (gated.work.root / "gated.py").read_text() + "raise SystemExit(5)\n")
    process = gated.start()
    for pipe in (process.stdout, process.stderr):
        assert pipe is not None
        pipe.close()
    gated.open()
    assert process.wait(timeout=60) == 1


def test_python_m_is_the_same_command(work: Work) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nemo_gitexp", "--version"], env=work.env, capture_output=True, check=True
    )
    assert done.stdout.startswith(b"nemo-gitexp ")
    assert done.stdout == work.gitexp("--version").out.encode()
    assert list(work.gitexp("--version", "--json").json) == ["schema", "version"]


@pytest.mark.parametrize(
    "line, expected",
    [
        ("nemo-gitexp sho", "show"),
        ("nemo-gitexp show latest:", "latest:train"),
        ("nemo-gitexp run to", "toy"),
        ("nemo-gitexp run --executor l", "local"),
    ],
)
def test_completion_knows_verbs_studies_experiments_and_executors(work: Work, line: str, expected: str) -> None:
    work.write("experiments/toy/experiment.yaml", "purpose: p\ncommand: python train.py\n")
    work.gitexp("run", "--record-only", "--", "python", "train.py")
    words = line.split()
    env = {"_NEMO_GITEXP_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    work.env.update(env)
    assert expected in work.gitexp(code=None).out.replace("\n", " ").split()


def test_every_verb_has_help_with_an_example(work: Work) -> None:
    listed = work.gitexp("--help").out
    for verb in VERBS:
        assert f" {verb} " in listed
        assert "Example" in work.gitexp(verb, "--help").out, verb


def test_terminal_escapes_of_a_job_do_not_reach_reports(work: Work) -> None:
    work.write("evil.py", "raise ValueError('\\x1b]0;owned\\x07\\x1b[31mred')\n")
    ran = work.gitexp("run", "--", "python", "evil.py", code=1)
    assert "\x1b" not in ran.out
    assert "\x1b" not in work.gitexp("show", "latest").out
    wait_until(lambda: "owned" in work.gitexp("logs", "latest").out)


def test_closed_streams_are_no_bug_and_full_ones_are_no_answer(work: Work) -> None:
    work.gitexp("run", "--", "python", "train.py")

    def shell(words: str) -> int:
        command = ["sh", "-c", f'"$0" {words}', work.command()[0]]
        done = subprocess.run(command, cwd=work.root, env=work.env, stderr=subprocess.PIPE, check=False)
        assert b"Traceback" not in done.stderr
        return done.returncode

    assert shell("log >&- <&-") == 0
    assert shell("show nosuch 2>&-") == 3
    assert shell("log --json <&- >&- 2>&-") == 0
    assert shell("run --again -- python train.py <&- >&- 2>&-") == 0
    if Path("/dev/full").exists():
        assert shell("log > /dev/full") == 3
        assert shell("log --json > /dev/full") == 3
        assert shell("show nosuch > /dev/full 2>&1") == 3


def test_a_study_where_an_experiment_is_asked_for_is_answered_with_its_latest(work: Work) -> None:
    work.gitexp("run", "--record-only", "--", "python", "train.py")
    assert work.gitexp("show", "--json", "train", code=3).json["error"]["nearest"] == "latest:train"


def test_a_reproduction_of_what_never_ran_says_that_nothing_was_recorded(work: Work) -> None:
    work.gitexp("run", "--record-only", "--", "python", "train.py")
    said = work.gitexp("reproduce", "latest", code=1).out
    assert "metrics not reached: the experiment has no recorded metrics to compare with" in said


def test_a_command_without_the_dashes_is_shown_with_them(work: Work) -> None:
    assert (
        work.gitexp("run", "--json", "python", "train.py", code=2)
        .json["error"]["hint"]
        .startswith("nemo-gitexp run -- python")
    )


def test_a_path_of_a_study_is_answered_with_its_name(work: Work) -> None:
    work.gitexp("init", "--study", "s9")
    for typed in ("experiments/s9", "s9/experiment.yaml", "./experiments/s9/experiment.yaml"):
        assert work.gitexp("run", typed, "--json", code=2).json["error"]["hint"] == "nemo-gitexp run s9"


def test_nothing_typed_is_answered_with_the_help(work: Work) -> None:
    bare = work.gitexp(code=2)
    assert bare.out == work.gitexp("--help").out
    assert bare.err == ""


def test_places_are_named_without_detours(work: Work, tmp_path: Path) -> None:
    work.write("deep/x", "")
    ran = work.gitexp("run", "--json", "--", "python", "train.py").json
    answer = work.gitexp("checkout", ran["experiment"], "../../there", "--json", cwd=work.root / "deep").json
    assert answer["directory"] == str(work.root.parent / "there")
    got = work.gitexp("outputs", "latest", "--get", "../../got", "--json", cwd=work.root / "deep").json
    assert got["written"] == [str(work.root.parent / "got/weights.txt")]


def test_names_of_outputs_cannot_command_a_terminal(work: Work) -> None:
    work.write("odd.py", "import os\nopen(os.environ['GITEXP_OUTPUTS'] + '/a\\x1b[31mred\\nb', 'w').write('1')\n")
    work.gitexp("run", "--", "python", "odd.py")
    (line,) = work.gitexp("outputs", "latest").out.splitlines()
    assert line.isprintable()
