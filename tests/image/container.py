"""The built image, started by an OCI runtime the way a platform starts it."""

from __future__ import annotations

import json
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import Any

from tests.image.build import WORK
from tests.server import Server

WEIGHTS = "/opt/ml/model"  # where the image looks for them; also SageMaker's place
_MOUNTS: list[dict[str, Any]] = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
]
_TMP: dict[str, Any] = {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}
_WITHOUT_HOME = ["/usr/bin/env", "-u", "HOME", "-u", "USER"]


def description(name: str = "cpu") -> dict[str, Any]:
    """What `tests.image.build` left of the image *name*: rootfs, config, layers."""
    content: dict[str, Any] = json.loads((WORK / f"{name}.json").read_text())
    return content


class Container(Server):
    """A container: the root file system read-only but for /tmp, no capability, and only the variables given.

    It shares the network of the tests, which `make image-check` runs where there is nothing but loopback.
    """

    def __init__(
        self,
        *arguments: str,
        image: str = "cpu",
        uid: int | None = None,
        home: bool = True,
        port: str | None = None,
        mounts: dict[str, Path] | None = None,
        tmp: str = "mode=1777",
        **variables: str,
    ) -> None:
        """Start the image.

        Args:
            arguments: follow the entry point, as `docker run IMAGE ARGUMENTS` has them.
            image: which of the built ones.
            uid: instead of the image's own user.
            home: leave it to the runtime to set HOME; crun, as Docker, always does. False: the server gets neither HOME
                nor USER.
            port: where it will listen, if a platform prescribes one; else the variable `PORT` names a free one.
            mounts: folder inside -> read-only folder outside.
            tmp: options of the file system on /tmp.
            variables: what the platform adds to the image's own environment.
        """
        built = description(image)
        config = built["config"]
        self._name = f"embed-{uuid.uuid4().hex}"
        self._bundle = tempfile.TemporaryDirectory(prefix="embed-bundle-")
        user = int(config["User"].split(":")[0]) if uid is None else uid
        bound = [
            {"destination": inside, "type": "bind", "source": str(outside), "options": ["bind", "ro"]}
            for inside, outside in (mounts or {}).items()
        ]
        self._spec: dict[str, Any] = {
            "ociVersion": "1.0.0",
            "process": {
                "user": {"uid": user, "gid": user},
                "args": [*([] if home else _WITHOUT_HOME), *config["Entrypoint"], *arguments],
                "env": config["Env"],
                "cwd": config["WorkingDir"],
                "noNewPrivileges": True,
            },
            "root": {"path": built["rootfs"], "readonly": True},
            "mounts": [*_MOUNTS, {**_TMP, "options": ["nosuid", "nodev", tmp]}, *bound],
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]},
        }
        # Else setproctitle, which gunicorn uses, writes its title over what `environment` reads.
        super().__init__(port=port, **({} if home else {"SPT_NOENV": "1"}), **variables)

    def _start(self, variables: dict[str, str]) -> subprocess.Popen[str]:
        """Write the bundle and run it; only the variables given are added, nothing is inherited."""
        self._spec["process"]["env"] = [*self._spec["process"]["env"], *(f"{k}={v}" for k, v in variables.items())]
        Path(self._bundle.name, "config.json").write_text(json.dumps(self._spec))
        command = ["crun", "--cgroup-manager=disabled", "run", "--bundle", self._bundle.name, self._name]
        return subprocess.Popen(command, stdout=self._log, stderr=self._log, text=True)

    @property
    def pid(self) -> int:
        """The process that is number 1 inside."""
        state = subprocess.run(["crun", "state", self._name], capture_output=True, text=True, check=True)
        pid: int = json.loads(state.stdout)["pid"]
        return pid

    def run_inside(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run *command* in the container, with its own environment and *variables*."""
        ours = [*self._spec["process"]["env"], *(f"{name}={value}" for name, value in variables.items())]
        environment = [f"--env={variable}" for variable in ours]  # crun passes these only
        crun = ["crun", "--cgroup-manager=disabled", "exec", *environment, self._name]
        return subprocess.run([*crun, *command], check=False, capture_output=True, text=True)

    def environment(self) -> dict[str, str]:
        """The variables that the container's first process was started with."""
        lines = self.inside("/proc/1/environ").read_text().strip("\0").split("\0")
        return dict(line.split("=", 1) for line in lines)

    def inside(self, path: str) -> Path:
        """Where the container's *path* is seen from outside, its /tmp included."""
        return Path(f"/proc/{self.pid}/root{path}")

    def terminate(self) -> None:
        """Send SIGTERM to the container's first process, as a platform does."""
        subprocess.run(["crun", "kill", self._name, "TERM"], check=True)

    def stop(self) -> None:
        """End the container, however it stands."""
        subprocess.run(["crun", "delete", "--force", self._name], check=False, capture_output=True)
        self.process.wait()
        super().stop()
        self._bundle.cleanup()
