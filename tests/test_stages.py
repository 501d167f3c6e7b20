"""Stages as a value: whether they make a DAG, what a definition may say, what a stage may see."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_gitexp.entry import CommandEntry, FunctionEntry, ScriptEntry
from nemo_gitexp.errors import DefinitionError, RecordError
from nemo_gitexp.signatures import Signature
from nemo_gitexp.stages import (
    Stage,
    StagesEntry,
    command_of,
    entry_identity,
    find_graph_faults,
    fit_stage,
    order_stages,
    parse_any_entry,
    parse_stages,
    python_of,
    visible_config,
)

NOTHING = CommandEntry(("true",))


@st.composite
def dags(draw: st.DrawFn) -> tuple[Stage, ...]:
    count = draw(st.integers(1, 8))
    names = [f"s{number}" for number in range(count)]
    stages = [
        Stage(name, NOTHING, tuple(draw(st.sets(st.sampled_from(names[:at]))) if at else ()))
        for at, name in enumerate(names)
    ]
    return tuple(draw(st.permutations(stages)))


@given(dags())
def test_a_dag_has_no_faults_and_its_order_puts_each_stage_after_what_it_needs(stages: tuple[Stage, ...]) -> None:
    assert find_graph_faults([(stage.name, stage.dependencies) for stage in stages]) == []
    ordered = [stage.name for stage in order_stages(stages)]
    assert sorted(ordered) == sorted(stage.name for stage in stages)
    for stage in stages:
        assert all(ordered.index(needed) < ordered.index(stage.name) for needed in stage.dependencies)


@given(dags())
def test_ancestors_are_what_can_be_reached_by_dependencies(stages: tuple[Stage, ...]) -> None:
    entry = StagesEntry(order_stages(stages))
    needs = {stage.name: set(stage.dependencies) for stage in stages}
    for name, direct in needs.items():
        reached = set(direct)
        while more := {other for each in reached for other in needs[each]} - reached:
            reached |= more
        assert set(entry.ancestors(name)) == reached


@given(dags())
def test_a_pipeline_is_read_back_as_it_was_written(stages: tuple[Stage, ...]) -> None:
    entry = StagesEntry(order_stages(stages))
    assert parse_any_entry(json.loads(json.dumps(entry.to_json()))) == entry


@pytest.mark.parametrize(
    "wanted, fault",
    [
        ([("a", []), ("a", [])], "stage a stands there twice"),
        ([("load", []), ("train", ["laod"])], "stage train depends on laod, which is no stage; did you mean load?"),
        ([("a", ["b"]), ("b", ["c"]), ("c", ["b"])], "stages wait for each other: b → c → b"),
        ([("a", ["a"])], "stages wait for each other: a → a"),
    ],
)
def test_what_is_no_dag_is_said(wanted: list[tuple[str, list[str]]], fault: str) -> None:
    assert fault in find_graph_faults(wanted)


def test_both_spellings_of_stages_mean_the_same() -> None:
    mapping = {"train": {"function": "flow:train", "dependencies": ["load"]}, "load": {"command": "python load.py"}}
    listed = [{"name": name, **item} for name, item in mapping.items()]
    stages, faults = parse_stages(mapping)
    assert faults == []
    assert parse_stages(listed) == (stages, [])
    assert [stage.name for stage in stages] == ["load", "train"]
    assert stages[0].entry == ScriptEntry("load.py")
    assert stages[1].entry == FunctionEntry("flow:train")


@pytest.mark.parametrize(
    "item, fault",
    [
        ({}, "stages.x: one of function and command is needed"),
        ({"function": "a:b", "command": "c"}, "stages.x: both function and command"),
        ({"function": "nothing"}, "function must be package.module:name or file.py:name"),
        ({"function": 3}, "function must be text"),
        ({"command": "a | b"}, "'|' in a command needs a shell"),
        ({"command": 3}, "command must be text or a list of texts"),
        ({"command": "a", "needs": ["b"]}, "unknown key needs"),
        ({"command": "a", "dependencys": []}, "did you mean dependencies?"),
        ({"command": "a", "dependencies": "b"}, "dependencies must be a list of texts: [b]"),
        ({"command": "a", "config": ["a..b"]}, "config: a..b is no dotted key"),
        ({"command": "a", "outputs": ["../b"]}, "outputs: ../b is no path below {outputs}"),
        ({"command": "a", "outputs": ["result/b"]}, "outputs: result/b is no path below {outputs}"),
        ("python x.py", "must be a mapping with function or command"),
    ],
)
def test_every_fault_of_a_stage_is_named_with_its_place(item: object, fault: str) -> None:
    stages, faults = parse_stages({"x": item})
    assert stages == ()
    assert any(fault in each for each in faults), faults


def test_names_that_cannot_be_directories_are_refused() -> None:
    _, faults = parse_stages({"../x": {"command": "a"}, "load data": {"command": "b"}})
    assert len(faults) == 2
    assert all("is no name for a stage" in fault for fault in faults)


def test_one_interpreter_runs_all_stages() -> None:
    two = {"a": {"command": "/opt/python3.9 a.py"}, "b": {"function": "b:b"}}
    assert "one interpreter runs them all" in parse_stages(two)[1][0]
    assert parse_stages({"a": {"command": "python3 a.py"}, "b": {"function": "b:b"}})[1] == []


def test_commands_and_pythons_of_a_pipeline_are_told_apart() -> None:
    entry = StagesEntry((Stage("a", CommandEntry(("make",))), Stage("b", FunctionEntry("b:b"))))
    assert entry.wrapped
    assert command_of(entry) == CommandEntry(("make",))
    assert python_of(entry) is not None
    assert python_of(CommandEntry(("make",))) is None


def test_the_hash_of_a_carried_file_is_no_part_of_the_identity() -> None:
    one = StagesEntry((Stage("a", FunctionEntry("x.pkl", digest="sha256:1", sha256="a")),))
    other = StagesEntry((Stage("a", FunctionEntry("x.pkl", digest="sha256:1", sha256="b")),))
    assert one.to_json() != other.to_json()
    assert entry_identity(one) == entry_identity(other)


CONFIG = {"lr": 0.1, "model": {"hidden": 64, "layers": 2}, "seed": 3}


def test_a_stage_sees_the_keys_that_it_asks_for() -> None:
    assert visible_config(Stage("a", NOTHING), CONFIG) == CONFIG
    asked = Stage("a", NOTHING, config=("lr", "model.hidden"))
    assert visible_config(asked, CONFIG) == {"lr": 0.1, "model": {"hidden": 64}}
    assert CONFIG["model"] == {"hidden": 64, "layers": 2}


@pytest.mark.parametrize("key", ["momentum", "lr.x", "model.width"])
def test_a_key_that_is_not_there_is_refused(key: str) -> None:
    with pytest.raises(DefinitionError, match=r"stage a asks for config key"):
        visible_config(Stage("a", NOTHING, config=(key,)), CONFIG)


@pytest.mark.parametrize(
    "signature, seen",
    [
        (Signature(("results",), ("results",), takes_all=False), ()),
        (Signature(("results", "lr"), ("results", "lr"), takes_all=False), ("lr",)),
        (Signature(("previous", "lr"), ("previous", "lr"), takes_all=False), ("lr",)),
        (Signature(("load", "seed"), ("load", "seed"), takes_all=False), ()),
        (Signature(("config",), ("config",), takes_all=False), None),
        (Signature(("results",), ("results",), takes_all=True), None),
        (Signature(("other", "more"), (), takes_all=False), ()),
    ],
)
def test_a_function_sees_the_configuration_that_its_parameters_name(signature: Signature, seen: object) -> None:
    assert fit_stage(Stage("a", NOTHING), signature, CONFIG, ["load"]).config == seen


def test_a_parameter_that_stands_for_nothing_is_refused_before_anything_runs() -> None:
    signature = Signature(("results", "rate"), ("results", "rate"), takes_all=False)
    with pytest.raises(DefinitionError, match="its function asks for rate") as caught:
        fit_stage(Stage("train", NOTHING), signature, CONFIG, [])
    assert caught.value.facts["unknown"] == ["rate"]


@pytest.mark.parametrize(
    "document",
    [
        {"kind": "stages"},
        {"kind": "stages", "stages": []},
        {"kind": "stages", "stages": [3]},
        {"kind": "stages", "stages": [{"name": "../../x"}]},
        {"kind": "stages", "stages": [{"name": "a", "entry": {"kind": "stages", "stages": []}}]},
        {"kind": "stages", "stages": [{"name": "a", "entry": {"kind": "command", "argv": ["x"]}, "outputs": []}]},
    ],
)
def test_a_damaged_record_of_stages_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(RecordError):
        parse_any_entry(document)  # type: ignore[arg-type]
