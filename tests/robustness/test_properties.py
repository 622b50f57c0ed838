"""What holds for any input: drawn by hypothesis, in odd shapes and layouts, both dtypes, with no entries at all too."""

import gzip
import struct

import fuzz_files
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import scratchdiff as sd
from scratchdiff import ops
from scratchdiff.autograd import Tape, Tensor
from scratchdiff.checkpoint import load_checkpoint, restore, save_checkpoint
from scratchdiff.data import read_idx, read_npy
from scratchdiff.kernels import FORMULAS
from scratchdiff.ops.conv import resolve_padding

few = settings(max_examples=40, deadline=None, derandomize=True, database=None)
numbers = st.integers(0, 2**32 - 1)
floats = st.sampled_from([np.float32, np.float64])
sizes = st.integers(0, 4)


def laid_out(a, layout):
    """The same numbers: as they are, transposed in memory, in every second place, backwards, or read-only."""
    if layout == "fortran":
        return np.asfortranarray(a)
    if layout == "strided" and a.ndim:
        return np.repeat(a, 2, axis=-1)[..., ::2]
    if layout == "backwards":
        return np.flip(np.flip(a).copy())
    if layout == "read-only":
        a = a.copy()
        a.flags.writeable = False
    return a


layouts = st.sampled_from(["plain", "fortran", "strided", "backwards", "read-only"])


def check(f, dtype, layout, *arrays, exact=None, gradients=True):
    """f keeps dtype, shapes and its inputs; its layout does not matter; its gradients are those of central differences."""
    xs = [Tensor(laid_out(a.astype(dtype), layout)) for a in arrays]
    before = [x.data.copy() for x in xs]
    with Tape() as tape:
        y = f(*xs)
        loss = (y * 0.5).sum()
    tape.backward(loss)
    assert y.dtype == dtype
    for x, a in zip(xs, before):
        np.testing.assert_array_equal(x.data, a)
        assert x.grad.shape == x.shape and x.grad.dtype == dtype and np.isfinite(x.grad).all()
    if exact is not None:
        tolerance = 1e-4 if dtype == np.float32 else 1e-10
        np.testing.assert_allclose(y.data, exact(*before), rtol=tolerance, atol=tolerance)
    if gradients and dtype == np.float64:
        assert sd.gradcheck(f, *[laid_out(a, layout) for a in arrays], max_probes=2) < 1e-7


@few
@given(shapes=hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, min_side=0, max_side=4), seed=numbers,
       dtype=floats, layout=layouts, name=st.sampled_from(["add", "sub", "mul", "div"]))  # fmt: skip
def test_arithmetic_broadcasts_as_numpy_does_and_sums_its_gradients_back(shapes, seed, dtype, layout, name):
    a, b = (np.random.default_rng(seed).uniform(0.5, 2, shape) for shape in shapes.input_shapes)
    exact = dict(add=np.add, sub=np.subtract, mul=np.multiply, div=np.divide)[name]
    check(getattr(ops, name), dtype, layout, a, b, exact=exact)


@few
@given(shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4), seed=numbers, dtype=floats,
       layout=layouts,
       name=st.sampled_from(["silu", "sigmoid", "tanh", "gelu", "exp", "neg"]))  # fmt: skip
def test_functions_of_one_number_take_any_shape(shape, seed, dtype, layout, name):
    check(getattr(ops, name), dtype, layout, np.random.default_rng(seed).standard_normal(shape))


@few
@given(n=sizes, k=sizes, m=sizes, lead=st.sampled_from([((), ()), ((2,), (1,)), ((0,), (0,)), ((3, 1), (2,))]), seed=numbers,
       dtype=floats, layout=layouts)  # fmt: skip
def test_matmul_takes_any_sizes(n, k, m, lead, seed, dtype, layout):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((*lead[0], n, k)), rng.standard_normal((*lead[1], k, m))
    check(ops.matmul, dtype, layout, a, b, exact=np.matmul)
    if not lead[1] and k and m:  # a layer without inputs or outputs is refused
        check(ops.linear, dtype, layout, a, b, rng.standard_normal(m))


@few
@given(N=sizes, H=st.integers(1, 7), W=st.integers(1, 7), C=st.integers(1, 5), D=st.integers(1, 5), k=st.integers(1, 3),
       stride=st.integers(1, 3), seed=numbers, dtype=floats, layout=layouts)  # fmt: skip
def test_convolution_takes_any_sizes_and_layouts_and_no_images_too(N, H, W, C, D, k, stride, seed, dtype, layout):
    rng = np.random.default_rng(seed)
    x, w, b = rng.standard_normal((N, H, W, C)), rng.standard_normal((k, k, C, D)), rng.standard_normal(D)

    def slow(x, w, b):
        pads = resolve_padding("same", (H, W), (k, k), stride)
        return FORMULAS["convolve"](x, w, b, stride, pads)[0]

    check(lambda *xs: ops.conv2d(*xs, stride=stride), dtype, layout, x, w, b, exact=slow)


@few
@given(N=sizes, L=st.integers(1, 9), groups=st.integers(1, 3), width=st.integers(2, 3), silu=st.booleans(), seed=numbers,
       dtype=floats, layout=layouts)  # fmt: skip
def test_group_norm_takes_any_sizes_and_layouts_and_no_images_too(N, L, groups, width, silu, seed, dtype, layout):
    rng = np.random.default_rng(seed)
    x, scale, shift = rng.standard_normal((N, L, groups * width)), *rng.standard_normal((2, groups * width))
    check(
        lambda *xs: (ops.group_norm_silu if silu else ops.group_norm)(*xs, groups=groups, eps=1e-2),
        dtype,
        layout,
        x,
        scale,
        shift,
    )


@few
@given(N=sizes, L=sizes, M=st.integers(1, 5), D=st.integers(1, 4), E=sizes, seed=numbers, dtype=floats, layout=layouts)
def test_attention_is_a_weighted_mean_whatever_its_sizes(N, L, M, D, E, seed, dtype, layout):
    rng = np.random.default_rng(seed)
    q, k, v = (rng.standard_normal(shape) for shape in ((N, 2, L, D), (N, 2, M, D), (N, 2, M, E)))
    check(ops.attention, dtype, layout, q, k, v)
    ones = ops.attention(q, k, np.ones((N, 2, M, E))).data
    np.testing.assert_allclose(ones, np.ones((N, 2, L, E)), rtol=1e-12)


@few
@given(shape=hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4), seed=numbers, dtype=floats, layout=layouts,
       data=st.data())  # fmt: skip
def test_moving_entries_loses_none_and_copies_none(shape, seed, dtype, layout, data):
    a = np.random.default_rng(seed).standard_normal(shape)
    axes = data.draw(st.permutations(range(len(shape))))
    index = data.draw(hnp.basic_indices(shape, allow_newaxis=True))
    check(lambda x: ops.transpose(x, *axes), dtype, layout, a, exact=lambda x: x.transpose(axes))
    check(lambda x: ops.reshape(x, -1), dtype, layout, a, exact=np.ravel)
    check(lambda x: ops.concat([x, x], axis=0), dtype, layout, a, exact=lambda x: np.concatenate([x, x]))
    check(lambda x: ops.getitem(x, index), dtype, layout, a, exact=lambda x: x[index])
    check(lambda x: ops.sum(x, axis=axes[0]), dtype, layout, a, exact=lambda x: x.sum(axes[0]))
    check(lambda x: ops.mean(x), dtype, layout, a, exact=np.mean)


# ---- files


@few
@given(a=hnp.arrays(st.sampled_from(["<f4", ">f4", "f8", "f2", "u1", "i8", ">i2"]),
                    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0), elements=None), fortran=st.booleans())  # fmt: skip
def test_an_npy_file_comes_back_as_it_was_saved(tmp_path_factory, a, fortran):
    path = tmp_path_factory.getbasetemp() / "array.npy"
    np.save(path, np.asfortranarray(a) if fortran and a.ndim else a)  # NumPy would make () a (1,)
    found = read_npy(path)
    assert found.dtype == a.dtype and found.shape == a.shape and found.tobytes() == a.tobytes()


@few
@given(a=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=4)), packed=st.booleans())
def test_an_idx_file_comes_back_as_it_was_written(tmp_path_factory, a, packed):
    path = tmp_path_factory.getbasetemp() / "array-idx"
    content = bytes([0, 0, 8, a.ndim]) + struct.pack(f">{a.ndim}I", *a.shape) + a.tobytes()
    path.write_bytes(gzip.compress(content) if packed else content)
    np.testing.assert_array_equal(read_idx(path), a)


@settings(few, max_examples=15)
@given(width=st.integers(4, 9), blocks=st.integers(1, 2), seed=numbers, dtype=floats, step=st.integers(0, 2**40),
       losses=st.lists(st.floats(allow_nan=False), max_size=5),
       extra=st.dictionaries(st.text(max_size=5), st.none() | st.integers(-9, 2**60) | st.text(max_size=5)))  # fmt: skip
def test_a_checkpoint_comes_back_to_the_bit(tmp_path_factory, width, blocks, seed, dtype, step, losses, extra):
    def make(seed):
        rng = np.random.default_rng(seed)
        model = sd.MLP(width=width, num_blocks=blocks, rng=rng, dtype=dtype)
        adam, ema = sd.Adam(model.parameters()), sd.EMA(model.parameters())
        for p in model.parameters().values():
            p.grad = rng.standard_normal(p.shape).astype(dtype)
        adam.step()
        ema.update()
        return model, ema, adam, rng

    path = tmp_path_factory.getbasetemp() / "checkpoint" / "model.npz"
    saved, other = make(seed), make(seed + 1)
    save_checkpoint(path, *saved, step, extra, 0.1, losses)
    meta, groups = load_checkpoint(path)
    assert meta["settings"] == extra and meta["losses"].tolist() == losses
    assert restore(meta, groups, *other) == step
    for a, b in zip(saved[0].parameters().values(), other[0].parameters().values()):
        assert a.data.tobytes() == b.data.tobytes() and a.dtype == b.dtype
    for a, b in ((saved[1].average, other[1].average), (saved[2].m, other[2].m), (saved[2].v, other[2].v)):
        assert all(a[name].tobytes() == b[name].tobytes() for name in a)
    assert saved[3].bit_generator.state == other[3].bit_generator.state
    assert [p.name for p in path.parent.iterdir()] == ["model.npz"]


def test_three_thousand_random_damaged_and_malicious_files_are_read_or_refused_in_one_line(tmp_path):
    counts = fuzz_files.fuzz(3000, 1, tmp_path)
    assert sum(counts.values()) == 3000
    assert sum(n for case, n in counts.items() if "refused" in case) > 2000
