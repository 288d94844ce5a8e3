"""The machine and source tree that a program runs on."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import torch

from metarl.errors import bad_option
from metarl.stepping.workers import usable_cores


def check_device(device: str) -> None:
    """Refuse a device that is not available to torch.

    Raises:
        UserError: if it is not; the message lists the devices of this machine.
    """
    accepted = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if torch.cuda.is_available():
        accepted.append("cuda")
    if device not in accepted:
        raise bad_option("--device", device, f"{', '.join(accepted)} (what this machine has)")


def device_name(device: str) -> str:
    """Return a description of ``device`` for records: the GPU's name, or the processor's cores."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()}, {len(usable_cores())} cores)"


def commit() -> str | None:
    """Return the commit of this source tree, with ``-changed`` if files differ from it.

    It is None if the library does not run from a git repository.
    """
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
