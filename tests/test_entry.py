"""Entry points and placeholders."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_gitexp.entry import (
    CodeEntry,
    CommandEntry,
    FunctionEntry,
    InteractiveEntry,
    ModuleEntry,
    NotebookEntry,
    Python,
    ScriptEntry,
    expand_placeholders,
    parse_command,
    parse_entry,
    reads_program_from_stdin,
    require_repeatable,
    split_command_line,
)
from nemo_gitexp.errors import DefinitionError, NotRepeatableError, RecordError

PYTHON_CALLS = [
    ("python train.py --lr 0.1", ScriptEntry("train.py", ("--lr", "0.1"))),
    ("python3 -u train.py", ScriptEntry("train.py", (), Python("python3", ("-u",)))),
    ("python3.13t x/train.py -u", ScriptEntry("x/train.py", ("-u",), Python("python3.13t"))),
    ("/opt/env/bin/python3.11 train.py", ScriptEntry("train.py", (), Python("/opt/env/bin/python3.11"))),
    ("pypy3.10 train.py", ScriptEntry("train.py", (), Python("pypy3.10"))),
    ("python -OO -X dev -W a x.py", ScriptEntry("x.py", (), Python("python", ("-OO", "-X", "dev", "-W", "a")))),
    ("python -Xdev -Werror train.py", ScriptEntry("train.py", (), Python("python", ("-X", "dev", "-W", "error")))),
    ("python -uBX dev train.py", ScriptEntry("train.py", (), Python("python", ("-uB", "-X", "dev")))),
    ("python -I -s -S -E -P a", ScriptEntry("a", (), Python("python", ("-I", "-s", "-S", "-E", "-P")))),
    ("python -b -d -q -v a", ScriptEntry("a", (), Python("python", ("-b", "-d", "-q", "-v")))),
    ("python -m pkg.train --lr 1", ModuleEntry("pkg.train", ("--lr", "1"))),
    ("python -mpkg -m x", ModuleEntry("pkg", ("-m", "x"))),
    ("python -um pkg", ModuleEntry("pkg", (), Python("python", ("-u",)))),
    ("python -c 'print(1)' a -c", CodeEntry("print(1)", ("a", "-c"))),
    ("python -c ''", CodeEntry("")),
]


@pytest.mark.parametrize("line,entry", PYTHON_CALLS)
def test_a_python_call_is_recognised_with_its_options(line, entry):
    assert parse_command(shlex.split(line)) == entry
    assert not entry.wrapped


@pytest.mark.parametrize(
    "line",
    [
        "python",
        "python -",
        "python -i train.py",
        "python -x train.py",
        "python --version",
        "python -V",
        "python -m",
        "python -X",
        "python -Z train.py",
        "python-config --libs",
        "bash train.sh",
        "./train",
        "uv run python train.py",
        "torchrun --nproc-per-node 2 train.py --lr 0.1",
        "env A=1 python train.py",
    ],
)
def test_anything_else_is_a_command_whose_interpreter_is_unknown(line):
    entry = parse_command(shlex.split(line))
    assert entry == CommandEntry(tuple(shlex.split(line)))
    assert entry.wrapped


@pytest.mark.parametrize(
    "line,stem,arguments",
    [
        ("python experiments/digits/train.py --lr 1", "train", "--lr 1"),
        ("python tools/fit", "fit", ""),
        ("python pkg/__main__.py a", "pkg", "a"),
        ("python __main__.py", "__main__", ""),
        ("python pkg/ a", "pkg", "a"),
        ("python -m pkg.sub.train a", "train", "a"),
        ("python -m pkg.__main__", "pkg", ""),
        ("python -m pkg", "pkg", ""),
        ("python -c 1 a", "code", "a"),
        ("bash scripts/go.sh 1 2", "go", "1 2"),
        ("torchrun --nproc-per-node 2 train.py --lr 0.1", "train", "--lr 0.1"),
        ("torchrun --nproc-per-node 2 -m pkg.fit --lr 0.1", "fit", "--lr 0.1"),
        ("torchrun -m pkg.fit --config other.py", "fit", "--config other.py"),
        ("torchrun train.py -m big", "train", "-m big"),
        ("make -m x", "make", "-m x"),
        ("uv run python -u -m pkg.fit --lr 1", "fit", "--lr 1"),
        ("env A=1 /usr/bin/python3 train.py x", "train", "x"),
        ("./train --lr 0.1", "train", "--lr 0.1"),
        ("python -", "python", "-"),
    ],
)
def test_the_study_is_named_after_the_script_and_its_arguments_are_known(line, stem, arguments):
    entry = parse_command(shlex.split(line))
    assert entry.study_stem == stem
    assert entry.arguments == tuple(shlex.split(arguments))


def test_a_function_is_named_after_its_module():
    assert FunctionEntry("pkg.train:main").study_stem == "train"
    assert FunctionEntry("pkg.train:main").arguments == ()


@pytest.mark.parametrize(
    "entry",
    [entry for _, entry in PYTHON_CALLS]
    + [CommandEntry(("bash", "x.sh")), FunctionEntry("a:b", Python("python3", ("-u",)))],
)
def test_an_entry_survives_json(entry):
    assert parse_entry(json.loads(json.dumps(entry.to_json()))) == entry


def test_the_json_form_of_a_script_is_what_the_worker_reads():
    document = parse_command(["python", "-u", "train.py", "--lr", "0.1"]).to_json()
    assert document == {
        "kind": "script",
        "path": "train.py",
        "args": ["--lr", "0.1"],
        "interpreter": "python",
        "interpreter_flags": ["-u"],
    }


@pytest.mark.parametrize(
    "document",
    [
        None,
        {},
        {"kind": "wasm", "interpreter": "p", "interpreter_flags": []},
        {"kind": "command"},
        {"kind": "script", "path": "x"},
        {"kind": "command", "argv": [1]},
    ],
)
def test_a_damaged_recorded_entry_is_a_record_error(document):
    with pytest.raises(RecordError):
        parse_entry(document)


@pytest.mark.parametrize("argv", [[], [""]])
def test_no_command_is_a_definition_error(argv):
    with pytest.raises(DefinitionError):
        parse_command(argv)


def test_python_itself_agrees_on_what_the_options_mean(tmp_path):
    script = tmp_path / "show.py"
    script.write_text("import sys; print(sys.argv[1:], sys.flags.optimize, sys.flags.dev_mode)")
    argv = [sys.executable, "-OX", "dev", str(script), "-u", "x"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    entry = parse_command(["python", *argv[1:]])
    assert isinstance(entry, ScriptEntry)
    assert said.strip() == f"{list(entry.arguments)} 1 True"
    assert entry.python.flags == ("-O", "-X", "dev")


@pytest.mark.parametrize(
    "text,tokens",
    [
        ("python train.py --name 'a b' \"c d\"", ["python", "train.py", "--name", "a b", "c d"]),
        ("  python  x.py\n", ["python", "x.py"]),
        ("python x.py \\\n  --lr 1", ["python", "x.py", "--lr", "1"]),
        ("bash -c 'a && b | c > d'", ["bash", "-c", "a && b | c > d"]),
        ("x \"a;b\" c\\;d 'e\nf'", ["x", "a;b", "c;d", "e\nf"]),
        ("x --out {outputs} ${site:DIR} *.txt $HOME", ["x", "--out", "{outputs}", "${site:DIR}", "*.txt", "$HOME"]),
        ("x ''", ["x", ""]),
    ],
)
def test_a_command_line_is_split_like_a_shell_would(text, tokens):
    assert split_command_line(text) == tokens


@pytest.mark.parametrize(
    "text", ["", "  ", "x 'a", 'x "a', "a && b", "a | b", "a > log", "a; b", "a &", "a `b`", "a\nb"]
)
def test_what_needs_a_shell_or_cannot_be_split_is_refused(text):
    with pytest.raises(DefinitionError):
        split_command_line(text)


VALUES = {"config": "/run/config.json", "outputs": "/run/o ut", "seed": "7"}
CONFIG = {"lr": 1e-3, "opt": {"name": "sgd", "nesterov": True, "w": None}, "layers": [8, 4], "a.b": "dotted", "n": 3}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "token,expanded",
    [
        ("{config}", "/run/config.json"),
        ("--out={outputs}/x", "--out=/run/o ut/x"),
        ("{seed}{seed}", "77"),
        ("{config.lr}", "0.001"),
        ("{config.opt.name}", "sgd"),
        ("{config.opt.nesterov}-{config.opt.w}-{config.n}", "true-null-3"),
        ("{config.layers.1}", "4"),
        ("{config.layers}", "[8, 4]"),
        ('{config."a.b"}', "dotted"),
        ("{{config}}", "{config}"),
        ("{{name}}", "{name}"),
        ("plain", "plain"),
        ("", ""),
    ],
)
def test_known_placeholders_are_replaced_and_doubled_ones_are_not(token, expanded, strict):
    assert expand_placeholders([token], VALUES, CONFIG, strict=strict) == [expanded]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("token", ["{output}", "{configs}", "{config.lrr}", "{config.opt.x.y}", "{config.layers.9}"])
def test_an_unknown_placeholder_is_refused_and_the_known_are_named(token, strict):
    with pytest.raises(DefinitionError) as caught:
        expand_placeholders([token], VALUES, CONFIG, strict=strict)
    if not token.startswith("{config."):
        assert "{config}, {outputs}, {seed}" in caught.value.hint


@pytest.mark.parametrize("token", ["{", "}", "{}", '{"a": 1}', "{1}", "a{b c}", "x{output}", "{config.}"])
def test_a_single_brace_in_a_definition_is_refused(token):
    with pytest.raises(DefinitionError):
        expand_placeholders([token], VALUES, CONFIG)


def test_doubled_braces_and_site_values_pass_through_a_definition():
    tokens = ['{{"a": {{"b": {seed}}}}}', "${site:SCRATCH}/x/{seed}"]
    assert expand_placeholders(tokens, VALUES, CONFIG) == ['{"a": {"b": 7}}', "${site:SCRATCH}/x/7"]


@pytest.mark.parametrize(
    "token", ["{}", "{print $1}", "d={'a':{'b':1}}; print(d)", "f'{{x}} {y}'", "{a,b}", "${HOME}/{x}", '{"a": 1}', "}{"]
)
def test_braces_of_other_languages_pass_through_an_adhoc_command(token):
    assert expand_placeholders([token], VALUES, CONFIG, strict=False) == [token]


def test_an_adhoc_command_still_gets_its_placeholders():
    tokens = ["print('{outputs}', {'a': {seed}}, f'{{seed}}')"]
    assert expand_placeholders(tokens, VALUES, CONFIG, strict=False) == ["print('/run/o ut', {'a': 7}, f'{seed}')"]


def test_a_replaced_value_is_not_expanded_again():
    assert expand_placeholders(["{config.x}"], VALUES, {"x": "{seed}"}) == ["{seed}"]


@given(st.lists(st.text(max_size=30), max_size=3))
def test_doubling_every_brace_gives_the_text_back(tokens):
    doubled = [token.replace("{", "{{").replace("}", "}}") for token in tokens]
    assert expand_placeholders(doubled, VALUES, CONFIG) == tokens


@given(st.text(alphabet="{}abcofnig.$:es \"'", max_size=30), st.booleans())
def test_any_token_expands_or_is_a_definition_error(token, strict):
    try:
        assert len(expand_placeholders([token], VALUES, CONFIG, strict=strict)) == 1
    except DefinitionError as error:
        assert error.message  # noqa: PT017 - both outcomes are right


@pytest.mark.parametrize(
    "command, waits",
    [
        (["python"], True),
        (["python", "-"], True),
        (["python3.11", "-u", "-"], True),
        (["bash"], True),
        (["bash", "-s", "x"], True),
        (["python", "train.py", "-"], False),
        (["python", "-c", "print(1)"], False),
        (["python", "-V"], False),
        (["bash", "x.sh"], False),
        (["bash", "-c", "echo"], False),
    ],
)
def test_an_interpreter_waiting_for_its_program_is_recognised(command, waits):
    assert reads_program_from_stdin(command) is waits


def test_a_notebook_and_an_interactive_session_are_read_back_as_they_were() -> None:
    for entry in (
        NotebookEntry("deep/my book.ipynb", Python("/opt/python")),
        InteractiveEntry("an interactive session"),
    ):
        assert parse_entry(json.loads(json.dumps(entry.to_json()))) == entry
    assert NotebookEntry("deep/book.ipynb").study_stem == "book"


def test_what_was_typed_interactively_is_not_run_again_and_the_error_says_why() -> None:
    require_repeatable(NotebookEntry("book.ipynb"), "0" * 40)
    with pytest.raises(NotRepeatableError, match="an interactive session") as caught:
        require_repeatable(InteractiveEntry("an interactive session"), "0" * 40)
    assert caught.value.facts["why"] == "an interactive session"
