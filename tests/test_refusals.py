"""Every public function refuses what it cannot use: with a ValueError of one line that names it, or what it got.

REFUSALS has a row for each public name; a public name without one fails the last test.
"""

import inspect

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff import autograd, checkpoint, data, diffusion, metrics, nn, ops, optim, plots, recipes, train
from scratchdiff.data.mnist import MIRRORS

X = np.ones((2, 4, 4, 6), np.float32)
V = np.ones(6, np.float32)
M = np.ones((2, 3))
RNG = np.random.default_rng(0)
SCHEDULE = sd.cosine_schedule(10)
D = sd.GaussianDiffusion(SCHEDULE)
IMAGES = sd.GaussianDiffusion(SCHEDULE, images=True)
LEARNED = sd.GaussianDiffusion(SCHEDULE, variance="learned", images=True)
NET = sd.MLP(width=8, num_blocks=1, rng=RNG)
PARTS = NET, sd.EMA(NET.parameters()), sd.Adam(NET.parameters()), RNG
UNET = dict(image_size=8, in_channels=1, out_channels=1, ch=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(),
            groups=4, rng=RNG)  # fmt: skip
POINTS = np.ones((5, 2), np.float32)

STEPS = {True: dict(steps=5), False: {}}


def unet(**changes):
    return lambda: sd.UNet(**(UNET | changes))


def run(points=POINTS, **settings):
    return lambda: next(train.train(NET, D, points, PARTS[2], PARTS[1], RNG, **(dict(steps=5) | settings)))


def nan(shape=(5, 2)):
    a = np.ones(shape, np.float32)
    a[0] = np.nan
    return a


def still(xt, t):
    return np.zeros_like(xt)


REFUSALS = {  # public name: [(a call, what its message says)]
    "Tensor": [(lambda: sd.Tensor([1j]), "complex128"), (lambda: sd.Tensor("a"), "Tensor: data must be float32")],
    "Tape": [
        (lambda: sd.Tape().backward(sd.Tensor(1.0)), "this tape is new"),
        (lambda: sd.Tape().backward(sd.Tensor(M)), r"scalar Tensor, got float64 of shape \(2, 3\)"),
    ],
    "op": [
        (lambda: sd.op(lambda x: (x * 1j, None))(sd.Tensor(1.0)), "complex128"),
        (lambda: sd.op(lambda x: (x.astype("f8"), None))(sd.Tensor(V)), "one dtype"),
    ],
    "checkup": [
        (lambda: sd.checkup(), "checkup: nothing to check"),
        (lambda: sd.checkup(loss=3), "checkup: loss must be a function, got 3"),
        (lambda: sd.checkup(schedule=M), r"schedule must be a Schedule or β_1..β_T, got float64 of shape \(2, 3\)"),
        (lambda: sd.checkup(alpha_bar=M), r"alpha_bar must be a vector, got float64 of shape \(2, 3\)"),
        (lambda: sd.checkup(losses=[]), "losses must be a vector"),
        (lambda: sd.checkup(data=V), r"data must be \(n, ...\), got float32 of shape \(6,\)"),
        (lambda: sd.checkup(parameters={"w": [1.0]}), "parameter w must be a writable array of floats"),
        (lambda: sd.checkup(loss=D.loss, predict="noise"), "predict must be one of .*got 'noise'"),
        (lambda: sd.checkup(loss=D.loss, first_t=2), "first_t must be 0 or 1, got 2"),
    ],
    "gradcheck": [
        (lambda: sd.gradcheck(ops.exp), "nothing to check"),
        (lambda: sd.gradcheck(ops.exp, sd.Tensor(V)), "float32"),
        (lambda: sd.gradcheck(ops.exp, M, max_probes=0), "max_probes must be at least 1, got 0"),
        (lambda: sd.gradcheck(ops.exp, nan().astype("f8")), "not finite"),
    ],
    # ops
    "ops.add": [(lambda: ops.add(M, V), r"add: shapes \(2, 3\) and \(6,\)")],
    "ops.sub": [(lambda: ops.sub(M, V), "sub: shapes")],
    "ops.mul": [
        (lambda: ops.mul(M, V), "mul: shapes"),
        (lambda: ops.mul(sd.Tensor(V), sd.Tensor(M[0, :1])), "mul: .*float64"),
    ],
    "ops.div": [(lambda: ops.div(M, V), "div: shapes")],
    "ops.neg": [(lambda: ops.neg(np.array(1j)), "complex128")],
    "ops.power": [(lambda: ops.power(M, V), r"power: the exponent must be one real number, got .*\(6,\)")],
    "ops.exp": [(lambda: ops.exp(np.array(1j)), "complex128")],
    "ops.log": [(lambda: ops.log(np.array(1j)), "complex128")],
    "ops.sum": [(lambda: ops.sum(M, axis=2), r"sum: axis 2 .* \(2, 3\)"), (lambda: ops.sum(M, axis=(0, -2)), "each once")],
    "ops.mean": [(lambda: ops.mean(M, axis=2), "mean: axis 2"), (lambda: ops.mean(M[:0]), "mean: nothing to average")],
    "ops.matmul": [
        (lambda: ops.matmul(M, M), r"matmul: shapes \(2, 3\) and \(2, 3\)"),
        (lambda: ops.matmul(M, V), "matrices"),
    ],
    "ops.reshape": [(lambda: ops.reshape(M, 4, 2), r"reshape: shape \(2, 3\) cannot become \(4, 2\)")],
    "ops.transpose": [(lambda: ops.transpose(M, 0, 0), r"transpose: \(0, 0\) is no permutation")],
    "ops.concat": [(lambda: ops.concat([M, V]), "concat: shapes"), (lambda: ops.concat([]), "concat")],
    "ops.getitem": [(lambda: ops.getitem(M, 5), "getitem: index 5"), (lambda: ops.getitem(M, (0, 0, 0)), "getitem")],
    "ops.space_to_depth": [(lambda n=n: ops.space_to_depth(X, block=n), f"space_to_depth: .*{n}") for n in (3, 0, -2, 2.0)],
    "ops.depth_to_space": [(lambda n=n: ops.depth_to_space(X, block=n), f"depth_to_space: .*{n}") for n in (2, 0, -1, 1.0)],
    "ops.sigmoid": [(lambda: ops.sigmoid(np.array(1j)), "complex128")],
    "ops.tanh": [(lambda: ops.tanh(np.array(1j)), "complex128")],
    "ops.relu": [(lambda: ops.relu(np.array(1j)), "complex128")],
    "ops.clip": [(lambda: ops.clip(np.array(1j), 0, 1), "complex128")],
    "ops.silu": [(lambda: ops.silu(np.array(1j)), "complex128")],
    "ops.gelu": [(lambda: ops.gelu(np.array(1j)), "complex128")],
    "ops.softmax": [
        (lambda: ops.softmax(M[:, :0]), r"softmax: .* got .*shape \(2, 0\)"),
        (lambda: ops.softmax(M[0, 0]), "softmax"),
    ],
    "ops.linear": [
        (lambda: ops.linear(M, M, None), "linear: shapes"),
        (lambda: ops.linear(M, M.T, V), "linear: shapes"),
        (lambda: ops.linear(M[:, :0], M[:0], None), "linear: shapes"),
    ],
    "ops.silu_linear": [(lambda: ops.silu_linear(M, M.T, V), "silu_linear: shapes")],
    "ops.dropout": [(lambda r=r: ops.dropout(M, rate=r, rng=RNG), f"rate must be in .*got {r}") for r in (-0.1, 1, np.nan)],
    "ops.conv2d": [
        (lambda: ops.conv2d(X, np.ones((3, 3, 5, 2))), "conv2d: shapes"),
        (lambda: ops.conv2d(X[0], np.ones((3, 3, 6, 2))), "conv2d: shapes"),
        (lambda: ops.conv2d(X, np.ones((3, 3, 6, 2)), V), "conv2d: shapes"),
        (lambda: ops.conv2d(X, np.ones((3, 3, 6, 2)), stride=0), "stride must be a positive integer, got 0"),
        (lambda: ops.conv2d(X, np.ones((3, 3, 6, 2)), padding=-1), "non-negative: an int"),
        (lambda: ops.conv2d(X, np.ones((9, 9, 6, 2)), padding=0), "larger than the padded image"),
    ],
    "ops.group_norm": [
        (lambda g=g: ops.group_norm(X, V, V, groups=g), f"group_norm: .*groups {g},") for g in (4, 0, -1, 2.0)
    ]
    + [
        (lambda: ops.group_norm(X, V[:5], V, groups=2), "group_norm"),
        (lambda: ops.group_norm(X, V, V, groups=2, eps=0), "eps must be positive, got 0"),
    ],
    "ops.group_norm_silu": [(lambda: ops.group_norm_silu(X, V, V, groups=4), "group_norm_silu: .*groups 4,")],
    "ops.upsample_nearest": [(lambda f=f: ops.upsample_nearest(X, f), f"upsample_nearest: .*{f}") for f in (0, -1, 1.5)]
    + [(lambda: ops.upsample_nearest(M), r"upsample_nearest: .*\(2, 3\)")],
    "ops.attention": [
        (lambda: ops.attention(X, X[..., :5], X), "attention: shapes q"),
        (lambda: ops.attention(X, X[:, :3], X), "attention: shapes"),
        (lambda: ops.attention(V, V, V), "attention"),
        (lambda: ops.attention(X, X, X, mask=np.ones((4, 4))), r"mask must be boolean and broadcast to \(2, 4, 4, 4\)"),
        (lambda: ops.attention(X, X, X, mask=np.ones((3, 4), bool)), "mask must be boolean and broadcast to"),
    ],
    "ops.timestep_embedding": [
        (lambda: ops.timestep_embedding(M, 8), r"got t .*\(2, 3\)"),
        (lambda: ops.timestep_embedding([1], 3), "dim 3"),
        (lambda: ops.timestep_embedding([1], 8.0), "8.0"),
        (lambda: ops.timestep_embedding([1], 8, freq_shift=4), "timestep_embedding: freq_shift must be below 4, got 4"),
    ],
    "ops.sinusoids": [(lambda: ops.sinusoids(V, M), "sinusoids: t and omega must be vectors")],
    "ops.mse": [(lambda: ops.mse(M, V), r"mse: .*x .*\(2, 3\), target .*\(6,\)"), (lambda: ops.mse(M[:0], M[:0]), "mse")],
    "ops.cross_entropy": [
        (lambda y=y: ops.cross_entropy(M, y), "cross_entropy: logits") for y in ([0], [0, 3], [0, -1], [0.0, 1.0])
    ],
    "ops.embedding": [
        (lambda: ops.embedding(V, [0]), "embedding: the weight must be"),
        (lambda: ops.embedding(M, [0, 2]), "embedding: the indices must be integers in 0..1"),
        (lambda: ops.embedding(M, [0.0]), "embedding: the indices must be integers in 0..1"),
    ],
    "ops.huber": [
        (lambda: ops.huber(M, V), "huber: x and target must have one shape"),
        (lambda: ops.huber(M, M, delta=0), "huber: delta must be positive, got 0"),
    ],
    "ops.layer_norm": [
        (lambda: ops.layer_norm(X, V[:3], V), "layer_norm: scale and shift have one entry per channel"),
        (lambda: ops.layer_norm(X, V, V, eps=0), "layer_norm: eps must be positive, got 0"),
    ],
    "ops.bernoulli_log_prob": [(lambda: ops.bernoulli_log_prob(M, V), "bernoulli_log_prob: all arguments must have")],
    "ops.normal_kl": [
        (lambda: ops.normal_kl(M, M, M, V), r"normal_kl: all arguments must have one shape, got .*\(6,\)"),
        (lambda: ops.normal_kl(M, M, M.astype(int), M), "normal_kl: needs floats, got .*int64"),
    ],
    "ops.normal_log_prob": [
        (lambda: ops.normal_log_prob(M, M, V), "normal_log_prob: all arguments"),
        (lambda: ops.normal_log_prob(M.astype(int), M, M), "normal_log_prob: needs floats, got .*int64"),
    ],
    "ops.discretized_normal_log_prob": [
        (lambda: ops.discretized_normal_log_prob(M, V, M), "discretized_normal_log_prob: all arguments"),
        (lambda: ops.discretized_normal_log_prob(M, M.astype(int), M), "discretized_normal_log_prob: needs floats"),
    ],
    # networks
    "nn.SiLULinear": [(lambda: nn.SiLULinear(0, 3, rng=RNG), "in_features must be a positive integer, got 0")],
    "nn.GroupNormSiLU": [(lambda: nn.GroupNormSiLU(6, 4), "4 groups do not divide 6")],
    "nn.causal_mask": [(lambda: nn.causal_mask(0), "causal_mask: length must be a positive integer, got 0")],
    "nn.LayerNorm": [(lambda: nn.LayerNorm(0), "LayerNorm: width must be a positive integer, got 0")],
    "nn.MultiHeadAttention": [(lambda: nn.MultiHeadAttention(6, 4, rng=RNG), "4 heads do not divide a width of 6")],
    "nn.FeedForward": [(lambda: nn.FeedForward(6, 0, rng=RNG), "out_features must be a positive integer, got 0")],
    "nn.TransformerBlock": [
        (lambda: nn.TransformerBlock(6, 2, 8, dropout=1.0, rng=RNG), "dropout must be in .*got 1.0"),
        (lambda: nn.TransformerBlock(6, 2, 8, cross=True, rng=RNG)(X[0]), "cross=True needs a memory"),
    ],
    "nn.DiT": [
        (lambda: nn.DiT(28, 1, 1, patch_size=3, rng=RNG), "patches of 3 do not tile images of 28 pixels"),
        (lambda: nn.DiT(28, 1, 1, width=4, rng=RNG), "width of at least 8, got 4"),
        (lambda: nn.DiT(28, 1, 0, rng=RNG), "out_channels must be a positive integer, got 0"),
        (lambda: nn.DiT(8, 1, 1, 8, 1, rng=RNG)(X, [1, 2]), r"DiT: needs xt of shape \(N, 8, 8, 1\)"),
        (lambda: nn.DiT(4, 6, 1, 8, 1, rng=RNG)(X, [1, 2], [0, 0]), "DiT: this network was made without num_classes"),
    ],
    "nn.Linear": [(lambda n=n: nn.Linear(n, 3, rng=RNG), f"Linear: in_features .*{n}") for n in (0, -1, 1.5)]
    + [(lambda t=t: nn.Linear(2, 3, rng=RNG, dtype=t), "must be float32 or float64") for t in (np.float16, int)],
    "nn.Conv2d": [
        (lambda: nn.Conv2d(2, 3, kernel=0, rng=RNG), "kernel must be a positive integer, got 0"),
        (lambda: nn.Conv2d(2, 3, stride=-1, rng=RNG), "stride must be a positive integer, got -1"),
    ],
    "nn.GroupNorm": [
        (lambda: nn.GroupNorm(6, 4), "4 groups do not divide 6 channels"),
        (lambda: nn.GroupNorm(6, 0), "groups must be a positive integer, got 0"),
    ],
    "nn.SelfAttention": [
        (lambda: nn.SelfAttention(6, 2, heads=4, rng=RNG), "4 heads do not divide 6"),
        (lambda: nn.SelfAttention(6, 2, heads=0, rng=RNG), "heads must be a positive integer, got 0"),
    ],
    "nn.TimestepMLP": [
        (lambda: nn.TimestepMLP(7, 8, learned=True, rng=RNG), "dim must be even to be learned, got 7"),
        (lambda: nn.TimestepMLP(0, 8, rng=RNG), "dim must be a positive integer, got 0"),
        (lambda: nn.TimestepMLP(8, -1, rng=RNG), "width must be a positive integer, got -1"),
    ],
    "nn.Module": [
        (lambda: NET.load({}), "MLP.load: missing"),
        (lambda: NET.load({**arrays(NET), "x": V}), "unexpected x"),
        (lambda: NET.load({**arrays(NET), "dense_in.b": nan(8)}), "dense_in.b is not finite"),
        (lambda: NET.load({**arrays(NET), "dense_in.b": V}), r"dense_in.b has shape \(6,\), not \(8,\)"),
    ],
    "nn.ResBlock": [
        (lambda: nn.ResBlock(8, 8, 8, groups=3, rng=RNG), "3 groups do not divide 8"),
        (lambda: nn.ResBlock(8, 8, 8, groups=4, dropout=1.0, rng=RNG), "dropout must be in .*got 1.0"),
    ],
    "nn.MLP": [
        (lambda: nn.MLP(dim=0, rng=RNG), "dim must be a positive integer, got 0"),
        (lambda: nn.MLP(width=3, rng=RNG), "got 3"),
        (lambda: nn.MLP(num_blocks=-1, rng=RNG), "num_blocks must be a positive integer, got -1"),
        (lambda: NET(M, np.ones(2, int)), r"got \(2, 3\)"),
        (lambda: NET(POINTS, np.ones(4, int)), r"and \(4,\)"),
    ],
    "nn.UNet": [
        (unet(ch=0), "ch must be a positive integer, got 0"),
        (unet(ch_mult=()), "levels must be a positive integer, got 0"),
        (unet(ch_mult=(1, -2)), r"ch · ch_mult\[1\] must be a positive integer, got -16"),
        (unet(head_dim=3), "UNet: head_dim 3 does not divide 16 channels"),
        (unet(num_res_blocks=0), "num_res_blocks must be a positive integer, got 0"),
        (unet(image_size=7), "images of 7"),
        (unet(groups=3), "3 groups"),
        (unet(dropout=-0.5), "dropout must be in .*got -0.5"),
        (unet(patch_size=0), "patch_size must be a positive integer, got 0"),
        (unet(num_classes=-3), "num_classes must be a positive integer, got -3"),
        (unet(dtype=np.int64), "float32 or float64"),
        (lambda: unet()()(X, np.ones(2, int)), r"UNet: needs xt of shape \(N, 8, 8, 1\)"),
        (lambda: unet()()(np.ones((1, 8, 8, 1)), [1], labels=[0]), "takes no labels"),
        (lambda: unet(num_classes=3)()(np.ones((1, 8, 8, 1)), [1], labels=[4]), "0..3"),
        (unet(dims=3), "dims must be 1 or 2, got 3"),
        (unet(dims=1, down_padding=1), "signals need down_padding='same', got 1"),
        (unet(cond_channels=-1), "cond_channels must be an integer of at least 0, got -1"),
        (lambda: unet()()(np.ones((1, 8, 8, 1)), [1], cond=np.ones((1, 8, 8, 1))), "UNet: cond must be"),
        (lambda: unet(cond_channels=2)()(np.ones((1, 8, 8, 1)), [1], cond=np.ones((1, 8, 8, 1))), "cond must be"),
        (lambda: unet(dims=1)()(np.ones((1, 8, 8, 1)), [1]), r"UNet: needs xt of shape \(N, 8, 1\)"),
    ],
    # diffusion
    "Schedule": [
        (lambda b=b: sd.Schedule(b), r"betas must be a vector of numbers in \(0, 1\)")
        for b in ([], [0.0], [1.0, 0.5], [-0.1], [0.5, 1.5], [np.nan], [[0.1]])
    ],
    "linear_schedule": [(lambda T=T: sd.linear_schedule(T), f"T must be a positive integer, got {T}") for T in (0, -1, 2.5)]
    + [
        (lambda: sd.linear_schedule(9, 0.0), "linear_schedule: beta_start and beta_end .*beta_start 0.0"),
        (lambda: sd.linear_schedule(9, 0.1, 1.0), "linear_schedule: .*beta_end 1.0"),
        (lambda: sd.linear_schedule(9, np.nan), "linear_schedule: .*nan"),
    ],
    "cosine_schedule": [
        (lambda: sd.cosine_schedule(0), "got 0"),
        (lambda: sd.cosine_schedule(9, -0.1), "got -0.1"),
        (lambda: sd.cosine_schedule(9, np.nan), "got nan"),
    ],
    "quadratic_schedule": [(lambda T=T: sd.quadratic_schedule(T), f"quadratic_schedule: T .*got {T}") for T in (0, 2.5)]
    + [(lambda b=b: sd.quadratic_schedule(9, b), f"quadratic_schedule: .*beta_start {b}") for b in (0.0, -0.1, 1.0, np.nan)],
    "constant_schedule": [(lambda T=T: sd.constant_schedule(T), f"constant_schedule: T .*got {T}") for T in (0, 2.5)]
    + [(lambda b=b: sd.constant_schedule(9, b), r"betas must .*got shape \(9,\)") for b in (0.0, -0.1, 1.0, np.nan)],
    "jsd_schedule": [(lambda T=T: sd.jsd_schedule(T), f"jsd_schedule: T .*got {T}") for T in (0, -1, 2.5)],
    "sigmoid_beta_schedule": [(lambda: sd.sigmoid_beta_schedule(0), "sigmoid_beta_schedule: T .*got 0")]
    + [
        (lambda b=b: sd.sigmoid_beta_schedule(9, 0.1, b), f"sigmoid_beta_schedule: .*beta_end {b}")
        for b in (0.0, 1.0, np.nan)
    ],
    "sigmoid_alpha_bar_schedule": [
        (lambda: sd.sigmoid_alpha_bar_schedule(0), "sigmoid_alpha_bar_schedule: T .*got 0"),
        (lambda: sd.sigmoid_alpha_bar_schedule(9, 3, -3), "needs start < end .*start 3, end -3"),
        (lambda: sd.sigmoid_alpha_bar_schedule(9, np.nan), "start nan"),
        (lambda: sd.sigmoid_alpha_bar_schedule(9, tau=0), "tau > 0, .*tau 0"),
    ],
    "zero_terminal_snr": [(lambda: sd.zero_terminal_snr(sd.jsd_schedule(1)), "at least two steps, got 1")],
    "GaussianDiffusion": [
        (lambda: sd.GaussianDiffusion(sd.jsd_schedule(9)), "predict='eps' cannot work"),
        (lambda: LEARNED.p_mean_logvar(still, M, 1), r"needs a network with 6 output channels .*got \(2, 3\)"),
        (lambda: D.loss(NET, POINTS, RNG, min_snr=0), "gamma must be positive, got 0"),
        (lambda: D.loss(NET, POINTS, RNG, huber=0), "huber: delta must be positive, got 0"),
        (lambda: D.loss(NET, POINTS, RNG, min_snr=5, huber=1), "does not go with huber, got 1"),
        (lambda: D.loss(NET, POINTS, RNG, offset=-0.1), "loss: offset must not be negative, got -0.1"),
        (
            lambda: LEARNED.loss(lambda xt, t: np.concatenate([xt, xt], 1), POINTS / 7, RNG),
            "loss: images must have 8-bit values",
        ),
        (lambda: IMAGES.bound(still, POINTS / 7, RNG), "bound: images must have 8-bit values .*0.14"),
        (lambda: D.bound(still, nan(), RNG), "bound: x0 must be finite floats"),
        (lambda: D.bound(still, POINTS[:0], RNG), r"bound: .*shape \(0, 2\)"),
        (lambda: D.bound(still, POINTS, RNG, labels=np.zeros(6, int)), r"bound: needs 5 labels, got shape \(6,\)"),
        (lambda: sd.GaussianDiffusion(SCHEDULE, "noise"), "'noise'"),
        (lambda: sd.GaussianDiffusion(SCHEDULE, variance="large"), "'large'"),
    ]
    + [(lambda t=t: D.q_sample(M, t, M), r"t must lie in 1..10, got") for t in (0, 11, -1, [1, 11])]
    + [(lambda t=t: D.q_sample(M, t, M), "t must be an integer or") for t in (1.5, np.nan, [1, 2, 3], [[1, 2]])]
    + [
        (lambda: D.q_sample(M, 1, V), "q_sample: shapes"),
        (lambda: D.q_sample(M.astype(int), 1, M), "floats, got x0 int64"),
        (lambda: D.q_posterior(M, V, 1), "q_posterior: shapes"),
        (lambda: D.q_posterior(M, M, 0), "1..10"),
        (lambda: D.predict_x0(M, 0, M), "1..10"),
        (lambda: D.predict_x0(M, 1, V), "predict_x0: shapes"),
        (lambda: D.predict_eps(M, 11, M), "1..10"),
        (lambda: D.p_mean_logvar(still, M, 0), "1..10"),
        (lambda: D.denoise(lambda xt, t: V, M, 1), "predict_x0: shapes"),
        (lambda: D.loss(NET, nan(), RNG), r"loss: x0 must be finite floats \(N, ...\), got float32 of shape \(5, 2\)"),
        (lambda: D.loss(NET, POINTS.astype(int), RNG), "got int64"),
        (lambda: D.loss(NET, V, RNG), r"shape \(6,\)"),
        (lambda: D.loss(NET, POINTS, RNG, labels=np.zeros(5, int)), "num_classes"),
        (lambda: D.loss(NET, POINTS[:0], RNG), r"shape \(0, 2\)"),
    ],
    "Bound": [],  # what `bound` returns, not made by anyone else
    "vlb_loss": [
        (lambda: sd.vlb_loss(IMAGES, NET, POINTS / 7, RNG), "vlb_loss: images must have 8-bit values"),
        (lambda: sd.vlb_loss(D, NET, nan(), RNG), "vlb_loss: x0 must be finite floats"),
        (lambda: sd.vlb_loss(D, NET, POINTS.astype(int), RNG), "vlb_loss: .*got int64"),
        (lambda: sd.vlb_loss(D, NET, POINTS, RNG, labels=np.zeros(5, int)), "num_classes, got MLP"),
        (lambda: sd.vlb_loss(D, NET, POINTS, RNG, times=sd.ImportanceTimes(11)), "times of 11 steps .* has 10"),
    ],
    "ImportanceTimes": [(lambda T=T: sd.ImportanceTimes(T), f"ImportanceTimes: T .*got {T}") for T in (0, -1, 2.5)]
    + [
        (lambda t=t, a=a: sd.ImportanceTimes(3).update(t, a), r"ImportanceTimes: needs t in 1..3")
        for t, a in (([0], [1.0]), ([4], [1.0]), ([1.0], [1.0]), ([1, 2], [1.0]), ([1], [np.nan]))
    ],
    "min_snr_weights": [(lambda g=g: sd.min_snr_weights(D, g), f"gamma must be positive, got {g}") for g in (0, -1, np.nan)],
    "Oracle": [
        (lambda: sd.Oracle(D, V), r"Oracle: needs means .*got \(6,\)"),
        (lambda: sd.Oracle(D, M[:0]), r"Oracle: needs means .*got \(0, 3\)"),
        (lambda: sd.Oracle(D, M, cov=V), r"Oracle: needs .*\(6,\)"),
        (lambda: sd.Oracle(D, M, weights=V), r"Oracle: needs .*\(6,\)"),
        (lambda: sd.Oracle(D, nan()), "Oracle: .*must be finite"),
        (lambda: sd.Oracle(D, M, cov=np.nan), "Oracle: .*must be finite"),
        (lambda: sd.Oracle(D, M, cov=-1.0), "variances must not be negative, got -1.0"),
        (lambda: sd.Oracle(D, M, weights=[1, -1]), "weights must not be negative, nor all 0, got -1.0"),
        (lambda: sd.Oracle(D, M, weights=[0, 0]), "nor all 0"),
        (lambda: sd.Oracle(D, M, cov=np.tile(np.triu(np.ones((3, 3))), (2, 1, 1))), "must be symmetric"),
        (lambda: sd.Oracle(D, M)(POINTS, 1), r"x must be \(N, 3\), got \(5, 2\)"),
        (lambda: sd.Oracle(D, M).score(M, 11), "1..10, got 11"),
        (lambda: sd.Oracle(D, M).log_prob(M, 0.5), r"in \[1, 10\], got float64 0.5"),
        (lambda: sd.Oracle(D, M).floor(1), "so an rng"),
        (lambda: sd.Oracle(D, M, 1.0).given(M, V, 1.0), r"needs A \(m, 3\), y \(m,\) and noise >= 0, got A .*\(2, 3\)"),
        (lambda: sd.Oracle(D, M).given(M[:1], [0.0], 0.0), "the covariance of y is singular; give noise > 0"),
    ],
    "loss_at": [
        (lambda: diffusion.loss_at(D, still, nan(), 1, RNG), "loss_at: x0 must be finite"),
        (lambda: diffusion.loss_at(D, still, M, 0, RNG), "1..10, got 0"),
        (lambda: diffusion.loss_at(D, lambda xt, t: xt[:, :1], M, 1, RNG), r"loss_at: .*\(2, 3\), got \(2, 1\)"),
    ],
    "ode_log_prob": [
        (lambda: sd.ode_log_prob(D, NET, nan()), "ode_log_prob: x0 must be finite floats"),
        (lambda: sd.ode_log_prob(D, NET, V), r"ode_log_prob: .*shape \(6,\)"),
        (lambda: sd.ode_log_prob(D, NET, POINTS, probes=1), "ode_log_prob: random probes need an rng, got None"),
        (lambda: sd.ode_log_prob(D, NET, POINTS, RNG, probes=0), "got 0"),
        (lambda: sd.ode_log_prob(D, NET, POINTS, RNG, probes=1.5), "got 1.5"),
        (lambda: sd.ode_log_prob(D, NET, POINTS, rtol=0), "rtol must be positive, got 0"),
    ],
    "dequantised": [
        (lambda: diffusion.dequantised(POINTS / 7, RNG), "dequantised: images must have 8-bit values"),
        (lambda: diffusion.dequantised(POINTS.astype(np.uint8), RNG), "dequantised: .*got uint8"),
    ],
    "bits_per_dim": [(lambda d=d: diffusion.bits_per_dim([-3.0], d), f"d must be at least 1, got {d}") for d in (0, -2)],
    "SAMPLERS": [
        (lambda s=s: s.run(D, still, (3,), RNG, **STEPS[s.takes_steps]), "shape must be") for s in sd.SAMPLERS.values()
    ]
    + [
        (lambda s=s: s.run(D, still, (3, 2), RNG, steps=0), "_steps: steps must")
        for s in sd.SAMPLERS.values()
        if s.takes_steps
    ],
    "pc_steps": [(lambda s=s: sd.pc_steps(D, still, (2, 2), RNG, 5, snr=s), f"snr .*got {s}") for s in (0, -1, np.nan)]
    + [(lambda: sd.pc_steps(D, still, (2, 2), RNG, 11), "1..10, got 11")],
    "ddim_flow": [(lambda: sd.ddim_flow(D, still, M, 0), "ddim_flow: steps must lie in 1..10, got 0")],
    "trace": [(lambda: sd.trace(lambda: sd.Tensor(V)), r"the loss must be a scalar Tensor, got float32 of shape \(6,\)")],
    "trace_step": [
        (lambda t=t: sd.trace_step(D, NET, POINTS, RNG, t=t), r"trace_step: t must be an integer in 1..10, or 5 of them")
        for t in (0, 11, 2.5, [1, 2], [0] * 5)
    ],
    "save_page": [(lambda: sd.save_page("tape", "tape.html"), "save_page: needs a Trace with at least one op, got 'tape'")],
    "recompute": [(lambda: sd.recompute(lambda x: x.data)(sd.Tensor(M)), "f must return a Tensor, got ndarray")],
    "BinomialDiffusion": [(lambda: sd.BinomialDiffusion(0), "T must be a positive integer, got 0")],
    "geometric_sigmas": [(lambda: sd.geometric_sigmas(1, 2, 5), "needs first > last > 0")],
    "dsm_loss": [(lambda: sd.dsm_loss(still, M, [-1.0], RNG), "sigmas must be positive")],
    "ism_loss": [(lambda: sd.ism_loss(still, M, [1.0], RNG), "ism_loss: the score must be a Tensor of the shape of x")],
    "ssm_loss": [(lambda: sd.ssm_loss(still, M, [1.0, 2.0], RNG), "ssm_loss: sigmas must be positive and go down")],
    "first_sigma": [(lambda: sd.first_sigma(nan()), "first_sigma: x0 must be finite floats")],
    "ratio_for_overlap": [
        (lambda: sd.ratio_for_overlap(4), "dims must be at least 5, got 4"),
        (lambda: sd.ratio_for_overlap(9, 1.0), r"target must be in \(0, 0.99\), got 1.0"),
    ],
    "step_for_ladder": [(lambda: sd.step_for_ladder([1.0], 5), "step_for_ladder: needs at least two levels")],
    "annealed_langevin_steps": [(lambda: sd.annealed_langevin_steps(still, [1.0], (2, 2), RNG, step=0), "step .*got 0")],
    "VPSDE": [(lambda: sd.VPSDE(2.0, 1.0), "VPSDE: needs 0 < beta_min < beta_max")],
    "SubVPSDE": [(lambda: sd.SubVPSDE(0.0, 1.0), "SubVPSDE: needs 0 < beta_min < beta_max")],
    "VESDE": [(lambda: sd.VESDE(2.0, 1.0), "VESDE: needs 0 < sigma_min < sigma_max")],
    "sde_loss": [
        (lambda: sd.sde_loss(sd.VPSDE(), still, nan(), RNG), "sde_loss: x0 must be finite floats"),
        (lambda: sd.sde_loss(sd.VPSDE(), still, M, RNG, start=0.0), r"start must be in \(0, 1\), got 0.0"),
        (lambda: sd.sde_loss(sd.VPSDE(), lambda x, t: x[:1], M, RNG), "sde_loss: the score must have the shape of x"),
    ],
    "sde_ode_sample": [
        (lambda: sd.sde_ode_sample(sd.VPSDE(), still, (2,), RNG), r"sde_ode_sample: shape must be"),
        (lambda: sd.sde_ode_sample(sd.VPSDE(), lambda x, t: x[:1], (2, 2), RNG), "the score must have the shape of x"),
    ],
    "sde_steps": [
        (lambda: sd.sde_steps(sd.VPSDE(), still, (2, 2), RNG, steps=0), "steps must be a positive integer, got 0")
    ],
    "sde_log_prob": [(lambda: sd.sde_log_prob(sd.VPSDE(), still, M, probes=0), "probes must be a positive integer, got 0")],
    "heun_steps": [(lambda: sd.heun_steps(D, still, (2, 2), RNG, 2.5), "steps must be 1 or more .*steps 2.5")]
    + [(lambda c=c: sd.heun_steps(D, still, (2, 2), RNG, churn=c), f"churn .*got {c}") for c in (-1, np.nan)]
    + [(lambda r=r: sd.heun_steps(D, still, (2, 2), RNG, rho=r), f"rho .*rho {r}") for r in (0, np.nan)],
    "dpm_steps": [(lambda s=s: sd.dpm_steps(D, still, (2, 2), RNG, s), f"dpm_steps: .*steps {s}") for s in (0, -1, 2.5)],
    "ode_steps": [(lambda r=r: sd.ode_steps(D, still, (2, 2), RNG, rtol=r), f"rtol .*got {r}") for r in (0, -1, np.nan)],
    "ddpm_steps": [
        (lambda s=s: sd.ddpm_steps(D, still, s, RNG), "ddpm_steps: shape must be")
        for s in ((), (3,), (0, 2), (2, -1), (2, 1.5))
    ],
    "sample_ddpm": [
        (lambda: sd.sample_ddpm(D, still, (3,), RNG), "shape must be"),
        (lambda: sd.sample_ddpm(D, lambda xt, t: V, (3, 2), RNG), "predict_x0: shapes"),
    ],
    "ddim_steps": [(lambda s=s: sd.ddim_steps(D, still, (2, 2), RNG, steps=s), f"1..10, got {s}") for s in (0, -1, 11, 2.5)]
    + [(lambda e=e: sd.ddim_steps(D, still, (2, 2), RNG, steps=9, eta=e), f"got {e}") for e in (-0.1, 1.1, np.nan)]
    + [
        (lambda p=p: sd.ddim_steps(D, still, (2, 2), RNG, times=p), r"times must be pairs \(t, s\)")
        for p in ([], [5, 0], [(11, 1)], [(0, 0)], [(3, 4)], [(3, -1)], [(3.0, 1)])
    ],
    "sample_ddim": [
        (lambda: sd.sample_ddim(D, still, (2, 2), RNG, steps=99), "1..10, got 99"),
        (lambda: sd.sample_ddim(D, still, (2,), RNG, steps=9), "shape must be"),
    ],
    "self_conditioned": [(lambda: sd.self_conditioned(D, NET), "needs a model made with cond_channels, got MLP")],
    "self_conditioned_loss": [
        (lambda: sd.self_conditioned_loss(D, NET, POINTS, RNG), "needs a model made with cond_channels, got MLP"),
        (lambda: sd.self_conditioned_loss(D, unet(cond_channels=1)(), X, RNG, rate=2), r"rate must be in \[0, 1\], got 2"),
    ],
    "super_resolved": [(lambda: sd.super_resolved(NET, X), "needs a model made with cond_channels, got MLP")],
    "super_resolution_loss": [
        (lambda: sd.super_resolution_loss(D, NET, X, RNG), "needs a model made with cond_channels, got MLP"),
        (lambda: sd.super_resolution_loss(D, unet(cond_channels=1)(), X, RNG, factor=3), "sides that 3 divides"),
    ],
    "guided": [
        (lambda: sd.guided(NET, [0], 1.0), "num_classes"),
        (lambda: sd.guided(unet(num_classes=3)(), [0], -1.0), "weight -1.0"),
        (lambda: sd.guided(unet(num_classes=3)(), [0], np.nan), "weight nan"),
        (lambda: sd.guided(unet(num_classes=3)(), [0], 1.0, interval=(5, 5)), r"low < high, got \(5, 5\)"),
        (lambda: sd.guided(unet(num_classes=3)(), [0], 1.0, rescale=1.5), r"rescale must be in \[0, 1\], got 1.5"),
    ],
    "classifier_guided": [
        (lambda: sd.classifier_guided(D, NET, still, [0.0], 1.0), r"labels must be \(N,\) integers, got float64"),
        (lambda: sd.classifier_guided(D, NET, still, [0], -1.0), "scale must not be negative, got -1.0"),
        (lambda: sd.classifier_guided(D, NET, NET, [0, 2], 1.0)(M[:, :2], np.array([1, 1])), "cross_entropy: logits"),
    ],
    "of_x0_hat": [
        (lambda: diffusion.of_x0_hat(D, NET, still)(M, np.array([1, 1])), r"MLP: needs xt of shape \(N, 2\)"),
    ],
    "inpaint_steps": [
        (lambda: sd.inpaint_steps(D, still, M.astype(int), [1, 0, 1], RNG), "known must be finite floats, got int64"),
        (lambda: sd.inpaint_steps(D, still, V, 1, RNG), r"shape must be \(N, ...\)"),
        (lambda: sd.inpaint_steps(D, still, M, [1, 0.5, 0], RNG), "mask must be True or 1 where a pixel is known"),
        (lambda: sd.inpaint_steps(D, still, M, [1, 0], RNG), r"mask of shape \(2,\) does not fit data of shape \(2, 3\)"),
        (lambda: sd.inpaint_steps(D, still, M, [1, 0, 0], RNG, steps=11), "1..10, got 11"),
        (lambda: sd.inpaint_steps(D, still, M, [1, 0, 0], RNG, resample=0), "resample must be a positive integer, got 0"),
    ],
    "reconstruction_guided": [
        (lambda: sd.reconstruction_guided(D, NET, still, nan()), "y must be finite floats"),
        (lambda: sd.reconstruction_guided(D, NET, still, 1.0, noise=-1), "noise must not be negative, got -1"),
        (lambda: sd.reconstruction_guided(D, NET, still, 1.0, weight=0), "weight must be positive, got 0"),
        (
            lambda: sd.reconstruction_guided(D, NET, lambda x: x, np.ones((5, 2)))(M[:1, :2], np.array([1])),
            "the operator and y must give one row for each of x",
        ),
    ],
    "dps_steps": [
        (lambda s=s: sd.dps_steps(D, NET, still, 1.0, (2, 2), RNG, scale=s), f"scale must be positive, got {s}")
        for s in (0, -1, np.nan)
    ]
    + [(lambda: sd.dps_steps(D, NET, still, 1.0, (2,), RNG), "dps_steps: shape must be")],
    "downsampled": [
        (lambda: diffusion.downsampled(X, 3), "sides that 3 divides, got float32"),
        (lambda: diffusion.downsampled(X, 0), "factor must be a positive integer, got 0"),
    ],
    "blurred": [
        (lambda: diffusion.blurred(X, 0), "width must be positive, got 0"),
        (lambda: diffusion.blurred(M), r"x must be \(N, H, W, C\)"),
    ],
    "matrix_of": [(lambda: diffusion.matrix_of(diffusion.downsampled, (3, 3, 1)), "sides that 4 divides")],
    "sdedit_steps": [
        (lambda s=s: sd.sdedit_steps(D, still, M, s, RNG), f"strength must be in .*got {s}") for s in (0, 1.1, np.nan)
    ]
    + [
        (lambda: sd.sdedit_steps(D, still, nan(), 0.5, RNG), "x0 must be finite floats"),
        (lambda: sd.sdedit_steps(D, still, M, 0.5, RNG, steps=9, eta=2), "eta must lie in"),
        (lambda: sd.sdedit_steps(D, still, M, 0.5, RNG, steps=11), "1..10, got 11"),
    ],
    "ddim_inverse_steps": [
        (lambda: sd.ddim_inverse_steps(D, still, V), r"shape must be \(N, ...\)"),
        (lambda: sd.ddim_inverse_steps(D, still, M, steps=11), "1..10, got 11"),
    ],
    "slerp": [
        (lambda: diffusion.slerp(M, V, 0.5), "slerp: a and b must have one shape"),
        (lambda: diffusion.slerp(M, -M, 0.5), "no shortest way"),
    ],
    "interpolate": [
        (lambda: diffusion.interpolate(D, still, M, POINTS, [0.5]), "interpolate: a and b must have one shape"),
        (lambda: diffusion.interpolate(D, still, M, M, 0.5), r"weights must be \(K,\)"),
    ],
    # data
    "data.toy": [(lambda n=n: data.toy("moons", n, RNG), f"toy: n must be at least 1, got {n}") for n in (0, -1, 2.5)]
    + [(lambda: data.toy("sun", 5, RNG), "unknown set 'sun'"), (lambda: data.toy("text: ", 5, RNG), "nothing to fill")],
    "data.random_flips": [(lambda: data.random_flips(M, RNG), r"random_flips: needs images \(N, H, W, C\), got float64")],
    "data.kmeans": [
        (lambda: data.kmeans(np.ones((3, 2)), 4, RNG), "4 groups need at least 4 examples"),
        (lambda: data.kmeans(np.ones(3), 2, RNG), "float64 of shape"),
        (lambda: data.kmeans(np.ones((3, 2)), 0, RNG), "k must be a positive integer, got 0"),
        (lambda: data.kmeans(np.ones((3, 2)), 2, RNG, 0), "iterations must be a positive integer, got 0"),
        (lambda: data.kmeans(np.full((3, 2), np.nan), 2, RNG), "x must be finite floats"),
    ],
    "data.ecg": [
        (lambda: data.ecg(0, RNG), "n must be a positive integer, got 0"),
        (lambda: data.ecg(1, RNG, 70), "length must be at least 72, got 70"),
    ],
    "data.batches": [(lambda n=n: data.batches(M, n, RNG), f"batch_size must be at least 1, got {n}") for n in (0, -1, 2.5)]
    + [(lambda: data.batches(M[:0], 5, RNG), "no images")],
    "data.mnist": [(lambda: data.mnist("valid"), "'valid'"), (lambda: data.mnist("test"), "root=")],
    "data.read_idx": [(lambda: data.read_idx(__file__), "not an IDX file")],
    "data.read_npy": [(lambda: data.read_npy(__file__), "not an .npy file")],
    "data.download_mnist": [(lambda: data.download_mnist(__file__, MIRRORS), "is not a folder")],
    # training
    "Adam": [
        (lambda: sd.Adam({}), "no parameters"),
        (lambda: sd.Adam(NET.parameters(), lr=-1), "lr -1"),
        (lambda: sd.Adam(NET.parameters(), lr=np.nan), "lr nan"),
        (lambda: sd.Adam(NET.parameters(), betas=(1, 0.9)), "betas"),
        (lambda: sd.Adam(NET.parameters(), eps=0), "eps 0"),
        (lambda: sd.Adam(NET.parameters(), weight_decay=-1), "decay -1"),
    ],
    "EMA": [(lambda d=d: sd.EMA(NET.parameters(), d), f"EMA: decay must be in .*got {d}") for d in (-0.1, 1, np.nan)],
    "optim.clip_grad_norm": [
        (lambda n=n: optim.clip_grad_norm({}, n), f"max_norm must be positive, got {n}") for n in (0, -1, np.nan)
    ],
    "load_diffusers": [],  # tests/weights/test_diffusers.py has its folders
    "save_diffusers": [
        (lambda: sd.save_diffusers("out", NET, D), "only a UNet has a counterpart in diffusers, got 'MLP'"),
        (lambda: sd.save_diffusers("out", unet(patch_size=2)(), D), "UNet2DModel has no patches .patch_size 2."),
        (lambda: sd.save_diffusers("out", unet(dims=1)(), D), "has no signals"),
        (lambda: sd.save_diffusers("out", unet(cond_channels=1)(), D), "no images as conditions"),
        (lambda: sd.save_diffusers("out", unet(time=dict(learned=True))(), D), "no learned frequencies"),
        (lambda: sd.save_diffusers("out", unet(time=dict(scale=2))(), D), "no scaled timesteps .scale 2."),
        (lambda: sd.save_diffusers("out", unet(ch_mult=(2, 2))(), D), "no first level wider"),
        (lambda: sd.save_diffusers("out", unet(heads=2, attn_resolutions=(8,))(), D), "heads differ in size"),
        (lambda: sd.save_diffusers("out", unet(down_padding=((2, 0), (2, 0)))(), D), "no down_padding"),
        (lambda: sd.save_diffusers("out", unet(mid_groups=None)(), D), "no attention without a norm"),
        (lambda: sd.save_diffusers("out", unet()(), "d"), "needs a GaussianDiffusion, got 'str'"),
    ],
    "load_openai": [
        (lambda: sd.load_openai(__file__), "a header of .* is it cut off, or no .safetensors file"),
        (lambda: sd.load_openai(__file__, T=0), "load_openai: T must be at least 1, got 0"),
    ],
    "pretrained": [(lambda: sd.pretrained("cats"), "the package carries mnist, got 'cats'")],
    "optim.warmup": [(lambda: optim.warmup(-1, 5), "warmup: .*step -1"), (lambda: optim.warmup(1, -5), "-5")],
    "optim.cosine_decay": [
        (lambda: optim.cosine_decay(np.nan), "cosine_decay: .*nan"),
        (lambda: optim.cosine_decay(0, 2), "floor 2"),
    ],
    "optim.linear_decay": [
        (lambda: optim.linear_decay(np.nan), "linear_decay: .*nan"),
        (lambda: optim.linear_decay(0, -1), "floor -1"),
    ],
    "train.train": [
        (run(steps=None), "train: give a positive number"),
        (run(steps=-1), "steps -1"),
        (run(seconds=np.nan), "seconds nan"),
        (run(accumulate=0), "accumulate must be a positive integer, got 0"),
        (run(warmup_steps=-1), "warmup_steps"),
        (run(hold=1.0), "hold must be in .*got 1.0"),
        (run(clip_norm=0), "clip_norm"),
        (run(start=-1), "start"),
        (run(batch_size=0), "batch_size must be"),
        (run(nan()), r"train: data must be finite floats, got float32 of shape \(5, 2\)"),
        (run(np.full((5, 2), np.inf)), "finite floats"),
        (run(np.ones((5, 2), np.uint8)), "got uint8"),
        (run(POINTS[:0]), "no images"),
        (run(labels=[1, 2]), r"5 examples need as many labels, got shape \(2,\)"),
    ],
    "checkpoint.save_checkpoint": [
        (lambda: checkpoint.save_checkpoint("x.npz", *PARTS, -1, {}), "step -1"),
        (lambda: checkpoint.save_checkpoint("x.npz", *PARTS, 1, dict(a=D)), "not JSON"),
    ],
    "checkpoint.load_checkpoint": [(lambda: checkpoint.load_checkpoint(__file__), "not a scratchdiff checkpoint")],
    "checkpoint.restore": [(lambda: checkpoint.restore({}, {}, *PARTS), "restore: model does not fit the model: missing")],
    "checkpoint.claimed": [],  # refuses only what another process holds: tests/robustness
    "recipes.build": [
        (lambda: recipes.build({}, RNG), "build: the recipe lacks"),
        (lambda: recipes.build(recipes.TOY | dict(network="Net"), RNG), "'Net'"),
        (lambda: recipes.build(recipes.TOY | dict(T=0), RNG), "got 0"),
    ],
    "recipes.with_variance": [
        (lambda: recipes.build(recipes.with_variance(recipes.TOY, "large"), RNG), "'large'"),  # `build` has the check
    ],
    "recipes.with_network": [
        (lambda: recipes.with_network(recipes.MNIST, "MLP"), "the network must be UNet or DiT, got 'MLP'"),
        (lambda: recipes.with_network(recipes.TOY, "DiT"), "DiT takes images, and these are points"),
    ],
    "recipes.with_groups": [
        (lambda: recipes.with_groups(recipes.UNCONDITIONAL, M, RNG), "kmeans: 64 groups need at least 64"),
        (lambda: recipes.with_groups(recipes.TOY, M, RNG), "k must be a positive integer, got None"),
    ],
    "recipes.build_loss": [
        (lambda: recipes.build_loss(recipes.TOY | dict(loss="l1"), D), "loss must be one of .*got 'l1'"),
    ],
    "recipes.for_images": [(lambda n=n: recipes.for_images(n, 1), f"must be even, got {n}") for n in (0, 7, -2)]
    + [(lambda: recipes.for_images(8, 0), "0 channels")],
    # judging and drawing
    "metrics.classify": [
        (lambda: metrics.classify(X), "classify: needs finite images"),
        (lambda: metrics.classify(nan((2, 28, 28, 1))), "finite"),
        (lambda: metrics.classify(np.ones((0, 28, 28, 1))), "N >= 1"),
        (lambda: metrics.classify(np.ones((1, 28, 28, 1)), "cifar"), "classifiers of mnist, fashion, got 'cifar'"),
    ],
    "metrics.frechet_distance": [
        (lambda: metrics.frechet_distance(M, M[:1]), "n, m >= 2"),
        (lambda: metrics.frechet_distance(M, V), "got"),
        (lambda: metrics.frechet_distance(nan((2, 3)), M), "finite"),
    ],
    "metrics.nearest_digits": [
        (lambda: metrics.nearest_digits(X, X[:, :3]), "images of one size"),
        (lambda: metrics.nearest_digits(X[:0], X), "images of one size"),
    ],
    "metrics.precision_recall": [
        (lambda: metrics.precision_recall(M, X), "precision_recall: needs"),
        (lambda: metrics.precision_recall(M, M, k=0), "k must be a positive integer, got 0"),
    ],
    "metrics.sliced_wasserstein": [
        (lambda: metrics.sliced_wasserstein(M, POINTS), r"sliced_wasserstein: needs finite .*\(2, 3\), b .*\(5, 2\)"),
        (lambda: metrics.sliced_wasserstein(nan(), POINTS), "finite"),
        (lambda: metrics.sliced_wasserstein(M, M, directions=0), "directions must be a positive integer, got 0"),
    ],
    "metrics.judge": [
        (lambda: metrics.judge(X), "classify: needs"),
        (lambda: metrics.judge(X, data="fashion"), "judge: fashion needs reference images"),
    ],
    "metrics.DigitClassifier": [(lambda: metrics.DigitClassifier(rng=RNG)(X), "conv2d: shapes")],
    "metrics.load_classifier": [],  # takes nothing
    "plots.grid": [
        (lambda: plots.grid(M), "grid: needs images"),
        (lambda: plots.grid(X), "grid"),
        (lambda: plots.grid(nan((2, 4, 4, 1))), "NaN"),
        (lambda: plots.grid(X[..., :1], columns=-1), "-1"),
        (lambda: plots.grid(X[..., :1], gap=-1), "-1"),
    ],
    "plots.to_bytes": [(lambda: plots.to_bytes(nan()), "hold NaN")],
    "plots.enlarged": [
        (lambda: plots.enlarged(np.ones((2, 2), np.uint8), 0), "got uint8 and 0"),
        (lambda: plots.enlarged(M, 2), "float64"),
    ],
    "plots.save_images": [(lambda: plots.save_images("x.png", M), "grid")],
    "plots.save_gif": [
        (lambda: plots.save_gif("x.gif", []), "no frames"),
        (lambda: plots.save_gif("x.gif", [M]), "float64"),
    ],
    "plots.save_strip": [
        (lambda: plots.save_strip("x.png", [X[..., :1]], []), "1 moments and 0 titles"),
        (lambda: plots.save_strip("x.png", [], []), "0 moments"),
        (lambda: plots.save_strip("x.png", [M], ["a"]), "grid"),
    ],
    "plots.save_loss": [
        (lambda: plots.save_loss("x.png", []), "save_loss"),
        (lambda: plots.save_loss("x.png", M), r"\(2, 3\)"),
    ],
    "data.heartbeats": [(lambda: data.heartbeats(0, RNG), "n must be a positive integer, got 0")],
    "data.read_images": [(lambda: data.read_images(".", 0), "image_size must be a positive integer, got 0")],
    "plots.save_clouds": [
        (lambda: plots.save_clouds("x.png", [], []), "save_clouds"),
        (lambda: plots.save_clouds("x.png", [M], ["a"]), r"\(2, 3\)"),
    ],
    "plots.cloud_frame": [(lambda: plots.cloud_frame(M, "a"), r"got \(2, 3\)")],
    "plots.save_field": [
        (lambda: plots.save_field("x.png", still, [M], [1]), r"\(2, 3\)"),
        (lambda: plots.save_field("x.png", still, [], []), "0 times"),
    ],
    "plots.save_bound": [(lambda: plots.save_bound("x.png", {}), "save_bound: no bounds")],
    "plots.save_curves": [(lambda: plots.save_curves("x.png", []), "save_curves: no panels")],
    "plots.Picture": [],  # takes what matplotlib takes
    "plots.finished": [],  # as `prepare`
    "plots.png_of_schedule": [],  # notebooks call these two, with what they belong to
    "plots.png_of_bound": [],
    "plots.prepare": [],  # takes any path
    "plots.axes_of_plane": [],  # takes what matplotlib takes
}
ROWS = [(name, call, message) for name, rows in REFUSALS.items() for call, message in rows]


def arrays(net):
    return {name: p.data for name, p in net.parameters().items()}


@pytest.mark.parametrize("name, call, message", ROWS, ids=[f"{name}-{i}" for i, (name, *_) in enumerate(ROWS)])
def test_it_is_refused_with_a_value_error_of_one_line_that_says_what_it_got(name, call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_nothing_the_refused_calls_were_given_was_changed():
    assert all(np.isfinite(p.data).all() for p in NET.parameters().values())


def test_every_public_name_is_in_the_table():
    exported = {f"{room.__name__.split('.')[-1]}.{name}" for room in (ops, nn, data) for name in room.__all__}
    exported |= set(sd.__all__) | set(diffusion.__all__)
    for module in (autograd, optim, train, checkpoint, recipes, metrics, plots):
        for name, thing in vars(module).items():
            if inspect.isroutine(thing) or inspect.isclass(thing):
                if thing.__module__ == module.__name__ and thing.__doc__ and not name.startswith("_"):
                    exported.add(f"{module.__name__.split('.')[-1]}.{name}")
    # rooms, a list of names, and tuples that are returned and never asked for: nothing here is a call with arguments
    kinds = {"data", "diffusion", "nn", "ops", "data.TOY_NAMES"}
    kinds |= {"SamplerStep", "train.TrainStep", "metrics.Judgement", "autograd.Record", "autograd.Node"}
    # steps of one function that the table does have: that function is whose refusals count
    helpers = """train.check_limits train.find_culprit train.run_share checkpoint.flush_folder checkpoint.open_archive
        checkpoint.directory checkpoint.read checkpoint.check_meta checkpoint.lock checkpoint.Allotment
        optim.unit_progress optim.adam_update
        metrics.symmetric_sqrt metrics.embedded_features
        autograd.add_arrays autograd.constant autograd.with_first autograd.keep_first"""
    twice = {f"{room}.{name}" for room in ("nn", "optim", "autograd") for name in sd.__all__} | {"MLP", "UNet", "DiT"}
    listed = set(REFUSALS) | {name.removeprefix("nn.") for name in REFUSALS}
    assert exported - kinds - set(helpers.split()) - twice - listed == set()
    assert set(REFUSALS) <= exported
