"""Cache folders that are shared, read-only, stale, broken, full or cannot be made: the server starts and says so."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.forked import ForkedServer
from tests.server import Server, wait_for

# Root may write everywhere; these two powers are what lets it.
POWERLESS = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-all")
NAMESPACE = ("unshare", "--mount", *(() if os.getuid() == 0 else ("--user", "--map-root-user")))
# /tmp of 1 MB and no other folder for temporary files: /var/tmp is the same, and the working folder is read-only.
# KEPT, a folder of the tests, is still to be seen at /mnt, and the working folder where it was, be that below /tmp.
SMALL_TMP = """
mount --bind "$KEPT" /mnt
mount --bind "$PWD" /srv
mount -t tmpfs -o size=1m tmpfs /tmp
mount --bind /tmp /var/tmp
[ -z "$SHM_FULL" ] || mount --bind /tmp /dev/shm
mkdir -p "$PWD"
mount --bind /srv "$PWD"
mount -o remount,bind,ro "$PWD"
cd "$PWD"
[ -z "$FULL" ] || head -c 2M /dev/zero >/tmp/full 2>/dev/null || :
exec "$@"
"""


class WrappedServer(Server):
    """A server that another program starts, in its own process."""

    def __init__(self, *wrapper: str, **settings: str) -> None:
        """Start `WRAPPER python -m handler`."""
        self._wrapper = wrapper
        super().__init__(**settings)

    def _start(self, variables: dict[str, str]) -> subprocess.Popen[str]:
        self._command = [*self._wrapper, *self._command]
        return super()._start(variables)


class SmallTmp(WrappedServer):
    """A server with a /tmp of 1 MB and no other place for temporary files, HOME and the caches included."""

    def __init__(self, *, kept: Path, full: bool, shm: bool = False, **settings: str) -> None:
        """Start it; *kept* is to be seen at /mnt, and *shm* leaves /dev/shm as it is."""
        shell = ("sh", "-euc", SMALL_TMP, "small-tmp")
        choices = {"FULL": "yes" if full else "", "SHM_FULL": "" if shm else "yes", "HOME": "/nowhere"}
        super().__init__(*NAMESPACE, *shell, KEPT=str(kept), **choices, **settings)


@pytest.fixture(scope="module")
def first_start(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """A cache folder that a first start has made, out of nothing, and the commands of the processes it took."""
    folder = tmp_path_factory.mktemp("caches") / "not" / "there" / "yet"
    commands: set[str] = set()
    with ForkedServer(EMBED_CACHE_DIR=str(folder)) as server:
        wait_for(lambda: server.events("loading"))
        worker = server.worker()
        while server.status("/ready") != 200 and server.process.poll() is None:
            for process in worker.children():
                with suppress(psutil.Error):  # it has ended meanwhile
                    commands.add(" ".join(process.cmdline()))
        assert_serves(server)
        assert told(server) == []
    return folder, commands


@pytest.fixture(scope="module")
def warm(first_start: tuple[Path, set[str]]) -> Path:
    """What it left for others."""
    folder, _ = first_start
    assert list((folder / "vllm" / "modelinfos").glob("*.json"))
    return folder


def fill(file: Path) -> int | None:
    """Write into *file* until that fails; return the error's number."""
    with file.open("wb", buffering=0) as stream:
        try:
            while stream.tell() < 2 * 2**20:
                stream.write(bytes(4096))
        except OSError as exc:
            return exc.errno
    return None


def assert_serves(server: Server) -> None:
    """Wait until it is ready, then embed."""
    assert server.wait_ready().embed(input="a").status_code == 200


def told(server: Server) -> list[dict[str, Any]]:
    """What the log says of caches, and whatever else is a warning or worse."""
    lines = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
    return [
        line
        for line in lines
        if "cache" in line["event"] or line["level"] not in ("INFO", "DEBUG")
        if line["event"] != "open"
    ]


def test_a_first_start_imports_vllm_once(first_start: tuple[Path, set[str]]) -> None:
    """Where nothing is known of the model's class, vLLM would ask a second Python, and that import vLLM again."""
    _, commands = first_start
    print(commands)
    assert [command for command in commands if "registry" in command] == []


def test_two_containers_start_on_one_folder(tmp_path: Path) -> None:
    """At once, on one that is not there yet and with files to bring to it; both serve, nothing is half-written."""
    cache, baked = tmp_path / "cache", tmp_path / "baked"
    (baked / "modelinfos").mkdir(parents=True)
    for number in range(50):
        content = {"hash": str(number), "modelinfo": {"x": "y" * 5000}}
        (baked / "modelinfos" / f"model-{number}.json").write_text(json.dumps(content))
    settings = {"EMBED_CACHE_DIR": str(cache), "EMBED_BAKED_CACHE_DIR": str(baked)}
    with Server(**settings) as first, Server(**settings) as second, ThreadPoolExecutor(2) as both:
        list(both.map(assert_serves, (first, second)))
        assert told(first) == told(second) == []
    files = list((cache / "vllm" / "modelinfos").iterdir())
    assert len(files) == 51  # the default model's own was made by whoever was first
    for file in files:
        assert {"hash", "modelinfo"} <= json.loads(file.read_text()).keys()


@pytest.mark.parametrize("how", ["permissions", "a file"])
def test_a_folder_that_cannot_be_written_or_made(how: str, tmp_path: Path) -> None:
    """Another takes its place, and one line tells which and why."""
    folder = tmp_path / "cache"
    if how == "permissions":
        folder.mkdir(mode=0o555)
    else:
        folder.write_text("a file, not a folder")
    with WrappedServer(*(POWERLESS if os.getuid() == 0 else ()), EMBED_CACHE_DIR=str(folder)) as server:
        assert_serves(server)
        lines = told(server)
    print(lines)
    assert [line["event"] for line in lines] == ["cache_elsewhere"]
    assert lines[0]["reason"].startswith(f"{folder} cannot be written: ")


def test_a_read_only_mount(warm: Path, tmp_path: Path) -> None:
    """Whoever starts on it, root included."""
    shutil.copytree(warm, tmp_path / "cache")
    mount = 'mount --bind "$EMBED_CACHE_DIR" "$EMBED_CACHE_DIR"; mount -o remount,bind,ro "$EMBED_CACHE_DIR"; exec "$@"'
    command = (*NAMESPACE, "sh", "-euc", mount, "read-only")
    with WrappedServer(*command, EMBED_CACHE_DIR=str(tmp_path / "cache")) as server:
        assert_serves(server)
        lines = told(server)
    assert [line["event"] for line in lines] == ["cache_elsewhere"]
    assert "Read-only file system" in lines[0]["reason"]


def test_a_broken_cache(warm: Path, tmp_path: Path) -> None:
    """The file is made anew, and one line tells of it; what else counts as broken, tests/test_caches.py shows."""
    cache = tmp_path / "cache"
    shutil.copytree(warm, cache)
    file = next((cache / "vllm" / "modelinfos").glob("*.json"))
    whole = file.read_bytes()
    file.write_bytes(whole[:40])
    with ForkedServer(EMBED_CACHE_DIR=str(cache)) as server:
        assert_serves(server)
        assert [(line["event"], line["removed"]) for line in told(server)] == [("cache_mended", 1)]
    assert file.read_bytes() == whole


def test_a_cache_of_another_vllm(warm: Path, tmp_path: Path) -> None:
    """Its files are not used, by their hash, and one line tells of it."""
    cache = tmp_path / "cache"
    shutil.copytree(warm, cache)
    (cache / "vllm" / "vllm-version").write_text("0.31.0")
    file = next((cache / "vllm" / "modelinfos").glob("*.json"))
    whole = file.read_bytes()
    file.write_text(json.dumps({"hash": "of other code", "modelinfo": {"nothing": "vLLM knows"}}))
    with ForkedServer(EMBED_CACHE_DIR=str(cache)) as server:
        assert_serves(server)
        lines = told(server)
    assert [(line["event"], line["was"]) for line in lines] == [("cache_of_another_version", "0.31.0")]
    assert file.read_bytes() == whole


def test_the_image_s_caches_where_they_cannot_be_copied(warm: Path, tmp_path: Path) -> None:
    """They are read where they lie, and one line tells so."""
    (tmp_path / "file").write_text("a file, not a folder")
    settings = {"VLLM_CACHE_ROOT": str(tmp_path / "file" / "vllm"), "EMBED_BAKED_CACHE_DIR": str(warm / "vllm")}
    with Server(**settings) as server:
        assert_serves(server)
        lines = told(server)
    assert [line["event"] for line in lines] == ["baked_cache_in_place"]


def test_a_full_tmp_beside_memory(tmp_path: Path) -> None:
    """Without the image's caches it starts too, where /dev/shm can be written."""
    with SmallTmp(kept=tmp_path, full=True, shm=True) as server:
        assert_serves(server)
        lines = told(server)
        left = Path(lines[0]["reason"].split("caches go to ")[1].split()[0])
    shutil.rmtree(left)
    assert [line["event"] for line in lines] == ["cache_elsewhere"]
    assert left.is_relative_to("/dev/shm")


@pytest.mark.parametrize("baked", ["", "/mnt/vllm"])
def test_no_room_for_any_file_ends_the_start(baked: str, warm: Path) -> None:
    """In one line with the remedy: PyTorch's own rendezvous is a file."""
    with SmallTmp(kept=warm, full=True, EMBED_BAKED_CACHE_DIR=baked) as server:
        assert server.wait_exit(90) == 3, server.log()
        reasons = [event["reason"] for event in server.events("start_failed")]
        assert "nor can any folder for temporary files" in server.events("cache_elsewhere")[0]["reason"]
    print(reasons)
    assert len(reasons) == 1
    assert "make room in the folder for temporary files" in reasons[0]


def test_tmp_fills_up_while_it_serves(warm: Path) -> None:
    """Requests of any size go on, and so does the log."""
    with SmallTmp(kept=warm, full=False, EMBED_BAKED_CACHE_DIR="/mnt/vllm") as server:
        assert_serves(server)
        tmp = Path(f"/proc/{server.process.pid}/root/tmp")
        assert fill(tmp / "full") == errno.ENOSPC
        for size, tokens in ((1, -1), (100, -1), (2000, 4)):  # what takes room is texts and vectors, not their tokens
            response = server.embed(input=["word " * 100] * size, truncate_prompt_tokens=tokens)
            assert response.status_code == 200
            assert len(response.json()["data"]) == size
        assert server.status("/health") == server.status("/metrics") == 200
        assert [line for line in told(server) if line["level"] == "ERROR"] == []
