"""What a perfect denoiser would do, and how far ours is from it.

    python demos/oracle.py [--run runs/mnist] [--data DIR] [--seconds 30] [--seed 0] [--out runs/oracle]

Takes about a minute on two cores. The best denoiser of ten thousand digits is a formula, so it needs no training; expect it
to draw its training digits again, each to the last pixel, and to make nothing new. Then a small network learns eight
Gaussians, and its loss is held against the least that is possible, t by t. With --run, a run on MNIST, that comparison is
made for digits too, and with --data, a folder of the MNIST files, for digits that neither has seen. Writes to --out:
denoised.png, memorised.png, floor.png, and with --run digits.png.
"""

# %%
import argparse
from pathlib import Path

import numpy as np

import scratchdiff as sd
from scratchdiff.diffusion import loss_at
from scratchdiff.metrics import nearest_digits
from scratchdiff.plots import save_curves, save_strip
from scratchdiff.progress import watch_sampling, watch_training
from scratchdiff.recipes import TOY, build
from scratchdiff.runs import load_run
from scratchdiff.train import train


def main(run_folder=None, data=None, seconds=30.0, seed=0, out="runs/oracle", digits=10_000, draws=4000):
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)

    # %% A finite data set has a perfect denoiser: the mean of its members, each weighed by how well it explains x_t,
    #
    #     E[x_0 | x_t] = Σ_k r_k x_k,    r_k ∝ exp(−‖x_t − √ᾱ_t x_k‖²/2(1−ᾱ_t))
    #
    # In much noise that is the mean of all digits, then the mean of those that it might be, and soon a single one.
    images = sd.data.mnist()[0][:digits]
    diffusion = sd.GaussianDiffusion(sd.cosine_schedule(), predict="v")
    oracle = sd.Oracle(diffusion, images)
    shown = images[rng.permutation(len(images))[:3]]
    times = [950, 850, 750, 650, 550, 400, 200]
    eps = rng.standard_normal(shown.shape)
    noisy = [diffusion.q_sample(shown, t, eps) for t in times]
    pairs = [np.stack([x, oracle.x0(x, t)], axis=1).reshape(6, 28, 28, 1) for x, t in zip(noisy, times)]
    save_strip(out / "denoised.png", pairs, [f"t = {t}" for t in times],
               "Three digits in noise, and below each what the perfect denoiser sees in it")  # fmt: skip

    # %% Sampling with it therefore ends at the members of the data set, and nowhere else: memorisation, perfectly done. A
    # diffusion model makes new images only because its network is *not* that good a denoiser of its training set.
    steps = watch_sampling(sd.ddim_steps(diffusion, oracle, (8, 28, 28, 1), rng, steps=50), 50)
    *_, end = steps
    index, distances = nearest_digits(end.x, images)
    save_strip(out / "memorised.png", [np.stack([x, images[k]]) for x, k in zip(end.x, index)], ["sample"] * 8,
               "Samples of the perfect denoiser (above), and the training digit next to each (below)")  # fmt: skip
    print(
        f"8 samples of the perfect denoiser of {len(images):,} digits: at most {distances.max():.1e} from a training digit"
    )

    # %% How far is ours? A network learns eight Gaussians, whose perfect denoiser is known as well. The loss falls to a
    # plateau; the floor tells whether it is the end of what can be learned or of what this network has learned.
    toy = sd.data.toy("gaussians", 100_000, rng).astype(np.float32)
    model, diffusion = build(TOY, rng)
    angles = np.pi * np.arange(8) / 4
    best = sd.Oracle(diffusion, np.stack([np.cos(angles), np.sin(angles)], 1) / np.sqrt(0.51), 0.01 / 0.51)
    adam, ema = sd.Adam(model.parameters(), TOY["lr"]), sd.EMA(model.parameters(), TOY["ema"])
    times = np.unique(np.geomspace(1, 1000, 20).round().astype(int))
    x0 = best.sample(draws, rng)
    untrained = [loss_at(diffusion, model, x0, int(t), np.random.default_rng(int(t))) for t in times]
    training = train(model, diffusion, toy, adam, ema, rng, seconds=seconds, batch_size=TOY["batch_size"])
    for step in watch_training(training):
        pass
    with ema.applied():
        learned, floor = (
            [loss_at(diffusion, f, x0, int(t), np.random.default_rng(int(t))) for t in times] for f in (model, best)
        )
    over = np.array(learned) - floor  # the same noise for both, so the difference is far more exact than either
    axes = dict(xlabel="t", ylabel="mean squared error of eps")
    losses = {"untrained": (times, untrained), f"after {step.step} steps": (times, learned)}
    best_possible = {"floor": (times, floor)}
    save_curves(out / "floor.png", [dict(curves=losses, references=best_possible, title="The loss at each t", **axes),
                                    dict(curves={"learned": (times, over)}, title="Above the floor by", **axes)],
                "Eight Gaussians")  # fmt: skip
    for t, one, best_of_all in list(zip(times, learned, floor))[::4]:
        print(f"t = {t:>4}: learned {one:.4f}, floor {best_of_all:.4f}")
    if run_folder is None:
        return distances, over

    # %% And with digits. On its training digits the perfect memory makes next to no error where a digit can be told at all.
    # On digits that it has not seen it is lost: it can only answer with those it knows. The network does nearly as well on
    # new digits as on old ones; that it lies above the floor of its training set is what we want of it.
    net, diffusion, _ = load_run(run_folder)
    oracle = sd.Oracle(diffusion, images)
    times = np.unique(np.linspace(25, 1000, 14).round().astype(int))
    sets = {"training digits": images[rng.permutation(len(images))[:100]]}
    if data is not None:
        sets["new digits"] = sd.data.mnist("test", data)[0][:100]
    curves = {f"{who}, {name}": (times, [loss_at(diffusion, f, x, int(t), np.random.default_rng(int(t))) for t in times])
              for name, x in sets.items() for who, f in (("network", net), ("perfect memory", oracle))}  # fmt: skip
    save_curves(out / "digits.png", [dict(curves=curves, xlabel="t", ylabel="mean squared error of v", xscale="linear",
                                          ylim=(1e-4, 100), title="Digits: a network, and a perfect memory")])  # fmt: skip
    for name, (_, losses) in curves.items():
        print(f"{name}: mean loss over t {np.mean(losses):.4f}")
    return distances, over


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A perfect denoiser, and how far a trained one is from it.")
    parser.add_argument("--run", dest="run_folder", metavar="RUN", help="folder of a run on MNIST, to compare on digits too")
    parser.add_argument("--data", metavar="DIR", help="folder of the MNIST files, for digits that no one has seen")
    parser.add_argument("--seconds", type=float, default=30.0, help="of training (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs/oracle", metavar="DIR", help="where to write (%(default)s)")
    main(**vars(parser.parse_args()))
