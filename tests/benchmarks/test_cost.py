"""The counts behind the model of a step's cost, by hand on small cases; the formula of the ring, by a ring."""

import numpy as np
import pytest
from cost import TERMS, count, predict, training_step, with_cores
from exchange import LINKS, efficiency, fewest_ranks_below, ring_all_reduce_seconds

import scratchdiff as sd

rng = np.random.default_rng(0)


def conv_step(size, kernel, C, Co):
    """A step that is one convolution of two images, and its sum."""
    x, w = (sd.Tensor(rng.standard_normal(s).astype(np.float32)) for s in ((2, size, size, C), (kernel, kernel, C, Co)))

    def step(watch):
        with sd.Tape(watch) as tape:
            loss = sd.ops.conv2d(x, w).sum()
        tape.backward(loss)

    return step


def test_a_3x3_convolution_makes_36_products_a_tile_three_times():
    counted = count(conv_step(16, 3, 32, 48))  # 2 · 16 tiles of 4 × 4; y, dx and dw
    assert counted["flops"] == 3 * 32 * (2 * 36 * 32 * 48 + 2 * 140 * (32 + 48))
    assert counted["direct"] == 3 * 2 * (2 * 16 * 16) * 9 * 32 * 48


def test_a_1x1_convolution_makes_its_products_and_no_more():
    counted = count(conv_step(8, 1, 32, 48))
    assert counted["flops"] == counted["direct"] == 3 * 2 * (2 * 8 * 8) * 32 * 48


def test_columns_are_filled_up_to_whole_vectors():
    counted = count(conv_step(8, 1, 32, 4))  # y and dw have 4 columns of 16, dx has 32
    assert counted["flops"] == 2 * (2 * 8 * 8) * (32 * 16 + 4 * 32 + 32 * 16)


def test_a_sum_of_tensors_moves_three_arrays_and_a_reshape_none():
    a, b = (sd.Tensor(np.ones((4, 6), np.float32)) for _ in range(2))

    def step(watch):
        with sd.Tape(watch) as tape:
            loss = (a + b).reshape(24).sum()  # its backward only looks at dy in other shapes
        tape.backward(loss)

    counted = count(step)
    assert (counted["far"], counted["alone"]) == (3 * 4 * 24, 4 * 24 + 4) and (counted["flops"], counted["calls"]) == (0, 6)


def test_a_group_norm_is_computed_once_more_for_the_convolution_that_follows_it():
    x, scale, shift = (sd.Tensor(np.ones(s, np.float32)) for s in ((2, 8, 8, 32), 32, 32))
    w = sd.Tensor(np.ones((1, 1, 32, 48), np.float32))

    def step(watch):
        with sd.Tape(watch) as tape:
            loss = sd.ops.conv2d(sd.ops.group_norm_silu(x, scale, shift, groups=4), w).sum()
        tape.backward(loss)

    assert count(step)["flops"] == count(conv_step(8, 1, 32, 48))["flops"] + (60 + 100 + 40) * x.size


def test_adam_moves_seven_numbers_for_each_parameter():
    p = sd.Tensor(np.ones(1000, np.float32))
    p.grad = np.ones_like(p.data)
    assert count(lambda watch: sd.Adam({"p": p}).step()) == dict.fromkeys((*TERMS, "direct"), 0) | dict(far=28_000, calls=1)


def test_cores_speed_up_what_they_share_until_memory_binds():
    machine = dict(flops=100e9, near=80e9, far=20e9, alone=20e9, calls=1e5)
    counted = count(training_step(batch=1, image_size=4, ch=8, attn_resolutions=()))
    one, many = predict(counted, machine), predict(counted, with_cores(machine, 64, 200e9))
    assert [many["flops"], many["far"]] == pytest.approx([one["flops"] / 64, one["far"] / 10], rel=1e-12)
    assert many["alone"] == one["alone"] and many["calls"] == one["calls"]


@pytest.mark.parametrize("ranks", [2, 5])
def test_the_time_of_the_ring_is_that_of_a_ring(ranks):
    parts = rng.integers(0, 9, (ranks, ranks, 3)).astype(float)  # [rank, part]: a rank's vector, in `ranks` parts
    total, messages = parts.sum(0), 0
    for turn in range(2 * (ranks - 1)):
        sent = [(rank, (rank - turn) % ranks) for rank in range(ranks)]
        for (rank, part), values in zip(sent, [parts[place].copy() for place in sent]):
            adding = turn < ranks - 1  # then the sums are handed on
            parts[(rank + 1) % ranks, part] = values + adding * parts[(rank + 1) % ranks, part]
        messages += 1
    assert np.array_equal(parts, np.broadcast_to(total, parts.shape))
    size, bandwidth, latency = ranks * 3 * 8, 1000.0, 0.5
    assert ring_all_reduce_seconds(ranks, size, bandwidth, latency) == pytest.approx(
        messages * (size / ranks / bandwidth + latency)
    )


def test_efficiency_falls_below_what_is_wanted_where_it_says():
    for link in LINKS.values():
        ranks = fewest_ranks_below(0.8, 0.1, 11e6, link)
        assert efficiency(ranks, 0.1, 11e6, link) < 0.8 <= efficiency(ranks - 1, 0.1, 11e6, link)
        assert efficiency(ranks, 0.1, 11e6, link, hidden=0.05) == 1  # the exchange is a quarter of the step
