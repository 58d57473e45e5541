"""Each stage of the pipeline is a file here: `tasks/train.py` has the stage `train`, a function `train()`.

Stages are plain functions that know no Prefect and no DVC. A stage imports no other stage; it reads the files
that earlier stages wrote.
"""

import os

# OpenMP's threads spin while they wait for work, which takes the CPU from other programs. Less spinning costs
# a training little on an idle machine, and helps much on a busy one: see docs/training.md. The first variable
# is for GCC's library, the second for Intel's and LLVM's. They are read when PyTorch is imported, so they are
# set before any module of this package imports it.
OPENMP_SETTINGS = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}

if "OMP_WAIT_POLICY" not in os.environ:
    for name, value in OPENMP_SETTINGS.items():
        os.environ.setdefault(name, value)
