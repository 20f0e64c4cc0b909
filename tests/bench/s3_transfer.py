"""MB/s of one large object into a file: our ranged reads, boto3's managed transfer, and its CRT client.

The server is a process that costs little (`sendfile`, no checks), so that the client is what is measured; it plays S3
for one object only. `python -m tests.bench.s3_transfer [MB] [ROUNDS]` prints a Markdown table of rounds that alternate.
"""

from __future__ import annotations

import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

from tests.server import ROOT, accepts, free_port

BUCKET, KEY = "bench", "model/model.safetensors"
ETAG = '"0123456789abcdef0123456789abcdef-9"'
MB = 2**20
# name -> (kind, ranges in parallel, MB of a range)
CONTENDERS = {
    "ours, 16 x 16 MB": ("ours", 16, 16),
    "ours, 8 x 16 MB": ("ours", 8, 16),
    "ours, 32 x 8 MB": ("ours", 32, 8),
    "managed transfer, 16 x 16 MB": ("managed", 16, 16),
    "managed transfer, 8 x 16 MB": ("managed", 8, 16),
    "managed transfer, 16 x 64 MB": ("managed", 16, 64),
    "CRT client, ranges of 16 MB": ("crt", 0, 16),
    "CRT client, ranges of 8 MB": ("crt", 0, 8),
}


def serve(file: str, port: int) -> None:
    """Answer HEAD and ranged GET of *file*, one thread per connection."""
    with socket.create_server(("127.0.0.1", port), backlog=256) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=answer, args=(connection, file), daemon=True).start()


def answer(connection: socket.socket, file: str) -> None:
    """Answer the requests of one connection."""
    size = Path(file).stat().st_size
    with connection, Path(file).open("rb") as content:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while head := read_head(connection):
            found = re.search(rb"\r\nrange: *bytes=(\d+)-(\d*)", head, re.IGNORECASE)
            begin = int(found[1]) if found else 0
            end = min(int(found[2]) + 1, size) if found and found[2] else size
            lines = [f"HTTP/1.1 {206 if found else 200} OK", f"Content-Length: {end - begin}", f"ETag: {ETAG}"]
            lines += ["Accept-Ranges: bytes", f"Last-Modified: {formatdate(usegmt=True)}"]
            lines += [f"Content-Range: bytes {begin}-{end - 1}/{size}"] * bool(found)
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
            while not head.startswith(b"HEAD") and begin < end:
                begin += os.sendfile(connection.fileno(), content.fileno(), begin, min(end - begin, MB))


def read_head(connection: socket.socket) -> bytes:
    """Read up to the empty line; nothing more comes before the answer."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = connection.recv(65536)
        if not data:
            return b""
        head += data
    return head


def read(kind: str, readers: int, range_mb: int, port: int, target: Path) -> None:
    """Read the object into *target* and print seconds and seconds of CPU."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
    if kind == "crt":
        run = crt(range_mb * MB, port, target)
    else:
        run = {"ours": ours, "managed": managed}[kind](readers, range_mb * MB, target)
    begin, cpu = time.monotonic(), time.process_time()
    run()
    print(time.monotonic() - begin, time.process_time() - cpu)
    sys.stdout.flush()
    os._exit(0)  # the CRT's threads need not be waited for


def ours(readers: int, range_bytes: int, target: Path) -> Any:
    """Use this server's own fetch, its check by CRC64NVME left out as the object has none."""
    from handler import s3_fetch
    from handler.aws import client
    from handler.s3 import S3Location, S3Object
    from handler.s3_folder import Turn

    s3_fetch.READERS = readers
    s3_fetch._RANGE_BYTES = range_bytes  # noqa: SLF001 - what is measured
    s3 = client("s3", attempts=1, max_pool_connections=readers, response_checksum_validation="when_required")
    source = s3_fetch.Source(s3, S3Location(BUCKET, "model/"), attempts=1, anonymous=False)
    entry = S3Object(KEY, target.name, s3.head_object(Bucket=BUCKET, Key=KEY)["ContentLength"], ETAG)
    turn = Turn(target.parent)
    return lambda: s3_fetch.fetch(source, [entry], turn, what="weights")


def managed(readers: int, range_bytes: int, target: Path) -> Any:
    """Use boto3's `download_file`."""
    import boto3
    from boto3.s3.transfer import TransferConfig
    from botocore.config import Config

    config = TransferConfig(
        multipart_threshold=range_bytes,
        multipart_chunksize=range_bytes,
        max_concurrency=readers,
        io_chunksize=MB,
        preferred_transfer_client="classic",
    )
    client = boto3.client("s3", config=Config(max_pool_connections=readers))
    client.head_object(Bucket=BUCKET, Key=KEY)
    return lambda: client.download_file(BUCKET, KEY, str(target), Config=config)


def crt(range_bytes: int, port: int, target: Path) -> Any:
    """Use the CRT client itself: through boto3 it cannot be pointed at an address."""
    from awscrt import auth, http, io, s3

    group = io.EventLoopGroup()
    client = s3.S3Client(
        bootstrap=io.ClientBootstrap(group, io.DefaultHostResolver(group)),
        region="us-east-1",
        credential_provider=auth.AwsCredentialsProvider.new_static("x", "x"),
        tls_mode=s3.S3RequestTlsMode.DISABLED,
        part_size=range_bytes,
        throughput_target_gbps=10.0,  # what boto3 takes by itself
    )
    request = http.HttpRequest("GET", f"/{BUCKET}/{KEY}", http.HttpHeaders([("host", f"127.0.0.1:{port}")]))
    return lambda: client.make_request(
        request=request, type=s3.S3RequestType.GET_OBJECT, recv_filepath=str(target)
    ).finished_future.result(120)


def main() -> None:
    """Alternate the contenders, each in a process of its own, and print the table."""
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2], int(sys.argv[3]))
    if sys.argv[1:2] == ["read"]:
        read(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), Path(sys.argv[6]))
    size, rounds = (int(text) for text in [*sys.argv[1:], "1500", "3"][:2])
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as parent:  # a disk would be slower than any of them
        content, port = Path(parent) / "content", free_port()
        content.write_bytes(os.urandom(size * 10**6))
        command = [sys.executable, "-m", "tests.bench.s3_transfer"]
        server = subprocess.Popen([*command, "serve", str(content), str(port)], cwd=ROOT)
        while not accepts(port):
            time.sleep(0.05)
        for _ in range(rounds):
            for name, (kind, readers, range_mb) in CONTENDERS.items():
                target = Path(parent) / "out" / "file"
                target.parent.mkdir()
                arguments = [kind, str(readers), str(range_mb), str(port), str(target)]
                output = subprocess.run([*command, "read", *arguments], cwd=ROOT, check=True, capture_output=True)
                seconds, cpu = (float(word) for word in output.stdout.split())
                assert target.stat().st_size == size * 10**6
                found[name].append((size / seconds, cpu))
                for file in target.parent.iterdir():
                    file.unlink()
                target.parent.rmdir()
        server.kill()
        server.wait()
    print("| how | MB/s, median | min | max | seconds of CPU |\n|---|---|---|---|---|")
    for name, figures in found.items():
        speeds, cpus = zip(*figures, strict=True)
        shown = [f"{number:.0f}" for number in (statistics.median(speeds), min(speeds), max(speeds))]
        print(f"| {name} | {' | '.join(shown)} | {statistics.median(cpus):.2f} |")


if __name__ == "__main__":
    main()
