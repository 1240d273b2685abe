"""Each example runs as a user would run it, and says what it promises."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
from notebooks import Notebook, sources, text_of
from notebooks import environment as kernel_environment
from optional import require
from PIL import Image
from sklearn.datasets import load_digits

EXAMPLES = Path(__file__).parent.parent / "examples"


TERMINATION_S = 30


def environment(tmp_path: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}


def run(tmp_path: Path, name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_sweep_finds_a_setting_that_reads_digits_well_and_tells_the_cost(tmp_path: Path) -> None:
    output = run(tmp_path, "sweep_digits.py")
    accuracy = re.search(r"test accuracy (\d\.\d+)", output)
    assert accuracy is not None
    assert float(accuracy[1]) > 0.95
    assert len(re.findall(r"^ *\d+/12  gamma=", output, re.MULTILINE)) == 12
    assert re.search(r"on v100-32gb, .* ¥\d+\.\d\d", output)
    assert "on h100-80gb, with this run time, it would have cost ¥16.80" in output, "12 calls share a minute"


def test_a_pytorch_network_whose_process_dies_goes_on_from_its_checkpoint_and_its_weights_come_home(
    tmp_path: Path,
) -> None:
    require("torch")
    output = run(tmp_path, "torch_digits.py", "--die-after", "25")
    assert "attempt 2 went on after epoch 20\n" in output
    accuracy = re.search(r"test accuracy (\d\.\d+) on (.+); ¥\d+\.\d\d", output)
    assert accuracy is not None, output
    assert float(accuracy[1]) > 0.95
    assert re.search(r"weights\.pt: \d[\d,]+ bytes", output)


def test_batches_are_read_with_a_model_that_each_worker_loads_once(tmp_path: Path) -> None:
    output = run(tmp_path, "batch_inference.py")
    told = re.search(
        r"^(\d+) of 899 digits read right, in 15 calls, by 2 workers, each of which loaded the model once$",
        output,
        re.MULTILINE,
    )
    assert told is not None, output
    assert int(told[1]) > 0.95 * 899
    assert re.search(r"^¥\d+\.\d\d \(\d+ s billed on v100-32gb, \d+ s run\)$", output, re.MULTILINE)


def test_the_photographs_of_a_folder_come_back_in_three_sizes_with_their_colours(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    shipped = Path(importlib.import_module("sklearn.datasets").__file__ or "").parent / "images"
    for path in shipped.glob("*.jpg"):
        shutil.copy(path, photos)
    (photos / "notes.txt").write_text("no photograph")
    output = run(tmp_path, "folder_images.py", str(photos), str(tmp_path / "copies"))
    assert re.search(r"^china-64\.png:( #[0-9a-f]{6}){5}$", output, re.MULTILINE), output
    made = sorted((tmp_path / "copies").iterdir())
    assert [path.name for path in made] == [
        f"{name}-{width}.png" for name in ("china", "flower") for width in (160, 320, 64)
    ]
    for path in made:
        with Image.open(path) as image:
            assert image.width == int(path.stem.partition("-")[2])


def test_a_task_made_by_hand_tells_its_log_and_its_file_and_another_is_cancelled(tmp_path: Path) -> None:
    output = run(tmp_path, "raw_api.py")
    assert "read 143 words\n" in output
    assert re.search(r": done after \d+ s, exit status 0\n", output)
    assert "the commonest: is, better, than, the, to\n" in output
    assert output.endswith(": canceled\n")


def test_a_web_service_answers_from_a_session_and_ends_it_with_itself(tmp_path: Path) -> None:
    service = subprocess.Popen(
        [sys.executable, str(EXAMPLES / "service.py"), "--port", "0"],
        env=environment(tmp_path),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert service.stderr is not None
        address = next(found[0] for line in service.stderr if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
        images, digits = load_digits(return_X_y=True)
        with httpx.Client(base_url=address, timeout=60) as client:
            told = [client.post("/read", json=image.tolist()).json() for image in images[1:60:2]]
            assert client.post("/read", json=[1, 2]).status_code == 400
            assert client.get("/").json() == {"yen": None, "calls": 0}
        right = [one.get("digit") == int(digit) for one, digit in zip(told, digits[1:60:2], strict=True)]
        assert sum(right) > 0.8 * len(right), told
        service.send_signal(signal.SIGINT)
        assert service.wait(TERMINATION_S) in (0, -signal.SIGINT)
        assert "cancelled" not in service.stderr.read()
    finally:
        service.kill()
        service.communicate()


def test_a_notebook_sweeps_runs_a_cell_elsewhere_and_reads_digits_in_a_session(tmp_path: Path) -> None:
    with Notebook(tmp_path, kernel_environment(environment(tmp_path))).running() as notebook:
        told = [text_of(notebook.run(source)) for source in sources(EXAMPLES / "digits.ipynb")]
    swept, trained, brought, read, meter, _ = told[1:]
    assert "score.map: done in" in swept
    assert re.search(r"trained on 1347 digits\n.*0\.99", trained, re.DOTALL)
    assert re.fullmatch(r"\('SVC', 0\.99\d\)", brought), "the cell's names are the notebook's"
    assert re.search(r"\(\[2, 8, 2, 6, 6, 7, 1, 9, 8, 5\], \[2, 8, 2, 6, 6, 7, 1, 9, 8, 5\]\)$", read)
    assert meter.startswith("session: running")
