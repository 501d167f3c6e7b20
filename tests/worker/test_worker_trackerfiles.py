"""Event files, W&B logs and MLflow stores, as the packages themselves write them, and as nobody should."""

from __future__ import annotations

import math
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c as theirs
from tracker_writers import framed

from nemo_gitexp.worker.eventfiles import is_event_file, masked_crc32c, read_event_files
from nemo_gitexp.worker.mlflowfiles import (
    find_mlflow_runs,
    is_mlflow_store,
    mlflow_metric_rows,
    parse_flat_yaml,
    read_mlflow_run,
)
from nemo_gitexp.worker.outputs import hash_output
from nemo_gitexp.worker.wandbfiles import find_wandb_logs, read_wandb_run, wandb_metric_rows
from nemo_gitexp.worker.wire import DamagedError, parse_fields, parse_whole, parse_zigzag

WRITERS = Path(__file__).parents[1] / "tracker_writers.py"
NAME = "a run: with 'quotes' and \"double\" — ünicode, so long that a writer of YAML breaks it into two lines # really"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What tensorboard, wandb and mlflow wrote; in `again` the last two once more."""
    place = tmp_path_factory.mktemp("trackers")
    (place / "again").mkdir()
    subprocess.run([sys.executable, WRITERS, place, place / "again"], check=True, capture_output=True, cwd=place)
    return place


def event_paths(directory: Path) -> list[str]:
    return [str(path) for path in directory.rglob("*") if is_event_file(path.name)]


def test_scalars_of_torch_and_tensorboard_are_read_whatever_their_form(written: Path) -> None:
    found = read_event_files(event_paths(written / "events"))
    values: dict[str, list[tuple[int, float]]] = {}
    for scalar in found.scalars:
        values.setdefault(scalar.tag, []).append((scalar.step, scalar.value))
    assert found.damaged == 0
    assert found.started == pytest.approx(time.time(), abs=600)
    assert values.pop("loss/train") == [(0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3, abs=1e-7))]
    assert values.pop("tensor")[1] == (1, struct.unpack("f", struct.pack("f", 0.1))[0])
    assert values.pop("double") == [(0, 0.0), (1, 0.1), (2, 0.2)]
    (_, nan), last = values.pop("odd")
    assert math.isnan(nan)
    assert last == (8, math.inf)
    assert values.pop("negative") == [(-3, -1.5)]
    kinds = [2.5, 2.5, 2.5, 2.5, -2, -2, -2, 2, 0.0]
    assert values == {f"kind/{number}": [(1, value)] for number, value in enumerate(kinds)}


def test_a_writer_that_started_again_at_a_step_makes_the_later_ones_void(written: Path) -> None:
    found = read_event_files(event_paths(written / "resumed"))
    assert [(scalar.step, scalar.value) for scalar in found.scalars] == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 30.0)]


def test_a_run_of_wandb_is_read_from_its_log(written: Path) -> None:
    (path,) = find_wandb_logs(str(written / "wandb"))
    run = read_wandb_run(path)
    assert (run.run_id, run.project, run.name, run.group, run.tags) == ("abc123xyz", "proj", "my run", "g", ("x",))
    assert (run.exit_code, run.is_offline, run.damaged) == (3, True, 0)
    assert run.config == {"lr": 0.1, "nested": {"a": [1, 2], "b": None}, "late": True}
    assert run.summary["best"] == 0.9
    assert run.summary["nested"] == {"x": 2}
    assert "hist" not in run.summary
    assert run.started == pytest.approx(time.time(), abs=600)
    first, *_, late, after = wandb_metric_rows(run)
    assert math.isnan(first.pop("nan"))
    assert first == {"step": 0, "loss": 1, "inf": math.inf, "big": 2**60, "nested.x": 0}
    assert (late, after) == ({"step": 10, "late": 3}, {"step": 11, "after": 1})
    assert [row["_step"] for row in run.rows] == [0, 1, 2, 10, 11]


def test_a_run_of_mlflow_is_read_from_its_store(written: Path) -> None:
    store = written / "mlruns"
    assert is_mlflow_store(str(store))
    assert not is_mlflow_store(str(written))
    (place,) = find_mlflow_runs(str(store))
    run = read_mlflow_run(place)
    assert (run.name, run.experiment, run.status, run.is_deleted) == (NAME, "my exp", "FINISHED", False)
    assert run.params == {"lr": "0.1", "group/x": "text\nmore"}
    assert run.tags["k"] == "v"
    assert run.artifact_uri == f"{Path(place).as_uri()}/artifacts"
    assert run.started is not None
    assert run.ended is not None
    assert run.started <= run.ended
    rows = list(mlflow_metric_rows(run))
    assert all(math.isnan(row.pop("nan")) for row in rows)
    assert rows == [
        {"step": 0, "loss": 1.0, "val/acc": 0.0, "final": 3.0},
        {"step": 1, "loss": 0.5, "val/acc": 1 / 3},
        {"step": 2, "loss": 1 / 3, "val/acc": 2 / 3, "inf": math.inf},
    ]
    assert run.damaged == 0


def read_events(path: Path) -> int:
    return len(read_event_files([str(path)]).scalars)


def read_wandb(path: Path) -> int:
    return len(read_wandb_run(str(path)).rows)


CUT = [("events/*tfevents*", read_events), ("wandb/offline-*/*.wandb", read_wandb)]


@pytest.mark.parametrize("pattern, read", CUT)
def test_a_file_cut_off_anywhere_gives_what_stood_before(
    written: Path, tmp_path: Path, pattern: str, read: Callable[[Path], int]
) -> None:
    (whole,) = written.glob(pattern)
    content = whole.read_bytes()
    cut = tmp_path / f"run-{whole.name.removeprefix('run-')}"
    counts = []
    for size in (*range(0, min(len(content), 3000), 7), *range(3000, len(content), 1201), len(content)):
        cut.write_bytes(content[:size])
        counts.append(read(cut))
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] == read(whole)


@pytest.mark.parametrize("pattern, read", CUT)
def test_one_wrong_byte_loses_records_and_invents_none(
    written: Path, tmp_path: Path, pattern: str, read: Callable[[Path], int]
) -> None:
    (whole,) = written.glob(pattern)
    content = whole.read_bytes()
    wrong = tmp_path / whole.name
    for at in range(0, min(len(content), 4000), 23):
        wrong.write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
        assert read(wrong) <= read(whole)


def test_a_scalar_whose_checksum_is_wrong_is_left_out_and_counted(written: Path, tmp_path: Path) -> None:
    (whole,) = (written / "events").iterdir()
    content = whole.read_bytes()
    at = content.index(b"loss/train") + 12
    wrong = tmp_path / whole.name
    wrong.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    found = read_event_files([str(wrong)])
    assert found.damaged == 1
    assert len(found.scalars) == read_events(whole) - 1


HOSTILE = tempfile.TemporaryDirectory()


@given(st.binary(max_size=400))
def test_garbage_is_counted_and_never_an_exception(content: bytes) -> None:
    directory = Path(HOSTILE.name)
    events, log = directory / "x.tfevents.1", directory / "run-x.wandb"
    framed = struct.pack("<Q", len(content))
    record = framed + struct.pack("<I", masked_crc32c(framed)) + content + struct.pack("<I", masked_crc32c(content))
    events.write_bytes(record)
    frame = struct.pack("<IHB", zlib.crc32(content, zlib.crc32(b"\1")), len(content), 1)
    log.write_bytes(b":W&B\xe1\xbe\0" + frame + content)
    assert read_event_files([str(events)]).damaged in (0, 1)
    assert read_wandb_run(str(log)).damaged in (0, 1)
    events.write_bytes(content)
    log.write_bytes(content)
    assert read_event_files([str(events)]).scalars == ()
    assert read_wandb_run(str(log)).rows == ()


@given(st.binary(max_size=200))
def test_the_wire_reader_gives_fields_or_says_damaged(content: bytes) -> None:
    try:
        fields = parse_fields(content)
    except DamagedError:
        return
    assert sum(len(value) if isinstance(value, bytes) else 1 for _, value in fields) <= len(content)


@given(st.integers(-(2**63), 2**63 - 1))
def test_whole_numbers_come_back_from_both_of_their_forms(number: int) -> None:
    assert parse_whole(number % 2**64) == number
    assert parse_zigzag((number << 1) ^ (number >> 63)) == number


def test_lengths_that_no_file_has_are_damage_not_memory(tmp_path: Path) -> None:
    events, log = tmp_path / "x.tfevents.1", tmp_path / "run-x.wandb"
    head = struct.pack("<Q", 2**63)
    events.write_bytes(head + struct.pack("<I", masked_crc32c(head)) + b"short")
    log.write_bytes(b":W&B\xe1\xbe\0" + struct.pack("<IHB", 0, 0xFFFF, 1) + b"short")
    assert (read_event_files([str(events)]).damaged, read_wandb_run(str(log)).damaged) == (1, 1)


@given(
    st.lists(
        st.tuples(
            st.one_of(st.text(max_size=150), st.text("\x15a*\n", max_size=5)),
            st.integers(-(2**63), 2**63 - 1),
            st.floats(width=32, allow_nan=False),
        )
    )
)
def test_scalars_come_back_whatever_their_names_and_steps(scalars: list[tuple[str, int, float]]) -> None:
    path = Path(HOSTILE.name) / "y.tfevents.1"
    records = [event_pb2.Event(wall_time=1.0, file_version="brain.Event:2").SerializeToString()]
    for tag, step, value in scalars:
        summary = summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=tag, simple_value=value)])
        records.append(event_pb2.Event(wall_time=2.0, step=step, summary=summary).SerializeToString())
    path.write_bytes(b"".join(framed_event(record) for record in records))
    found = read_event_files([str(path)])
    assert [(scalar.tag, scalar.step, scalar.value) for scalar in found.scalars] == [
        item for item in scalars if item[0]
    ]
    assert found.damaged == 0


def framed_event(record: bytes) -> bytes:
    head = struct.pack("<Q", len(record))
    return head + checksum(head) + record + checksum(record)


@given(st.binary(max_size=100))
def test_checksums_are_those_of_tensorboard(content: bytes) -> None:
    assert masked_crc32c(content) == theirs(content)


def test_a_hundred_thousand_scalars_take_seconds(tmp_path: Path) -> None:
    value = summary_pb2.Summary.Value(tag="loss", simple_value=1.0)
    record = event_pb2.Event(wall_time=1.0, step=7, summary=summary_pb2.Summary(value=[value])).SerializeToString()
    path = tmp_path / "x.tfevents.1"
    path.write_bytes(framed_event(record) * 100_000)
    began = time.process_time()
    assert read_events(path) == 100_000
    assert time.process_time() - began < 20


def test_a_hundred_thousand_steps_of_wandb_take_seconds(tmp_path: Path) -> None:
    from wandb.proto import wandb_internal_pb2 as proto

    record = proto.Record()
    for name, value in (("loss", "0.5"), ("accuracy", "1"), ("_runtime", "1.5")):
        record.history.item.add(nested_key=[name], value_json=value)
    log = tmp_path / "run-x.wandb"
    log.write_bytes(framed([record.SerializeToString()] * 100_000))
    began = time.process_time()
    run = read_wandb_run(str(log))
    assert (len(run.rows), run.damaged) == (100_000, 0)
    assert time.process_time() - began < 20


@pytest.mark.parametrize("size", [0, 1, 32_700, 32_754, 32_755, 32_761, 65_536, 200_000])
def test_records_of_any_length_are_put_together(tmp_path: Path, size: int) -> None:
    from wandb.proto import wandb_internal_pb2 as proto

    long = proto.Record(history=proto.HistoryRecord(item=[proto.HistoryItem(key="text", text="x" * size)]))
    short = proto.Record(history=proto.HistoryRecord(item=[proto.HistoryItem(key="loss", number=0.5)]))
    log = tmp_path / "run-x.wandb"
    log.write_bytes(framed([record.SerializeToString() for record in (short, long, short)]))
    run = read_wandb_run(str(log))
    assert [*run.rows, run.damaged] == [{"loss": 0.5}, {"text": "x" * size}, {"loss": 0.5}, 0]


def checksum(content: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(content))


def digest(root: Path, path: str) -> str | None:
    report = hash_output(str(root), {"path": path, "keep": "dvc"})
    assert report is not None
    return report["digest"]


def test_equal_runs_of_wandb_and_mlflow_have_one_digest_and_others_another(written: Path, tmp_path: Path) -> None:
    for name in ("wandb", "mlruns"):
        assert digest(written, name) == digest(written / "again", name)
    shutil.copytree(written / "mlruns", tmp_path / "mlruns")
    (run,) = find_mlflow_runs(str(tmp_path / "mlruns"))
    assert digest(tmp_path, "mlruns") == digest(written, "mlruns")
    Path(run, "artifacts").mkdir(exist_ok=True)
    Path(run, "artifacts", "model.bin").write_bytes(b"weights")
    with_artifact = digest(tmp_path, "mlruns")
    assert with_artifact != digest(written, "mlruns")
    Path(run, "metrics", "loss").write_text("1 0.75 0\n")
    assert digest(tmp_path, "mlruns") not in (with_artifact, digest(written, "mlruns"))


def test_links_are_not_followed_to_other_runs(written: Path, tmp_path: Path) -> None:
    (tmp_path / "wandb").symlink_to(written / "wandb")
    (tmp_path / "0").symlink_to(next(path for path in (written / "mlruns").iterdir() if not path.name.startswith(".")))
    (log,) = find_wandb_logs(str(written / "wandb"))
    (tmp_path / "run-x.wandb").symlink_to(log)
    assert find_wandb_logs(str(tmp_path)) == []
    assert find_mlflow_runs(str(tmp_path)) == []
    (place,) = find_mlflow_runs(str(written / "mlruns"))
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "meta.yaml").write_bytes(Path(place, "meta.yaml").read_bytes())
    (copy / "metrics").mkdir()
    (copy / "metrics" / "loss").symlink_to(Path(place, "metrics", "loss"))
    assert read_mlflow_run(str(copy)).metrics == {}


def test_a_damaged_store_of_mlflow_gives_what_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "loss").write_bytes(b"1 0.5 0\n1 0.4\n\xff\xfe\nx 0.1 2\n1 nan 3 data digest\n1 0.")
    (tmp_path / "meta.yaml").write_bytes(b"run_id: abc\nstart_time: soon\nstatus: 9\n")
    run = read_mlflow_run(str(tmp_path))
    assert (run.run_id, run.started, run.status, run.damaged) == ("abc", None, "9", 3)
    assert [(point.value, point.step) for point in run.metrics["loss"][:2]] == [(0.5, 0), (0.4, 0)]


@pytest.mark.parametrize(
    "tail, values, damaged",
    [
        (b"2 0.9", [0.5], 1),
        (b"2 0.9 1", [0.5], 1),  # of 12, perhaps
        (b"2 0.9 12 data dige", [0.5, 0.9], 0),
        (b"2 0.9 12\n", [0.5, 0.9], 0),
        (b"2 0.9\n", [0.5, 0.9], 0),
        (b"", [0.5], 0),
        (b"2 0.9 " + b"1" * 5000 + b"\n", [0.5], 1),
    ],
)
def test_a_line_of_mlflow_that_was_cut_off_is_no_value(
    tmp_path: Path, tail: bytes, values: list[float], damaged: int
) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "loss").write_bytes(b"1 0.5 3\n" + tail)
    (tmp_path / "meta.yaml").write_bytes(b"run_id: abc\n")
    run = read_mlflow_run(str(tmp_path))
    assert ([point.value for point in run.metrics["loss"]], run.damaged) == (values, damaged)


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x85\u2028\u2029"), max_size=300)  # breaks of YAML 1.1


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,10}", fullmatch=True), TEXTS, max_size=5))
@example({"no": "", "y": "n", "null": "true", "_": "''"})
def test_meta_yaml_is_read_as_pyyaml_writes_it(values: dict[str, str]) -> None:
    import yaml

    text = yaml.safe_dump(values, default_flow_style=False, allow_unicode=True)
    assert parse_flat_yaml(text) == values
