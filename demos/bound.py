"""Where the bits go: the variational bound, step by step, of the best denoiser there is and of one that has learned.

    python demos/bound.py [--run runs/mnist] [--seed 0] [--out runs/bound]

Takes about a minute on two cores, most of it training on points. Their distribution is known, and so is −log p(x).
Expect the best denoiser to come within a twentieth of a bit of it if its variance is β_t, and to miss it by 0.8 bits with
β̃_t; learning the variance spares a trained network as much. Where --run has digits from `python demos/mnist.py`, it says
what they cost as well. Writes to --out: schedules.png, bound.png, noise.png, and mnist.png for the digits.
"""

# %%
import argparse
from pathlib import Path

import numpy as np

import scratchdiff as sd
from scratchdiff.diffusion.bound import step_nats
from scratchdiff.diffusion.oracle import Oracle
from scratchdiff.plots import save_bound, save_curves, save_schedules
from scratchdiff.progress import watch_training
from scratchdiff.recipes import TOY, build, with_variance
from scratchdiff.runs import load_run
from scratchdiff.train import train

LOOKS = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)  # the shares of the training after which the gradient's noise is measured


def main(run="runs/mnist", seed=0, out="runs/bound", steps=3000, n=2000, images=100, batches=50):
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)

    # %% A schedule says how fast the data is lost. All that matters is the ratio of signal to noise: two schedules that
    # pass through the same ratios differ only in how many steps they spend on each. schedules.png shows eight.
    linear = sd.linear_schedule()
    save_schedules(out / "schedules.png", {
        "linear (2020)": linear, "linear, zero terminal SNR (2023)": sd.zero_terminal_snr(linear),
        "quadratic": sd.quadratic_schedule(), "constant": sd.constant_schedule(),
        "sigmoid in β": sd.sigmoid_beta_schedule(), "cosine (2021)": sd.cosine_schedule(),
        "sigmoid in ᾱ (2022)": sd.sigmoid_alpha_bar_schedule(), "1/(T−t+1) (2015)": sd.jsd_schedule(),
    })  # fmt: skip

    # %% The data: eight small Gaussians on a ring. Here −log p(x) can simply be computed, and so can the best denoiser.
    points = sd.data.toy("gaussians", 100_000, rng).astype(np.float32)
    new = sd.data.toy("gaussians", n, rng)
    angles = np.arange(8) * np.pi / 4
    ring = np.stack([np.cos(angles), np.sin(angles)], 1) / np.sqrt(0.51)

    # %% A network that puts out a variance as well: where between β̃_t and β_t, for each coordinate. It learns by
    #
    #     L_hybrid = L_simple + 0.001 L_vlb
    #
    # and the gradient of L_vlb stops at the mean. On the way we look six times at how noisy a gradient of L_vlb is.
    model, diffusion = build(with_variance(TOY, "learned"), rng)
    adam, ema = sd.Adam(model.parameters(), TOY["lr"]), sd.EMA(model.parameters(), TOY["ema"])

    looks = {max(1, round(steps * share)) for share in LOOKS}
    uniform, important, length = {}, {}, {}
    settings = dict(steps=steps, batch_size=TOY["batch_size"])
    for step, *_ in watch_training(train(model, diffusion, points, adam, ema, rng, **settings)):
        if step in looks:
            times = warmed_up(diffusion, model, points, rng)
            uniform[step], _ = gradient_noise(diffusion, model, points, rng, batches)
            important[step], length[step] = gradient_noise(diffusion, model, points, rng, batches, times)

    # %% The estimate of Σ_t L_t from single t jumps with the t that was drawn, for L_0 is thousands of times L_500. Drawing
    # t as often as √E[L_t²] asks, and dividing by that probability, changes nothing on average and calms the gradient.
    curves = {"its noise, uniform t": series(uniform), "its noise, importance-sampled t": series(important),
              "its length": series(length)}  # fmt: skip
    title = f"The gradient of L_vlb, from batches of {TOY['batch_size']}"
    top = 1.3 * max(uniform.values())  # room for the legend
    save_curves(out / "noise.png", [dict(curves=curves, xlabel="training step", ylabel="norm", title=title, yscale="linear",
                                         ylim=(0, top))])  # fmt: skip
    print(f"noise of the gradient at the end: {uniform[steps]:.1f} with uniform t, {important[steps]:.1f} with importance")

    # %% The bound on −log p(x), term by term. No denoiser has a smaller error than the oracle, but with the variance fixed
    # to β̃_t it pays for claiming to be surer than anyone can be. β_t is right for a density, nearly, but at t = 1 it is by
    # Ho's convention the β̃ of t = 2; u = 1 in place of a learned output gives β_t there too, and the bound meets the truth.
    # The same points, t and noise for all, so that they differ by what they are and not by luck.
    small, large = (sd.GaussianDiffusion(diffusion.schedule, TOY["predict"], v) for v in ("fixed_small", "fixed_large"))
    oracle = Oracle(small, ring, 0.1**2 / 0.51)
    truth = -oracle.log_prob(new, 0).mean() / (2 * np.log(2))
    with ema.applied():
        cases = {
            "best mean, variance β̃_t": (small, oracle),
            "best mean, β_t, but β̃_2 at t = 1": (large, oracle),
            "best mean, β_t": (diffusion, lambda xt, t: np.concatenate([oracle(xt, t).data, np.ones_like(xt)], 1)),
            "network, β̃_t": (small, lambda xt, t: model(xt, t).data[:, :2]),
            "network, learned variance": (diffusion, model),
        }
        bounds = {name: process.bound(denoiser, new, np.random.default_rng(seed), draws=50)
                  for name, (process, denoiser) in cases.items()}  # fmt: skip
    save_bound(out / "bound.png", bounds, f"What {n} points cost, in bits of density a coordinate", truth)
    print(f"{'':<36}{'L_0':>8}{'L_1..L_T-1':>12}{'L_T':>10}{'total, bits/dim':>18}")
    for name, bound in bounds.items():
        print_row(name, bound)
    print(f"{'−log p(x), the truth':<36}{truth:>39.3f}")

    # %% Digits cost bits that can be counted, since a pixel has one of 256 values: a compressor that used this model would
    # need so many. Half of them go into the last few steps of a thousand, that is, into shades that nobody can see.
    if (Path(run) / "model.npz").exists():
        net, of_digits, recipe = load_run(run)
        digits, labels = sd.data.mnist()
        some = rng.permutation(len(digits))[:images]
        classes = labels[some] if recipe["network_args"].get("num_classes") else None
        bound = of_digits.bound(net, digits[some], rng, classes, draws=20)
        save_bound(out / "mnist.png", {f"{bound.bits_per_dim:.2f} bits/dim": bound}, f"What {images} digits cost {run}")
        print_row(f"{images} digits, {run}", bound)
    return bounds


def print_row(name, bound):
    """One line of the table: the terms in bits/dim."""
    each = bound.nats / (bound.dims * np.log(2))
    total = f"{bound.bits_per_dim:.3f} ± {bound.standard_error:.3f}"
    print(f"{name:<36}{each[0]:>8.3f}{each[1:-1].sum():>12.3f}{each[-1]:>10.1e}{total:>18}")


def series(values):
    """{x: y} as (x's, y's)."""
    return list(values), list(values.values())


# %% Importance sampling must have seen each t ten times before it can start.
def warmed_up(diffusion, model, points, rng):
    """ImportanceTimes that know ten losses of the model, as it is, at each t."""
    times = sd.ImportanceTimes(diffusion.schedule.T)
    t = np.arange(1, diffusion.schedule.T + 1)
    for _ in range(10):
        x0 = points[rng.integers(len(points), size=len(t))]
        xt = diffusion.q_sample(x0, t, rng.standard_normal(x0.shape))
        x0_hat, logvar = diffusion.denoise(model, xt, t)
        times.update(t, step_nats(diffusion, x0_hat, logvar, x0, xt, t).data)
    return times


# %% The noise: how far the gradients of single batches scatter around their mean, as vectors of all parameters.
def gradient_noise(diffusion, model, points, rng, batches, times=None):
    """(the root mean square distance of a batch's gradient of L_vlb from the mean gradient, the length of that mean; NaN
    where it is too small to tell from so many batches)."""
    gradients = []
    for _ in range(batches):
        x0 = points[rng.integers(len(points), size=TOY["batch_size"])]
        for p in model.parameters().values():
            p.grad = None
        with sd.Tape() as tape:
            loss = sd.vlb_loss(diffusion, model, x0, rng, times=times)
        tape.backward(loss)
        gradients.append(np.concatenate([p.grad.ravel() for p in model.parameters().values()]))
    gradients = np.array(gradients)
    variance = gradients.var(0, ddof=1).sum()
    # the mean of so many gradients has some noise of its own, whose square is subtracted
    squared = np.square(gradients.mean(0)).sum() - variance / batches
    return np.sqrt(variance), np.sqrt(squared) if squared > variance / batches else np.nan


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The variational bound, step by step.")
    parser.add_argument("--run", default="runs/mnist", metavar="RUN", help="digits to judge, if it exists (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs/bound", metavar="DIR", help="where to write (%(default)s)")
    main(**vars(parser.parse_args()))
