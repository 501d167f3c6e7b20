"""`init` makes a repository ready, once, and says what it did."""

from __future__ import annotations

from pathlib import Path

from builder import Work

from nemo_gitexp.definition import parse_definition


def _files(work: Work) -> dict[str, tuple[bytes, int]]:
    ours = (".git/gitexp", ".git/objects")
    mine = (path for path in work.root.rglob("*") if not any(part in str(path) for part in ours))
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in mine if path.is_file()}


def test_it_does_its_work_once_and_commits_nothing(work: Work, tmp_path: Path) -> None:
    work.git("remote", "add", "origin", str(tmp_path))
    work.git("remote", "add", "other", str(tmp_path))
    head = work.git("rev-parse", "HEAD")
    first = work.gitexp("init", "--study", "digits", "--json").json
    assert first["to_commit"] == [".gitattributes", ".gitignore", "experiments/digits/experiment.yaml"]
    assert len([line for line in first["done"] if "refs" in line]) == 4
    assert work.git("rev-parse", "HEAD") == head
    assert work.git("diff", "--cached") == ""
    before = _files(work)
    second = work.gitexp("init", "--study", "digits", "--json").json
    assert second == {"schema": 1, "done": [], "to_commit": []}
    assert _files(work) == before
    assert "nothing to do" in work.gitexp("init").out


def test_what_stood_there_stays(work: Work) -> None:
    work.write(".gitattributes", "*.bin binary")
    work.write(".gitignore", "build/\r\n")
    work.write("experiments/mine/experiment.yaml", "purpose: mine\ncommand: python train.py\n")
    work.gitexp("init", "--study", "mine")
    assert (work.root / ".gitattributes").read_text().splitlines()[0] == "*.bin binary"
    assert len((work.root / ".gitattributes").read_text().splitlines()) == 2
    assert (work.root / ".gitignore").read_bytes().startswith(b"build/\r\n")
    assert (work.root / "experiments/mine/experiment.yaml").read_text().startswith("purpose: mine")


def test_a_file_that_is_no_utf8_keeps_its_bytes(work: Work) -> None:
    work.write(".gitignore", b"caf\xe9/\n")
    work.gitexp("init")
    assert (work.root / ".gitignore").read_bytes() == b"caf\xe9/\nnemo-gitexp.site.toml\n"


def test_the_definition_it_writes_is_one(work: Work) -> None:
    work.gitexp("init", "--study", "digits")
    text = (work.root / "experiments/digits/experiment.yaml").read_bytes()
    assert parse_definition(text, "experiment.yaml").purpose
    assert text.count(b"#") > 5


def test_it_works_from_a_subdirectory_and_in_a_linked_work_tree(work: Work, tmp_path: Path) -> None:
    work.git("worktree", "add", "-q", "-b", "side", str(tmp_path / "linked"))
    (tmp_path / "linked" / "deep").mkdir()
    work.gitexp("init", cwd=tmp_path / "linked" / "deep")
    assert (tmp_path / "linked" / ".gitattributes").exists()
    assert not (work.root / ".gitattributes").exists()


def test_after_it_records_keep_their_bytes_whatever_the_attributes_say(work: Work) -> None:
    work.write(".gitattributes", "* text=auto eol=crlf\n*.json filter=lfs\n")
    work.gitexp("init")
    work.commit()
    ran = work.gitexp("run", "--record-only", "--json", "--", "python", "train.py").json
    work.git("checkout", "-q", ran["branch"])
    record = "experiments/train/record/experiment.json"
    there = (work.root / record).read_bytes()
    assert b"\r" not in there
    assert there.decode().strip() == work.git("cat-file", "blob", f"HEAD:{record}")
    assert work.git("status", "--porcelain") == ""
