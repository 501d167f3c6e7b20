"""experiment.yaml: values, and every fault at once."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_gitexp.definition import (
    InputSpec,
    MetricGoal,
    MetricsSpec,
    OutputSpec,
    StudyDefinition,
    parse_definition,
    render_definition_template,
)
from nemo_gitexp.entry import CommandEntry
from nemo_gitexp.errors import DefinitionError
from nemo_gitexp.stages import Stage

FULL = """\
purpose: One sentence. Why does this experiment exist?
expected: accuracy above 0.95
model: mlp
dataset: digits
type: training
command: python train.py --config {config} --out {outputs}
workdir: .
config: {hidden: 64, lr: 0.1, epochs: 10}
seed: 42
determinism: seeded
code: [experiments/digits, src/]
data: [data/digits.npz, {path: ./data/raw, pin: manifest}, exp://latest/model.pt, hf://org/set@abc]
outputs: [model.pt, {path: ckpt, keep: in-place}, {path: "${site:SCRATCH}/x", keep: in-place}]
metrics: {file: metrics.json, accuracy: {goal: max, tolerance: 0.002}, loss: {goal: min}, speed: {volatile: true}}
executor: local
"""


def parse(text: str) -> StudyDefinition:
    return parse_definition(text.encode(), "experiment.yaml")


def faults(text: str) -> list[str]:
    with pytest.raises(DefinitionError) as caught:
        parse(text)
    found = caught.value.facts["faults"]
    assert isinstance(found, list)
    return found


def fault(line: str) -> str:
    """Return the only fault of a definition that is right but for these lines."""
    (only,) = faults("purpose: p\n" + ("" if "command" in line else "command: x\n") + line)
    return str(only)


def test_every_field_of_the_contract_is_read():
    assert parse(FULL) == StudyDefinition(
        purpose="One sentence. Why does this experiment exist?",
        expected="accuracy above 0.95",
        model="mlp",
        dataset="digits",
        type="training",
        command=("python", "train.py", "--config", "{config}", "--out", "{outputs}"),
        workdir=".",
        config={"hidden": 64, "lr": 0.1, "epochs": 10},
        seed=42,
        determinism="seeded",
        code=("experiments/digits", "src"),
        data=(
            InputSpec("data/digits.npz"),
            InputSpec("data/raw", "manifest"),
            InputSpec("", "content", "exp://latest/model.pt"),
            InputSpec("", "named", "hf://org/set@abc"),
        ),
        outputs=(OutputSpec("model.pt"), OutputSpec("ckpt", "in-place"), OutputSpec("${site:SCRATCH}/x", "in-place")),
        metrics=MetricsSpec(
            "metrics.json",
            (
                MetricGoal("accuracy", "max", 0.002),
                MetricGoal("loss", "min"),
                MetricGoal("speed", volatile=True),
            ),
        ),
        executor="local",
    )


def test_a_purpose_and_a_command_are_enough():
    definition = parse("purpose: p\ncommand: python train.py")
    assert definition == StudyDefinition(purpose="p", command=("python", "train.py"))
    assert definition.seed_is_default
    assert not parse("purpose: p\ncommand: x\nseed: 42").seed_is_default


@pytest.mark.parametrize(
    "line,field,value",
    [
        ("function: pkg.train:main", "function", "pkg.train:main"),
        ("recipe: recipes.py:digits", "recipe", "recipes.py:digits"),
        ("recipe: conf/recipes.py:digits", "recipe", "conf/recipes.py:digits"),
        ("stages: {load: {command: x}}", "stages", (Stage("load", CommandEntry(("x",))),)),
        ("command: [python, 'a b.py']", "command", ("python", "a b.py")),
        ("command: >\n  python x.py\n  --lr 1\n", "command", ("python", "x.py", "--lr", "1")),
        ("command: x\nconfig: conf/base.yaml", "config_file", "conf/base.yaml"),
        ("command: x\nconfig: {on: off, lr: 1e-3}", "config", {"on": "off", "lr": 0.001}),
        ("command: x\nconfig: {clip: .inf}", "config", {"clip": math.inf}),
        ("command: x\ndeterminism: off\ndeterminism_reason: scatter has none", "determinism", "off"),
        ("command: x\ndeterminism: bitwise", "determinism", "bitwise"),
        (
            "command: x\nmetrics: {accuracy: max, other: }",
            "metrics",
            MetricsSpec(None, (MetricGoal("accuracy", "max"), MetricGoal("other"))),
        ),
        ("command: x\noutputs: [/scratch/x, '{outputs}/m.pt']\n", "outputs", None),
        ("command: x\nworkdir: sub/../other/", "workdir", "other"),
        ("command: x\ncode: [.]", "code", (".",)),
        ("command: x\nseed: 0", "seed", 0),
    ],
)
def test_other_forms_are_accepted(line, field, value):
    if value is None:
        assert "keep: in-place" in fault(line.rstrip())
        return
    assert getattr(parse("purpose: p\n" + line), field) == value


@pytest.mark.parametrize(
    "line,part",
    [
        ("comand: x", "unknown key comand; did you mean command?"),
        ("inputs: [a]", "did you mean data?"),
        ("zzz: 1", "known are purpose"),
        ("expected: 0.95", "expected must be text, not the float 0.95; quote it"),
        ("model: true", "the boolean True"),
        ("command: python a.py && python b.py", "needs a shell"),
        ("command: python 'a", "cannot be split"),
        ("command: {a: b}", "command must be text or a list of texts, not a mapping"),
        ("function: pkg.train", "function and command"),
        ("seed: 1.5", "seed must be a whole number"),
        ("seed: -1", "seed must be"),
        ("seed: true", "seed must be"),
        ("seed: 99999999999999999999", "seed must be"),
        ("determinism: off", "needs a determinism_reason"),
        ("determinism: exact", "determinism must be one of off, seeded, bitwise, not exact"),
        ("config: [1]", "config must be a mapping or the path of a file, not a list"),
        ("config: {a: {b: .nan}}", "config: a.b is NaN"),
        ("config: /etc/x.yaml", "config: /etc/x.yaml is absolute"),
        ("workdir: ../x", "workdir: ../x leaves the repository"),
        ("code: src", "code must be a list: [src]"),
        ("code: [a/../../b]", "leaves the repository"),
        ("data: data.npz", "data must be a list: [data.npz]"),
        ("data: [/abs]", "is absolute"),
        ("data: [~/x]", "begins with ~"),
        ("data: ['']", "is empty"),
        ("data: [.]", "names no file"),
        ("data: [.git/config]", "lies in .git"),
        ('data: ["a\\nb"]', "control character"),
        ("data: [a, ./a]", "a stands there twice"),
        ("data: [a, a/b]", "a/b lies inside another entry"),
        ("data: [exq://x]", "unknown scheme"),
        ("data: [{path: 'hf://x', pin: manifest}]", "is an address; write {from: hf://x, path: …}"),
        ("data: [https://x.org/a.bin]", "dvc import-url https://x.org/a.bin data/a.bin, then data: [data/a.bin]"),
        ("data: ['exp://latest']", "names no output"),
        ("data: ['exp://latest/../x']", "names no output"),
        ("data: ['hf://a/b@..']", "names no revision: '..'"),
        ("data: ['hf://-a/b']", "names no repository of the hub: '-a/b'"),
        ("data: ['hf://a/b@main/../x']", "leaves the repository"),
        ("data: [{from: 3}]", "data.from must be an address"),
        ("data: [{from: data/x}]", "data.from must be an address, exp://… or hf://…, not data/x"),
        ("data: [{from: 'exp://a/b', path: /x}]", "data.path: /x is absolute"),
        ("data: [{from: 'exp://a/b', pin: content}]", "unknown key data.pin"),
        ("data: [{from: 'exp://a/b', allow: ['*']}]", "data.allow chooses files of hf://…"),
        ("data: [{from: 'hf://a/b', allow: '*'}]", "data.allow must be a list of patterns"),
        ("data: [{from: 'exp://a/b', path: x}, x]", "data: x stands there twice"),
        ("data: ['exp://a/b', 'exp://a/b']", "data: exp://a/b stands there twice"),
        ("data: [{path: a, pin: md5}]", "data: pin of a must be one of content, manifest, not md5"),
        ("data: [{path: a, pni: manifest}]", "unknown key data.pni; did you mean pin?"),
        ("data: [{pin: manifest}]", "data: an entry must be a path or"),
        ("data: [3]", "data: an entry must be a path or"),
        ("outputs: [/abs]", "needs keep: in-place"),
        ("outputs: ['${site:X}/y']", "needs keep: in-place"),
        ("outputs: [../x]", "leaves the repository"),
        ("outputs: [{path: a, keep: git}]", "keep of a must be one of dvc, in-place, digest, not git"),
        ("metrics: [a]", "metrics must be a mapping, not a list"),
        ("metrics: {file: 3}", "a path must be text"),
        ("metrics: {a: up}", "metrics.a must be one of max, min, not up"),
        ("metrics: {a: 3}", "metrics.a must be {goal: max}"),
        ("metrics: {a: {tolerance: -1}}", "metrics.a.tolerance must be a number, 0 or more, not -1"),
        ("metrics: {a: {tolerance: .inf}}", "not inf"),
        ("metrics: {a: {tolerance: '1'}}", "tolerance must be a number"),
        ("metrics: {a: {volatile: yes}}", "metrics.a.volatile must be true or false, not yes"),
        ("metrics: {a: {gaol: max}}", "unknown key metrics.a.gaol; did you mean goal?"),
        ("executor: [a]", "executor must be text, not a list"),
        ("stages: {}", "command and stages"),
    ],
)
def test_a_fault_says_which_field_and_why(line, part):
    if line.startswith(("function", "stages")):
        found = faults("purpose: p\ncommand: x\n" + line)
        assert any("exclude each other" in one for one in found)
        return
    assert part in fault(line)


def test_all_faults_are_named_at_once():
    found = faults("modle: x\nseed: a\noutputs: 3\ndeterminism: off\n")
    assert len(found) == 6
    assert [part for part in ("modle", "purpose", "reason", "nothing to run", "seed", "outputs") if part in str(found)]
    with pytest.raises(DefinitionError, match=r"experiment.yaml \(6 faults\)"):
        parse("modle: x\nseed: a\noutputs: 3\ndeterminism: off\n")


@pytest.mark.parametrize("text", ["", "[]", "3", "a: 1\na: 2", "a: [", "\x00", "purpose: &a [*a]"])
def test_what_is_no_mapping_of_fields_is_one_fault(text):
    assert len(faults(text)) == 1


def test_the_template_is_a_valid_definition_and_so_are_its_commented_lines():
    template = render_definition_template("digits")
    definition = parse_definition(template, "t")
    assert definition.command is not None
    assert definition.command[1] == "experiments/digits/train.py"
    fields = ("workdir", "code", "data", "outputs", "executor", "  file", "  accuracy", "  samples")
    lines = template.decode().splitlines()
    wanted = [line.replace("# ", "", 1) if line.replace("# ", "", 1).startswith(fields) else line for line in lines]
    full = parse_definition("\n".join(wanted).encode(), "t")
    assert full.data
    assert full.outputs
    assert len(full.metrics.goals) == 3


def test_a_definition_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse(FULL).seed = 1  # type: ignore[misc]


@given(st.binary(max_size=120))
def test_any_bytes_are_a_definition_or_a_definition_error(text):
    with pytest.raises(DefinitionError):
        parse_definition(text, "s")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet="ab./:~{}$ é", max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["path", "pin", "keep", "goal", "file", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from([field.name for field in dataclasses.fields(StudyDefinition)]), VALUES, max_size=6)
)
def test_any_fields_are_a_definition_or_a_definition_error(document):
    import json

    try:
        parse(json.dumps(document))
    except DefinitionError as error:
        assert error.facts["faults"]  # noqa: PT017 - both outcomes are right
