"""Train a small PyTorch network on 1,797 handwritten digits, on a GPU where there is one, and bring the weights home.

    python examples/torch_digits.py

Without an account it runs on the local emulator, on this machine's own PyTorch (`pip install 'dokrun[local]' torch
scikit-learn`). On DOK the image below is built once, and found again by its content ever after.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import dokrun as dok

image = dok.Image.debian_slim().pip_install("torch==2.13.*", "scikit-learn>=1.4")


@dataclass(frozen=True)
class Config:
    """What the training depends on."""

    hidden: int = 128
    epochs: int = 40
    learning_rate: float = 3e-3
    seed: int = 7


@dataclass(frozen=True)
class Metrics:
    """What came of it: the device's name, and the share of the test digits that were read right."""

    device: str
    accuracy: float


@dok.remote(plan="v100-32gb", image=image, timeout="10m")
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
    for epoch in range(1, config.epochs + 1):
        network.train()
        for batch in torch.randperm(len(x), device=device).split(64):
            loss = torch.nn.functional.cross_entropy(network(x[batch]), y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        if epoch % 10 == 0:
            print(f"epoch {epoch}: loss {loss.item():.3f}")
    network.eval()
    with torch.no_grad():
        accuracy = (network(x_test).argmax(dim=1) == y_test).float().mean().item()
    torch.save({name: tensor.cpu() for name, tensor in network.state_dict().items()}, dok.artifact_dir() / "weights.pt")
    return Metrics(torch.cuda.get_device_name() if device == "cuda" else "CPU", accuracy)


def main() -> None:
    """Train once and say what came back."""
    future = train(Config())
    metrics = future.result()
    print(f"test accuracy {metrics.accuracy:.3f} on {metrics.device}; {future.receipt}")
    with tempfile.TemporaryDirectory() as folder:
        (weights,) = future.download(Path(folder) / "training")
        print(f"{weights.name}: {weights.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
