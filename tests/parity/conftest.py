"""Lets the tests of this folder `import torch_unet`, as tests/benchmarks/vs_torch.py does, and keeps threads asleep.

PyTorch brings the OpenMP that Numba then uses too, and OpenMP asks how to wait when it is loaded: before
scratchdiff/kernels/threads.py can say so, where PyTorch is imported first.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
