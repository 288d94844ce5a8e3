"""What a program runs on: device, processor, source tree."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import torch

from metarl.errors import bad_option
from metarl.stepping.workers import usable_cores


def check_device(device: str) -> None:
    """Refuse a device that torch does not have."""
    accepted = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if torch.cuda.is_available():
        accepted.append("cuda")
    if device not in accepted:
        raise bad_option("--device", device, f"{', '.join(accepted)} (what this machine has)")


def device_name(device: str) -> str:
    """Return what ``device`` is, for records; threads are a setting of the run."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()}, {len(usable_cores())} cores)"


def commit() -> str | None:
    """Return the commit of this source tree, with a mark where it has been changed."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        if "metarl/running/machine.py" not in git("ls-files", "--full-name", "machine.py"):
            return None
        return git("rev-parse", "HEAD") + ("-changed" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None
