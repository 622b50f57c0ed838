"""What is wrong with my diffusion model? `checkup` hands the parts of a program to detectors of the known mistakes.

findings.py     what a detector says, thresholds, and the spies that stand in for the network
schedule.py     β and ᾱ
process.py      noising and its posterior
training.py     the loss
model.py        the network
sampler.py      the way back, with exact denoisers
learning.py     data, one batch by heart, averaged weights, the loss beside its floor
gradients.py    gradients, and the checker of gradients
run.py          all of it for a run's folder
"""

import inspect
import warnings
from contextlib import suppress

import numpy as np

from scratchdiff.autograd import FLOATS, Tensor
from scratchdiff.checks import require
from scratchdiff.checkup import gradients as of_gradients
from scratchdiff.checkup import learning, process, training
from scratchdiff.checkup import model as of_model
from scratchdiff.checkup import sampler as of_sampler
from scratchdiff.checkup import schedule as of_schedule
from scratchdiff.checkup.findings import CannotTell, Checkup, Finding
from scratchdiff.diffusion import GaussianDiffusion, Schedule
from scratchdiff.diffusion.gaussian import PREDICTIONS

DETECTORS = (
    of_schedule.betas_are_variances, of_schedule.alpha_bar_is_the_product, of_schedule.noise_only_grows,
    of_schedule.ends_in_noise, of_schedule.noise_can_be_predicted,
    process.noises_by_the_schedule, process.steps_back_by_bayes,
    learning.data_suit_the_noise,
    training.draws_every_t, training.trains_on_normal_noise, training.perfect_denoiser_has_no_loss,
    training.starts_no_worse_than_zero,
    of_model.gives_finite_numbers, of_model.answers_the_same_twice, of_model.answers_each_alone, of_model.uses_the_time,
    of_model.uses_every_input, of_model.uses_every_parameter,
    of_sampler.goes_down_from_T, of_sampler.starts_from_normal_noise, of_sampler.ends_at_the_data,
    of_sampler.draws_the_mixture, of_sampler.keeps_x0_and_eps_together,
    of_gradients.gradients_repeat, of_gradients.gradients_match_differences, of_gradients.checker_can_fail,
    learning.average_is_no_worse, learning.loss_is_above_its_floor, learning.learns_one_batch,
)  # fmt: skip
FUNCTIONS = "q_sample", "posterior", "loss", "model", "sampler", "gradients", "train_step", "ema_model", "gradient_checker"
PARTS = (*FUNCTIONS, "schedule", "alpha_bar", "data", "parameters", "losses")
NEEDED = {"diffusion": "a usable schedule", "betas": "schedule", "alpha_bar": "schedule"}


def checkup(*, schedule=None, alpha_bar=None, q_sample=None, posterior=None, loss=None, model=None, sampler=None, data=None,
            parameters=None, gradients=None, train_step=None, ema_model=None, losses=None, gradient_checker=None, shape=None,
            predict="eps", images=False, first_t=1, rng=None) -> Checkup:  # fmt: skip
    """What is wrong with my diffusion model? A list of findings in plain words, empty if none; print it.

    Give what you have. Everything is a function over NumPy arrays, x0 and xt (N, ...), t (N,) integers, or an array:

        schedule            β_1..β_T, (T,), or a Schedule; alpha_bar: the program's own ᾱ_1..ᾱ_T, (T,)
        q_sample            (x0, t, eps) → x_t                  posterior       (x0, xt, t) → (mean, logvar)
        loss                (model, x0, rng) → number           sampler         (model, shape, rng) → samples
        model               (xt, t) → (N, ...)                  ema_model       the same with averaged weights
        data                (n, ...) as the loss gets them      losses          those of training, (steps,)
        parameters          {name: array}, the network's own memory
        gradients           (x0, rng) → {name: dL/dp}           train_step      (x0, rng) → loss, after one update
        gradient_checker    (f, gradient, x) → relative error

    The model in `loss` and `sampler` is an argument, because exact denoisers stand in for the network there. rng may be left
    out of all but `gradients` and `train_step`, if the code draws by itself. With a learned variance, hand over the first
    half of the output, and the loss without L_vlb. `train_step` trains the network: give it a fresh one, or its
    `parameters`, which are put back afterwards.

    shape: of one datum (default: that of the data, or (2,)). predict: what the network predicts, "eps", "x0" or "v".
    images: x0_hat is clipped to [−1, 1]. first_t: where the program counts t from, 0 or 1. rng: default_rng(0) by default.

    PyTorch joins by two lines, and so does JAX:

        arrays = lambda f: lambda x, t: f(torch.tensor(x), torch.tensor(t)).detach().numpy()
        tensors = lambda f: lambda x, t: torch.tensor(f(x.numpy(), t.numpy()))

        def loss(model, x0, rng):
            torch.manual_seed(rng.integers(2**31))
            return my_loss(tensors(model), torch.tensor(x0)).item()

        print(sd.checkup(schedule=betas.numpy(), model=arrays(network), loss=loss, first_t=0,
                         parameters={name: p.detach().numpy() for name, p in network.named_parameters()}))

    On right code all detectors together alarm in less than one checkup of a thousand; each states what it finds, and how
    surely. An exception in the program is a finding, too.
    Raises ValueError if there is nothing to check, and for what is not a function, an array or a setting named above.
    """
    parts = {name: value for name, value in locals().items() if name in PARTS and value is not None}
    check_parts(parts, predict, first_t)
    rng = np.random.default_rng(0) if rng is None else rng
    known = adapted(parts, first_t) | numbers(parts, shape, predict, rng) | dict(predict=predict, images=images)
    findings, passed, skipped = [], [], {}
    for detector, seed in zip(DETECTORS, rng.integers(2**63, size=len(DETECTORS))):
        name, wanted = detector.__name__, inspect.signature(detector).parameters.values()
        known["rng"] = np.random.default_rng(seed)  # its own, so that no detector depends on which others ran
        missing = [NEEDED.get(p.name, p.name) for p in wanted if p.default is p.empty and p.name not in known]
        if missing:
            skipped[name] = f"it needs {' and '.join(missing)}"
            continue
        try:
            finding = examine(detector, {p.name: known[p.name] for p in wanted if p.name in known})
        except CannotTell as why:
            skipped[name] = str(why)
            continue
        if finding:
            findings.append(finding._replace(detector=name))
        else:
            passed.append(name)
    return Checkup(findings, passed, skipped)


def examine(detector, arguments: dict) -> Finding | None:
    """What a detector finds; an exception within the program is a finding too."""
    place = next(iter(arguments))
    try:
        with np.errstate(all="ignore"):
            return detector(**arguments)
    except CannotTell:
        raise
    except Exception as error:  # whatever the user's code may raise
        text = " ".join(str(error).split())[:200]
        return Finding(
            place,
            "it fails",
            expected="no exception",
            seen=f"{type(error).__name__}: {text}",
            look="what it is called with: shape= says what one datum is, and first_t=0 that t counts from 0",
        )


def adapted(parts: dict, first_t: int) -> dict:
    """The functions among the parts, for detectors that count t from 1, always pass an rng, and want arrays and floats."""
    shift = 1 - first_t

    def asked(model):  # by the program, in its own count
        return lambda xt, t: model(xt, np.asarray(t) + shift)

    def network(f):
        return lambda xt, t: np.asarray(f(xt, t - shift))

    adapt = {
        "q_sample": lambda f: lambda x0, t, eps: f(x0, t - shift, eps),
        "posterior": lambda f: lambda x0, xt, t: f(x0, xt, t - shift),
        "model": network,
        "ema_model": network,
        "loss": lambda f: lambda model, x0, rng: float(np.asarray(f(asked(model), x0, *drawing(f, rng, 2)))),
        "sampler": lambda f: lambda model, shape, rng: f(asked(model), shape, *drawing(f, rng, 2)),
        "train_step": lambda f: lambda x0, rng: float(np.asarray(f(x0, *drawing(f, rng, 1)))),
        "gradients": lambda f: lambda x0, rng: f(x0, *drawing(f, rng, 1)),
        "gradient_checker": lambda f: f,
    }
    return {name: adapt[name](parts[name]) for name in FUNCTIONS if name in parts}


def drawing(f, rng, others: int) -> tuple:
    """(rng,) if f needs one more than the other arguments, or has one of that name; else ()."""
    try:
        signature = inspect.signature(f)
        signature.bind(*[None] * others)
    except (TypeError, ValueError):  # it needs more, or does not say what it takes
        return (rng,)
    return (rng,) if "rng" in signature.parameters else ()


def numbers(parts: dict, shape, predict, rng) -> dict:
    """What detectors know besides functions: betas and alpha_bar (T,), the exact diffusion, T, shape, and examples x0."""
    known = {name: np.asarray(parts[name], np.float64) for name in ("alpha_bar", "losses") if name in parts}
    if "schedule" in parts:
        known["betas"] = np.asarray(getattr(parts["schedule"], "betas", parts["schedule"]), np.float64)
        known.setdefault("alpha_bar", np.cumprod(1 - known["betas"]))
    elif "alpha_bar" in parts:
        known["betas"] = 1 - known["alpha_bar"] / np.concatenate([[1.0], known["alpha_bar"][:-1]])
    if "betas" in known:
        with warnings.catch_warnings(), suppress(ValueError):  # detectors say what is wrong with the schedule
            warnings.simplefilter("ignore")
            known["diffusion"] = GaussianDiffusion(Schedule(known["betas"]), predict)
    known["T"] = len(known["betas"]) if "betas" in known else 10  # a network that says nothing of its T knows ten steps
    data = parts.get("data")
    known["shape"] = tuple(np.atleast_1d(shape)) if shape is not None else (2,) if data is None else np.shape(data)[1:]
    if data is None:
        known["x0"] = rng.choice(np.float32([-1, 1]), (32, *known["shape"]))
    else:
        known["data"] = np.asarray(data)
        known["x0"] = known["data"][rng.permutation(len(data))[:32]].astype(np.float32)
    if "parameters" in parts:
        known["parameters"] = {name: p.data if isinstance(p, Tensor) else p for name, p in parts["parameters"].items()}
    return known


def check_parts(parts: dict, predict, first_t) -> None:
    """Raise the ValueError of `checkup` for parts and settings that it cannot use."""
    require(parts, "checkup: nothing to check: pass at least one part, such as schedule= or loss=")
    for name in parts.keys() & set(FUNCTIONS):
        require(callable(parts[name]), f"checkup: {name} must be a function", got=parts[name])
    for name in parts.keys() & {"alpha_bar", "losses"}:
        require(
            np.ndim(parts[name]) == 1 and len(parts[name]), f"checkup: {name} must be a vector", got=np.asarray(parts[name])
        )
    data = np.asarray(parts.get("data", [[0.0]]))
    require(data.ndim >= 2 and data.size, "checkup: data must be (n, ...)", got=data)
    betas = np.asarray(getattr(parts.get("schedule"), "betas", parts.get("schedule", [0.5])))
    require(betas.ndim == 1 and len(betas), "checkup: schedule must be a Schedule or β_1..β_T", got=betas)
    require(predict in PREDICTIONS, f"checkup: predict must be one of {PREDICTIONS}", predict=predict)
    require(first_t in (0, 1), "checkup: first_t must be 0 or 1", first_t=first_t)
    for name, p in parts.get("parameters", {}).items():
        usable = isinstance(p, Tensor) or isinstance(p, np.ndarray) and p.dtype in FLOATS and p.flags.writeable
        require(usable, f"checkup: parameter {name} must be a writable array of floats", got=p)
