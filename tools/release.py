"""What has to agree before a package is released, and what was built.

```
python tools/release.py check                     # the sources of all packages
python tools/release.py tag o1-vote-v0.2.0        # the package that a tag names; prints its folder
python tools/release.py built dist                # a folder with a wheel and an sdist of every package
```
Prints one line for each thing that is wrong; the exit code is 1 if there is any. `nox -s release` runs it.
"""

from __future__ import annotations

import argparse
import email
import re
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]

_VERSION = re.compile(r'^__version__ = "([^"]+)"$', re.MULTILINE)
_HEADING = re.compile(r"^## (.*)$", re.MULTILINE)
_DATED = re.compile(r"(?P<version>\S+) \((?P<date>unreleased|\d{4}-\d{2}-\d{2})\)")
_TAG = re.compile(r"(?P<name>o1-[a-z]+)-v(?P<version>\d+\.\d+\.\d+\S*)")


@dataclass(frozen=True)
class Package:
    """One package of the repository, as its sources describe it."""

    folder: Path

    @property
    def project(self) -> dict[str, Any]:
        """pyproject.toml."""
        return tomllib.loads((self.folder / "pyproject.toml").read_text(encoding="utf-8"))

    @property
    def name(self) -> str:
        """The name of the distribution."""
        return str(self.project["project"]["name"])

    @property
    def module(self) -> str:
        """The name that is imported."""
        return self.name.replace("-", "_")

    @property
    def version(self) -> str:
        """The version in the package's `__init__.py`; "" if there is none."""
        found = _VERSION.search((self.folder / self.version_file).read_text(encoding="utf-8"))
        return found[1] if found else ""

    @property
    def version_file(self) -> str:
        """The path of the file that both `pyproject.toml` and Python should take the version from."""
        return f"src/{self.module}/__init__.py"

    @property
    def newest_heading(self) -> str:
        """The newest heading of CHANGELOG.md; "" if there is none."""
        found = _HEADING.search((self.folder / "CHANGELOG.md").read_text(encoding="utf-8"))
        return found[1] if found else ""

    @property
    def requirements(self) -> Iterator[Requirement]:
        """All requirements, those of the extras too."""
        project = self.project["project"]
        extras = project.get("optional-dependencies", {}).values()
        for group in (project.get("dependencies", []), *extras):
            yield from map(Requirement, group)


def packages(root: Path = ROOT) -> list[Package]:
    """Return the packages of the repository."""
    return [Package(path.parent) for path in sorted(root.glob("packages/*/pyproject.toml"))]


def wrong_sources(found: list[Package]) -> Iterator[str]:
    """Yield what does not agree in the sources of the packages."""
    versions = {package.name: package.version for package in found}
    for package in found:
        project, place = package.project, package.folder / "pyproject.toml"
        if "version" not in project["project"].get("dynamic", []):
            yield f"{place}: the version is not dynamic; take it from {package.version_file}"
        configured = project.get("tool", {}).get("hatch", {}).get("version", {}).get("path")
        if configured != package.version_file:
            yield f"{place}: tool.hatch.version.path is {configured!r}, not {package.version_file!r}"
        if not package.version:
            yield f'{package.folder / package.version_file}: has no line __version__ = "..."'
        dated = _DATED.fullmatch(package.newest_heading)
        changelog = package.folder / "CHANGELOG.md"
        if dated is None:
            yield f"{changelog}: the newest heading is {package.newest_heading!r}, not 'VERSION (DATE)'"
        elif dated["version"] != package.version:
            yield f"{changelog}: the newest heading says {dated['version']}, __version__ is {package.version}"
        for requirement in package.requirements:
            sibling = versions.get(requirement.name)
            if sibling is not None and not requirement.specifier.contains(sibling, prereleases=True):
                yield f"{place}: {requirement} does not admit {requirement.name} {sibling}"
        # a copy for each, because a distribution holds only what is in its own folder
        mine, original = package.folder / "LICENSE", package.folder.parents[1] / "LICENSE"
        if not mine.exists() or mine.read_bytes() != original.read_bytes():
            yield f"{mine}: is missing or differs from {original}; copy that"


def tagged(tag: str, found: list[Package]) -> tuple[Package | None, list[str]]:
    """Return the package that a tag such as "o1-vote-v0.2.0" names, and what stands against its release."""
    match = _TAG.fullmatch(tag)
    package = next((package for package in found if match and package.name == match["name"]), None)
    if match is None or package is None:
        names = ", ".join(package.name for package in found)
        return None, [f"tag {tag!r} is not NAME-vVERSION with a NAME of {names}"]
    wrong = []
    if package.version != match["version"]:
        wrong.append(f"tag {tag}: __version__ of {package.name} is {package.version}")
    if "unreleased" in package.newest_heading:
        wrong.append(f"{package.folder / 'CHANGELOG.md'}: {package.newest_heading!r} has no date yet")
    return package, wrong


def wrong_built(dist: Path, found: list[Package]) -> Iterator[str]:
    """Yield what is wrong in a folder that should hold a wheel and an sdist of every package."""
    expected = set()
    for package in found:
        stem = f"{package.module}-{package.version}"
        wheel, sdist = dist / f"{stem}-py3-none-any.whl", dist / f"{stem}.tar.gz"
        expected |= {wheel, sdist}
        for path, names_in, top in ((wheel, _in_wheel, ""), (sdist, _in_sdist, f"{stem}/")):
            if not path.exists():
                yield f"{path}: missing"
                continue
            source = "" if path == wheel else "src/"
            names, metadata = names_in(path)
            said = email.message_from_bytes(metadata)
            if (said["Name"], said["Version"]) != (package.name, package.version):
                yield f"{path}: says that it is {said['Name']} {said['Version']}"
            modules = {
                f"{top}{source}{file.relative_to(package.folder / 'src').as_posix()}"
                for file in (package.folder / "src").rglob("*")
                if file.is_file() and "__pycache__" not in file.parts
            }
            if modules - names:
                yield f"{path}: lacks {', '.join(sorted(modules - names)[:5])}"
            if not any(name.endswith("/LICENSE") for name in names):
                yield f"{path}: lacks the license"
            strangers = [name for name in names if re.search(r"(^|/)(tests|__pycache__|\.[^/]*cache)/", name)]
            if strangers:
                yield f"{path}: holds {', '.join(sorted(strangers)[:5])}"
    others = set(dist.iterdir()) - expected
    if others:
        yield f"{dist}: holds {', '.join(sorted(path.name for path in others))} too; empty it and build again"


def _in_wheel(path: Path) -> tuple[set[str], bytes]:
    with zipfile.ZipFile(path) as wheel:
        [metadata] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        return set(wheel.namelist()), wheel.read(metadata)


def _in_sdist(path: Path) -> tuple[set[str], bytes]:
    with tarfile.open(path) as sdist:
        names = {member.name for member in sdist.getmembers() if member.isfile()}
        [metadata] = [name for name in names if name.count("/") == 1 and name.endswith("/PKG-INFO")]
        file = sdist.extractfile(metadata)
        return names, file.read() if file else b""


def main(argv: list[str] | None = None) -> int:
    """Run a check and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="the sources of all packages")
    commands.add_parser("tag", help="the package that a tag names; prints its folder").add_argument("tag")
    commands.add_parser("built", help="a folder of wheels and sdists").add_argument("dist", type=Path)
    args = parser.parse_args(argv)
    found = packages()
    wrong = list(wrong_sources(found))
    if args.command == "tag":
        package, against = tagged(args.tag, found)
        wrong += against
        if package is not None and not wrong:
            print(package.folder.relative_to(ROOT))
    elif args.command == "built":
        wrong += wrong_built(args.dist, found)
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
