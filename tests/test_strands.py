from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from collections.abc import Callable

import pytest

from handler.strands import Hub, Lull, Poller, Signal, Threads, aside, make_way, set_all


def turn_until(hub: Hub, poller: selectors.BaseSelector, done: Callable[[], bool]) -> None:
    """Be the main loop until *done*."""
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline
        for key, _ in poller.select(hub.sleep_s(0.5)):
            key.data(key.fileobj)
        hub.expire()


def test_a_thread_waits_for_a_signal() -> None:
    """As for an event of the standard library."""
    signal = Signal()
    assert not signal.wait(0.01)
    threading.Timer(0.05, set_all, [[signal]]).start()
    assert signal.wait(5)
    assert signal.wait(0)


def test_strands_wait_beside_each_other_in_one_thread() -> None:
    """All of them start before the first goes on, each goes on with its own signal, and none needs a thread."""
    with selectors.DefaultSelector() as poller:
        hub = Hub(poller)
        signals = [Signal() for _ in range(100)]
        told: list[str] = []

        def run(number: int) -> None:
            told.append(f"{number} waits")
            told.append(f"{number} {signals[number].wait(5)} {threading.current_thread() is here}")

        here = threading.current_thread()
        for number in range(100):
            hub.start(lambda number=number: run(number))  # type: ignore[misc]
        assert told == [f"{number} waits" for number in range(100)]
        for part in (signals[:50], signals[50:]):
            threading.Thread(target=set_all, args=(part,)).start()
        turn_until(hub, poller, lambda: len(told) == 200)
        assert sorted(told[100:]) == sorted(f"{number} True True" for number in range(100))


def test_the_loop_looks_at_others_before_a_long_batch_has_gone_on() -> None:
    """A batch's strands all wake at once; a connection that asks for health does not wait for the last of them."""
    with selectors.DefaultSelector() as poller:
        hub = Hub(poller)
        signals = [Signal() for _ in range(20)]
        told: list[bool] = []

        def run(signal: Signal) -> None:
            told.append(signal.wait(5))
            time.sleep(0.002)

        for signal in signals:
            hub.start(lambda signal=signal: run(signal))  # type: ignore[misc]
        set_all(signals)
        gone_on = 0
        while len(told) < len(signals):
            ((key, _),) = poller.select(1)
            key.data(key.fileobj)
            assert 0 < len(told) - gone_on < 10
            gone_on = len(told)


def test_a_signal_in_time_counts_however_late_its_turn_comes() -> None:
    """The loop may look at what is too late before the bell's turn is over."""
    with selectors.DefaultSelector() as poller:
        hub, signal = Hub(poller), Signal()
        told: list[bool] = []
        hub.start(lambda: told.append(signal.wait(0.1)))
        set_all([signal])
        time.sleep(0.15)
        hub.expire()
        assert told == [True]


def test_a_strand_with_much_to_do_makes_way() -> None:
    """Another strand and a connection get in between; a thread of its own just goes on."""
    make_way()
    mine, theirs = socket.socketpair()
    with selectors.DefaultSelector() as poller, mine, theirs:
        hub = Hub(poller)
        told: list[str] = []
        poller.register(mine, selectors.EVENT_READ, lambda sock: told.append(sock.recv(1).decode()))

        def run(name: str) -> None:
            for _ in range(4):
                time.sleep(0.004)
                told.append(name)
                make_way()

        hub.start(lambda: run("a"))
        hub.start(lambda: run("b"))
        assert told == ["a", "b"]
        theirs.send(b"!")
        turn_until(hub, poller, lambda: len(told) == 9)
        assert "!" in told[2:6]
        assert "".join(told).replace("!", "") == "abababab"


def test_others_go_on_beside_what_takes_long() -> None:
    """It runs in a thread of its own, and its strand gets what it returns or raises."""
    with selectors.DefaultSelector() as poller:
        hub = Hub(poller)
        let_go = threading.Event()
        told: list[object] = []

        def long_work() -> str:
            assert let_go.wait(5)
            return threading.current_thread().name

        def failing() -> None:
            raise ValueError("not this time")

        def run() -> None:
            told.append(aside(long_work))
            with pytest.raises(ValueError, match="not this time"):
                aside(failing)
            told.append("failed")

        hub.start(run)
        hub.start(lambda: told.append("beside"))
        assert told == ["beside"]
        let_go.set()
        turn_until(hub, poller, lambda: len(told) == 3)
        assert told == ["beside", "aside", "failed"]


def test_what_takes_long_needs_no_other_thread_in_a_thread() -> None:
    """Nobody waits for that one."""
    assert aside(threading.current_thread) is threading.current_thread()


def test_a_signal_that_is_set_already_is_not_waited_for() -> None:
    """Nor does the bell that was rung for it move another strand."""
    with selectors.DefaultSelector() as poller:
        hub, early, late = Hub(poller), Signal(), Signal()
        told: list[bool] = []
        set_all([early])
        hub.start(lambda: told.append(early.wait(5)))
        assert told == [True]
        hub.start(lambda: told.append(late.wait(0.2)))
        turn_until(hub, poller, lambda: len(told) == 2)
        assert told == [True, False]


def test_the_loop_may_wait_for_the_bell_alone() -> None:
    """It wakes for a signal at once, for nothing else, and leaves the ring for its poller."""
    mine, theirs = socket.socketpair()
    with selectors.DefaultSelector() as poller, mine, theirs:
        hub, signal = Hub(poller), Signal()
        told: list[bool] = []
        poller.register(mine, selectors.EVENT_READ, mine.recv)
        theirs.send(b"x")
        begin = time.monotonic()
        hub.wait_bell(0.1)
        assert time.monotonic() - begin >= 0.1
        hub.start(lambda: told.append(signal.wait(5)))
        set_all([signal])
        begin = time.monotonic()
        hub.wait_bell(60)
        assert time.monotonic() - begin < 30
        poller.unregister(mine)
        turn_until(hub, poller, lambda: told == [True])


def test_a_strand_goes_on_when_its_time_is_up() -> None:
    """Within a twentieth of a second, though nobody rings; a signal that comes too late wakes nobody."""
    with selectors.DefaultSelector() as poller:
        hub, signal = Hub(poller), Signal()
        told: list[bool] = []
        begin = time.monotonic()
        hub.start(lambda: told.append(signal.wait(0.1)))
        turn_until(hub, poller, lambda: bool(told))
        assert told == [False]
        assert time.monotonic() - begin >= 0.1
        set_all([signal])
        turn_until(hub, poller, lambda: not hub.woken)
        assert told == [False]


def test_an_error_in_a_strand_reaches_the_loop() -> None:
    """As that of a callback would; the strand is gone and others go on."""
    with selectors.DefaultSelector() as poller:
        hub = Hub(poller)
        try:
            hub.start(lambda: int("x"))  # type: ignore[arg-type]
        except ValueError:
            told = [1]
        hub.start(lambda: told.append(2))
        assert told == [1, 2]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_no_ring_is_lost_beside_the_reading_of_another(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal set around the reading of the bell wakes its strand, and so does the one after it."""
    read = os.eventfd_read
    with selectors.DefaultSelector() as poller:
        hub = Hub(poller)
        first, beside, last = signals = [Signal() for _ in range(3)]
        told: list[bool] = []
        for signal in signals:
            hub.start(lambda signal=signal: told.append(signal.wait(5)))  # type: ignore[misc]
        meanwhile = [beside]

        def read_beside(bell: int) -> int:
            if moment == "after":
                count = read(bell)
            while meanwhile:
                set_all([meanwhile.pop()])
            return read(bell) if moment == "before" else count

        monkeypatch.setattr("os.eventfd_read", read_beside)
        set_all([first])
        turn_until(hub, poller, lambda: len(told) == 2)
        set_all([last])
        turn_until(hub, poller, lambda: len(told) == 3)
        assert told == [True, True, True]


def test_a_lull_is_waited_for_while_the_loop_works() -> None:
    """Not where there is one already, not longer than asked, and no longer than until it begins."""
    lull = Lull()
    assert not lull.wait(5)
    lull.end()
    begin = time.monotonic()
    assert lull.wait(0.05)
    assert time.monotonic() - begin >= 0.05
    threading.Timer(0.05, lull.begin).start()
    assert lull.wait(60)
    assert time.monotonic() - begin < 30
    assert not lull.wait(60)


def test_the_poller_tells_of_a_lull_only_when_nothing_is_ready() -> None:
    """A selector that lets go of the interpreter to look would otherwise look like one that waits."""
    told: list[str] = []

    class Told(Lull):
        def begin(self) -> None:
            told.append("begin")

        def end(self) -> None:
            told.append("end")

    with Poller(Told()) as poller:
        bell = os.eventfd(1)
        poller.register(bell, selectors.EVENT_READ, "bell")
        assert [key.data for key, _ in poller.select(5)] == ["bell"]
        assert told == ["end"]
        os.eventfd_read(bell)
        assert poller.select(0.01) == []
        assert told == ["end", "begin", "end"]
        os.close(bell)


def test_where_there_can_be_no_more_threads_work_waits_for_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it is done by the first, which is there from the beginning."""
    threads = Threads(8)

    def refuse(_: threading.Thread) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    goes_on = threading.Event()
    waiting = threads.submit(goes_on.wait, 10)
    behind = [threads.submit(threading.get_ident) for _ in range(3)]
    assert not any(future.done() for future in behind)
    goes_on.set()
    assert waiting.result(10)
    assert len({future.result(10) for future in behind}) == 1
    with pytest.raises(RuntimeError, match="new thread"):
        Threads(8)
    threads.shutdown()
