"""Runs of other tools as values: their parameters, what is left out of them, and how they are told apart."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_gitexp.comparison import flatten_config
from nemo_gitexp.imported import (
    ForeignRun,
    UnfitRunError,
    left_by,
    metric_rows,
    nested_params,
    prepare_run,
    public_config,
    typed_params,
)
from nemo_gitexp.keypath import render_key
from nemo_gitexp.record import CodeState, Imported, parse_record, render_record

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CODE = CodeState("a" * 40, "b" * 40, "sha256:" + "c" * 64, "a" * 40, False, (), None, (), None)


def foreign(**given: object) -> ForeignRun:
    known = {"tool": "mlflow", "group": "digits", "run": "f00d", "name": "first", "source": "mlruns"}
    return ForeignRun(**{**known, "status": "FINISHED", "outcome": "completed", "config": {}, **given})  # type: ignore[arg-type]


def prepared(**given: object):
    return prepare_run(foreign(**given), "digits", CODE, (), NOW, knows_code=False)


def test_texts_of_parameters_get_the_types_that_they_had() -> None:
    texts = {"lr": "0.1", "n": "3", "amp": "True", "off": "off", "none": "None", "list": "[1, 2]", "map": "{'a': 1}"}
    assert typed_params({**texts, "text": "adam", "empty": "", "open": "[1, 2", "spaces": "  "}) == {
        "lr": 0.1, "n": 3, "amp": True, "off": "off", "none": None, "list": [1, 2], "map": {"a": 1},
        "text": "adam", "empty": "", "open": "[1, 2", "spaces": "  ",
    }  # fmt: skip


def test_dotted_names_are_nested_unless_another_stands_in_the_way() -> None:
    flat = {"model.hidden": 1, "model.depth": 2, "a": 1, "a.b": 2, "c.d": 1, "c.d.e": 2, ".x": 1, "y..z": 1, "w.": 1}
    assert nested_params(flat) == {
        "model": {"hidden": 1, "depth": 2}, "a": 1, "a.b": 2, "c.d": 1, "c.d.e": 2, ".x": 1, "y..z": 1, "w.": 1
    }  # fmt: skip


@given(st.dictionaries(st.text("ab.", min_size=1, max_size=6), st.integers(), max_size=8))
def test_nesting_loses_no_parameter(flat: dict[str, int]) -> None:
    leaves = flatten_config(nested_params(flat))
    assert sorted(leaves.values()) == sorted(flat.values())
    for name, value in flat.items():
        assert value in (leaves.get(name), leaves.get(render_key((name,))))


@pytest.mark.parametrize(
    "name,value",
    [
        ("api_key", "hunter2"),
        ("db.password", "hunter2"),
        ("hf_token", "abc"),
        ("aws-secret-access-key", "abc"),
        ("harmless", "AKIAABCDEFGHIJKLMNOP"),
        ("url", "postgres://ada:hunter2@host/db"),
        ("db_password", 83749283),
        ("api-key", ["k1", "k2"]),
        ("secrets", {"db": "hunter2"}),
        ("passwords", ["hunter2"]),
        ("token", "abc"),
        ("auth", {"pin": 1234}),
    ],
)
def test_secrets_are_left_out_and_named(name: str, value: object) -> None:
    config, secrets, _ = public_config({"lr": 0.1, name: value, "deep": {"in": [{name: value}]}})
    assert str(value) not in str(config)
    assert config["lr"] == 0.1
    assert len(secrets) == 2
    item = prepared(config={name: value})
    assert str(value) not in render_record(item.record).decode() + str(item.config)
    assert "look like secrets, left out" in item.remarks[0]


@pytest.mark.parametrize(
    "name,value",
    [
        ("max_tokens", 512),
        ("tokenizer", "bpe"),
        ("pad_token", "<pad>"),
        ("token_count", 7),
        ("tokens", [1, 2]),
        ("api_key", None),
        ("use_auth", True),
        ("auth", False),
        ("secrets", []),
        ("password", ""),
        ("key", "C#"),
    ],
)
def test_ordinary_parameters_are_no_secrets(name: str, value: object) -> None:
    assert public_config({name: value}) == ({name: value}, [], [])


def test_a_parameter_that_is_nan_is_the_text_that_names_it() -> None:
    item = prepared(config={"a": {"b": math.nan}, "c": math.inf})
    assert item.config == {"a": {"b": "NaN"}, "c": "Infinity"}
    assert item.remarks == ("had parameters that were NaN, recorded as that text: a.b",)


def test_a_parameter_without_a_stable_form_makes_a_run_unfit() -> None:
    with pytest.raises(UnfitRunError, match=r"its parameter x holds half of a surrogate pair"):
        prepared(config={"x": "\ud800"})
    with pytest.raises(UnfitRunError, match="longer than"):
        prepared(config={"x": "y" * 9_000_000})


def test_the_record_says_what_is_known_and_no_more() -> None:
    record = prepared(config={"lr": 1, "model_type": "mlp"}, started=NOW).record
    assert (record.seed, record.seed_is_default, record.determinism) == (42, True, "off")
    assert (record.identity, record.environment_key, record.executor) == (None, None, "imported")
    assert (record.purpose, record.model) == ("imported from MLflow: digits/first", "mlp")
    assert record.name.startswith("20260102_030405_first_mlflow_imported_v")
    assert record.entry.to_json() == {"kind": "imported", "tool": "MLflow"}
    assert {name: value for name, value in record.topology.items() if value is not None} == {"environment": {}}
    assert parse_record(render_record(record), "experiment.json") == record


@pytest.mark.parametrize(
    "value,seed", [(3, 3), (0, 0), (-1, None), (True, None), ("3", None), (2**64, None), (1.0, None)]
)
def test_a_seed_among_the_parameters_is_the_seed(value: object, seed: int | None) -> None:
    record = prepared(config={"seed": value}).record
    assert (record.seed, record.seed_is_default) == ((42, True) if seed is None else (seed, False))


def test_equal_runs_are_prepared_alike_and_others_not() -> None:
    assert render_record(prepared().record) == render_record(prepared().record)
    assert prepared().record.nonce != prepared(run="beef").record.nonce


def test_what_a_tool_says_stands_in_one_line_without_credentials() -> None:
    origin = foreign(name="a\nGitexp-Status: x\x01", url="https://ada:pw@host/run?key=1").origin(knows_code=True)
    assert (origin.name, origin.url) == ("a Gitexp-Status: x", "https://host/run")


def test_runs_are_told_apart_by_what_is_unique_in_their_tool() -> None:
    assert foreign(source="here").key == foreign(source="there", group="x", name="y").key
    assert foreign(tool="wandb").key != foreign(tool="wandb", group="other").key
    assert Imported("dvc", "", "abc", "n", "s", "st", None, knows_code=True).key == "dvc/abc"


def test_what_has_not_ended_counts_as_lost() -> None:
    left = left_by(prepared(outcome=None, status="RUNNING", started=NOW), "d" * 40)
    assert left.worker is not None
    assert left.worker["status"] == "lost"
    assert left.worker["error"]["message"].endswith("when it was imported: RUNNING")
    assert (left.started, left.ended) == ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z")


def test_rows_of_one_step_are_joined_and_odd_numbers_named() -> None:
    rows, bad = metric_rows(
        [{"step": 1, "a": math.nan}, {"step": 1, "b": math.inf, "c": "text"}, {"step": None, "d": 2}]
    )
    assert rows == ({"step": 1, "a": "NaN", "b": "Infinity"}, {"step": None, "d": 2})
    assert bad == 1
