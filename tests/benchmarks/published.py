"""Published networks, here and in PyTorch: how far apart, how fast?   python tests/benchmarks/published.py   (two minutes)

Needs torch, diffusers and safetensors. Random weights of diffusers' UNet2DModel go through a folder into our U-Net, in each
form of tests/parity/test_diffusers.py (batch 4) and in that of google/ddpm-cifar10-32 (35,746,307 parameters, batches 1 and
8). One forward pass is then timed here and there, in turn; each time is the median of `--turns`.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "parity"))

CIFAR10 = dict(sample_size=32, block_out_channels=[128, 256, 256, 256], layers_per_block=2, downsample_padding=0,
               down_block_types=["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"], attention_head_dim=None,
               up_block_types=["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"], flip_sin_to_cos=False,
               freq_shift=1, norm_eps=1e-6)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    import torch
    from test_diffusers import CONFIGS

    from scratchdiff.kernels.threads import use_threads

    torch.set_num_threads(args.threads)
    use_threads(args.threads)
    print(f"{'form':<42}{'parameters':>12}{'float32':>10}{'float64':>10}{'ours':>12}{'PyTorch':>12}{'ratio':>7}")
    for name, config in CONFIGS.items():
        row(name, config, 4, args.turns)
    for batch in (1, 8):
        row(f"google/ddpm-cifar10-32, batch {batch}", CIFAR10, batch, args.turns)


def row(name: str, config: dict, batch: int, turns: int) -> None:
    """Print the largest differences of a form's outputs, over the largest output, and the times of a forward pass."""
    import torch
    from diffusers import DDPMScheduler
    from test_diffusers import double, save, theirs, twin_of

    import scratchdiff as sd

    twin = twin_of(config)
    learned = twin.config.out_channels > twin.config.in_channels
    rng = np.random.default_rng(0)
    size = config["sample_size"]
    x, t = rng.standard_normal((batch, size, size, twin.config.in_channels)), rng.integers(1, 1001, batch)
    labels = dict(labels=rng.integers(0, 5, batch)) if twin.config.num_class_embeds else {}
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder), twin, DDPMScheduler(variance_type="learned_range" if learned else "fixed_small"))
        model, _ = sd.load_diffusers(folder)
        exact, _ = sd.load_diffusers(folder, dtype=np.float64)
    x32 = x.astype(np.float32)
    single = difference(model(x32, t, **labels).data, theirs(twin, x32, t, **labels))
    times = {"ours": [], "theirs": []}
    for _ in range(turns):
        times["ours"].append(seconds(lambda: model(x32, t, **labels)))
        with torch.no_grad():
            times["theirs"].append(seconds(lambda: theirs(twin, x32, t, **labels)))
    exactly = difference(exact(x, t, **labels).data, theirs(double(twin), x, t, **labels))
    ours, other = (1e3 * statistics.median(times[key]) for key in ("ours", "theirs"))
    print(f"{name:<42}{model.num_parameters():>12,}{single:>10.1e}{exactly:>10.1e}{ours:>9.2f} ms{other:>9.2f} ms"
          f"{ours / other:>7.2f}", flush=True)  # fmt: skip


def difference(got, want) -> float:
    return float(np.abs(got - want).max() / np.abs(want).max())


def seconds(f) -> float:
    began = time.perf_counter()
    f()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
