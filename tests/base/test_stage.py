"""How a program of the project ends."""

import pytest
import torch

from deebert.base.stage import told_in_one_line


def test_a_full_gpu_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """It is no fault of ours, whatever PyTorch says of it on many lines; other errors of PyTorch's pass through."""
    with pytest.raises(SystemExit) as ended, told_in_one_line():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSee the documentation")
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: no room left on the GPU; expected ") and "2 GiB" in line
    with pytest.raises(RuntimeError, match=r"^shapes$"), told_in_one_line():
        raise RuntimeError("shapes")
