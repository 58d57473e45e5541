"""The pipeline's stages, one a file: `tasks/train.py` holds the stage `train` and its function `train()`.

Stages are plain functions that know no Prefect and no DVC. They import no other stage: they meet in files.
"""
