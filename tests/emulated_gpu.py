"""An H100, emulated, as the GPU of a whole run of pytest: ``PYTHONPATH=tests python -m pytest -p emulated_gpu -m gpu``.

So the tests marked gpu run without one, but for those that need PyTorch or JAX on the card, or a card that is full.
"""

from __future__ import annotations

import sys

from emulated_cupy import Device, Memory, modules

sys.modules.update(modules())
Device.compute_capability = "90"
Device.attributes["MultiProcessorCount"] = 132
# A workspace of cuBLAS takes 32 MiB.
Memory.limit = Memory.free = 2**28
