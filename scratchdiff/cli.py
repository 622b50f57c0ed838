"""The command line, `scratchdiff COMMAND`, also as `python -m scratchdiff COMMAND`.

Whatever goes wrong ends in one line on stderr and exit code 2; Ctrl-C and SIGTERM end in 130 and 143.
"""

import argparse
import copy
import json
import os
import platform
import re
import shlex
import sys
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np

import scratchdiff
from scratchdiff import kernels, parallel
from scratchdiff.autograd import Tape
from scratchdiff.checkpoint import claimed, load_checkpoint, restore, save_checkpoint
from scratchdiff.checks import require
from scratchdiff.checkup.run import checkup_run
from scratchdiff.data import random_flips
from scratchdiff.diffusion import SAMPLERS, Bound, bits_per_dim, dequantised, ode_log_prob
from scratchdiff.diffusion.gaussian import PREDICTIONS, VARIANCES
from scratchdiff.gradcheck import fill_zeros, gradcheck
from scratchdiff.nn import UNet
from scratchdiff.ops.examples import EXAMPLES
from scratchdiff.optim import EMA, Adam
from scratchdiff.page import save_page
from scratchdiff.recipes import LOSSES, MNIST, SCHEDULES, TOY, YARDSTICK, build, build_loss, with_network, with_variance
from scratchdiff.runs import (
    CHECKPOINT,
    at_step,
    crc,
    draw,
    edit,
    examples,
    folder_of,
    idx_images,
    load_data,
    load_images,
    load_run,
    named_classes,
)
from scratchdiff.trace import trace_step
from scratchdiff.train import train


def main(argv=None) -> int:
    """Run one command; return the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parser().parse_args(argv)
    args.argv = argv
    try:
        return args.command(args) or 0
    except KeyboardInterrupt:
        print("scratchdiff: interrupted", file=sys.stderr)
        return 130
    except MemoryError:
        print("scratchdiff: not enough memory for this network, data or number of samples", file=sys.stderr)
        return 2
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"scratchdiff: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    p = argparse.ArgumentParser(prog="scratchdiff", description="Denoising diffusion from scratch, on the CPU.")
    commands = p.add_subparsers(required=True, metavar="COMMAND")

    c = commands.add_parser("train", help="train a denoiser; the run goes into a folder",
                            epilog="example: scratchdiff train mnist --steps 3000 --predict eps --out runs/eps")  # fmt: skip
    c.add_argument("data", help="mnist, fashion (with --data-dir), toy:NAME (such as toy:moons, toy:text:ABC), an .npy file "
                   "of images (N, H, H, 1 or 3), uint8 or floats in [-1, 1], or a folder of PNG or JPEG")  # fmt: skip
    c.add_argument("--image-size", type=positive_int, metavar="PIXELS", help="of a folder's pictures (32)")
    c.add_argument("--out", metavar="RUN", help="folder of the run (default: runs/ and the data's name)")
    c.add_argument("--steps", type=positive_int, default=5000, help="of training in all (%(default)s)")
    c.add_argument("--save-every", type=positive_int, default=500, metavar="N", help="steps (%(default)s)")
    c.add_argument("--data-dir", metavar="DIR", help="MNIST-like IDX files, in place of the embedded digits")
    c.add_argument("--seed", type=int, default=0)
    c.add_argument("--unconditional", action="store_true", help="of mnist and fashion: no label is used")
    c.add_argument("--variance", choices=VARIANCES, default="fixed_small", help="of p(x_{t-1} | x_t): one of two fixed "
                   "ones, or learned with L_hybrid, which costs fewer bits (%(default)s)")  # fmt: skip
    keys = "lr", "batch_size", "schedule", "predict", "ema"
    both = {key: f"{MNIST[key]} for images, {TOY[key]} for points" for key in keys}
    c.add_argument("--lr", type=float, help=f"learning rate ({both['lr']})")
    c.add_argument("--batch-size", type=positive_int, metavar="N", help=f"({both['batch_size']})")
    c.add_argument("--accumulate", type=positive_int, metavar="N", help="batches to a step (1)")
    c.add_argument("--schedule", choices=SCHEDULES, help=f"of the noise ({both['schedule']})")
    c.add_argument("--predict", choices=PREDICTIONS, help=f"what the network predicts ({both['predict']})")
    c.add_argument("--loss", choices=LOSSES, help="(simple)")
    c.add_argument("--network", choices=("UNet", "DiT"), help="the denoiser of images (UNet)")
    c.add_argument("--channels", type=positive_int, metavar="N", help="at the U-Net's first level, or width of DiT and MLP "
                   f"({MNIST['network_args']['ch']} for images, {TOY['network_args']['width']} for points)")  # fmt: skip
    c.add_argument("--patch-size", type=positive_int, metavar="P", help="of images: the network sees P × P patches; "
                   "1 for a U-Net that `export` can write (2; DiT 4)")  # fmt: skip
    c.add_argument("--ema", type=float, metavar="DECAY", help=f"of the averaged weights ({both['ema']})")
    c.add_argument("--flip", action="store_true", default=None, help="mirror half of each batch, left to right")
    c.add_argument("--label-dropout", type=float, metavar="P", help="the share of labels hidden in training (0.1)")
    c.add_argument("--mpi", action="store_true", help="under mpiexec: each rank takes its share of every batch")
    c.add_argument("--resume", action="store_true", help="go on from the run's checkpoint, as if it had never stopped")
    c.set_defaults(command=run_train)

    samplers = "samplers:\n" + "\n".join(f"  {name:<12}{sampler.what}" for name, sampler in SAMPLERS.items())
    raw = dict(formatter_class=argparse.RawDescriptionHelpFormatter)
    example = "\n\nexample: scratchdiff sample mnist --label 7 -n 8"
    c = commands.add_parser("sample", help="draw samples from a run", epilog=samplers + example, **raw)
    c.add_argument("run", metavar="RUN", help="folder with a model.npz, or mnist: the weights that come with the package")
    c.add_argument("--label", type=count, help="of a run with classes: draw only this one (default: each in turn)")
    c.add_argument("--out", metavar="DIR", help="where to write (default: the run's folder)")
    c.add_argument("-n", type=positive_int, default=64, help="how many (%(default)s)")
    c.add_argument("--inpaint", metavar="FILE", help="a PNG or .npy of images: keep what --mask says, make the rest anew")
    c.add_argument("--mask", metavar="FILE", help="of --inpaint: a PNG, white to keep, or an .npy with 1 to keep")
    c.add_argument("--from", metavar="FILE", dest="start", help="a PNG or .npy of images: edit them (SDEdit)")
    c.add_argument("--strength", type=float, help="of --from, in (0, 1]: how much noise to put on (0.5)")
    add_sampler(c)
    c.add_argument("--seed", type=int, default=0)
    c.set_defaults(command=run_sample)

    c = commands.add_parser("evaluate", help="judge a run: its samples, if they are digits, and the bits that data costs it",
                            description="Draw digits, judge them (Fréchet distance, confidence, balance, nearest digit);\n"
                            "then print the variational bound on -log p(x) in bits/dim, and draw it by t in bound.png.\n"
                            "Points are of their toy set, drawn anew; an .npy run is judged on its own images.",
                            epilog=f"{samplers}\n\nexample: scratchdiff evaluate runs/mnist --bound 0", **raw)  # fmt: skip
    c.add_argument("run", metavar="RUN", help="folder with a model.npz, or an .npy file of 28 × 28 grey images to judge")
    c.add_argument("-n", type=count, default=1000, help="samples to draw, or 0 (%(default)s)")
    add_sampler(c)
    c.add_argument("--bound", type=count, default=500, metavar="N", help="examples to take the bound of, or 0 (%(default)s)")
    c.add_argument("--draws", type=positive_int, default=20, metavar="K", help="timesteps for each example; T is exact but "
                   "for the noise (%(default)s)")  # fmt: skip
    c.add_argument("--ode", type=count, default=0, metavar="N", help="examples whose log-density to compute by the "
                   "probability-flow ODE, slowly; for images a bound in the mean (%(default)s)")  # fmt: skip
    c.add_argument("--data-dir", metavar="DIR", help="MNIST-like IDX files: the bound is then of their test images, and "
                   "without, of the embedded training digits; a run of fashion needs them")  # fmt: skip
    c.add_argument("--hide-labels", action="store_true", help="the bound of a model that is not told the class")
    c.add_argument("--seed", type=int, default=0)
    c.add_argument("--json", action="store_true", help="print one JSON object, for scripts")
    c.set_defaults(command=run_evaluate)

    c = commands.add_parser("import", help="make a run of a folder of Hugging Face diffusers (a UNet2DModel)",
                            epilog="example: scratchdiff import ddpm-cifar10-32 --out runs/cifar10")  # fmt: skip
    c.add_argument("folder", metavar="FOLDER", help="as save_pretrained writes it, with .safetensors weights")
    c.add_argument("--out", metavar="RUN", required=True, help="folder of the run")
    c.set_defaults(command=run_import)

    c = commands.add_parser("export", help="write a run as a folder that Hugging Face diffusers opens",
                            epilog="example: scratchdiff export runs/digits --out digits-for-diffusers")  # fmt: skip
    c.add_argument("run", metavar="RUN", help="folder with a model.npz, of a U-Net without patches")
    c.add_argument("--out", metavar="FOLDER", required=True, help="folder to write")
    c.set_defaults(command=run_export)

    c = commands.add_parser("checkup", help="what is wrong with a run? Its schedule, loss, network, sampler and data",
                            epilog="example: scratchdiff checkup runs/mnist")  # fmt: skip
    c.add_argument("run", metavar="RUN", help="folder with a model.npz, or mnist: the weights that come with the package")
    c.add_argument("--data-dir", metavar="DIR", help="MNIST-like IDX files, in place of the embedded digits")
    c.add_argument("--seed", type=int, default=0)
    c.set_defaults(command=run_checkup)

    c = commands.add_parser("tape", help="a training step, op by op and gradient by gradient, as a page for the browser",
                            epilog="example: scratchdiff tape mnist --t 10 --compare t=900 --out tape.html")  # fmt: skip
    c.add_argument("run", metavar="RUN", nargs="?", help="folder with a model.npz, or mnist: the weights that come with the "
                   "package (default: the U-Net on which speed is measured)")  # fmt: skip
    c.add_argument("--step", type=positive_int, metavar="N", help="of the run's training, which is repeated up to there "
                   "(default: the next one; without RUN the 20th)")  # fmt: skip
    c.add_argument("--t", type=positive_int, help="the timestep of every example (default: drawn, as in training)")
    c.add_argument("-n", type=positive_int, help="examples of the batch (8 images, or all points)")
    c.add_argument("--compare", metavar="WITH", help="a second trace beside it, from the same batch and noise: another RUN, "
                   "step=N, t=N, or float64")  # fmt: skip
    c.add_argument("--data-dir", metavar="DIR", help="MNIST-like IDX files, in place of the embedded digits")
    c.add_argument("--no-check", action="store_true", help="leave out the comparison with finite differences")
    c.add_argument("--out", metavar="FILE", default="tape.html", help="(%(default)s)")
    c.set_defaults(command=run_tape)

    c = commands.add_parser("gradcheck", help="every op's gradient against finite differences",
                            epilog="example: scratchdiff gradcheck --param 'down.0.conv1.w[0,0,3,2]'")  # fmt: skip
    c.add_argument("--param", metavar="NAME[INDEX]", help='one number of the yardstick U-Net, "down.0.conv1.w[0,0,3,2]"')
    c.add_argument("--seed", type=int, default=0)
    c.add_argument("--json", action="store_true", help="print one JSON object, for scripts")
    c.set_defaults(command=run_gradcheck)

    c = commands.add_parser("info", help="versions, processor, BLAS, threads: for a bug report",
                            epilog="example: scratchdiff info")  # fmt: skip
    c.set_defaults(command=run_info)
    return p


def add_sampler(c: argparse.ArgumentParser) -> None:
    """The options that say how to draw samples: `draw`'s."""
    c.add_argument("--sampler", choices=SAMPLERS, default="ddim", help="see below (%(default)s)")
    c.add_argument("--steps", type=positive_int, help="of the sampler (default: 50; for ddpm all T)")
    c.add_argument("--eta", type=float, help="of ddim: from 0, no noise, to 1 (default: the recipe's)")
    c.add_argument("--guidance", type=float, help="of a run with classes: 0 is none (default: the recipe's)")


def positive_int(text: str) -> int:
    """An argparse type. Raises ValueError for what is not a positive integer."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive integer")
    return int(text)


def count(text: str) -> int:
    """An argparse type. Raises ValueError for what is neither 0 nor a positive integer."""
    return 0 if int(text) == 0 else positive_int(text)


def run_train(args) -> int:
    """Train, saving the run every --save-every steps. Raises ValueError rather than overwrite a run."""
    name = Path(args.data).stem if args.data.endswith(".npy") else args.data.replace(":", "_")
    out = Path(args.out or f"runs/{name}{'_unconditional' if args.unconditional else ''}")
    path = out / CHECKPOINT
    comm = parallel.join() if args.mpi else None
    with parallel.ending_together(comm) if comm else nullcontext():
        first = comm is None or comm.rank == 0
        if first and path.exists() and not args.resume:
            raise ValueError(f"train: {path} exists; give --resume to go on with it, or another --out")
        if first and args.resume and not path.exists():
            raise FileNotFoundError(f"train: there is no {path} to resume")
        rng = np.random.default_rng(args.seed)
        data, labels, recipe = load_data(args.data, args.data_dir, rng, args.image_size, args.unconditional)
        recipe = with_variance(with_options(recipe, args), args.variance)
        with claimed(out) if first else nullcontext():
            return train_run(args, path, data, labels, recipe, rng, comm)


def with_options(recipe: dict, args) -> dict:
    """The recipe with what the command line sets."""
    recipe = with_network(recipe, args.network) if args.network else recipe
    keys = ("lr", "batch_size", "accumulate", "schedule", "predict", "loss", "ema", "label_dropout", "flip")
    recipe = recipe | {key: getattr(args, key) for key in keys if getattr(args, key) is not None}
    if args.channels:
        width = "ch" if recipe["network"] == "UNet" else "width"
        recipe["network_args"] = recipe["network_args"] | {width: args.channels}
    if args.patch_size:
        require(recipe["network"] != "MLP", "train: points have no patches", patch_size=args.patch_size)
        recipe["network_args"] = recipe["network_args"] | dict(patch_size=args.patch_size)
    return recipe


def train_run(args, path, data, labels, recipe, rng, comm=None) -> int:
    """`run_train` once the data is there and the folder is ours. Returns the exit code.

    comm: the communicator of the ranks, of which the first reports and saves; None for a process alone."""
    from scratchdiff.plots import save_loss
    from scratchdiff.progress import polite_stop, watch_training

    model, diffusion = build(recipe, rng)
    settings = recipe | dict(data=args.data, data_crc32=crc(data, labels), steps=args.steps, seed=args.seed)
    first = comm is None or comm.rank == 0
    adam, ema = Adam(model.parameters(), recipe["lr"]), EMA(model.parameters() if first else {}, recipe["ema"])
    start, losses, seconds = 0, [], 0.0
    if args.resume and first:
        meta, groups = load_checkpoint(path)
        check_same(path, meta["settings"], settings)
        start = restore(meta, groups, model, ema, adam, rng)
        losses, seconds = meta["losses"].tolist(), meta["seconds"]

    limits = dict(steps=args.steps) | {key: recipe[key] for key in ("batch_size", "accumulate", "hold")}
    if comm:
        start = comm.bcast(start)
        parallel.broadcast(comm, model.parameters(), adam)
        parallel.reseed(comm, rng, args.seed, start + 1)
        limits["batch_size"] = parallel.share_of_batch(comm, limits["batch_size"])
        limits["average"] = partial(parallel.average_gradients, comm)
    if first:
        ranks = f" on {comm.size} ranks" if comm else ""
        print(f"{model.num_parameters():,} parameters, {len(data):,} examples, step {start} of {args.steps}{ranks}; "
              f"in {path.parent}")  # fmt: skip
    began = time.perf_counter() - seconds
    loss = build_loss(recipe, diffusion)
    if recipe["flip"]:
        limits["augment"] = random_flips
    steps = train(model, diffusion, data, adam, ema, rng, labels=labels, loss=loss, start=start, **limits)
    with polite_stop() as stop:
        for done, value, *_ in watch_training(steps) if first else steps:
            losses.append(value)
            stopped = stop.signal  # asked once: a signal that comes while saving is seen after the next step
            if comm:
                stopped = parallel.agree(comm, stopped)
                parallel.reseed(comm, rng, args.seed, done + 1)
            if first and (done % args.save_every == 0 or done == args.steps or stopped):
                save_checkpoint(path, model, ema, adam, rng, done, settings, time.perf_counter() - began, losses)
            if stopped and done < args.steps:
                if first:
                    print(f"stopped after step {done} of {args.steps}, which is saved; to go on: {shlex.join(again(args))}")
                return 128 + stopped
    if losses and first:
        save_loss(path.parent / "loss.png", losses)
        print(f"loss {np.mean(losses[-200:]):.4f}; `scratchdiff sample {path.parent}` draws from it")
    return 0


def check_same(path, was: dict, settings: dict) -> None:
    """Raise ValueError unless a run is resumed as it was begun: what differs is named."""
    settings = json.loads(json.dumps(settings))  # as they come back from a file: tuples are lists
    differ = [key for key in settings | was if was.get(key) != settings.get(key)]
    if differ:
        begun, now = (", ".join(f"{key} {each.get(key)}" for key in differ) for each in (was, settings))
        raise ValueError(f"train: {path} was begun with {begun}, and this is {now}; resume it as it was begun")


def again(args) -> list[str]:
    """The command that goes on with a run."""
    return ["scratchdiff", *args.argv, *([] if args.resume else ["--resume"])]


def run_sample(args) -> None:
    """Write samples.npy and samples.png into --out, or the run's folder."""
    from scratchdiff.plots import save_clouds, save_images

    rng = np.random.default_rng(args.seed)
    x = edited(args, rng)
    if x is None:
        x = draw(args.run, args.n, rng, args.sampler, args.steps, args.eta, args.guidance, args.label)
    out = Path(args.out or folder_of(args.run))
    out.mkdir(parents=True, exist_ok=True)
    if x.ndim == 2:
        save_clouds(out / "samples.png", [x], [f"{len(x)} samples"])
    else:
        x = np.clip(x, -1, 1)
        save_images(out / "samples.png", x, columns=10)
    np.save(out / "samples.npy", x)
    print(f"{len(x)} samples in {out}/samples.npy and {out}/samples.png")


def edited(args, rng):
    """What `sample` draws from --inpaint or --from, or None without either. Raises ValueError for options that clash."""
    require((args.inpaint is None) == (args.mask is None), "sample: --inpaint and --mask need each other")
    require(not (args.inpaint and args.start), "sample: give either --inpaint or --from")
    require(args.start or args.strength is None, "sample: --strength belongs to --from")
    if not (args.inpaint or args.start):
        return None
    require(args.sampler == "ddim", "sample: --inpaint and --from have their own samplers, so no --sampler")
    require(not args.inpaint or args.eta is None, "sample: --inpaint is ancestral and takes no --eta")
    source = args.inpaint or args.start
    return edit(args.run, args.n, rng, source, args.mask, args.strength, args.steps, args.eta, args.guidance, args.label)


def run_evaluate(args) -> None:
    """Print what `metrics.judge` says of a run's digits or of a file of images, and the bound of a run."""
    say, report = silent if args.json else print, {}
    if args.run.endswith(".npy"):
        report["samples"] = judge_samples(load_images(args.run), say)
    else:
        _, _, settings = load_run(args.run)
        if args.n and [settings["network_args"].get(key) for key in ("image_size", "in_channels")] == [28, 1]:
            rng = np.random.default_rng(args.seed)
            x = draw(args.run, args.n, rng, args.sampler, args.steps, args.eta, args.guidance)
            report["samples"] = judge_samples(np.clip(x, -1, 1), say, settings["data"], args.data_dir)
        if args.bound:
            report["bound"] = measure_bound(args, say)
        if args.ode:
            report["ode"] = measure_likelihood(args, say)
    if args.json:
        print_json(report)


def silent(text: str = "") -> None:
    """Stands in for `print` where the output is JSON."""


def print_json(report: dict) -> None:
    """Print a report as one JSON object; what is not finite, such as the precision of three samples, is null."""

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(each) for key, each in value.items()}
        if isinstance(value, (list, tuple, np.ndarray)):
            return [plain(each) for each in value]
        value = value.item() if isinstance(value, np.generic) else value
        return None if isinstance(value, float) and not np.isfinite(value) else value

    print(json.dumps(plain(report), indent=2))


def judge_samples(x, say, data="mnist", data_dir=None) -> dict:
    """Say what `metrics.judge` finds of images, and return it. Clothes are judged beside 10,000 of the training set, all
    else beside the 10,000 embedded digits."""
    from scratchdiff.metrics import judge

    clothes = data == "fashion"
    found = judge(x, idx_images(data, "train", data_dir)[0][:10_000], data=data) if clothes else judge(x)
    say(f"{len(x)} samples: {found}")
    return dict(n=len(x)) | found._asdict() | dict(nearest=np.median(found.nearest))


def measure_bound(args, say) -> dict:
    """Say the variational bound of a run in bits/dim, term by term, draw it by t into the run's folder, and return it."""
    from scratchdiff.plots import save_bound
    from scratchdiff.progress import watch_batches

    model, diffusion, settings = load_run(args.run)
    rng = np.random.default_rng(args.seed)
    x0, labels, name = examples(settings["data"], args.bound, args.data_dir, rng, settings["network_args"].get("image_size"))
    classes = named_classes(settings)
    use_labels = classes > 0 and labels is not None and not args.hide_labels
    parts = []
    for i in watch_batches(range(0, len(x0), 100), f"bound of {len(x0)} examples"):
        batch = slice(i, i + 100)
        of_batch = labels[batch] if use_labels else None
        parts.append(diffusion.bound(model, x0[batch], rng, of_batch, min(args.draws, diffusion.schedule.T)))
    bound = Bound(np.concatenate([part.terms for part in parts]), parts[0].dims)

    each = bound.nats / (bound.dims * np.log(2))
    given = " given the class" if use_labels else ""
    say(f"{len(x0)} {name}: {bound.bits_per_dim:.3f} ± {bound.standard_error:.3f} bits/dim{given} "
        f"= L_0 {each[0]:.3f} + L_1..L_T-1 {each[1:-1].sum():.3f} + L_T {each[-1]:.1e}")  # fmt: skip
    if use_labels:  # p(x) ≥ p(y) p(x | y), and p(y) = 1/10
        unaided = bound.bits_per_dim + np.log2(classes) / bound.dims
        say(f"not given it, at most {unaided:.3f}: naming one of {classes} costs {np.log2(classes):.1f} bits more")
    path = folder_of(args.run) / "bound.png"
    save_bound(path, {f"{bound.bits_per_dim:.2f} bits/dim": bound}, f"What {name} cost {args.run}, step by step")
    say(f"{path} shows it by t")
    return dict(n=len(x0), data=name, bits_per_dim=bound.bits_per_dim, standard_error=bound.standard_error,
                given_labels=use_labels, L_0=each[0], L_between=each[1:-1].sum(), L_T=each[-1])  # fmt: skip


def measure_likelihood(args, say) -> dict:
    """Say the likelihood of examples under a run's ODE, and return it: nats of points, exactly; for images a bound in
    bits/dim."""
    from scratchdiff.progress import watch_batches

    model, diffusion, settings = load_run(args.run)
    rng = np.random.default_rng(args.seed)
    x0, labels, name = examples(settings["data"], args.ode, args.data_dir, rng, settings["network_args"].get("image_size"))
    points = x0.ndim == 2
    x0 = (x0 if points else dequantised(x0, rng)).astype(model.dtype)
    use_labels = named_classes(settings) > 0 and labels is not None and not args.hide_labels
    parts = []
    for i in watch_batches(range(0, len(x0), 50), f"likelihood of {len(x0)} examples"):

        def of_classes(xt, t, some=labels[i : i + 50] if use_labels else None):  # xt holds each example once for each probe
            return model(xt, t, labels=np.tile(some, len(xt) // len(some)))

        field = of_classes if use_labels else model
        parts.append(ode_log_prob(diffusion, field, x0[i : i + 50], rng, None if points else 1, rtol=1e-4))
    values = np.concatenate(parts) if points else bits_per_dim(np.concatenate(parts), x0[0].size)
    unit = (
        "nats, log p(x)"
        if points
        else f"bits/dim{' given the class' if use_labels else ''}, a bound in the mean, up to the probes' noise"
    )
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    say(f"{len(x0)} {name}, by the ODE: {values.mean():.3f} ± {error:.3f} {unit}")
    return dict(n=len(x0), data=name, unit="nats" if points else "bits/dim", mean=values.mean(), standard_error=error)


def run_checkup(args) -> int:
    """Print what `checkup_run` finds; exit code 1 if it finds anything."""
    findings = checkup_run(args.run, np.random.default_rng(args.seed), args.data_dir)
    print(findings)
    return 1 if findings else 0


def run_tape(args) -> None:
    """Write the page of a training step, or of two side by side."""
    chosen = dict(run=args.run, step=args.step, t=args.t, dtype="float32")
    moment = at_step(args.run, args.step, args.data_dir)
    batch = slice(args.n or (8 if moment.x0.ndim == 4 else None))
    x0, labels = moment.x0[batch], None if moment.labels is None else moment.labels[batch]
    classes = getattr(moment.model, "num_classes", None)  # where the other run has more or fewer, these labels say nothing

    def traced(moment, chosen):
        model = moment.model
        told = labels if getattr(model, "num_classes", None) == classes else None
        rng = copy.deepcopy(started)
        name = ", ".join([chosen["run"] or "yardstick", *(f"{key} {chosen[key]}" for key in ("step", "t") if chosen[key])])
        title = name if chosen["dtype"] == "float32" else f"{name}, {chosen['dtype']}"
        return trace_step(moment.diffusion, model, x0.astype(model.dtype), rng, labels=told, t=chosen["t"],
                          loss=moment.loss, check=not args.no_check, title=title)  # fmt: skip

    started = moment.rng
    first, second = traced(moment, chosen), None
    if args.compare:
        other = chosen | condition(args.compare)
        second = traced(at_step(other["run"], other["step"], args.data_dir, np.dtype(other["dtype"])), other)
    save_page(first, args.out, second)
    print(f"{len(first.entries)} ops, {Path(args.out).stat().st_size / 1e6:.1f} MB: open {args.out} in a browser")


def condition(text: str) -> dict:
    """What `tape --compare` changes: {"t": 900} for "t=900", {"step": 1}, {"dtype": "float64"}, or {"run": text}."""
    if match := re.fullmatch(r"(t|step)=(\d+)", text):
        return {match[1]: int(match[2])}
    return {"dtype": text} if text in ("float32", "float64") else {"run": text}


def run_gradcheck(args) -> None:
    """Print a row for each example of an op. Raises ValueError if one is off by more than 1e-7."""
    rng, say = np.random.default_rng(args.seed), silent if args.json else print
    if args.param:
        report = check_parameter(args.param, rng, say)
        return print_json(report) if args.json else None
    rows = []
    say(f"{'op':<29}{'shapes':<44}{'largest relative error':>24}{'ms':>8}")
    for example in EXAMPLES:
        began = time.perf_counter()
        error = gradcheck(example.f, *example.inputs(rng), rng=rng)
        shapes = " ".join("×".join(map(str, shape)) for shape in example.shapes)
        rows.append(dict(op=example.name, shapes=example.shapes, error=error, ms=1e3 * (time.perf_counter() - began)))
        say(f"{example.name:<29}{shapes:<44}{error:>24.1e}{rows[-1]['ms']:>8.0f}")
    worst = max(row["error"] for row in rows)
    say(f"{len(EXAMPLES)} examples, float64 central differences; largest error {worst:.1e}")
    if args.json:
        print_json(dict(examples=rows, largest_error=worst))
    if not worst < 1e-7:
        raise ValueError(f"gradcheck: an op is off by {worst:.1e}, more than 1e-7")


def check_parameter(text: str, rng, say) -> dict:
    """Say dL/dp of one number p of the yardstick U-Net, by the tape and by central differences of many step sizes, and
    return it.

    Raises ValueError for a name or an index that the network does not have."""
    model = UNet(**YARDSTICK, dtype=np.float64, rng=rng)
    parameters = model.parameters()
    fill_zeros(parameters, rng)
    match = re.fullmatch(r"([\w.]+)\[([\d, ]*)\]", text)
    name = match[1] if match else text
    if name not in parameters:
        raise ValueError(f"gradcheck: the U-Net has no parameter {name!r}; it has {', '.join(list(parameters)[:6])}, ...")
    p = parameters[name]
    index = tuple(int(i) for i in match[2].replace(" ", "").split(",") if i) if match else ()
    if len(index) != p.ndim or any(i >= n for i, n in zip(index, p.shape)):
        raise ValueError(f"gradcheck: {name} has shape {p.shape}; give one index per axis, got {text!r}")

    x0 = rng.standard_normal((2, 28, 28, 1))
    _, diffusion = build(TOY | dict(predict="eps"), rng)

    def loss():
        return diffusion.loss(model, x0, np.random.default_rng(1))

    with Tape() as tape:
        value = loss()
    tape.backward(value)
    analytic, start = float(p.grad[index]), float(p.data[index])
    rows = []
    say(f"L = {value.item():.6f}   {text} = {start:.6f}   dL/dp by the tape = {analytic:.12e}\n")
    say(f"{'step h':>8}{'(L(p+h) − L(p−h))/2h':>24}{'relative error':>18}")
    for exponent in range(1, 11):
        h = 10.0**-exponent
        p.data[index] = start + h
        above = loss().item()
        p.data[index] = start - h
        numeric = (above - loss().item()) / (2 * h)
        p.data[index] = start
        error = abs(numeric - analytic) / max(abs(numeric), abs(analytic), 1e-300)
        rows.append(dict(h=h, numeric=numeric, error=error))
        say(f"{h:>8.0e}{numeric:>24.12e}{error:>18.1e}  {'▇' * max(0, round(14 + np.log10(error + 1e-16)))}")
    say("\nThe error falls as h² while truncation rules, and rises as 1/h once rounding does.")
    return dict(parameter=text, value=start, loss=value.item(), gradient=analytic, steps=rows)


def run_import(args) -> None:
    """Make a run of a folder of diffusers. Raises ValueError rather than overwrite a run."""
    from scratchdiff.weights.diffusers import diffusers_recipe, load_recipe

    path = Path(args.out) / CHECKPOINT
    if path.exists():
        raise ValueError(f"import: {path} exists; give another --out")
    recipe = diffusers_recipe(args.folder)
    model, _ = load_recipe(recipe, args.folder)
    parameters, rng = model.parameters(), np.random.default_rng(0)
    with claimed(path.parent):
        save_checkpoint(path, model, EMA(parameters), Adam(parameters), rng, 0, recipe | dict(data=None))
    print(f"{model.num_parameters():,} parameters in {path.parent}; `scratchdiff sample {path.parent}` draws from it")


def run_export(args) -> None:
    """Write a run as a folder of diffusers. Raises ValueError rather than overwrite one."""
    from scratchdiff.weights.diffusers import save_diffusers

    out = Path(args.out)
    if (out / "model_index.json").exists():
        raise ValueError(f"export: {out} holds a pipeline already; give another --out")
    model, diffusion, _ = load_run(args.run)
    save_diffusers(out, model, diffusion)
    opens = "UNet2DModel.from_pretrained, subfolder 'unet', with class_labels" if model.num_classes else "DDPMPipeline"
    print(f"{model.num_parameters():,} parameters in {out}; diffusers opens it: {opens}")


VECTORS = {"AVX-512": "avx512f", "AVX2": "avx2", "AVX": "avx", "SSE4.2": "sse4.2", "NEON": "neon"}  # LLVM's names


def run_info(args) -> None:
    """Print what a bug report should say about this machine and installation."""
    import numba
    import scipy

    from scratchdiff.kernels.blas import blas_in_words, processor_features
    from scratchdiff.kernels.compiling import cache_folder

    features = processor_features()
    vectors = next((name for name, feature in VECTORS.items() if feature in features), "unknown vector instructions")
    rows = {
        "scratchdiff": f"{scratchdiff.__version__}, in {Path(scratchdiff.__file__).parent}",
        "Python": f"{platform.python_version()}, {platform.platform()}",
        "packages": f"NumPy {np.__version__}, SciPy {scipy.__version__}, Numba {numba.__version__}",
        "processor": f"{processor()}, {os.cpu_count()} cores, {vectors}",
        "OpenBLAS": blas_in_words(),
        "threads": f"{numba.get_num_threads()} of Numba; with the kernels, NumPy's OpenBLAS has one",
        "kernels": kernels.mode(),
        "cache": str(cache_folder()),
    }
    for name, value in rows.items():
        print(f"{name:<12} {value}")


def processor() -> str:
    """The processor's name, as the system tells it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"model name\s*: (.*)", text)
    return found[1] if found else platform.machine()
