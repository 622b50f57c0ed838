"""The ledger: what papers report or theory demands, and what we get.

    python demos/ledger.py                # run every lesson that has a row, about 35 minutes; then print the table
    python demos/ledger.py 10_heartbeats  # run only this lesson
    python demos/ledger.py --show         # print the table of the last runs, without running anything

The figures of the last runs are kept in demos/lessons/figures.json, each with its time and processor. The time is the
process's own on the processor, so other programs do not change it; with two idle cores a run takes no longer than that.
"""

import argparse
import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import NamedTuple

from scratchdiff.cli import processor

LESSONS = Path(__file__).parent / "lessons"
FIGURES = LESSONS / "figures.json"


class Row(NamedTuple):
    """A figure of a lesson, by its key, beside what is known of it. same_work: "yes", or what differs."""

    lesson: str
    what: str
    figure: str
    published: str
    optimum: str
    same_work: str


ROWS = [
    Row("04_forward_diffusion", "ᾱ_T of the linear schedule, T = 1000 (Ho et al. 2020: ᾱ_T ≈ 0)",
        "alpha_bar_T, Ho et al., T = 1000", "", "0", "yes: their β_t"),
    Row("04_forward_diffusion", "one pixel, exact denoiser, T = 1000: share of dark samples",
        "share of dark pixels, Ho et al., T = 1000", "", "0.75", "no paper: the truth is known"),
    Row("06_recipe", "digits: loss at the start, asked for v",
        "loss at the start", "", "0.962", "no paper: a formula"),
    Row("10_heartbeats", "heartbeats: bound, bits a sequence (Sohl-Dickstein et al. 2015, Table 1)",
        "bits: bound of the network", "2.414", "2.322", "no: our network predicts x_0 and steps back by Bayes' rule"),
    Row("11_swiss_roll", "swiss roll, T = 40, 16 radial basis functions: bound, bits per point (the same, Table 1)",
        "bits: bound of 16 radial basis functions", "−2.35, which is −K, for a roll of unknown noise and scale",
        "the roll's entropy, see the lesson", "no: another roll; ours has known noise, so its entropy is known"),
    Row("13_vae", "VAE, 20 latents: test bound, nats per binarised digit (Kingma & Welling 2014)", "nats: test bound",
        "a curve without numbers", "", "no: trained on 9000 embedded digits, moved by up to a pixel"),
    Row("13_vae", "the same: importance-weighted bound, K = 1000 (Burda et al. 2016)", "nats: importance-weighted bound",
        "another network", "", "no: as above, on 500 digits"),
    Row("14_vae_to_ddpm", "DDGM, T = 5, β = 0.6, likelihood N(x; μ, I): nats per 8×8 digit (Tomczak 2022)",
        "density, T = 5, beta = 0.6: our bound in nats", "134.3, of an objective that is no bound",
        "at most 67.13, by one constant picture", "the same digits and split; the objective differs"),
    Row("15_transformer", "copy task: evaluation loss after seven epochs, nats a symbol (Annotated Transformer, Rush 2018)",
        "copy task: loss after seven epochs", "0.343", "0", "yes, but for three details that the lesson names"),
    Row("15_transformer", "the same without positions", "without positions: loss after seven epochs", "",
        "1.170, the entropy of a bag's order", "a control of ours"),
    Row("18_fashion", "Fashion-MNIST: Huber loss of the first batch (HF's annotated diffusion model, 2022)",
        "Huber loss: of the first batch", "0.465", "0.425 for a network that says 0", "no: our last layer starts at zero"),
    Row("18_fashion", "the same after five epochs, mean of a hundred steps", "Huber loss: mean of the last hundred steps",
        "0.0447, one batch; its last five prints: 0.0459", "", "yes, but for the network: ours sees patches of 2 × 2"),
    Row("20_bound", "eight Gaussians, best mean and β_t: bound, bits a coordinate",
        "bits a coordinate: best mean, β_t", "", "0.746", "no paper: −log p is known"),
    Row("21_samplers", "order of Euler's method (DDIM, η = 0)", "order of ddim", "", "−1", "no paper: theory"),
    Row("21_samplers", "order of Heun's method (Karras et al. 2022)", "order of heun", "", "−2", "yes: order 2"),
    Row("21_samplers", "order of DPM-Solver++(2M) (Lu et al. 2022)", "order of dpm", "", "−2", "yes: order 2"),
    Row("09_bug_zoo", "checkup: bugs of the zoo found in the right place, with every seed",
        "bugs found in the right place with every seed", "", "32", "no figure is published"),
    Row("09_bug_zoo", "checkup: alarms on right code, 100 seeds", "alarms on the right program", "", "0",
        "no figure is published"),
    Row("22_score_matching", "NCSNv2 on CIFAR-10: Langevin's ε for 232 levels of 5 (Song & Ermon 2020)",
        "NCSNv2, CIFAR-10: step for its ladder", "6.2e-6", "", "yes: their equation on their ladder"),
    Row("22_score_matching", "one noise level: odds of two modes of 0.2 and 0.8",
        "odds: one level, walkers", "", "1.726", "yes: theory of the walkers; the data's odds are 4"),
    Row("23_sdes", "Euler–Maruyama, strong order for additive noise", "Euler–Maruyama: strong order", "", "1", "yes"),
    Row("23_sdes", "Euler–Maruyama, weak order", "Euler–Maruyama: weak order", "", "1", "yes"),
    Row("25_measurements", "posteriors of a mixture, sampled with the exact score in 100 steps: distance over that of exact "
        "draws", "exact score over exact draws, mean of five", "", "1", "yes"),
    Row("26_editing", "DDIM inversion of digits and back: order of the error in the number of steps (Song et al. 2021)",
        "order of the error of inversion", "", "1", "yes"),
]  # fmt: skip
WHOLE = {"18_fashion": dict(epochs=5)}  # the published work of a lesson that by default does less


def run(name: str) -> dict:
    """Run a lesson; return {figures, seconds, processor}."""
    sys.path.insert(0, str(LESSONS))
    spec = importlib.util.spec_from_file_location(name, LESSONS / f"{name}.py")
    lesson = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lesson)
    print(f"\n== {name}")
    began = time.process_time()
    figures = lesson.main(**WHOLE.get(name, {}))
    return dict(figures=figures, seconds=round(time.process_time() - began), processor=processor())


def last_runs() -> dict:
    """{lesson: what `run` returned the last time}."""
    return json.loads(FIGURES.read_text()) if FIGURES.exists() else {}


def table(known: dict) -> str:
    """The ledger in Markdown, of the lessons that have been run."""
    lines = ["| figure | published | ours | optimum | same work? | lesson, time |", "|---|---|---|---|---|---|"]
    for row in sorted(ROWS, key=lambda row: row.lesson):
        of = known.get(row.lesson, dict(figures={}))
        if row.figure in of["figures"]:
            where, ours = f"`{row.lesson}`, seed 0, {of['seconds']} s", f"{of['figures'][row.figure]:g}"
            lines.append(f"| {row.what} | {row.published or '—'} | {ours} | {row.optimum} | {row.same_work} | {where} |")
    return "\n".join(lines)


def main(lessons=(), show=False) -> str:
    """Run the lessons, keep their figures, and return the table."""
    for name in [] if show else lessons or sorted({row.lesson for row in ROWS}):
        result = run(name)
        known = last_runs() | {name: result}  # read again: another ledger may have run meanwhile
        FIGURES.write_text(json.dumps(dict(sorted(known.items())), indent=1, ensure_ascii=False) + "\n")
    return table(last_runs())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Published figures beside ours.")
    parser.add_argument("lessons", nargs="*", metavar="LESSON", help="which to run (all that have a row)")
    parser.add_argument("--show", action="store_true", help="print the table of the last runs")
    print(main(**vars(parser.parse_args())))
