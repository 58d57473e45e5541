"""The pipeline's stages, one a file: `tasks/train.py` holds the stage `train` and its function `train()`.

Stages are plain functions that know no Prefect and no DVC. They import no other stage: they meet in files.
"""

import os

# How OpenMP's threads wait for work, read when PyTorch is imported. They spin, which takes the CPU from other
# programs. Less of it costs a training little on an idle machine, and helps much on a busy one: see
# docs/training.md.
OPENMP_SETTINGS = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}  # of GCC's library; of Intel's and LLVM's

if "OMP_WAIT_POLICY" not in os.environ:
    for name, value in OPENMP_SETTINGS.items():
        os.environ.setdefault(name, value)
