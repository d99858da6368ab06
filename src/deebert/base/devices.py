"""Where and in what precision to compute."""

import contextlib

import torch


def pick_device() -> torch.device:
    """The first CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_precision(precision: str, device: torch.device) -> str:
    """`fp32` or `bf16`; `auto` means bf16 where `device` multiplies it in hardware (a GPU's or CPU's matrix units)."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        with torch.cuda.device(device):  # of several GPUs it asks the current one
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    native = torch.cpu.get_capabilities()
    return "bf16" if native.get("avx512_bf16") or native.get("amx_bf16") else "fp32"


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    """A block whose matrix products run in `precision` (already resolved); weights stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def has_room(device: torch.device, num_bytes: int) -> bool:
    """Whether `device` is a GPU with so much free memory."""
    return device.type == "cuda" and torch.cuda.mem_get_info(device)[0] > num_bytes
