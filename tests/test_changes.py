"""The hash of the code in a tree: records and definitions are no code, everything else is."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_gitexp.git.changes import code_key

NO_CODE = re.compile(
    r"experiments/[^/]+/record/.*|(.*/)?experiment\.yaml|experiments/[^/]*_(config|reproducibility)\.json", re.DOTALL
)
PATHS = st.lists(
    st.sampled_from([
        *("a.py", "experiment.yaml", "deep/experiment.yaml", "my experiment.yaml", "experiment/x.py"),
        *("experiments/x/record/experiment.json", "experiments/x/record", "experiments/x/train.py", "line\nexperiment"),
        *("experiments/x_config.json", "experiments/deep/x_config.json", "experiments/x_reproducibility.json"),
    ])
)  # fmt: skip


def listing(paths: list[str]) -> bytes:
    return b"".join(b"100644 blob %040d\t%s\0" % (number, path.encode()) for number, path in enumerate(paths))


@given(PATHS)
def test_the_key_is_over_all_lines_that_are_code(paths):
    lines = listing(paths).split(b"\0")
    kept = [line for line in lines if not NO_CODE.fullmatch(line.partition(b"\t")[2].decode())]
    expected = "sha256:" + hashlib.sha256(b"\0".join(kept)).hexdigest()
    assert code_key(listing(paths), paths=[], config_files=[]) == expected


@pytest.mark.parametrize("paths", [["src"], ["src/", "a.py"], ["nothing"]])
def test_a_study_may_name_what_is_its_code(paths):
    inside = [path for path in ("a.py", "src/b.py", "src/deep/c.py", "srcs.py") if chosen(path, paths)]
    whole = code_key(listing_of(["a.py", "src/b.py", "src/deep/c.py", "srcs.py"]), paths=paths, config_files=[])
    assert whole == "sha256:" + hashlib.sha256(b"\0".join(listing_of(inside).split(b"\0")[:-1])).hexdigest()


def test_configuration_files_are_no_code():
    with_file, without = listing_of(["a.py", "conf/base.yaml"]), listing_of(["a.py"])
    assert code_key(with_file, paths=[], config_files=["conf/base.yaml"]) == code_key(
        without, paths=[], config_files=[]
    )


def chosen(path: str, paths: list[str]) -> bool:
    return any(path == place.rstrip("/") or path.startswith(place.rstrip("/") + "/") for place in paths)


def listing_of(paths: list[str]) -> bytes:
    return b"".join(b"100644 blob %s\t%s\0" % (b"0" * 40, path.encode()) for path in paths)
