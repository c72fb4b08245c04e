"""NVIDIA FLARE on a hub, as its users run it: `python -m examples.nvflare`."""
