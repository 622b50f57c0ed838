"""The judges: train the small classifiers that `scratchdiff.metrics` measures samples with.

    python demos/classifier.py --data DIR [--epochs 8] [--seed 0] [--out runs/classifier]

DIR holds the four MNIST files (or will: --download fetches them). Takes about ten minutes on two cores and reached
99.18 % on the test set (seed 0). Writes classifier.npz (float16): the file that lies in the package as classifier.npz.

The judge of clothes, classifier_fashion.npz in the package, comes from the four files of Fashion-MNIST (Debian's package
dataset-fashion-mnist puts them into /usr/share/datasets/fashion-mnist), with --flip: 87.41 % on the test set (seed 0).
"""

# %% A classifier is trained like a denoiser: the same tape, the same Adam, another loss.
import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

import scratchdiff as sd
from scratchdiff.metrics import DigitClassifier
from scratchdiff.optim import cosine_decay, warmup


# %% A digit moved by a pixel or two is the same digit. Telling the network so is worth half of its errors.
def shifted(images, rng, most=2):
    """Each image moved by −most..most pixels in both directions, background (−1) moving in."""
    padded = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)), constant_values=-1)
    moves = rng.integers(0, 2 * most + 1, size=(len(images), 2))
    return np.stack([image[i : i + 28, j : j + 28] for image, (i, j) in zip(padded, moves)])


def accuracy(classifier, images, labels):
    """The share of images whose largest logit is at their label."""
    logits = [classifier(images[i : i + 500]).data for i in range(0, len(images), 500)]
    return float((np.concatenate(logits).argmax(1) == labels).mean())


# %% The loss is the cross-entropy, −log softmax(logits)[label]; its gradient is simply softmax(logits) − one-hot(label).
def train_classifier(images, labels, rng, steps, batch_size=128, lr=3e-3, flip=False):
    """Yield (classifier, step, loss) after each step. flip: mirror half of the images."""
    classifier = DigitClassifier(rng=rng)
    adam = sd.Adam(classifier.parameters(), weight_decay=0.01)
    for step in range(1, steps + 1):
        adam.lr = lr * warmup(step, 100) * cosine_decay(step / steps)
        batch = rng.integers(len(images), size=batch_size)
        x = shifted(images[batch], rng)
        x = sd.data.random_flips(x, rng) if flip else x
        adam.zero_grad()
        with sd.Tape() as tape:
            loss = sd.ops.cross_entropy(classifier(x), labels[batch])
        tape.backward(loss)
        adam.step()
        yield classifier, step, loss.item()


def main(argv=None):
    parser = argparse.ArgumentParser(description="Train a classifier behind scratchdiff.metrics.")
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of the four IDX files, of digits or of clothes")
    parser.add_argument("--download", action="store_true", help="fetch MNIST's into DIR first")
    parser.add_argument("--flip", action="store_true", help="mirror half of the images: for clothes, not for digits")
    parser.add_argument("--epochs", type=float, default=8, help="passes over the training set (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs/classifier", metavar="DIR", help="where to write (%(default)s)")
    args = parser.parse_args(argv)
    if args.download:
        sd.data.download_mnist(args.data)
    images, labels = sd.data.mnist("train", args.data)

    rng = np.random.default_rng(args.seed)
    steps = max(1, round(args.epochs * len(images) / 128))
    bar = tqdm(train_classifier(images, labels, rng, steps, flip=args.flip), total=steps, desc="training", unit="step")
    for classifier, step, loss in bar:
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss:.3f}")

    # %% Half precision keeps the file small, and the test below is of the rounded weights.
    arrays = {name: p.data.astype(np.float16) for name, p in classifier.parameters().items()}
    classifier.load(arrays)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out / "classifier.npz", **arrays)
    test_accuracy = accuracy(classifier, *sd.data.mnist("test", args.data))
    print(f"{classifier.num_parameters():,} parameters; right on {test_accuracy:.2%} of the test images")
    print(f"wrote {out}/classifier.npz")
    return test_accuracy


if __name__ == "__main__":
    main()
