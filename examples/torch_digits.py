"""Train a small PyTorch network on 1,797 handwritten digits, on a GPU where there is one, and bring the weights home.

    python examples/torch_digits.py
    python examples/torch_digits.py --die-after 25

Every ten epochs it saves a checkpoint, which the next attempt finds again; the second line shows that: the first
attempt's process dies after 25 epochs, as if the machine were taken away, and the second goes on after the twentieth.

Without an account it runs on the local emulator, on this machine's own PyTorch (`pip install 'dokrun[local]' torch
scikit-learn`). On DOK the image below is built once, and found again by its content ever after.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import dokrun as dok

if TYPE_CHECKING:
    import torch

image = dok.Image.debian_slim().pip_install("torch==2.13.*", "scikit-learn>=1.4")


@dataclass(frozen=True)
class Config:
    """What the training depends on."""

    hidden: int = 128
    epochs: int = 40
    learning_rate: float = 3e-3
    seed: int = 7
    die_after: int | None = None


@dataclass(frozen=True)
class Metrics:
    """What came of it: the device's name, the share of the test digits that were read right, and where it began."""

    device: str
    accuracy: float
    began_after: int


# Not on a V100: the builds of PyTorch that PyPI has are for newer GPUs.
@dok.remote(plan="h100-80gb", image=image, timeout="10m", retries=1)
def train(config: Config) -> Metrics:
    """Train, print the loss now and then, and leave the weights in the artifact folder."""
    import torch
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(config.seed)
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images / 16.0, labels, test_size=0.25, random_state=config.seed, stratify=labels)
    x, x_test = (torch.tensor(part, dtype=torch.float32, device=device) for part in parts[:2])
    y, y_test = (torch.tensor(part, device=device) for part in parts[2:])
    network = torch.nn.Sequential(
        torch.nn.Linear(64, config.hidden), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(config.hidden, 10)
    ).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    began_after = restored(network, optimiser)
    for epoch in range(began_after + 1, config.epochs + 1):
        network.train()
        for batch in torch.randperm(len(x), device=device).split(64):
            loss = torch.nn.functional.cross_entropy(network(x[batch]), y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        if epoch % 10 == 0:
            print(f"epoch {epoch}: loss {loss.item():.3f}")
            save(network, optimiser, epoch)
        if epoch == config.die_after and dok.current().attempt == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    network.eval()
    with torch.no_grad():
        accuracy = (network(x_test).argmax(dim=1) == y_test).float().mean().item()
    torch.save({name: tensor.cpu() for name, tensor in network.state_dict().items()}, dok.artifact_dir() / "weights.pt")
    return Metrics(torch.cuda.get_device_name() if device == "cuda" else "CPU", accuracy, began_after)


def restored(network: torch.nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Go on from the checkpoint of an earlier attempt, if there is one. Tells after which epoch."""
    import torch

    saved = dok.checkpoint_dir() / "training.pt"
    if not saved.exists():
        return 0
    state = torch.load(saved, weights_only=True)
    network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["epoch"])


def save(network: torch.nn.Module, optimiser: torch.optim.Optimizer, epoch: int) -> None:
    """Write a checkpoint aside, and put it in the former one's place: it is whole at any moment."""
    import torch

    saved = dok.checkpoint_dir() / "training.pt"
    aside = saved.with_suffix(".part")
    torch.save({"network": network.state_dict(), "optimiser": optimiser.state_dict(), "epoch": epoch}, aside)
    aside.replace(saved)


def main() -> None:
    """Train once and say what came back."""
    parser = argparse.ArgumentParser(description="Train a small network on handwritten digits.")
    parser.add_argument("--die-after", type=int, metavar="EPOCH", help="let the first attempt's process die then")
    future = train(Config(die_after=parser.parse_args().die_after))
    metrics = future.result()
    if metrics.began_after:
        print(f"attempt {future.attempt} went on after epoch {metrics.began_after}")
    print(f"test accuracy {metrics.accuracy:.3f} on {metrics.device}; {future.receipt}")
    with tempfile.TemporaryDirectory() as folder:
        (weights,) = future.download(Path(folder) / "training")
        print(f"{weights.name}: {weights.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
