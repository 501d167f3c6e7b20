"""Names that can stand in a git ref."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nemo_gitexp.errors import InvalidNameError
from nemo_gitexp.naming import ExperimentNaming, require_name, slug

WHEN = datetime(2024, 1, 31, 23, 59, 5, tzinfo=UTC)
HOSTILE = [
    "", ".", "..", "...", "a..b", "x.lock", "a.lock.lock", "-x", "--", "/", "a/b", "@", "@{", "a@{1}", "HEAD", "a b",
    "tab\t", "nul\0", "line\n", "é", "日本語", "\ud800", "~^:?*[\\", "x" * 300, "é" * 300,
    ".hidden", "end.", "İ", "ß", "_a",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_git_accepts_every_slug(text):
    name = slug(text)
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name)
    assert len(name) <= 64
    assert subprocess.run(["git", "check-ref-format", f"refs/gitexp/study/{name}"], check=False).returncode == 0


@given(st.text(max_size=80))
def test_a_slug_is_a_valid_name_and_its_own_slug(text):
    assert slug(slug(text)) == slug(text)
    assert require_name(slug(text), "study") == slug(text)


@given(st.text(max_size=80), st.text(max_size=80))
def test_different_texts_never_share_a_slug(a, b):
    assume(a != b and slug(a) != b and slug(b) != a)
    assert slug(a) != slug(b)


@pytest.mark.parametrize("text", ["mlp", "resnet50", "gpt-2.1_b", "0", "a.-"])
def test_a_text_that_is_a_name_stays_as_it_is(text):
    assert slug(text) == text


def test_the_lost_part_leaves_a_hash():
    assert slug("MLP") == "mlp-10e9c505"
    assert slug("Crème brûlée").startswith("creme-brulee-")
    assert len(slug("x" * 65)) == 64


@pytest.mark.parametrize(
    "text, reason",
    [
        ("", "empty"),
        ("a..b", "'..'"),
        ("a.lock", ".lock"),
        ("-a", "hyphen"),
        (".a", "dot"),
        ("a.", "dot"),
        ("a/b", "slash"),
        ("a" * 65, "64"),
        ("a\n", "ASCII"),
        ("a\x7f", "ASCII"),
        ("x@{1}", "ASCII"),
        ("a b", "ASCII"),
        ("é", "ASCII"),
    ],
)
def test_a_bad_name_is_refused_with_reason_and_suggestion(text, reason):
    with pytest.raises(InvalidNameError, match="study") as caught:
        require_name(text, "study")
    assert reason in caught.value.message
    assert require_name(str(caught.value.facts["suggestion"]), "study")


@pytest.mark.parametrize("given", [None, 3, b"digits", ["digits"]])
def test_a_name_that_is_no_text_is_refused(given):
    with pytest.raises(InvalidNameError, match="text") as caught:
        require_name(given, "study")
    assert caught.value.hint


def test_a_valid_name_passes_unchanged():
    assert require_name("Digits_2.v-1", "study") == "Digits_2.v-1"


def test_an_experiment_name_has_the_guides_format_in_utc():
    create = ExperimentNaming.create_experiment_name
    name = "20240131_235905_mlp_digits_training"
    assert create("mlp", "digits", "training", WHEN) == name
    assert create(model_type="mlp", dataset="digits", experiment_type="training", timestamp=WHEN) == name
    assert create("mlp", "digits", "training", WHEN.astimezone(timezone(timedelta(hours=9)))) == name
    assert create("mlp", "digits", "training", WHEN.replace(tzinfo=None)) == name
    assert create("mlp", "digits", "training", "20240131_235905") == name
    assert create("mlp", "digits", "training", "2024-02-01T08:59:05+09:00") == name
    assert create("mlp", "digits", "fine_tuning", WHEN) == "20240131_235905_mlp_digits_fine_tuning"


def test_without_a_timestamp_it_is_now():
    before = datetime.now(UTC).replace(microsecond=0)
    stamp = ExperimentNaming.create_experiment_name("m", "d", "t")[:15]
    assert before <= datetime.strptime(stamp, "%Y%m%d_%H%M%S").replace(tzinfo=UTC) <= datetime.now(UTC)


@given(
    st.tuples(*[st.text(alphabet="ab_-É", min_size=1, max_size=4)] * 3),
    st.tuples(*[st.text(alphabet="ab_-É", min_size=1, max_size=4)] * 3),
)
def test_different_parts_never_share_a_name(a, b):
    assume(a != b)
    assert ExperimentNaming.create_experiment_name(*a, WHEN) != ExperimentNaming.create_experiment_name(*b, WHEN)


@given(st.tuples(*[st.text(min_size=1, max_size=150).filter(str.strip)] * 3))
def test_an_experiment_name_leaves_room_in_the_ref(parts):
    name = ExperimentNaming.create_experiment_name(*parts, WHEN)
    assert re.fullmatch(r"20240131_235905(_[a-z0-9][a-z0-9._-]*){3}", name)
    assert len(name) + len("_v12345678-99") <= 120
    assert require_name(name, "experiment", limit=120) == name


@pytest.mark.parametrize("bad", ["", "  ", None, 3, b"mlp", ["mlp"]])
def test_a_part_that_says_nothing_is_refused(bad):
    for parts in [(bad, "d", "t"), ("m", bad, "t"), ("m", "d", bad)]:
        with pytest.raises(InvalidNameError) as caught:
            ExperimentNaming.create_experiment_name(*parts, WHEN)
        assert caught.value.hint


@pytest.mark.parametrize(
    "bad", ["yesterday", "20241341_000000", 12, datetime.max.replace(tzinfo=timezone(-timedelta(hours=9)))]
)
def test_a_time_that_is_none_is_refused(bad):
    with pytest.raises(InvalidNameError, match="timestamp") as caught:
        ExperimentNaming.create_experiment_name("m", "d", "t", bad)
    assert caught.value.hint


@dataclasses.dataclass
class Model:
    model_type: str = "mlp"


def test_a_task_name_takes_the_model_type_from_mapping_dataclass_and_config():
    create = ExperimentNaming.create_task_name
    assert create("train", {"model_type": "mlp"}) == "train_mlp"
    assert create("train", {"model_type": "mlp"}, 3) == "train_mlp_003"
    assert create("train", {"model_type": "mlp"}, index=0) == "train_mlp_000"
    assert create("train", {"type": "cnn"}, 1234) == "train_cnn_1234"
    assert create("train", Model(), np.int64(7)) == "train_mlp_007"
    assert create("train", {}) == create("train", {"model_type": None}) == create("train", object()) == "train_unknown"


@pytest.mark.parametrize(
    "task, model, index",
    [("", {}, None), ("t", {"model_type": 3}, None), ("t", {}, -1), ("t", {}, True), ("t", {}, "1"), ("t", {}, 1.0)],
)
def test_a_bad_task_name_is_refused(task, model, index):
    with pytest.raises(InvalidNameError) as caught:
        ExperimentNaming.create_task_name(task, model, index)
    assert caught.value.hint
