"""A record that was damaged or rewritten is refused by name; all others are listed as ever."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from builder import Work, make_work

from nemo_gitexp.jsontext import MAX_DOCUMENT_BYTES

RECORD = "experiments/train/record"


@dataclass(frozen=True)
class Pair:
    """A repository with two completed experiments; the second one is for damaging."""

    work: Work
    good: dict
    bad: dict


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    place = tmp_path_factory.mktemp("two")
    work = make_work(place / "work", place / "home")
    good = work.gitexp("run", "--json", "--", "python", "train.py").json
    bad = work.gitexp("run", "--json", "--", "python", "train.py", "--lr", "0.5").json
    return Pair(work, good, bad)


@pytest.fixture
def pair(two: Pair) -> Pair:
    two.work.git("update-ref", two.bad["ref"], two.bad["result"])
    return two


def rewrite(pair: Pair, sha: str, changes: dict[str, bytes | None], parent: str | None = None) -> str:
    """Return a copy of a commit with other files (None: a link instead) and perhaps another parent."""
    work = pair.work
    index = work.root.parent / "index"
    env = Work(work.root, {**work.env, "GIT_INDEX_FILE": str(index)})
    env.git("read-tree", sha)
    scratch = work.root.parent / "scratch"
    for path, content in changes.items():
        scratch.write_bytes(b"elsewhere" if content is None else content)
        blob = env.git("hash-object", "-w", "--no-filters", str(scratch))
        env.git("update-index", "--add", "--cacheinfo", f"{'120000' if content is None else '100644'},{blob},{path}")
    message = work.root.parent / "message"
    message.write_text(work.git("log", "-1", "--format=%B", sha))
    tree = env.git("write-tree")
    return env.git("commit-tree", "-p", parent or work.git("rev-parse", f"{sha}^"), "-F", str(message), tree)


def record_of(pair: Pair) -> dict:
    return json.loads(pair.work.git("show", f"{pair.bad['experiment']}:{RECORD}/experiment.json"))


def damaged_result(pair: Pair, name: str, content: bytes | None) -> str:
    return rewrite(pair, pair.bad["result"], {f"{RECORD}/{name}": content})


def truncated(pair: Pair) -> str:
    return damaged_result(pair, "experiment.json", json.dumps(record_of(pair)).encode()[:200])


def too_large(pair: Pair) -> str:
    return damaged_result(pair, "experiment.json", b" " * (MAX_DOCUMENT_BYTES + 1))


def newer_schema(pair: Pair) -> str:
    return damaged_result(pair, "experiment.json", json.dumps({**record_of(pair), "schema": 2}).encode())


def duplicate_keys(pair: Pair) -> str:
    text = json.dumps(record_of(pair))
    return damaged_result(pair, "experiment.json", ('{"seed": 7, ' + text[1:]).encode())


def no_mapping(pair: Pair) -> str:
    return damaged_result(pair, "experiment.json", b"[1, 2]\n")


def no_utf8(pair: Pair) -> str:
    return damaged_result(pair, "config.json", b'{"lr": "\xff"}\n')


def too_deep(pair: Pair) -> str:
    return damaged_result(pair, "config.json", b'{"a":' * 5000 + b"1" + b"}" * 5000)


def wrong_types(pair: Pair) -> str:
    changed = {**record_of(pair), "seed": "many", "inputs": {}, "entry": {"kind": "magic"}}
    return damaged_result(pair, "experiment.json", json.dumps(changed).encode())


def hashes_that_are_paths(pair: Pair) -> str:
    changed = {**record_of(pair), "environment_key": "sha256:../../..", "identity": "none"}
    return damaged_result(pair, "experiment.json", json.dumps(changed).encode())


def changed_document(pair: Pair, name: str, **changes: object) -> str:
    document = json.loads(pair.work.git("show", f"{pair.bad['result']}:{RECORD}/{name}"))
    return damaged_result(pair, name, json.dumps({**document, **changes}).encode())


def metrics_of_no_shape(pair: Pair) -> str:
    return changed_document(pair, "result.json", metrics={"loss": 1, "accuracy": {"last": []}})


def outputs_of_no_shape(pair: Pair) -> str:
    return changed_document(pair, "result.json", outputs=[{"path": "model.pt", "md5": "../../../etc/passwd"}])


def run_of_no_shape(pair: Pair) -> str:
    return changed_document(pair, "run.json", duration_s="long", jobs=7, volatile_metrics=[])


def another_name(pair: Pair) -> str:
    return damaged_result(pair, "experiment.json", json.dumps({**record_of(pair), "name": "else"}).encode())


def result_truncated(pair: Pair) -> str:
    return damaged_result(pair, "result.json", b'{"schema": 1, "status": "completed"')


def result_of_another(pair: Pair) -> str:
    return damaged_result(
        pair, "result.json", pair.work.git("show", f"{pair.good['result']}:{RECORD}/result.json").encode()
    )


def rebased(pair: Pair) -> str:
    record = rewrite(pair, pair.bad["experiment"], {}, parent=pair.good["experiment"])
    return rewrite(pair, pair.bad["result"], {}, parent=record)


def record_alone_rebased(pair: Pair) -> str:
    return rewrite(pair, pair.bad["experiment"], {}, parent=pair.good["experiment"])


def no_experiment_at_all(pair: Pair) -> str:
    return pair.work.git("rev-parse", "main")


DAMAGE = [
    truncated,
    too_large,
    newer_schema,
    duplicate_keys,
    no_mapping,
    no_utf8,
    too_deep,
    wrong_types,
    hashes_that_are_paths,
    another_name,
    metrics_of_no_shape,
    outputs_of_no_shape,
    run_of_no_shape,
    result_truncated,
    result_of_another,
    rebased,
    record_alone_rebased,
    no_experiment_at_all,
]


def configuration_swapped(pair: Pair) -> str:
    return rewrite(pair, pair.bad["experiment"], {f"{RECORD}/config.json": b'{\n "lr": 0.7\n}\n'})


def code_edited_in_the_record(pair: Pair) -> str:
    return rewrite(pair, pair.bad["experiment"], {"train.py": b"print('something else')\n"})


def code_edited_in_the_result(pair: Pair) -> str:
    return rewrite(pair, pair.bad["result"], {"extra.py": b"x = 1\n"})


def record_edited_in_the_result(pair: Pair) -> str:
    changed = {**record_of(pair), "purpose": "something nicer"}
    return damaged_result(pair, "experiment.json", json.dumps(changed).encode())


def record_is_a_link(pair: Pair) -> str:
    return damaged_result(pair, "metrics.jsonl", None)


SWAPPED = [
    configuration_swapped,
    code_edited_in_the_record,
    code_edited_in_the_result,
    record_edited_in_the_result,
    record_is_a_link,
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_log_warns_of_it_and_lists_the_others(pair: Pair, damage: Callable[[Pair], str]) -> None:
    work = pair.work
    work.git("update-ref", pair.bad["ref"], damage(pair))
    answered = work.gitexp("log", "--json")
    assert [item["experiment"] for item in answered.json["experiments"]] == [pair.good["experiment"]]
    assert "warning" in answered.err
    assert len(answered.err.splitlines()) == 1


@pytest.mark.parametrize("damage", [*DAMAGE, *SWAPPED])
def test_it_is_never_shown_compared_or_run(pair: Pair, damage: Callable[[Pair], str]) -> None:
    work, name = pair.work, pair.bad["name"]
    work.git("update-ref", pair.bad["ref"], damage(pair))
    before = work.refs("refs/")
    error = work.gitexp("show", name, "--json", code=3).json["error"]
    assert error["type"] == "RecordError"
    assert error["hint"]
    assert work.gitexp("diff", "--json", name, pair.good["name"], code=3).json["error"]["type"] == "RecordError"
    if damage in (rebased, newer_schema, *SWAPPED):
        for verb in (["reproduce", name], ["checkout", name, "there"], ["outputs", name], ["launch", name]):
            assert work.gitexp(*verb, "--json", code=3).json["error"]["type"] in ("RecordError", "AlreadyFinishedError")
    assert work.refs("refs/") == before
    assert not (work.root / "there").exists()


def test_a_newer_record_says_that_an_upgrade_helps(pair: Pair) -> None:
    pair.work.git("update-ref", pair.bad["ref"], newer_schema(pair))
    error = pair.work.gitexp("show", pair.bad["name"], "--json", code=3).json["error"]
    assert "pip install --upgrade nemo-gitexp" in error["hint"]
    assert error["schema"] == 2


def test_a_ref_that_is_no_commit_disturbs_nobody(pair: Pair) -> None:
    work = pair.work
    blob = work.git("rev-parse", "main:train.py")
    for ref in ("refs/gitexp/odd", "refs/gitexp/odd-study/blob", "refs/gitexp/a/b/c"):
        work.git("update-ref", ref, blob)
    try:
        assert len(work.gitexp("log", "--json").json["experiments"]) == 2
        work.gitexp("show", "latest")
    finally:
        for ref in ("refs/gitexp/odd", "refs/gitexp/odd-study/blob", "refs/gitexp/a/b/c"):
            work.git("update-ref", "-d", ref)


def test_a_purpose_cannot_forge_a_trailer(work: Work) -> None:
    forged = "good\nGitexp-Status: completed\nGitexp-Record: " + "0" * 40
    ran = work.gitexp("run", "--record-only", "--json", "--purpose", forged, "--", "python", "train.py").json
    assert ran["status"] == "recorded"
    shown = work.gitexp("show", "latest", "--json").json
    assert (shown["purpose"], shown["status"]) == (forged, "recorded")


def test_a_reference_that_moved_aside_is_read_where_it_is(pair: Pair) -> None:
    """A result that somebody put on another clone's copy counts, and the local ref is the truth otherwise."""
    work, bad = pair.work, pair.bad
    there = f"refs/gitexp-remotes/origin/{bad['ref'].removeprefix('refs/')}"
    work.git("update-ref", there, bad["experiment"])
    try:
        entries = work.gitexp("log", "--json").json["experiments"]
        assert [(item["ref"], item["status"]) for item in entries if item["experiment"] == bad["experiment"]] == [
            (bad["ref"], "completed")
        ]
        work.git("update-ref", there, bad["result"])
        work.git("update-ref", bad["ref"], bad["experiment"])
        assert work.gitexp("show", bad["name"], "--json").json["status"] == "completed"
    finally:
        work.git("update-ref", "-d", there)
