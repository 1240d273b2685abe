"""Read 1,797 handwritten digits in batches with a model that each worker loads once: a map over one task.

    python examples/batch_inference.py

The model is trained here, on half of the digits that scikit-learn ships, and written to a file. `dok.File` sends that
file once, whatever the number of batches; `functools.cache` loads it once in each worker; results come back while later
batches still run. (`pip install 'dokrun[local,examples]'` brings what it needs.)
"""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

import dokrun as dok

image = dok.Image.debian_slim().pip_install("scikit-learn>=1.4")
BATCH = 64


@functools.cache
def load(path: Path) -> Any:
    """Load the model: once in each worker."""
    return joblib.load(path)


@dok.remote(plan="v100-32gb", image=image, timeout="10m")
def read(model: Path, images: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Tell the digit on each of some images, 64 numbers each; and which process it was, and how often it has loaded."""
    digits = np.asarray(load(model).predict(images))
    return digits, os.getpid(), load.cache_info().misses


def main() -> None:
    """Train, read all the rest, and tell how much of it was right."""
    images, digits = load_digits(return_X_y=True)
    known, unknown, known_digits, wanted = train_test_split(images, digits, test_size=0.5, random_state=0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "digits.joblib")
        joblib.dump(SVC(gamma=0.001, C=10).fit(known, known_digits), path)
        batches = np.array_split(unknown, -(-len(unknown) // BATCH))
        results = read.starmap([(dok.File(path), batch) for batch in batches], workers=2)
        first = results.futures[0]
        right, loaded = 0, {}
        for (told, worker, times), expected in zip(results, np.array_split(wanted, len(batches)), strict=True):
            right += int((told == expected).sum())
            loaded[worker] = times
    workers = f"{len(loaded)} workers" + (", each of which loaded the model once" if {*loaded.values()} == {1} else "")
    print(f"{right} of {len(unknown)} digits read right, in {len(batches)} calls, by {workers}")
    first.files()  # the task has ended, and what it cost is known
    print(first.receipt)


if __name__ == "__main__":
    main()
