"""Build the CPU image with buildah, on a Debian that debootstrap makes, without a container engine or a registry.

`python -m tests.image.build` leaves the root file system mounted and its description in `.image/`. As root, on Debian:
apt-get install buildah crun debootstrap iproute2
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
WORK = ROOT / ".image"
DESCRIPTION = WORK / "image.json"
TAG = "localhost/serverless-embeddings:cpu"
BASE = "localhost/debian:bookworm"
_TOOLS = ("buildah", "crun", "debootstrap", "ip")
_CERTIFICATE = "/build-ca.crt"


def buildah(*arguments: str, quiet: bool = False) -> str:
    """Run buildah on a storage of our own; return what it printed."""
    environment = {**os.environ, "CONTAINERS_STORAGE_CONF": str(WORK / "storage.conf")}
    done = subprocess.run(
        ["buildah", *arguments], env=environment, text=True, check=True, stdout=subprocess.PIPE if quiet else None
    )
    return (done.stdout or "").strip()


def prepare_storage() -> None:
    """Configure buildah's storage: overlay where the kernel mounts one here, else whole copies of each layer."""
    WORK.mkdir(exist_ok=True)
    driver = "overlay" if _mounts_overlay() else "vfs"
    (WORK / "storage.conf").write_text(
        f'[storage]\ndriver = "{driver}"\nrunroot = "{WORK}/run"\ngraphroot = "{WORK}/storage"\n'
    )


def _mounts_overlay() -> bool:
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        names = ("lower", "upper", "work", "merged")
        lower, upper, work, merged = (Path(folder, name) for name in names)
        for path in (lower, upper, work, merged):
            path.mkdir()
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        mounted = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(merged)], check=False)
        if mounted.returncode == 0:
            subprocess.run(["umount", str(merged)], check=True)
        return mounted.returncode == 0


def has_image(name: str) -> bool:
    """Whether an earlier run has left *name* in the storage."""
    return f"{name}\n" in buildah("images", "--format={{.Name}}:{{.Tag}}", quiet=True) + "\n"


def make_base() -> None:
    """Make the Debian that stands in for BASE_IMAGE: the same release, from Debian's own packages."""
    folder = WORK / "debian"
    subprocess.run(["debootstrap", "--variant=minbase", "bookworm", str(folder)], check=True)
    container = buildah("from", "scratch", quiet=True)
    buildah("add", "--quiet", container, f"{folder}/", "/")
    buildah("commit", "--quiet", "--rm", container, BASE)
    shutil.rmtree(folder)


def package_settings() -> list[str]:
    """Hand this machine's pip settings to the build, as a user with an index of his own would."""
    found = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    settings = {line.split("=")[0].split(".")[-1]: line.split("=")[1].strip("'") for line in found.splitlines()}
    names = ["index-url", "extra-index-url", "find-links"]
    kept = {name: settings[name] for name in names if name in settings}
    volumes = []
    if "cert" in settings:
        kept["cert"] = _CERTIFICATE
        volumes.append(f"{settings['cert']}:{_CERTIFICATE}:ro")
    words = [Path(word.removeprefix("file://")) for value in kept.values() for word in value.split()]
    # The files of a local index lie beside its pages.
    paths = {path.parent if path.name == "simple" else path for path in words if path.is_dir()}
    volumes += [f"{path}:{path}:ro" for path in sorted(paths)]
    lines = [f"{name} = {value}" for name, value in kept.items()]
    (WORK / "pip.conf").write_text("\n".join(["[global]", *lines, ""]))
    return ["--secret", f"id=pip.conf,src={WORK}/pip.conf", *(f"--volume={volume}" for volume in volumes)]


def build() -> dict[str, Any]:
    """Build the image, mount its root file system, and return what `DESCRIPTION` then holds."""
    begin = time.monotonic()
    arguments = {"BASE_IMAGE": BASE, "ADAPTER_IMAGE": "no-adapter", "WORLD": "cpu"}
    built = [f"--build-arg={name}={value}" for name, value in arguments.items()]
    buildah(
        "bud",
        "--isolation=chroot",
        "--format=docker",
        "--layers",
        f"--tag={TAG}",
        *built,
        *package_settings(),
        str(ROOT),
    )
    inspected = json.loads(buildah("inspect", "--type=image", TAG, quiet=True))
    buildah("rm", "--all", quiet=True)
    container = buildah("from", TAG, quiet=True)
    description = {
        "rootfs": buildah("mount", container, quiet=True),
        "config": inspected["Docker"]["config"],
        "layers_bytes": [layer["size"] for layer in json.loads(inspected["Manifest"])["layers"]],
        "build_s": round(time.monotonic() - begin),
    }
    DESCRIPTION.write_text(json.dumps(description, indent=2))
    return description


def main() -> None:
    """Build; what an earlier run has built is used again where it is still the same."""
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        sys.exit(f"{', '.join(missing)} not found; on Debian: apt-get install buildah crun debootstrap iproute2")
    if os.geteuid() != 0:
        sys.exit("building and starting an image without a container engine needs root")
    prepare_storage()
    if not has_image(BASE):
        make_base()
    description = build()
    print(f"built in {description['build_s']} s: {description['rootfs']}")


if __name__ == "__main__":
    main()
