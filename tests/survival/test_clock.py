from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx

from tests.server import Server

LIBRARY = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")  # Debian package libfaketime
DAY = 86_400
JUMPS = ("+1d", "-1d", "+0", "-30d", "+0")


def test_jumps_of_the_clock(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """A day forward and back, a month back: deadlines and waits are monotonic, so nobody notices."""
    assert LIBRARY.exists(), "apt-get install libfaketime"
    now = tmp_path / "now"
    now.write_text("+0")
    faked = {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(now),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    statuses: Counter[int] = Counter()
    created: list[int] = []
    stop = threading.Event()
    with Server(module="tests.survival.faked_clock", EMBED_REQUEST_TIMEOUT_S="20", **faked) as server:
        server.wait_ready()

        def ask(texts: int) -> None:
            with httpx.Client(timeout=60) as client:
                while not stop.is_set():
                    answer = client.post(f"{server.url}/v1/embeddings", json={"input": ["word " * 100] * texts})
                    statuses[answer.status_code] += 1
                    created.append(answer.json()["created"])

        clients = [threading.Thread(target=ask, args=(texts,)) for texts in (1, 1, 64)]
        for client in clients:
            client.start()
        for jump in JUMPS:
            now.write_text(jump)
            time.sleep(3)
            assert server.status("/ready") == 200
        stop.set()
        for client in clients:
            client.join()
        begin = time.monotonic()
        server.terminate()
        assert server.wait_exit(20) == 0
        drained = time.monotonic() - begin
    spread = (max(created) - min(created)) / DAY
    assert set(statuses) == {200}
    assert spread > 30  # the clock was faked indeed
    assert drained < 10
    record_property("what", "the clock jumps a day forward, a day back, a month back under load")
    record_property(
        "figure",
        f"{statuses[200]} requests, all 200; their times lie {spread:.0f} days apart; exit 0 after {drained:.1f} s",
    )
