"""Pins are read from DVC's own files, and what is no pin is refused with the command that helps."""

from __future__ import annotations

import contextlib
import posixpath
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_gitexp.data.pins import find_pin, list_pins, list_stage_deps, normal_path
from nemo_gitexp.errors import DataPointerError, GitexpError, RecordError, UntrackedDataError
from nemo_gitexp.fields import FieldReader
from nemo_gitexp.inputpin import InputPin, parse_input_pin

MD5 = "d41d8cd98f00b204e9800998ecf8427e"
DVC_FILE = f"outs:\n- md5: {MD5}\n  size: 5\n  hash: md5\n  path: x.bin\n"
LOCK = f"""\
schema: '2.0'
stages:
  make@1:
    cmd: make
    deps:
    - path: in.txt
      hash: md5
      md5: {MD5}
    outs:
    - path: out dir
      hash: md5
      md5: {MD5}.dir
      size: 12
      nfiles: 3
"""


def tree(files: dict[str, str]):
    return {path: text.encode() for path, text in files.items()}.get


def test_a_dvc_file_gives_its_pin():
    pin = find_pin("data/x.bin", read=tree({"data/x.bin.dvc": DVC_FILE}))
    assert pin == InputPin("data/x.bin", MD5, 5, 1, source="data/x.bin.dvc")


def test_path_is_normalised_before_looking():
    assert find_pin("./data//x.bin/", read=tree({"data/x.bin.dvc": DVC_FILE})).path == "data/x.bin"


def test_a_lock_gives_the_pin_of_a_stage_output():
    pin = find_pin("sub/out dir", read=tree({"sub/dvc.lock": LOCK}), lock_paths=["sub/dvc.lock"])
    assert (pin.pin, pin.n_files, pin.size_bytes, pin.stage, pin.source) == (
        f"{MD5}.dir", 3, 12, "make@1", "sub/dvc.lock",
    )  # fmt: skip
    assert pin.is_dir


@pytest.mark.parametrize(
    "definition",
    [
        "stages:\n  make:\n    wdir: ../deep\n    cmd: x\n",
        "stages:\n  make:\n    foreach: [1]\n    do: {wdir: ../deep}\n",
    ],
)
def test_wdir_of_a_stage_moves_its_paths(definition):
    read = tree({"sub/dvc.lock": LOCK, "sub/dvc.yaml": definition})
    assert find_pin("deep/out dir", read=read, lock_paths=["sub/dvc.lock"]).stage == "make@1"
    assert list_stage_deps("sub/dvc.lock", "make@1", read) == ("deep/in.txt",)


def test_wdir_of_a_dvc_file_moves_its_path():
    read = tree({"pointers/x.dvc": "wdir: ../data\n" + DVC_FILE})
    assert find_pin("data/x.bin", read=read, lock_paths=["pointers/x.dvc"]).source == "pointers/x.dvc"


def test_several_outs_in_one_pointer_are_told_apart():
    other = "0" * 32
    text = DVC_FILE + f"- md5: '{other}'\n  hash: md5\n  path: y.bin\n"
    read = tree({"data/x.bin.dvc": text})
    assert find_pin("data/y.bin", read=read, lock_paths=["data/x.bin.dvc"]).pin == other
    assert [pin.path for pin in list_pins("data/x.bin.dvc", read)] == ["data/x.bin", "data/y.bin"]


@pytest.mark.parametrize("md5", ["12345678901234567890123456789012", "1234e678901234567890123456789012"])
def test_a_hash_that_looks_like_a_number_stays_text(md5):
    text = f"outs:\n- md5: {md5}\n  hash: md5\n  path: x.bin\n"
    assert find_pin("x.bin", read=tree({"x.bin.dvc": text})).pin == md5


def test_executable_bit_is_kept():
    text = DVC_FILE + "  isexec: true\n"
    pin = find_pin("x.bin", read=tree({"x.bin.dvc": text}))
    assert pin.executable
    assert parse_input_pin(FieldReader(pin.to_json(), "pin")) == pin


def test_path_inside_a_tracked_directory_names_the_directory():
    read = tree({"data/raw.dvc": f"outs:\n- md5: {MD5}.dir\n  hash: md5\n  path: raw\n"})
    with pytest.raises(UntrackedDataError, match="inside data/raw") as caught:
        find_pin("data/raw/one.txt", read=read)
    assert "data/raw" in caught.value.hint
    with pytest.raises(UntrackedDataError, match="inside sub/out dir"):
        find_pin("sub/out dir/x", read=tree({"sub/dvc.lock": LOCK}), lock_paths=["sub/dvc.lock"])


def test_directory_tracked_in_parts_names_the_parts():
    with pytest.raises(UntrackedDataError, match=r"in parts: data/x\.bin"):
        find_pin("data", read=tree({"data/x.bin.dvc": DVC_FILE}), lock_paths=["data/x.bin.dvc"])


def test_untracked_path_names_dvc_add_with_quotes():
    with pytest.raises(UntrackedDataError) as caught:
        find_pin("it's here.bin", read=tree({}))
    assert caught.value.hint.startswith("dvc add " + shlex.quote("it's here.bin"))


def test_pointer_file_instead_of_data_is_pointed_out():
    with pytest.raises(UntrackedDataError) as caught:
        find_pin("data/x.bin.dvc", read=tree({"data/x.bin.dvc": DVC_FILE}))
    assert "declare data/x.bin" in caught.value.hint


def test_output_of_a_stage_that_never_ran_names_dvc_repro():
    definition = "stages:\n  fit:\n    cmd: x\n    outs: [a, {b: {cache: true}}]\n"
    with pytest.raises(UntrackedDataError) as caught:
        find_pin("b", read=tree({"dvc.yaml": definition}))
    assert caught.value.hint == "dvc repro fit"


@pytest.mark.parametrize(
    "text, said",
    [
        ("outs:\n- path: x.bin\n", "no hash of x.bin yet"),
        (f"outs:\n- md5: {MD5}\n  path: x.bin\n", "DVC 2"),
        ("outs:\n- etag: abc\n  path: x.bin\n", "by etag"),
        ("outs:\n- md5: zz\n  hash: md5\n  path: x.bin\n", "no md5"),
        ("outs: {}\n", "no list of mappings"),
        ("outs:\n- md5: a\n", "without a path"),
        ("- a\n", "no mapping"),
        ("a: [", "no valid YAML"),
        ("a: 1\n--- \nb: 2\n", "no valid YAML"),
        ("\x00", "no valid YAML"),
    ],
)
def test_unreadable_pointer_is_refused(text, said):
    with pytest.raises(DataPointerError, match=said):
        find_pin("x.bin", read=tree({"x.bin.dvc": text}))


def test_old_lock_schema_is_refused():
    with pytest.raises(DataPointerError, match=r"schema 2\.0"):
        find_pin("x", read=tree({"dvc.lock": "make:\n  cmd: x\n"}), lock_paths=["dvc.lock"])


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "", "."])
def test_path_outside_the_repository_is_refused(path):
    with pytest.raises(UntrackedDataError):
        find_pin(path, read=tree({}))


@given(st.binary(max_size=300))
def test_no_bytes_make_anything_but_our_errors(text):
    with contextlib.suppress(GitexpError):
        find_pin("x", read={"x.dvc": text, "dvc.lock": text}.get, lock_paths=["dvc.lock"])


@given(st.text(alphabet="ab./ ", min_size=1, max_size=12))
def test_normal_path_stays_inside(path):
    try:
        normal = normal_path(path)
    except UntrackedDataError:
        return
    assert posixpath.normpath(f"/root/{normal}").startswith("/root/")


GOOD = {
    "path": "x",
    "pin": MD5,
    "strength": "content",
    "size_bytes": 1,
    "n_files": 1,
    "source": "",
    "stage": None,
    "executable": False,
}


NAMED = {
    "strength": "named",
    "pin": "hf://a/b@" + "0" * 40,
    "origin": {
        "kind": "hf",
        "asked": "hf://a/b",
        "repo": "a/b",
        "repo_type": "model",
        "revision": "0" * 40,
        "path": "",
        "allow": [],
    },
}


@pytest.mark.parametrize("change", [{}, NAMED])
def test_a_pin_of_a_record_is_read_back(change):
    reader = FieldReader({**GOOD, **change}, "good")
    assert parse_input_pin(reader).to_json() == {**GOOD, **change}
    reader.require_no_faults()


@pytest.mark.parametrize(
    "change",
    [
        {"path": 1},
        {"path": "../x"},
        {"path": "/x"},
        {"path": "a/../b"},
        {"path": ".git/x"},
        {"pin": "no md5"},
        {"strength": "weak"},
        {"strength": "manifest"},
        {"strength": "named", "pin": "hf://a/b@" + "0" * 40},
        {"origin": {"kind": "exp", "experiment": "--help"}},
        {"origin": {"kind": "ftp"}},
        {**NAMED, "pin": NAMED["pin"].replace("0", "1")},
        {**NAMED, "origin": {**NAMED["origin"], "revision": "main"}},
        {**NAMED, "origin": {**NAMED["origin"], "repo": "--help"}},
        {**NAMED, "origin": {**NAMED["origin"], "path": "../x"}},
        {**NAMED, "origin": None},
    ],
)
def test_a_damaged_pin_of_a_record_is_noted(change):
    reader = FieldReader({**GOOD, **change}, "bad")
    parse_input_pin(reader)
    with pytest.raises(RecordError):
        reader.require_no_faults()
