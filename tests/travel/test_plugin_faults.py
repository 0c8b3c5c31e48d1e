"""Whatever goes wrong: the plugin is there, whole and recorded, or it is not; and the second try succeeds."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from loopback_hub import LoopbackHub
from toy_project import NAME, REPO, Place, offered, toy_project, tree

from ldm_registry.errors import IntegrityError, LdmError, NetworkError
from ldm_registry.travel import plugin_store
from ldm_registry.travel.plugin_install import record, remove
from ldm_registry.travel.plugin_offer import Offer
from ldm_registry.travel.plugin_states import verified
from ldm_registry.travel.plugin_store import installed

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
CHANGES = frozenset({"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree"})
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
STEPS = (
    "/revision/v1",
    "/tree/",
    "/resolve/.*pyproject",
    r"/resolve/.*toy_travel/__init__\.py",
    "/resolve/.*LICENSE",
)


@pytest.mark.parametrize(
    ("step", "fault"),
    [
        pytest.param(step, fault, marks=[] if number % 6 == turn % 6 else pytest.mark.slow)
        for turn, step in enumerate(STEPS)
        for number, fault in enumerate(("cut", "401", "403", "404", "429", "503"))
    ],
)
def test_a_fault_of_the_hub_at_any_step_installs_nothing_and_says_what_to_do(
    hub: LoopbackHub, place: Place, step: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ldm_registry.hub._PAUSES_S", (0.0,))
    hub.publish(REPO, toy_project(), tag="v1.0.0")
    if fault == "cut":
        hub.faults.cut(3, step)
    else:
        hub.faults.answer(int(fault), step)
    with pytest.raises(LdmError) as caught:
        place.offer()
    assert caught.value.exit_code in (3, 5)
    assert caught.value.hint
    assert place.is_empty
    hub.faults.clear()
    assert place.install().problems == ()


State = tuple[dict[str, bytes], str | None]


def snapshot(place: Place) -> State:
    return tree(place.site), place.lock.read_text() if place.lock.exists() else None


def seen(state: State) -> dict[str, bytes]:
    """What Python sees of the plugins: the switches, and the folders that they name."""
    files = state[0]
    on = {path: line.decode().strip() for path, line in files.items() if path.endswith(".pth")}
    return {
        path: content
        for path, content in files.items()
        if path in on or any(path.startswith(f"{folder}/") for folder in on.values())
    }


def restore(place: Place, state: State) -> None:
    shutil.rmtree(place.site)
    place.site.mkdir()
    for path, content in state[0].items():
        (place.site / path).parent.mkdir(parents=True, exist_ok=True)
        (place.site / path).write_bytes(content)
    place.lock.unlink(missing_ok=True)
    if state[1] is not None:
        place.lock.write_text(state[1])


def prepared(place: Place, job: str) -> tuple[Callable[[], object], State, State]:
    """What is to be done, and the states before and after it."""
    first, second = offered(toy_project(), "1" * 40), offered(toy_project("1.1.0", 43), "2" * 40)
    before: State = ({}, None)
    if job != "install":
        place.put(first)
        before = snapshot(place)

    def update() -> object:
        (now,) = installed(place.site)
        if now.seal is not None and now.seal.commit == second.commit:
            return record(now, place.site, place.lock)
        return place.put(replace(second, before=now))

    def take_away() -> object:
        return remove(NAME, place.site, place.lock) if snapshot(place) != gone else None

    gone: State = ({}, None)
    if job == "remove":
        remove(NAME, place.site, place.lock)
        gone = snapshot(place)
        restore(place, before)
    work = {"install": lambda: put(place, first), "update": update, "remove": take_away}[job]
    work()
    return work, before, snapshot(place)


def put(place: Place, made: Offer) -> object:
    """As the command does: where it is installed already, only the lock is filled in."""
    found = installed(place.site)
    return record(found[0], place.site, place.lock) if found else place.put(made)


def stops_at(count: int, work: Callable[[], object], *, killed: bool) -> bool:
    """Do some work in a process of its own that is stopped at a change of the disk; whether it came to its end."""
    child = os.fork()
    if child == 0:
        left = [count]

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            writes = event == "open" and bool((arguments[2] or 0) & WRITING)
            if writes or event in (CHANGES if killed else {"os.mkdir"}):
                left[0] -= 1
                if left[0] == 0:
                    if killed:
                        os.kill(os.getpid(), signal.SIGKILL)
                    raise OSError(errno.ENOSPC, "No space left on device")

        sys.addaudithook(watch)
        code = 70
        try:
            work()
            code = 0 if left[0] > 0 else 71
        except LdmError as error:
            code = error.exit_code
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) in ((0,) if killed else (0, 2, 5, 71))
    return os.WEXITSTATUS(status) == 0


@pytest.mark.parametrize("job", ["install", "update", "remove"])
@pytest.mark.parametrize(
    ("killed", "stride"),
    [
        pytest.param(True, 23, id="killed now and then"),
        pytest.param(True, 1, id="killed at every change", marks=pytest.mark.slow),
        pytest.param(False, 1, id="disk full at every file", marks=pytest.mark.slow),
    ],
)
@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_whenever_it_stops_the_old_state_or_the_new_is_there_and_a_second_try_succeeds(
    place: Place, job: str, killed: bool, stride: int
) -> None:
    work, before, after = prepared(place, job)
    for count in range(1, 400, stride):
        restore(place, before)
        ended = stops_at(count, work, killed=killed)
        stopped = snapshot(place)
        assert seen(stopped) in (seen(before), seen(after))
        if seen(stopped) == seen(after) and job != "remove":
            assert stopped[1] == after[1], "what is installed is recorded"
        work()
        assert snapshot(place) == after
        if ended:
            assert count > 1
            return
    raise AssertionError("it never came to its end")


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_two_processes_that_install_at_once_leave_one_whole_plugin(place: Place) -> None:
    made = offered(toy_project())
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            code = 70
            try:
                place.put(made)
                code = 0
            except IntegrityError as error:
                code = 4 if "meanwhile" in str(error) else 70
            finally:
                os._exit(code)
        children.append(child)
    codes = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    assert codes == [0, 4, 4, 4]
    (found,) = installed(place.site)
    assert found.problems == ()
    assert verified([], place.site, place.lock)[0].problems == ()


def test_a_lock_that_cannot_be_written_installs_nothing(place: Place, tmp_path: Path) -> None:
    made = offered(toy_project())
    place.lock = tmp_path / "no" / "such" / "ldm.lock"
    with pytest.raises(LdmError):
        place.put(made)
    assert installed(place.site) == []


def test_a_switch_that_cannot_be_thrown_leaves_the_lock_as_it_was(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = offered(toy_project())
    place.lock.write_text('{"version": 1}')

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ldm_registry.travel.plugin_install.switch_on", full)
    with pytest.raises(NetworkError, match="no space is left on the disk"):
        place.put(made)
    assert installed(place.site) == []
    assert NAME not in place.lock.read_text()
    monkeypatch.undo()
    assert place.put(made).problems == ()


@pytest.mark.parametrize("name", ["_write", "_sync", "altered"])
def test_a_key_press_in_the_middle_leaves_no_installed_plugin_without_its_record(
    place: Place, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    made = offered(toy_project())

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(plugin_store, name, interrupt)
        with pytest.raises(KeyboardInterrupt):
            place.put(made)
    found = installed(place.site)
    assert bool(found) == (NAME in (place.lock.read_text() if place.lock.exists() else ""))
    put(place, made)
    assert [one.problems for one in verified([], place.site, place.lock)] == [()]
