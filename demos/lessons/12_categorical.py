# %% [markdown]
# # 12 How do you add noise to letters? Diffusion over symbols, on sums
#
# Lesson 10 replaced bits by fair coins. The same works for K symbols: replace a symbol by a uniform one (the uniform
# kernel of D3PM, Austin et al. 2021; for K = 2 it is lesson 10). Our text is addition: 7+5=12 is four digits, and all 100
# such sums are equally likely. So a sum carries log₂ 100 = 6.644 bits, and we can count errors.
#
# Expect: a bound near 6.7 bits after less than a minute on two cores, and how many of the sums that the model makes up, or
# is asked for, are right.
#
# `python demos/lessons/12_categorical.py` writes runs/lessons/12_categorical.png.

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import INK, WARM, record, save

import scratchdiff as sd
from scratchdiff import ops
from scratchdiff.diffusion import Bound

K, D = 10, 4
a, b = np.divmod(np.arange(100), 10)
SUMS = np.stack([a, b, (a + b) // 10, (a + b) % 10], axis=1)


def one_hot(x):
    """(N, D) symbols → (N, D, K) float32."""
    return np.eye(K, dtype=np.float32)[x]


# %% [markdown]
# ## The process
#
#     q(x_t = j | x_{t−1} = i) = (1 − β_t) [i = j] + β_t/K,     β_t = 1/(T − t + 1),     so ᾱ_t = 1 − t/T
#     q(x_t = j | x_0 = i)     = ᾱ_t [i = j] + (1 − ᾱ_t)/K
#
# The step back is Bayes' rule again, for one symbol. With A_j = q(x_t | x_{t−1} = j),
#
#     q(x_{t−1} = j | x_t, x_0)  ∝  q(x_t | x_{t−1} = j) q(x_{t−1} = j | x_0)  =  A_j (ᾱ_{t−1} [j = x_0] + (1 − ᾱ_{t−1})/K)
#
# A model that does not know x_0 puts probabilities p̂_j in place of [j = x_0] (Austin et al. 2021, Eq. 4). A_j already holds
# what x_t says about its own place, so p̂ has to say only what the *other* symbols tell about x_0 there. With a one-hot p̂
# the same function is q's posterior.


# %%
class Symbols:
    """The process on symbols 0..K−1, for x (N, D), in T steps; t: (N,)."""

    def __init__(self, T):
        self.T = T
        self.alpha_bar = (1 - np.arange(T + 1) / T).astype(np.float32)
        self.beta = np.concatenate([[0], 1 / np.arange(T, 0, -1)]).astype(np.float32)

    def q_sample(self, x0, t, rng):
        """x_t: each symbol of x_0 survives with probability ᾱ_t, or is drawn anew."""
        survives = rng.random(x0.shape) < self.alpha_bar[t][:, None]
        return np.where(survives, x0, rng.integers(K, size=x0.shape))

    def step_back(self, xt, t, p0):
        """The probabilities of x_{t−1}, (N, D, K), given x_t and p̂ (N, D, K): an array or a Tensor."""
        beta, kept = self.beta[t][:, None, None], self.alpha_bar[t - 1][:, None, None]
        A = (1 - beta) * one_hot(xt) + beta / K
        joint = A * (kept * p0 + (1 - kept) / K)
        return joint / joint.sum(2, keepdims=True)

    def step_nats(self, p0, x0, xt, t):
        """KL(q(x_{t−1} | x_t, x_0) ‖ p(x_{t−1} | x_t)) for a model's p0, summed over symbols: a Tensor (N,)."""
        r, p = self.step_back(xt, t, one_hot(x0)), self.step_back(xt, t, p0)
        entropy = -(r * np.log(np.maximum(r, 1e-30))).sum((1, 2))
        return -entropy - (r * ops.log(p + 1e-12)).sum((1, 2))

    def x0_nats(self, p0, x0, xt, t):
        """−log p(x_0 | x_t), summed over symbols: a Tensor (N,). What p̂ says times what x_t itself says, over their sum."""
        kept = self.alpha_bar[t][:, None, None]
        joint = p0 * (kept * one_hot(xt) + (1 - kept) / K)
        p = joint / joint.sum(2, keepdims=True)
        return -(ops.log(p + 1e-12) * one_hot(x0)).sum((1, 2))

    def bound(self, model, x0, rng):
        """The bound on −log p(x0), term by term; L_T is 0, for x_T is uniform. model(xt, t): p0."""
        terms = np.zeros((len(x0), self.T + 1))
        for s in range(1, self.T + 1):
            t = np.full(len(x0), s)
            xt = self.q_sample(x0, t, rng)
            terms[:, s - 1] = self.step_nats(model(xt, t), x0, xt, t).data
        return Bound(terms, D)

    def paths(self, model, n, rng, known=None):
        """Yield x_T, ..., x_0, each (n, D). known: (n, D) symbols to hold fixed, −1 where free."""
        x = rng.integers(K, size=(n, D))
        for s in range(self.T, -1, -1):
            x = x if known is None else np.where(known >= 0, known, x)
            yield x
            if s > 0:
                t = np.full(n, s)
                p = np.asarray(self.step_back(x, t, model(x, t)), np.float64)
                x = (rng.random((n, D, 1)) < np.cumsum(p, axis=2) / p.sum(2, keepdims=True)).argmax(2)


# %% [markdown]
# ## The network, and the best network
#
# The network puts out p̂ = softmax(...). It could be trained on the bound. But in one step nearly every symbol stays as it
# is, so one KL divergence says little. −log p(x_0 | x_t) has its minimum at the same p̂, and a steadier gradient (Austin et
# al. add it to their loss, Eq. 5). We train on that and measure the bound.
#
# With 100 equally likely sums the exact p̂ is a formula too: weigh every sum by its likelihood, and add up the weights by
# symbol. Divide by q(x_t | x_0 = k), which is what this place itself says: what remains is what the others say.


# %%
def train(process, steps, seed=0):
    """A model(xt, t) that gives p̂, (N, D, K)."""
    rng = np.random.default_rng(seed)
    network = sd.MLP(D * K, 128, num_blocks=1, out_dim=D * K, rng=rng)

    def model(xt, t):
        x = 4 * one_hot(xt).reshape(-1, D * K) - 0.4  # of mean 0 and variance near 1
        return ops.softmax(network(x, t * (1000 / process.T)).reshape(-1, D, K))

    adam, ema = sd.Adam(network.parameters(), lr=3e-3), sd.EMA(network.parameters(), 0.99)
    for step, x0 in zip(range(steps), sd.data.batches(SUMS, 256, rng)):
        t = rng.integers(1, process.T + 1, len(x0))
        xt = process.q_sample(x0, t, rng)
        adam.zero_grad()
        with sd.Tape() as tape:
            loss = process.x0_nats(model(xt, t), x0, xt, t).mean()
        tape.backward(loss)
        adam.step(sd.optim.cosine_decay(step / steps))
        ema.update()
    network.load(ema.average)
    return model


def exact(process):
    """The model whose p̂ is exact, for t the same for all."""
    sums = one_hot(SUMS).reshape(-1, D * K)

    def model(xt, t):
        kept = process.alpha_bar[t[0]]
        here = kept * one_hot(xt) + (1 - kept) / K  # q(x_t | x_0 = k), (N, D, K)
        log = np.log(here).reshape(-1, D * K) @ sums.T
        weight = np.exp(log - log.max(1, keepdims=True))
        p0 = (weight @ sums).reshape(-1, D, K) / here
        return p0 / p0.sum(2, keepdims=True)

    return model


def right(x):
    """Which of the sums (N, D) are right."""
    return x[:, 0] + x[:, 1] == 10 * x[:, 2] + x[:, 3]


# %% [markdown]
# ## Questions
#
# To ask for 7+5=?, hold the two known digits fixed from t = T down. Even the exact model then answers many questions wrong.
# At large t it treats the fixed digits as noise, so an answer can form that does not fit them. Later it cannot take that
# answer back. Lesson 10 gives the reason: the rule leaves out a factor Z(x_t).


# %%
def main(out="runs/lessons", small=False):
    """Train, compare two bounds with the entropy, count right sums, write the picture; return the headline figures."""
    process = Symbols(10 if small else 100)
    model = train(process, 20 if small else 5000)
    n = 20 if small else 1000
    x0 = SUMS[np.random.default_rng(1).integers(len(SUMS), size=n)]
    best = process.bound(exact(process), x0, np.random.default_rng(2))
    ours = process.bound(model, x0, np.random.default_rng(2))
    truth = np.log2(len(SUMS))

    made_up = list(process.paths(model, n, np.random.default_rng(3)))
    asked = np.where(np.arange(D) < 2, x0, -1)
    shares = {}
    for name, of in (("network", model), ("exact", exact(process))):
        shares[name] = [
            right(list(process.paths(of, n, np.random.default_rng(3), known))[-1]).mean() for known in (None, asked)
        ]
    picture(out, process, made_up, best, ours)
    return record(out, "12_categorical", {
        "bits: entropy, log2 100": truth, "bits: bound of the exact posterior": D * best.bits_per_dim,
        "bits: its standard error": D * best.standard_error, "bits: bound of the network": D * ours.bits_per_dim,
        "bits: standard error": D * ours.standard_error,
        "share of made-up sums that are right": shares["network"][0], "the same, exact posterior": shares["exact"][0],
        "share of questions a+b=? answered right": shares["network"][1],
        "questions answered right, exact posterior": shares["exact"][1],
    })  # fmt: skip


def picture(out, process, made_up, best, ours):
    """Left: six sums come out of noise. Right: where the bits are paid."""
    figure, (left, axis) = plt.subplots(1, 2, figsize=(13, 5), width_ratios=(1.5, 1))
    moments = np.unique(np.linspace(0, process.T, 8).round().astype(int))[::-1]
    for column in range(6):
        for row, t in enumerate(moments):
            x = made_up[process.T - t][column]
            text = "{}+{}={}{}".format(*x)
            left.text(
                column,
                row,
                text,
                family="monospace",
                fontsize=13,
                ha="center",
                va="center",
                color=INK if right(x[None])[0] else WARM,
            )
    left.set(xlim=(-0.6, 5.6), ylim=(len(moments) - 0.5, -0.7), xticks=[], yticks=range(len(moments)),
             yticklabels=[f"t = {t}" for t in moments], title="six sums on their way from noise (blue: right)")  # fmt: skip
    left.spines[:].set_visible(False)

    t = np.arange(1, process.T + 1)
    for bound, name, style in ((ours, "network", dict(color=INK)), (best, "exact posterior", dict(color=WARM, ls="--"))):
        axis.plot(t, np.cumsum(bound.nats[:-1]) / np.log(2), label=f"{name}: {D * bound.bits_per_dim:.2f}", **style)
    axis.axhline(np.log2(len(SUMS)), color="grey", lw=0.8, label=f"entropy: {np.log2(len(SUMS)):.2f}")
    axis.set(title="the bound, summed up to t", xlabel="t", ylabel="bits per sum")
    axis.legend()
    figure.tight_layout()
    save(figure, out, "12_categorical")


# %% [markdown]
# ## Exercises
#
# 1. In `main`, take 20 steps in place of 100. Which bound suffers, and why does the exact posterior suffer too?
# 2. In `train`, leave every tenth of SUMS out, and ask for these. Has the network learned to add?
# 3. Give the process a kernel that replaces a symbol by an eleventh one, a mask (D3PM's absorbing kernel). What do A and Z
# become?

# %%
if __name__ == "__main__":
    main()
