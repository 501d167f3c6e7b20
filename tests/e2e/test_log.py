"""`log`: what is listed in which order, and that the cache of listings never says anything but what is so."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from builder import Work, make_work

from nemo_gitexp.facts import write_fact
from nemo_gitexp.git.repository import open_repository

STUDY = """\
purpose: to be listed
command: python train.py --lr {config.lr}
config: {lr: 0.1, deep: {er: 1}}
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """Three experiments: two completed ones, lr 0.1 and 0.05, and one that is only recorded."""
    place = tmp_path_factory.mktemp("log")
    work = make_work(place / "work", place / "home", files={"experiments/toy/experiment.yaml": STUDY})
    work.gitexp("run", "toy")
    work.gitexp("run", "toy", "lr=0.05", "--seed", "7")
    work.gitexp(
        "run", "--record-only", "--purpose", "Gitexp-Status: completed", "--", "python", "train.py", "--lr", "9"
    )
    return work


def rates(work: Work, *args: str) -> list[float]:
    return [item["config"]["lr"] for item in work.gitexp("log", "--json", *args).json["experiments"]]


def cache(work: Work) -> Path:
    return work.root / ".git/gitexp/listing.db"


def test_the_newest_come_first(work: Work) -> None:
    assert rates(work) == [9, 0.05, 0.1]
    assert rates(work, "-n", "1") == [9]
    assert "2 more" in work.gitexp("log", "-n", "1").err


@pytest.mark.parametrize(
    "options, expected",
    [
        (("--study", "toy"), [0.05, 0.1]),
        (("--status", "recorded"), [9]),
        (("--where", "config.lr < 1 and seed == 7"), [0.05]),
        (("--where", "metrics.loss > 0"), [0.05, 0.1]),
        (("--sort", "config.lr"), [0.05, 0.1, 9]),
        (("--sort", "-loss"), [0.1, 0.05, 9]),
        (("--sort", "-config.lr", "-n", "2"), [9, 0.1]),
    ],
)
def test_options_pick_and_order(work: Work, options: tuple[str, ...], expected: list[float]) -> None:
    assert rates(work, *options) == expected


def test_a_purpose_that_looks_like_a_trailer_says_nothing(work: Work) -> None:
    newest = work.gitexp("log", "--json").json["experiments"][0]
    assert (newest["status"], newest["result"]) == ("recorded", None)


def test_a_column_that_nothing_has_is_named(work: Work) -> None:
    answered = work.gitexp("log", "--sort", "metrics.los", "--columns", "name,speed")
    assert "no experiment here has metrics.los; there is metrics.loss" in answered.err
    assert "no experiment here has speed" in answered.err
    assert work.gitexp("log", "--sort", "loss", "--columns", "name,duration_s,lr").err == ""
    assert work.gitexp("log", "--columns", ",").out == work.gitexp("log").out


def test_what_matches_nothing_says_so(work: Work) -> None:
    assert work.gitexp("log", "--where", "lr > 100").out == "no experiment matches\n"
    assert rates(work, "--where", "lr > 100") == []
    error = work.gitexp("log", "--status", "done", "--json", code=2).json["error"]
    assert "completed" in error["hint"]


def test_columns_and_csv(work: Work) -> None:
    table = work.gitexp("log", "--csv", "--columns", "study,config.lr,status").out.splitlines()
    assert table == ["study,config.lr,status", "train,9,recorded", "toy,0.05,completed", "toy,0.1,completed"]


def test_a_listing_from_the_cache_is_the_listing(work: Work) -> None:
    cache(work).unlink()
    fresh = work.gitexp("log", "--json", "--all")
    assert cache(work).exists()
    assert work.gitexp("log", "--json", "--all").out == fresh.out
    shown = work.gitexp("show", "latest:toy", "--json").json
    assert shown in fresh.json["experiments"]


@pytest.mark.parametrize("damage", [b"", b"no database", b"SQLite format 3\0" + bytes(90)])
def test_a_damaged_cache_is_no_matter(work: Work, damage: bytes) -> None:
    before = work.gitexp("log", "--json", "--all").json
    cache(work).write_bytes(damage)
    for _ in range(2):
        assert work.gitexp("log", "--json", "--all").json == before
    with sqlite3.connect(cache(work)) as database:
        assert len(database.execute("SELECT * FROM entries_5").fetchall()) == len(before["experiments"])


def test_a_cache_with_other_columns_or_content_is_no_matter(work: Work) -> None:
    before = work.gitexp("log", "--json", "--all").json
    with sqlite3.connect(cache(work)) as database:
        database.execute("UPDATE entries_5 SET document = 'torn {'")
    assert work.gitexp("log", "--json", "--all", "--where", "lr > 0").json == before
    with sqlite3.connect(cache(work)) as database:
        database.execute("ALTER TABLE entries_5 RENAME TO documents")
        database.execute("CREATE TABLE entries_5 (tip TEXT)")
    assert work.gitexp("log", "--json", "--all").json == before
    cache(work).unlink()


def test_a_copied_ref_is_named_and_hides_nothing(work: Work) -> None:
    before = work.gitexp("log", "--json", "--all").json
    sha = work.refs()[before["experiments"][0]["ref"]]
    for name in ("0copy", "zcopy"):
        work.git("update-ref", f"refs/gitexp/train/{name}", sha)
        for _ in range(2):
            answered = work.gitexp("log", "--json", "--all")
            assert answered.json == before
            assert "calls itself train/" in answered.err
        work.git("update-ref", "-d", f"refs/gitexp/train/{name}")


def test_what_is_learned_later_is_listed_at_once(work: Work) -> None:
    first = work.gitexp("log", "--json").json["experiments"][-1]
    repository = open_repository(work.root)
    who = repository.committer()
    for word, count in (("metrics", 1), ("bitwise", 2)):
        write_fact(repository, first["experiment"], "reproduced", {}, who, word=word)
        (listed,) = work.gitexp("log", "--json", "--where", "config.lr == 0.1").json["experiments"]
        assert listed["reproductions"] == {"best": word, "count": count}
        assert work.gitexp("log", "--json").json["experiments"][-1] == listed
    work.git("branch", "-q", "-D", first["branch"])
    assert work.gitexp("log", "--json").json["experiments"][-1]["branch"] is None
    for kind in ("archived", "unarchived"):
        write_fact(repository, first["experiment"], kind, {}, who)
        assert (0.1 in rates(work)) is (kind == "unarchived")
        assert 0.1 in rates(work, "--all")
