"""What is saved comes back whole, and what is no checkpoint is refused by name."""

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
