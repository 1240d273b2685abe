"""A sweep over the settings of a classifier of handwritten digits: one call per setting, all of them in one task.

    python examples/sweep_digits.py

The digits are the 1,797 real ones that scikit-learn ships. Without DOK credentials it runs on the local emulator; with
them, and with an image that has scikit-learn, the same file runs on DOK.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

import dokrun as dok


@dataclass(frozen=True)
class Setting:
    """What one call tries."""

    gamma: float
    regularization: float


@dataclass(frozen=True)
class Score:
    """How good it was: the share of digits that it got right."""

    setting: Setting
    validation_accuracy: float
    test_accuracy: float


@dok.remote(plan="v100-32gb", timeout="10m")
def evaluate(setting: Setting) -> Score:
    """Train with one setting. Settings are compared by the validation digits; the test digits are for the winner."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from sklearn.svm import SVC

    digits = load_digits()
    rest, test, rest_labels, test_labels = train_test_split(
        digits.data, digits.target, test_size=0.2, random_state=0, stratify=digits.target
    )
    train, validation, train_labels, validation_labels = train_test_split(
        rest, rest_labels, test_size=0.25, random_state=0, stratify=rest_labels
    )
    model = SVC(gamma=setting.gamma, C=setting.regularization).fit(train, train_labels)
    return Score(setting, model.score(validation, validation_labels), model.score(test, test_labels))


def main() -> None:
    """Run the sweep, and tell the winner and the cost."""
    settings = [Setting(*values) for values in itertools.product([0.0001, 0.0005, 0.001, 0.005], [0.1, 1.0, 10.0])]
    started = time.perf_counter()
    results = evaluate.map(settings, order=False)
    first = results.futures[0]
    scores: list[Score] = []
    for score in results:
        scores.append(score)
        print(
            f"{len(scores):2}/{len(results)}  gamma={score.setting.gamma:<7} C={score.setting.regularization:<5}"
            f" validation {score.validation_accuracy:.3f}"
        )
    best = max(scores, key=lambda score: score.validation_accuracy)
    print(f"\nbest: gamma={best.setting.gamma} C={best.setting.regularization}, test accuracy {best.test_accuracy:.3f}")
    print(f"{len(scores)} calls in {time.perf_counter() - started:.1f} s")

    first.files()  # the task has ended, and how long it ran is known
    if first.receipt is not None:
        for plan in ("v100-32gb", "h100-80gb"):
            yen = dok.prices()[plan].yen(first.receipt.seconds)
            print(f"on {plan}, with this run time, it would have cost ¥{yen:.2f}")


if __name__ == "__main__":
    main()
