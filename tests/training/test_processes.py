"""Several processes agree, and part without waiting for each other for ever."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MANY_GROUPS = """
import os, sys
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from deebert.training import processes

rank, folder = int(sys.argv[1]), sys.argv[2]
os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
sys.setswitchinterval(0.0005)
for number in range(60):
    with processes.joined(torch.device("cpu"), f"file://{folder}/{number}"):
        model = DistributedDataParallel(nn.Linear(8, 8))
        model(torch.randn(4, 8)).sum().backward()
        assert processes.agree(rank, number) == [1, number]
        assert processes.agree(5 - rank) == [5]
    del model  # DDP holds the group, whose end is therefore here
"""


@pytest.mark.slow
def test_the_end_of_a_group_does_not_hang(tmp_path: Path, warm_python: Path) -> None:
    """Groups are made and ended one after the other, right after an agreement: both processes come to the end."""
    script = tmp_path / "many_groups.py"
    script.write_text(MANY_GROUPS)
    environment = {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    both = [
        subprocess.Popen(
            [warm_python, script, str(rank), str(tmp_path)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    try:
        for process in both:
            assert process.wait(timeout=300) == 0, process.stderr.read()
    finally:
        for process in both:
            process.kill()
            process.communicate()
