"""What is saved comes back whole, and what is no checkpoint is refused by name."""

import io
import time
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff.checkpoint import load_checkpoint, restore, save_checkpoint


def state(seed, width=8):
    rng = np.random.default_rng(seed)
    model = sd.MLP(width=width, num_blocks=1, rng=rng)
    adam, ema = sd.Adam(model.parameters()), sd.EMA(model.parameters())
    for p in model.parameters().values():
        p.grad = rng.standard_normal(p.shape).astype(np.float32)
    adam.step()
    ema.update()
    return model, ema, adam, rng


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "run" / "model.npz"
    parts = state(1)
    save_checkpoint(path, *parts, 42, dict(predict="v", ch_mult=(1, 2)))
    return path, parts


def test_everything_comes_back(saved):
    path, (model, ema, adam, rng) = saved
    meta, groups = load_checkpoint(path)
    other_model, other_ema, other_adam, other_rng = state(2)
    assert restore(meta, groups, other_model, other_ema, other_adam, other_rng) == 42
    assert meta["settings"] == dict(predict="v", ch_mult=[1, 2])
    for name, p in model.parameters().items():
        assert np.array_equal(p.data, other_model.parameters()[name].data)
        assert np.array_equal(ema.average[name], other_ema.average[name])
        assert np.array_equal(adam.m[name], other_adam.m[name]) and np.array_equal(adam.v[name], other_adam.v[name])
    assert (other_adam.k, other_ema.k) == (adam.k, ema.k)
    assert rng.random() == other_rng.random()


def test_saving_leaves_one_file_and_no_temporary_ones(saved):
    path, parts = saved
    save_checkpoint(path, *parts, 43, {})
    assert [p.name for p in path.parent.iterdir()] == ["model.npz"]
    assert load_checkpoint(path)[0]["step"] == 43


def test_a_failed_save_keeps_the_old_checkpoint_and_cleans_up(saved, monkeypatch):
    path, parts = saved

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, *parts, 43, {})
    assert [p.name for p in path.parent.iterdir()] == ["model.npz"]
    assert load_checkpoint(path)[0]["step"] == 42


def test_a_checkpoint_of_another_network_is_refused_and_changes_nothing(saved):
    path, _ = saved
    model, ema, adam, rng = state(2, width=6)
    before = {name: p.data.copy() for name, p in model.parameters().items()}
    with pytest.raises(ValueError, match=r"restore: model .* blocks.0.dense1.b has shape \(8,\), not \(6,\);"):
        restore(*load_checkpoint(path), model, ema, adam, rng)
    assert all(np.array_equal(before[name], p.data) for name, p in model.parameters().items())


@pytest.mark.parametrize(
    "change, complaint",
    [
        (lambda g: g["ema"].pop("temb.dense1.b"), "ema .* missing temb.dense1.b"),
        (lambda g: g["adam_m"].update(other=np.zeros(1, "f4")), "adam_m .* unexpected other"),
        (
            lambda g: g["adam_v"].update({"dense_in.b": np.zeros(3, "f4")}),
            r"adam_v .* dense_in.b has shape \(3,\), not \(8,\)",
        ),
        (lambda g: g["model"].update({"dense_in.b": np.zeros(8)}), "model .* dense_in.b is float64, not float32"),
        (lambda g: g["model"].update({"dense_in.b": np.full(8, np.nan, "f4")}), "model .* dense_in.b is not finite"),
        (lambda g: g["adam_v"].update({"dense_in.b": np.full(8, -1, "f4")}), "adam_v.* negative"),
        (lambda g: g.pop("ema"), "ema .* missing"),
    ],
)
def test_restore_names_what_does_not_fit_and_changes_nothing(saved, change, complaint):
    path, _ = saved
    meta, groups = load_checkpoint(path)
    change(groups)
    model, ema, adam, rng = state(2)
    before = [*(p.data.copy() for p in model.parameters().values()), rng.bit_generator.state]
    with pytest.raises(ValueError, match=f"restore: {complaint}"):
        restore(meta, groups, model, ema, adam, rng)
    after = [*(p.data for p in model.parameters().values()), rng.bit_generator.state]
    assert all(np.array_equal(a, b) for a, b in zip(before[:-1], after[:-1])) and before[-1] == after[-1]


@pytest.mark.parametrize("state_of", [np.random.MT19937, np.random.Philox, None])
def test_the_state_of_another_generator_is_refused_and_changes_nothing(saved, state_of):
    meta, groups = load_checkpoint(saved[0])
    meta["rng"] = state_of(0).state if state_of else {"bit_generator": "PCG64", "state": "no"}
    model, ema, adam, rng = state(2)
    before = rng.bit_generator.state
    with pytest.raises(ValueError, match="restore: no state of a PCG64 generator"):
        restore(meta, groups, model, ema, adam, rng)
    assert rng.bit_generator.state == before


@pytest.mark.parametrize("step, settings, found", [(-1, {}, "step -1"), (1, dict(a=np.float32(1)), "not JSON"),
                                                   (1, dict(a=np.nan), "not JSON")])  # fmt: skip
def test_what_could_not_be_read_back_is_not_written(saved, step, settings, found):
    path, parts = saved
    with pytest.raises(ValueError, match=f"save_checkpoint: .*{found}"):
        save_checkpoint(path, *parts, step, settings)
    assert load_checkpoint(path)[0]["step"] == 42 and len(list(path.parent.iterdir())) == 1


def test_step_time_and_losses_come_back(saved):
    path, parts = saved
    save_checkpoint(path, *parts, 3, {}, seconds=1.5, losses=[3.0, 2.0, 0.1])
    meta, _ = load_checkpoint(path)
    assert (meta["step"], meta["seconds"], meta["losses"].tolist()) == (3, 1.5, [3.0, 2.0, 0.1])


def test_every_flipped_byte_of_a_checkpoint_is_refused_or_harmless(saved):
    path, _ = saved
    whole, flipped = path.read_bytes(), path.with_name("flipped.npz")
    want, rng, refused = load_checkpoint(path), np.random.default_rng(0), 0
    for i in range(0, len(whole), 41):  # every bit of a smaller one was tried by tests/robustness/flip_bits.py
        flipped.write_bytes(whole[:i] + bytes([whole[i] ^ 1 << rng.integers(8)]) + whole[i + 1 :])
        try:
            meta, groups = load_checkpoint(flipped)
        except ValueError as error:
            refused += 1
            assert str(flipped) in str(error) and "\n" not in str(error)
        else:
            assert np.array_equal(meta.pop("losses"), want[0]["losses"])
            assert meta == {key: value for key, value in want[0].items() if key != "losses"}
            assert all(np.array_equal(a, want[1][g][k]) for g in groups for k, a in groups[g].items())
            assert [groups[g].keys() for g in groups] == [want[1][g].keys() for g in groups]
    assert refused > len(whole) / 41 / 2


class Touch:
    def __init__(self, where):
        self.where = where

    def __reduce__(self):
        return Path.touch, (self.where,)


def archive(path, members, packing=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", packing) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name twice: that is the point
        for name, content in members:
            file.writestr(name, content)


def npy(array, **settings):
    file = io.BytesIO()
    np.save(file, array, **settings)
    return file.getvalue()


def hostile(whole, touched):
    """{name: (members, packing)} of files made to hurt."""
    with zipfile.ZipFile(whole) as file:
        members = [(name, file.read(name)) for name in file.namelist()]
    small = npy(np.zeros(3, "f4"))
    claim = small.replace(b"(3,), ", b"(9999999999,), ").replace(b"  \n", b"\n")
    claim = claim[:8] + (len(claim) - 22).to_bytes(2, "little") + claim[10:]
    objects = npy(np.array([Touch(touched)], dtype=object), allow_pickle=True)
    bomb = npy(np.zeros(50_000_000, "u1"))
    stored, packed = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
    return {
        "a bomb": (members + [("model/x.npy", bomb)], packed),
        "objects": (members + [("model/x.npy", objects)], stored),
        "objects as meta": ([("meta.npy", objects)] + members[1:], stored),
        "an absurd shape": (members + [("model/x.npy", claim)], stored),
        "compressed": (members, packed),
        "bytes after an array": (members + [("model/x.npy", small + b"more")], stored),
        "a path upwards": (members + [("../../model.npy", small)], stored),
        "a path inside": (members + [("model/../../x.npy", small)], stored),
        "an absolute path": (members + [("/etc/x.npy", small)], stored),
        "a name twice": (members + [("model/dense_in.b.npy", small)], stored),
        "an unknown group": (members + [("weights/x.npy", small)], stored),
        "not an npy": (members + [("model/x.npy", b"not an array")], stored),
        "a program": (members + [("model/x.py", b"import os")], stored),
        "no meta": (members[1:], stored),
        "meta of another format": ([("meta.npy", npy(np.frombuffer(b'{"format": 1}', "u1")))] + members[1:], stored),
        "meta of no JSON": ([("meta.npy", npy(np.frombuffer(b"[" * 100_000, "u1")))] + members[1:], stored),
        "meta of a negative step": ([("meta.npy", npy(np.frombuffer(b'{"format": 2, "settings": {}, "step": -1}', "u1")))]
                                    + members[1:], stored),
        "many members": (members + [(f"model/x{i}.npy", b"") for i in range(30_000)], stored),
    }  # fmt: skip


def test_hostile_files_are_refused_in_one_line_at_once_in_little_memory_and_never_executed(saved, tmp_path):
    for name, (members, packing) in hostile(saved[0], tmp_path / "touched").items():
        path = tmp_path / "hostile.npz"
        archive(path, members, packing)
        began = time.process_time()
        tracemalloc.start()
        with pytest.raises(ValueError, match="hostile.npz: not a scratchdiff checkpoint: ") as error:
            load_checkpoint(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 3e7, name
        assert time.process_time() - began < 2, name
        assert "\n" not in str(error.value) and len(str(error.value)) < 600, name
        assert {p.name for p in tmp_path.iterdir()} == {"hostile.npz", "run"}, name


def test_settings_that_ask_for_an_enormous_network_are_refused_before_it_is_built(saved, tmp_path):
    from scratchdiff.recipes import TOY
    from scratchdiff.runs import load_run

    for change in (
        dict(network_args=dict(dim=2, width=10**6, num_blocks=3)),
        dict(network_args=dict(dim=2, width=8, num_blocks=10**9)),
        dict(network_args=7),
        dict(network="Pickle"),
        dict(T=10**12),
        dict(eta="much"),
    ):
        save_checkpoint(tmp_path / "model.npz", *saved[1], 1, TOY | change)
        tracemalloc.start()
        with pytest.raises(ValueError):
            load_run(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 3e7
        tracemalloc.stop()


def test_files_that_are_no_checkpoints_are_refused_by_name(saved, tmp_path):
    whole = saved[0].read_bytes()
    broken = {
        "empty.npz": b"",
        "text.npz": b"not a checkpoint",
        "torn.npz": whole[: len(whole) // 2],
        "flipped.npz": whole[:3000] + bytes([whole[3000] ^ 1]) + whole[3001:],
    }
    np.savez(tmp_path / "foreign.npz", a=np.zeros(3))
    np.savez(tmp_path / "pickle.npz", meta=np.array([{}], dtype=object))
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
    for path in tmp_path.glob("*.npz"):
        with pytest.raises(ValueError, match=f"{path.name}: not a scratchdiff checkpoint"):
            load_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "nowhere.npz")
