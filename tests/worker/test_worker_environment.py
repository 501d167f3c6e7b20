"""The packages of an interpreter, as its own metadata name them."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import time

import pytest
from run_directory import VERSIONS, WORKER, require_python

from nemo_gitexp.worker.environment import environment_document, loaded_packages, normalised


def test_it_agrees_with_importlib_metadata():
    document = environment_document("launch", sys.path)
    packages = document["packages"]
    expected: dict[str, str] = {}
    for each in importlib.metadata.distributions():
        expected.setdefault(normalised(each.metadata["Name"]), each.version)
    assert set(packages) == set(expected)
    assert {name: version.partition(" (")[0] for name, version in packages.items()} == expected
    assert document["interpreter"] == {"implementation": "cpython", "version": sys.version.split()[0]}


@pytest.mark.parametrize("version", VERSIONS)
def test_as_a_program_it_describes_the_interpreter_that_runs_it(version):
    done = subprocess.run([require_python(version), str(WORKER / "environment.py")], capture_output=True, check=True)
    document = json.loads(done.stdout)
    assert document["interpreter"]["version"].startswith(version)
    assert (document["schema"], document["captured"]) == (1, "launch")
    assert set(document) == {"schema", "captured", "interpreter", "packages"}


@pytest.mark.parametrize(
    "entry,content,expected",
    [
        ("My_Pkg.x-1.0.dist-info/METADATA", "", {"my-pkg-x": "1.0"}),
        ("a-1.0+cpu.dist-info/METADATA", "", {"a": "1.0+cpu"}),
        ("a-1.0-py3.11.egg-info", "", {"a": "1.0"}),
        ("a.egg-info/PKG-INFO", "Name: a\nVersion: 2.0\n", {"a": "2.0"}),
        ("~orch-2.0.dist-info/METADATA", "", {}),
        ("a-1.dist-info/direct_url.json", '{"url": "x", "dir_info": {"editable": true}}', {"a": "1 (editable)"}),
        ("a-1.dist-info/direct_url.json", '{"url": "file:///x", "dir_info": {}}', {"a": "1"}),
        ("a-1.dist-info/direct_url.json", '{"vcs_info": {"vcs": "git", "commit_id": "abc"}}', {"a": "1 (git abc)"}),
        ("a-1.dist-info/direct_url.json", "{", {"a": "1"}),
    ],
)
def test_metadata_of_every_kind_is_understood(tmp_path, entry, content, expected):
    path = tmp_path / entry
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    assert environment_document("job", [str(tmp_path), "/nowhere"])["packages"] == expected


def test_the_first_of_two_versions_counts(tmp_path):
    for number, directory in enumerate(("one", "two")):
        (tmp_path / directory / f"a-{number}.dist-info").mkdir(parents=True)
    assert environment_document("job", [str(tmp_path / "one"), str(tmp_path / "two")])["packages"] == {"a": "0"}


def test_loaded_modules_belong_to_the_packages_that_installed_them(tmp_path):
    site = tmp_path / "site-packages"
    records = {
        "numpy-2.0": "numpy/__init__.py,,\n", "PyYAML-6.0": "yaml/__init__.py,,\n_yaml/__init__.py,,\n",
        "six-1.0": "six.py,,\n", "protobuf-4.0": "google/protobuf/__init__.py,,\n",
        "google_auth-2.0": "google/auth/__init__.py,,\n", "unused-1.0": "unused/__init__.py,,\n",
        "native_ext-3.0": "_native.cpython-311.so,,\n",
    }  # fmt: skip
    for name, record in records.items():
        (site / f"{name}.dist-info").mkdir(parents=True)
        (site / f"{name}.dist-info/RECORD").write_text(record)
    files = {
        "numpy": f"{site}/numpy/__init__.py", "numpy.random": f"{site}/numpy/random.py",
        "yaml": f"{site}/yaml/__init__.py", "six": f"{site}/six.py", "google": None,
        "google.protobuf": f"{site}/google/protobuf/__init__.py",
        "_native": f"{site}/_native.cpython-311.so", "os": "/usr/lib/os.py", "sys": None,
    }  # fmt: skip
    assert loaded_packages(files, [str(site), "/usr/lib"]) == {
        "native-ext": "3.0", "numpy": "2.0", "protobuf": "4.0", "pyyaml": "6.0", "six": "1.0",
    }  # fmt: skip


def test_capturing_this_environment_is_quick():
    times = []
    for _ in range(5):
        start = time.process_time()
        environment_document("launch", sys.path)
        times.append(time.process_time() - start)
    assert min(times) < 0.1
