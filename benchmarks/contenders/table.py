"""The contenders: what is run by which library in which precision."""

from dataclasses import dataclass
from importlib.util import find_spec

import torch

from contenders.interface import PADDED, WHOLE
from deebert.inference.precisions import PRECISIONS, multiplies

OURS, EXPORTED = "ours", "exported"  # this project's


@dataclass(frozen=True)
class Library:
    """A file of this folder.

    Attributes:
        name: as tables write it.
        needs: packages beyond the project's own, and for int8.
    """

    name: str
    precisions: tuple[str, ...]
    needs: tuple[str, ...] = ()
    needs_for_int8: tuple[str, ...] = ()


LIBRARIES = {
    "hugging_face": Library("transformers", ("fp32",)),
    "torch_compile": Library("torch.compile", ("fp32",)),
    "onnx_runtime": Library("ONNX Runtime", ("fp32", "int8"), ("onnx", "onnxruntime")),
    "open_vino": Library("OpenVINO", ("fp32", "bf16", "int8"), ("onnx", "openvino"), ("nncf",)),
    OURS: Library("DeeBERT", tuple(PRECISIONS)),
    EXPORTED: Library("DeeBERT in ONNX Runtime", ("fp32", "int8"), ("onnx", "onnxruntime")),
}


@dataclass(frozen=True)
class Contender:
    """A library in a precision, on a model of `layers` layers: the whole one, or one cut to its first layers."""

    library: str
    precision: str
    layers: int
    is_cut: bool = False

    @property
    def name(self) -> str:
        told = f"{LIBRARIES[self.library].name} {self.precision}"
        return f"{told}, cut to {self.layers} layers" if self.is_cut else told

    @property
    def exits_early(self) -> bool:
        """Whether it is this project's, and may answer before the last layer."""
        return self.library in (OURS, EXPORTED)

    @property
    def is_built(self) -> bool:
        """Whether the library has files of its own."""
        return bool(LIBRARIES[self.library].needs)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """For a whole data set."""
        return (WHOLE,) if self.library == OURS else PADDED

    def obstacle(self) -> str | None:
        """Why it cannot run here; None where it can."""
        library = LIBRARIES[self.library]
        needs = (*library.needs, *(library.needs_for_int8 if self.precision == "int8" else ()))
        if missing := [package for package in needs if find_spec(package) is None]:
            return f"{missing[0]} is not installed; `make rivals` installs it"
        if self.precision == "bf16" and not multiplies("bf16", torch.device("cpu")):
            return "this processor does not multiply bf16 itself"
        if self.library == OURS and not multiplies(self.precision, torch.device("cpu")):
            return f"this processor cannot multiply {self.precision}"
        return None


def contenders(layers: int, libraries: tuple[str, ...] = tuple(LIBRARIES)) -> list[Contender]:
    """All of `libraries`, whether they can run here or not."""
    return [Contender(name, precision, layers) for name in libraries for precision in LIBRARIES[name].precisions]
