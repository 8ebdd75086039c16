"""Releases: what has to agree is checked, and every disagreement is found."""

import importlib.util
import io
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "release.py"


def loaded(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


release = loaded(SCRIPT)


PROJECT = """
[project]
name = "o1-{name}"
dynamic = ["version"]
dependencies = [{records}]

[tool.hatch.version]
path = "src/o1_{name}/__init__.py"
"""


@pytest.fixture
def small(tmp_path):
    """A repository of two packages at 0.1.0, one of which needs the other."""
    (tmp_path / "LICENSE").write_text("the license")
    for name, records in (("records", ""), ("vote", '"o1-records[bm25]>=0.1,<0.2", "numpy>=2"')):
        folder = tmp_path / "packages" / name
        (folder / "src" / f"o1_{name}").mkdir(parents=True)
        (folder / "src" / f"o1_{name}" / "__init__.py").write_text('__version__ = "0.1.0"\n')
        (folder / "pyproject.toml").write_text(PROJECT.format(name=name, records=records))
        (folder / "CHANGELOG.md").write_text("# Changes\n\n## 0.1.0 (unreleased)\n\n## 0.0.9 (2026-01-01)\n")
        (folder / "LICENSE").write_text("the license")
    return tmp_path


def changed(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def wrong(root):
    return list(release.wrong_sources(release.packages(root)))


def test_the_sources_of_all_packages_agree():
    done = subprocess.run([sys.executable, SCRIPT, "check"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert [package.name for package in release.packages()] == [
        f"o1-{name}" for name in ("bench", "index", "model", "records", "synth", "vote")
    ]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("vote/CHANGELOG.md", "## 0.1.0", "## 0.2.0", "the newest heading says 0.2.0, __version__ is 0.1.0"),
        (
            "vote/CHANGELOG.md",
            "(unreleased)",
            "soon",
            "the newest heading is '0.1.0 soon', not",
        ),
        ("vote/src/o1_vote/__init__.py", "__version__", "version", 'has no line __version__ = "..."'),
        ("vote/pyproject.toml", 'dynamic = ["version"]', 'version = "0.1.0"', "the version is not dynamic"),
        ("vote/pyproject.toml", 'path = "src/o1_vote/__init__.py"', 'path = "VERSION"', "is 'VERSION', not"),
        ("vote/pyproject.toml", ">=0.1,<0.2", ">=0.2", "does not admit o1-records 0.1.0"),
        ("records/src/o1_records/__init__.py", '"0.1.0"', '"0.2.0"', "does not admit o1-records 0.2.0"),
        ("vote/LICENSE", "the", "another", "differs from"),
    ],
)
def test_what_does_not_agree_is_told_with_its_file(small, file, old, new, message):
    assert wrong(small) == []
    changed(small / "packages" / file, old, new)
    told = wrong(small)
    assert any(message in line for line in told)
    assert all(line.startswith(f"{small / 'packages'}/") for line in told)


def test_a_tag_names_a_package_its_version_and_a_dated_changelog(small):
    found = release.packages(small)
    package, against = release.tagged("o1-vote-v0.1.0", found)
    assert package.folder == small / "packages" / "vote"
    assert len(against) == 1
    assert "'0.1.0 (unreleased)' has no date yet" in against[0]
    changed(small / "packages" / "vote" / "CHANGELOG.md", "(unreleased)", "(2026-12-01)")
    assert release.tagged("o1-vote-v0.1.0", found) == (package, [])
    assert release.tagged("o1-vote-v0.2.0", found)[1] == [
        "tag o1-vote-v0.2.0: __version__ of o1-vote is 0.1.0"
    ]
    for tag in ("o1-vote-0.1.0", "v0.1.0", "o1-other-v0.1.0", "o1-vote-vnext", "o1-vote-v0.1.0; rm x"):
        package, against = release.tagged(tag, found)
        assert against, tag
    assert subprocess.run([sys.executable, SCRIPT, "tag", "v1"], capture_output=True).returncode == 1


def built(dist, package, without="", metadata=None):
    """Write a wheel and an sdist with the sources of a package, as a build backend would."""
    stem = f"{package.module}-{package.version}"
    metadata = metadata or f"Metadata-Version: 2.4\nName: {package.name}\nVersion: {package.version}\n"
    sources = {path.relative_to(package.folder / "src"): path for path in package.folder.rglob("*.py")}
    wheel = {str(name): path.read_text() for name, path in sources.items()}
    wheel |= {f"{stem}.dist-info/METADATA": metadata, f"{stem}.dist-info/licenses/LICENSE": "mine"}
    sdist = {f"{stem}/src/{name}": path.read_text() for name, path in sources.items()}
    sdist |= {f"{stem}/PKG-INFO": metadata, f"{stem}/LICENSE": "mine"}
    dist.mkdir(exist_ok=True)
    with zipfile.ZipFile(dist / f"{stem}-py3-none-any.whl", "w") as file:
        for name, text in wheel.items():
            if not without or not name.endswith(without):
                file.writestr(name, text)
    with tarfile.open(dist / f"{stem}.tar.gz", "w:gz") as file:
        for name, text in sdist.items():
            if not without or not name.endswith(without):
                info = tarfile.TarInfo(name)
                info.size = len(text.encode())
                file.addfile(info, io.BytesIO(text.encode()))


def test_a_folder_of_builds_holds_both_of_every_package_whole_and_no_others(small):
    found, dist = release.packages(small), small / "dist"
    for package in found:
        built(dist, package)
    assert list(release.wrong_built(dist, found)) == []
    (dist / "o1_vote-0.0.9.tar.gz").touch()
    assert [line.partition(";")[0] for line in release.wrong_built(dist, found)] == [
        f"{dist}: holds o1_vote-0.0.9.tar.gz too"
    ]
    (dist / "o1_vote-0.0.9.tar.gz").unlink()
    vote = found[-1]
    for options, message in [
        ({"without": "__init__.py"}, "lacks .*o1_vote/__init__.py"),
        ({"without": "LICENSE"}, "lacks the license"),
        ({"metadata": "Name: o1-vote\nVersion: 9\n"}, "says that it is o1-vote 9"),
    ]:
        built(dist, vote, **options)
        told = list(release.wrong_built(dist, found))
        assert len(told) == 2
        assert all(re.search(message, line) for line in told)
    built(dist, vote)
    (dist / "o1_vote-0.1.0-py3-none-any.whl").unlink()
    assert list(release.wrong_built(dist, found)) == [f"{dist}/o1_vote-0.1.0-py3-none-any.whl: missing"]


# --- the files around it ------------------------------------------------------------------------------


def pinned():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_hooks_before_a_commit_use_the_versions_of_the_checks():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repository in config["repos"] for hook in repository["hooks"]]
    wanted = {word for hook in hooks for word in hook.get("additional_dependencies", ())}
    assert {f"ruff=={pinned()['ruff']}", f"nox=={pinned()['nox']}"} <= wanted
    assert all("==" in word for word in wanted)


@pytest.mark.parametrize("name", ["checks", "release"])
def test_a_workflow_says_that_it_was_not_run_and_calls_what_exists(name):
    text = (ROOT / ".github" / "workflows" / f"{name}.yml").read_text()
    assert text.startswith("# Not run where it was written")
    jobs = yaml.safe_load(text)["jobs"]
    lines = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    sessions = set(re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(), re.MULTILINE))
    assert set(re.findall(r"nox -s (\w+)", "\n".join(lines))) <= sessions
    if name == "checks":
        project = tomllib.loads((ROOT / "packages" / "records" / "pyproject.toml").read_text())["project"]
        assert project["requires-python"] == ">=3.11,<3.14"
        assert jobs["nox"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    else:
        assert jobs["publish"]["permissions"] == {"id-token": "write"}
        assert all("permissions" not in job for job in jobs.values() if job is not jobs["publish"])
