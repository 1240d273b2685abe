"""Make small copies of all photographs in a folder, in three widths, and tell each one's colours.

    python examples/folder_images.py                    # the two photographs that scikit-learn ships
    python examples/folder_images.py PHOTOS THUMBNAILS  # yours

Each photograph is a `dok.File`: sent once, though three calls use it, and a path for the function. The small copies are
files that the calls leave in `dok.artifact_dir()`. (`pip install 'dokrun[local,examples]'` brings what it needs.)
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

import dokrun as dok

image = dok.Image.debian_slim().pip_install("pillow>=10")
WIDTHS = (64, 160, 320)
KINDS = (".jpg", ".jpeg", ".png", ".webp")


@dok.remote(plan="v100-32gb", image=image, timeout="10m")
def shrink(photo: Path, name: str, width: int) -> tuple[str, list[str]]:
    """Leave a copy of a photograph that is so many pixels wide. Tells its name and its five commonest colours."""
    with Image.open(photo) as opened:
        small = opened.convert("RGB")
        small.thumbnail((width, opened.height))
    made = f"{name}-{width}.png"
    small.save(dok.artifact_dir() / made)
    colours = small.quantize(5).convert("RGB").getcolors() or []
    return made, [f"#{red:02x}{green:02x}{blue:02x}" for _, (red, green, blue) in sorted(colours, reverse=True)]


def shipped() -> Path:
    """Tell the folder with the photographs that scikit-learn ships: china.jpg and flower.jpg."""
    import sklearn.datasets

    return Path(sklearn.datasets.__file__).parent / "images"


def main() -> None:
    """Shrink them all, and bring the copies home."""
    source, target = (Path(it) for it in sys.argv[1:3]) if sys.argv[1:] else (shipped(), Path(tempfile.mkdtemp()))
    photos = [path for path in sorted(source.iterdir()) if path.suffix.lower() in KINDS]
    results = shrink.starmap([(dok.File(path), path.stem, width) for path in photos for width in WIDTHS])
    futures = results.futures
    for name, colours in results:
        print(f"{name}: {' '.join(colours)}")
    for path in futures[0].download(target, "*.png"):
        with Image.open(path) as small:
            print(f"{path}: {small.width} x {small.height}")


if __name__ == "__main__":
    main()
