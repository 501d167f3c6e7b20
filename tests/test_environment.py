"""The captured environment is that of the job's interpreter, whoever asks, and equal ones have equal keys."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nemo_gitexp.environment import (
    Environment,
    capture_environment,
    find_interpreter,
    parse_environment,
    recreate_environment,
)
from nemo_gitexp.errors import DocumentError, EnvironmentCaptureError

HERE = Path(sys.executable)


@pytest.fixture(scope="module")
def venv(tmp_path_factory) -> Path:
    """An environment with nothing but what a test puts there; its files are an hour old."""
    root = tmp_path_factory.mktemp("venv") / "größe 1"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root)], check=True)
    site = site_of(root)
    install(site, "Some_Package", "1.0")
    for path in (site, root / "pyvenv.cfg", *site.rglob("*")):
        os.utime(path, (time.time() - 3600,) * 2)
    return root


def site_of(root: Path) -> Path:
    return next(root.glob("lib/python*/site-packages"))


def install(site: Path, name: str, version: str) -> None:
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_what_setuptools_brings_with_it_is_no_part_of_the_environment():
    code = (
        "import setuptools\nfrom nemo_gitexp.environment import capture_environment\nprint(capture_environment().key)"
    )
    plain = subprocess.run([sys.executable, "-c", code[len("import setuptools\n") :]], capture_output=True, check=True)
    after = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert after.stdout == plain.stdout


def test_own_environment_is_the_same_from_inside_and_outside(tmp_path):
    # In a process of its own: pytest puts the repository on the import path, with what a build left there.
    code = (
        "import json, os, sys\n"
        "from pathlib import Path\n"
        "from nemo_gitexp.environment import capture_environment\n"
        "inside = capture_environment()\n"
        "outside = capture_environment(Path(sys.executable), env={**os.environ, 'PYTHONPATH': sys.argv[1]})\n"
        "print(json.dumps([inside.to_json(), outside.to_json(), inside.key, outside.key]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    inside, outside, key, other_key = json.loads(done.stdout)
    assert inside == outside
    assert key == other_key
    assert inside["interpreter"]["version"] == sys.version.split()[0]
    assert "pytest" in inside["packages"]


def test_own_environment_takes_no_process_and_little_time(monkeypatch):
    monkeypatch.setenv("PATH", "")
    capture_environment(HERE)
    begin = time.perf_counter()
    capture_environment(HERE)
    assert time.perf_counter() - begin < 0.2


def test_other_interpreter_is_asked(venv):
    captured = capture_environment(venv / "bin" / "python")
    assert captured.packages == {"some-package": "1.0"}
    assert captured.captured == "launch"
    assert captured.key != capture_environment().key


def test_answer_is_kept_until_something_changes(venv, tmp_path):
    python = venv / "bin" / "python"
    first = capture_environment(python, cache_dir=tmp_path)
    (kept,) = (tmp_path / "environments").iterdir()
    assert capture_environment(python, cache_dir=tmp_path) == first
    kept.write_text(kept.read_text().replace('"1.0"', '"9.9"'))
    assert capture_environment(python, cache_dir=tmp_path).packages == {"some-package": "9.9"}
    install(site_of(venv), "other", "2.0")
    try:
        assert capture_environment(python, cache_dir=tmp_path).packages == {"other": "2.0", "some-package": "1.0"}
    finally:
        (site_of(venv) / "other-2.0.dist-info" / "METADATA").unlink()
        (site_of(venv) / "other-2.0.dist-info").rmdir()
    kept.write_text("damaged")
    assert capture_environment(python, cache_dir=tmp_path).packages == {"some-package": "1.0"}


def test_unwritable_cache_costs_nothing_else(venv, tmp_path):
    (tmp_path / "environments").write_text("")
    assert capture_environment(venv / "bin" / "python", cache_dir=tmp_path).packages == {"some-package": "1.0"}


def test_python_path_of_the_job_counts(venv, tmp_path):
    install(tmp_path, "extra", "3.0")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    python = venv / "bin" / "python"
    assert capture_environment(python, env=env).packages == {"extra": "3.0", "some-package": "1.0"}
    assert capture_environment(python, env=env, flags=["-I", "-u"]).packages == {"some-package": "1.0"}


def test_lock_files_are_recorded_but_not_part_of_the_key(tmp_path):
    bare = capture_environment(root=tmp_path)
    (tmp_path / "uv.lock").write_text("x")
    locked = capture_environment(root=tmp_path)
    assert list(locked.lock_files) == ["uv.lock"]
    assert len(locked.lock_files["uv.lock"]) == 64
    assert locked.key == bare.key


def test_key_depends_on_interpreter_and_packages_only():
    base = Environment("cpython", "3.11.7", {"a": "1"}, "launch", {})
    assert base.key == Environment("cpython", "3.11.7", {"a": "1"}, "job", {"x": "y"}).key
    others = [
        Environment("cpython", "3.11.8", {"a": "1"}, "launch", {}),
        Environment("pypy", "3.11.7", {"a": "1"}, "launch", {}),
        Environment("cpython", "3.11.7", {"a": "2"}, "launch", {}),
        Environment("cpython", "3.11.7", {}, "launch", {}),
    ]
    assert len({base.key, *(other.key for other in others)}) == 5
    assert base.key.startswith("sha256:")


def test_document_round_trips():
    captured = capture_environment()
    assert parse_environment(captured.to_json()) == captured


@pytest.mark.parametrize("document", [None, [], {}, {"packages": {}}, {"interpreter": {}, "packages": []}])
def test_damaged_document_is_refused(document):
    with pytest.raises(DocumentError):
        parse_environment(document)


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_interpreter_is_looked_up_on_the_given_path(venv):
    env = {"PATH": f"/nonexistent:{venv / 'bin'}"}
    assert find_interpreter("python", env) == venv / "bin" / "python"


def test_relative_interpreter_is_relative_to_the_given_directory(venv):
    assert find_interpreter("bin/python", {}, cwd=venv) == venv / "bin" / "python"
    assert find_interpreter("./bin/python", {"PATH": ""}, cwd=venv) == venv / "bin" / "python"


def test_wrapper_is_asked_which_interpreter_it_means(tmp_path, venv):
    script(tmp_path / "shims" / "python", f"#!/bin/sh\nexec '{venv / 'bin' / 'python'}' \"$@\"\n")
    assert find_interpreter("python", {"PATH": str(tmp_path / "shims")}) == venv / "bin" / "python"


def test_missing_interpreter_names_the_other_one(venv, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(HERE)
    with pytest.raises(EnvironmentCaptureError) as caught:
        find_interpreter("python", {"PATH": str(tmp_path / "bin")})
    assert "python3 is there" in caught.value.hint
    with pytest.raises(EnvironmentCaptureError, match=r"bin/python9$"):
        find_interpreter("bin/python9", {}, cwd=venv)


def test_wrapper_that_is_no_python_is_refused(tmp_path):
    script(tmp_path / "python", "#!/bin/sh\necho no version is set >&2\nexit 127\n")
    with pytest.raises(EnvironmentCaptureError, match="no version is set"):
        find_interpreter("python", {"PATH": str(tmp_path)})


@pytest.mark.parametrize("body", ["exit 3", "echo not json", "echo '[]'", "exit 0"])
def test_interpreter_that_does_not_answer_is_refused(tmp_path, body):
    broken = script(tmp_path / "python", f"#!/bin/sh\n{body}\n")
    with pytest.raises(EnvironmentCaptureError, match="cannot be asked"):
        capture_environment(broken)


def test_interpreter_that_cannot_be_started_is_refused(tmp_path):
    (tmp_path / "python").write_text("no program")
    with pytest.raises(EnvironmentCaptureError, match="cannot be asked"):
        capture_environment(tmp_path / "python")


def wheel(folder: Path, name: str, version: str) -> None:
    """Write the smallest wheel pip accepts."""
    import zipfile

    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


@pytest.mark.slow
def test_environment_is_made_again_from_its_document(tmp_path):
    wheel(tmp_path, "tiny_thing", "1.2")
    env = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_NO_CACHE_DIR": "1"}
    document = {
        "interpreter": {"implementation": "cpython", "version": sys.version.split()[0]},
        "packages": {"tiny-thing": "1.2", "ours": "0.1 (editable)", "theirs": "3 (git abc)"},
    }
    made = recreate_environment(document, tmp_path / "made", env=env)
    assert made.skipped == ("ours 0.1 (editable)", "theirs 3 (git abc)")
    assert capture_environment(made.python).packages["tiny-thing"] == "1.2"
    document["packages"]["tiny-thing"] = "9"
    with pytest.raises(EnvironmentCaptureError, match="tiny-thing"):
        recreate_environment(document, tmp_path / "other", env=env)


def test_missing_minor_version_is_named(tmp_path):
    document = {"interpreter": {"implementation": "cpython", "version": "3.2.1"}, "packages": {}}
    with pytest.raises(EnvironmentCaptureError, match=r"Python 3\.2"):
        recreate_environment(document, tmp_path / "made", env={"PATH": ""})


@pytest.mark.parametrize(
    "name, version", [("--index-url=http://127.0.0.1/", "1"), ("a\n-r /etc/passwd", "1"), ("a", "1 --no-index")]
)
def test_recreating_hands_pip_packages_and_no_orders(tmp_path: Path, name: str, version: str) -> None:
    document = Environment("cpython", "3.11.7", {name: version}, "launch", {}).to_json()
    with pytest.raises(DocumentError):
        recreate_environment(document, tmp_path / "made")
    assert not (tmp_path / "made").exists()
