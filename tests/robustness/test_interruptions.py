"""What becomes of a run that is killed, stopped, starved of disk or claimed twice: the real command in its own process."""

import os
import shlex
import signal
import subprocess
import threading
import time

import kill_training
import numpy as np
import pytest
import small

from scratchdiff.checkpoint import claimed, load_checkpoint, save_checkpoint
from scratchdiff.progress import polite_stop


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 30 steps that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    small.run("train", "toy:moons", "--steps", 30, "--out", out, check=True)
    return out / "model.npz"


def wait_for(path, seconds=100):
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not come"
        time.sleep(0.005)


def one_line(error: str) -> str:
    """What is left of stderr without the progress bar: one line of ours."""
    lines = [line for line in error.replace("\r", "\n").splitlines() if line.strip() and not line.startswith("training ")]
    assert len(lines) == 1 and lines[0].startswith("scratchdiff: "), error
    return lines[0]


def test_a_run_killed_at_random_times_loses_nothing_and_ends_as_if_it_had_never_been_killed(tmp_path):
    counts = kill_training.kill_training(5, 1, "toy:moons", 700, tmp_path, most=0.3, log=lambda *args, **kwargs: None)
    assert counts["kills"] == 5 and counts["advanced"] >= 2


@pytest.mark.parametrize("name, number, code", [("Ctrl-C", signal.SIGINT, 130), ("SIGTERM", signal.SIGTERM, 143)])
def test_a_run_stopped_politely_saves_and_its_printed_command_ends_as_if_it_had_never_stopped(
    tmp_path, whole, name, number, code
):
    out = tmp_path / "a run"  # with a blank, for the command to quote
    process = small.start("train", "toy:moons", "--steps", 30, "--save-every", 2, "--out", out, stdout=-1, stderr=-1)
    wait_for(out / "model.npz")
    process.send_signal(number)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode in (code, 0), printed  # 0: it was done before the signal came
    if process.returncode == code:
        meta, _ = load_checkpoint(out / "model.npz")
        assert f"stopped after step {meta['step']} of 30" in printed
        assert meta["step"] < 30 and len(meta["losses"]) == meta["step"] and meta["seconds"] > 0
        _, command = printed.split("to go on: ")
        program, *args = shlex.split(command)
        assert program == "scratchdiff" and small.run(*args).returncode == 0
    assert small.arrays(out / "model.npz") == small.arrays(whole)


def test_samples_of_a_resumed_run_are_those_of_the_run_that_never_stopped(tmp_path, whole):
    out = tmp_path / "run"
    script = tmp_path / "interrupt.py"
    script.write_text(  # the small command, which sends itself a signal at a step that is known
        "import signal, sys\n"
        f"sys.path.insert(0, {str(small.Path(small.__file__).parent)!r})\n"
        "import runpy, scratchdiff.progress as progress\n"
        "watch = progress.watch_training\n"
        "def interrupted(steps):\n"
        "    for step in watch(steps):\n"
        "        if step.step == 13: signal.raise_signal(signal.SIGTERM)\n"
        "        yield step\n"
        "progress.watch_training = interrupted\n"
        f"sys.argv = ['small', *sys.argv[1:]]\nrunpy.run_path({small.__file__!r}, run_name='__main__')\n"
    )
    args = ["train", "toy:moons", "--steps", "30", "--out", str(out)]
    done = subprocess.run([small.sys.executable, script, *args], env=small.environment(), capture_output=True, text=True)
    assert done.returncode == 143 and load_checkpoint(out / "model.npz")[0]["step"] == 13
    small.run(*args, "--resume", check=True)
    for run in out, whole.parent:
        small.run("sample", run, "-n", 20, "--steps", 5, check=True)
    assert (out / "samples.npy").read_bytes() == (whole.parent / "samples.npy").read_bytes()


def test_the_same_seed_and_threads_give_the_same_bits_in_two_processes_through_every_kernel(tmp_path):
    for name in "ab":
        small.run("train", "mnist", "--steps", 3, "--out", tmp_path / name, check=True)
        small.run("sample", tmp_path / name, "-n", 3, "--steps", 2, check=True)
    assert small.arrays(tmp_path / "a" / "model.npz") == small.arrays(tmp_path / "b" / "model.npz")
    assert (tmp_path / "a" / "samples.npy").read_bytes() == (tmp_path / "b" / "samples.npy").read_bytes()


def test_a_second_signal_ends_the_process_at_once(tmp_path):
    code = """if True:
        import signal, time
        from scratchdiff.progress import polite_stop
        with polite_stop() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.signal == signal.SIGINT
            signal.raise_signal(signal.SIGINT)
            time.sleep(60)
    """
    done = subprocess.run([small.sys.executable, "-c", code], env=small.environment(), timeout=30, capture_output=True)
    assert done.returncode == -signal.SIGINT


def test_handlers_are_put_back_and_other_threads_install_none():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with polite_stop():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    seen = []

    def elsewhere():
        with polite_stop() as stop:
            seen.append((stop.signal, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [(None, before[0])]


# ---- disk, folder, second run


def limited(size):
    """For preexec_fn: a file may grow to so many bytes; the write that would pass them fails, as on a full disk."""
    import resource

    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_write_that_fails_half_way_ends_in_one_line_and_leaves_the_old_checkpoint(tmp_path, whole):
    out = tmp_path / "run"
    args = ["train", "toy:moons", "--steps", 40, "--save-every", 5, "--out", out]
    first = small.start(*args, stdout=-3, stderr=-3)
    wait_for(out / "model.npz")
    first.kill()
    first.wait()
    before = (out / "model.npz").read_bytes()
    failed = small.run(*args, "--resume", preexec_fn=limited(len(before) // 2))
    assert failed.returncode == 2
    assert "model.npz could not be written: File too large; what was there is untouched" in one_line(failed.stderr)
    assert (out / "model.npz").read_bytes() == before and not list(out.glob("*.tmp"))
    small.run(*args, "--resume", check=True)
    assert load_checkpoint(out / "model.npz")[0]["step"] == 40


@pytest.fixture
def tiny_disk(tmp_path):
    """A real file system of 200 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a file system needs root")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_ends_in_one_line_and_leaves_the_old_checkpoint(tiny_disk):
    args = ["train", "toy:moons", "--save-every", 5, "--out", tiny_disk / "run"]
    small.run(*args, "--steps", 5, check=True)
    before = (tiny_disk / "run" / "model.npz").read_bytes()
    (tiny_disk / "run" / "loss.png").unlink()
    (tiny_disk / "movies").write_bytes(bytes(os.statvfs(tiny_disk).f_bavail * os.statvfs(tiny_disk).f_frsize - 8192))
    failed = small.run("train", "toy:moons", "--steps", 5, "--out", tiny_disk / "other")
    assert failed.returncode == 2 and "No space left on device" in one_line(failed.stderr)
    assert (tiny_disk / "run" / "model.npz").read_bytes() == before
    assert not list(tiny_disk.rglob("*.tmp")) and not (tiny_disk / "other" / "model.npz").exists()


@pytest.mark.parametrize("place", ["/proc/scratchdiff/run", "{}/file/run"])
def test_a_folder_that_cannot_be_made_ends_in_one_line_before_any_training(tmp_path, place):
    (tmp_path / "file").write_text("a file, not a folder")
    failed = small.run("train", "toy:moons", "--steps", 5, "--out", place.format(tmp_path))
    assert failed.returncode == 2 and "training" not in failed.stderr
    one_line(failed.stderr)


def test_a_folder_that_becomes_read_only_ends_in_one_line(tmp_path):
    (tmp_path / "run").mkdir()
    mounted = subprocess.run(["mount", "--bind", tmp_path / "run", tmp_path / "run"], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a file system needs root")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", tmp_path / "run"], check=True)
        failed = small.run("train", "toy:moons", "--steps", 5, "--out", tmp_path / "run")
    finally:
        subprocess.run(["umount", "-l", tmp_path / "run"], check=True)
    assert failed.returncode == 2 and "Read-only file system" in one_line(failed.stderr)


def test_a_second_run_in_the_same_folder_is_refused_and_the_lock_of_a_killed_one_is_no_obstacle(tmp_path):
    out = tmp_path / "run"
    first = small.start("train", "toy:moons", "--steps", 10**6, "--save-every", 10, "--out", out, stdout=-3, stderr=-3)
    wait_for(out / "model.npz")
    second = small.run("train", "toy:moons", "--steps", 10**6, "--out", out, "--resume")
    assert second.returncode == 2 and "is in use: another process is training there" in one_line(second.stderr)
    assert first.poll() is None
    first.kill()
    first.wait()
    with claimed(out):
        assert load_checkpoint(out / "model.npz")[0]["step"] >= 10


def test_only_our_own_half_files_are_cleared(tmp_path):
    theirs = ["model.npz.tmp", "notes.tmp", "model.npz.mine.tmp", "model.npz.7.tmp.txt"]
    for name in [*theirs, "model.npz.4711.tmp"]:
        (tmp_path / name).write_text("")
    with claimed(tmp_path):
        assert {p.name for p in tmp_path.iterdir()} == {*theirs, ".lock"}


def test_a_run_that_diverges_stops_before_its_checkpoint_and_names_the_op(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "tiles.npy", rng.integers(0, 256, (20, 8, 8, 1), dtype=np.uint8))
    args = ["train", tmp_path / "tiles.npy", "--steps", 8, "--save-every", 2, "--out", tmp_path / "run"]
    process = small.start(*args, stdout=-3, stderr=-3)
    wait_for(tmp_path / "run" / "model.npz")
    process.kill()
    process.wait()
    # weights that are finite, but whose products are not
    from scratchdiff import recipes
    from scratchdiff.checkpoint import restore
    from scratchdiff.optim import EMA, Adam

    meta, groups = load_checkpoint(tmp_path / "run" / "model.npz")
    model, _ = recipes.build(meta["settings"], rng)
    adam, ema = Adam(model.parameters()), EMA(model.parameters())
    start = restore(meta, groups, model, ema, adam, rng)
    model.parameters()["conv_out.w"].data[:] = 1e30
    model.parameters()["norm_out.shift"].data[:] = 1e30
    losses = meta.pop("losses")
    save_checkpoint(tmp_path / "run" / "model.npz", model, ema, adam, rng, start, meta["settings"], 1.0, losses)
    before = (tmp_path / "run" / "model.npz").read_bytes()
    failed = small.run(*args, "--resume")
    assert failed.returncode == 2, failed.stderr
    lines = [line for line in failed.stderr.replace("\r", "\n").splitlines() if line.startswith("scratchdiff: ")]
    assert len(lines) == 1
    assert f"step {start + 1} diverged" in lines[0] and "conv2d(" in lines[0] and "conv_out.w (3, 3, 8, 4)" in lines[0]
    assert "Try a lower lr" in lines[0]
    assert (tmp_path / "run" / "model.npz").read_bytes() == before
