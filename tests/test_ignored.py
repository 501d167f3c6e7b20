"""Which files git ignores, of more names than an argument list holds, and whatever these look like."""

from __future__ import annotations

from builder import Work, make_work

from nemo_gitexp.git.ignored import find_ignored
from nemo_gitexp.git.repository import open_repository


def test_ignored_files_are_told_from_tracked_and_untracked_ones_however_many(work: Work) -> None:
    work.write(".gitignore", "*.bin\n")
    work.write("kept.bin", "tracked all the same")
    work.git("add", "-f", "kept.bin", ".gitignore")
    names = [f"assets/{'long' * 15}{number}.txt" for number in range(45_000)]
    asked = [*names, "kept.bin", "lost.bin", "new.txt"]
    assert find_ignored(open_repository(work.root), asked) == ["lost.bin"]
    assert find_ignored(open_repository(work.root), names) == []
    assert find_ignored(open_repository(work.root), []) == []


def test_names_with_magic_of_pathspecs_are_names(work: Work) -> None:
    work.write(".gitignore", "*.bin\n")
    odd = [":!odd", ":(exclude)x.bin", "*.bin", "a\nb.bin", ":(top)y"]
    assert find_ignored(open_repository(work.root), odd) == [":(exclude)x.bin", "*.bin", "a\nb.bin"]


def test_files_of_a_submodule_are_those_of_another_repository(work: Work) -> None:
    other = make_work(work.root.parent / "other", work.root.parent / "home")
    work.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(other.root), "sub")
    work.write(".gitignore", "*.bin\n")
    assert find_ignored(open_repository(work.root), ["sub/train.py", "sub/x.bin", "x.bin"]) == ["x.bin"]
