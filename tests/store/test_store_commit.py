"""The commit in a row is that of the code that ran, or none."""

import os
import subprocess

import pytest

from pruner.store.commit import commit_of


def git(folder, *arguments):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    identity = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    command = ["git", "-C", str(folder), "-c", "core.hooksPath=/dev/null", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=clean | identity).stdout.strip()


@pytest.fixture
def package(tmp_path):
    """A `pruner` folder in a committed source tree."""
    package = tmp_path / "tree" / "pruner"
    package.mkdir(parents=True)
    (package / "code.py").write_text("x = 1\n")
    (package.parent / "table.csv").write_text("1\n")
    git(package.parent, "init", "--quiet")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "--quiet", "-m", "first")
    return package


def test_the_commit_of_a_clean_tree(package):
    assert commit_of(package) == git(package, "rev-parse", "HEAD")
    assert len(commit_of(package)) == 40


def test_changed_code_is_said_and_changed_results_are_not(package):
    commit = git(package, "rev-parse", "HEAD")
    (package.parent / "table.csv").write_text("2\n")
    assert commit_of(package) == commit
    (package / "code.py").write_text("x = 2\n")
    assert commit_of(package) == f"{commit}-dirty"
    git(package.parent, "checkout", "--quiet", ".")
    (package / "new_method.py").write_text("y = 1\n")
    assert commit_of(package) == f"{commit}-dirty"


def test_an_installed_package_inside_another_repository_has_no_commit(package):
    installed = package.parent / ".venv" / "site-packages" / "pruner"
    installed.mkdir(parents=True)
    assert commit_of(installed) == ""


def test_the_repository_of_a_running_hook_is_not_taken(package, tmp_path, monkeypatch):
    expected = commit_of(package)
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "--quiet")
    git(other, "commit", "--quiet", "--allow-empty", "-m", "another")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert commit_of(package) == expected
    assert expected != git(other, "rev-parse", "HEAD")


def test_no_repository_no_commit_and_no_git_give_nothing(package, tmp_path, monkeypatch):
    assert commit_of(tmp_path / "nowhere" / "pruner") == ""
    (tmp_path / "plain" / "pruner").mkdir(parents=True)
    assert commit_of(tmp_path / "plain" / "pruner") == ""
    git(tmp_path / "plain", "init", "--quiet")
    assert commit_of(tmp_path / "plain" / "pruner") == ""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of(package) == ""
