"""`TrainConfig` is the section `train` of `params.yaml`; recipes hold values of it, too."""

from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, field_validator, model_validator

from tasks.params.networks import FUSED_NETWORKS, WHITENED_NETWORKS, NetworkName
from tasks.params.types import (
    Alpha,
    BatchSize,
    BelowOne,
    Epochs,
    LearningRate,
    Processes,
    Seed,
    StrictModel,
    Threads,
)


def _recipe_field(default: JsonValue, description: str) -> Any:
    """Define a parameter that recipes set; `default` is its value in a recipe that does not name it.

    `params.yaml` must name it all the same, so the default is in the JSON schema only, not in pydantic's
    model.
    """
    return Field(description=description, json_schema_extra={"default": default})


def _unrecorded_field(default: JsonValue, description: str) -> Any:
    """Define a parameter that changes no result.

    It is left out of a dump, and so of checkpoints' names and of all files that record parameters. Its
    default is not in the JSON schema, since recipes leave the parameter as it is.
    """
    return Field(
        default=default,
        description=description,
        exclude=True,
        json_schema_extra=lambda schema: schema.pop("default", None),
    )


def _selection_field(default: JsonValue, description: str) -> Any:
    """Define a parameter that says how a recipe was chosen: it changes no training, so it is not dumped."""
    return Field(
        default=default, description=description, exclude=True, json_schema_extra={"default": default}
    )


class TrainConfig(StrictModel):
    """The defaults are those of the talk: its network, CrossEntropyLoss, Adam, learning rate 0.001."""

    # network
    network: NetworkName = _recipe_field(
        "net",
        "`net`: the talk's network; `airbench94`, `airbench96`: the networks of the recipes `fast94` and "
        "`strong96`; or a name of torchvision's, such as `resnet18`",
    )
    weights: Annotated[str, Field(max_length=255, pattern=r"^[^/\\]*$")] = _recipe_field(
        "", "a file in `pretrained/` to start from, a state dict; empty: none"
    )
    freeze: Annotated[list[str], Field(max_length=1000)] = _recipe_field(
        [], "names of modules or parameters that are not trained, such as `layer1`"
    )
    seed: Seed = Field(description="seed of all random numbers of the training")

    # length and batches
    epochs: Annotated[int, Field(ge=1, le=100_000)] = _recipe_field(
        24, "number of epochs; the weights of the one with the best validation accuracy are kept"
    )
    batch_size: BatchSize = _recipe_field(128, "images per step")

    # optimizer and learning rate schedule
    lr: LearningRate = _recipe_field(0.001, "the schedule's highest learning rate")
    optimizer: Literal["adam", "adamw", "sgd", "muon"] = _recipe_field(
        "adam", "`sgd` has Nesterov momentum; `muon` trains filters with Muon and all else with SGD"
    )
    momentum: BelowOne = _recipe_field(0.9, "Nesterov momentum of `sgd`, and of `muon` for filters")
    head_lr: LearningRate = _recipe_field(0.7, "`muon`: learning rate of linear layers, times the batch size")
    bias_lr: LearningRate = _recipe_field(0.05, "`muon`: learning rate of biases, times the batch size")
    weight_decay: Annotated[float, Field(ge=0, le=1000)] = _recipe_field(
        0.0, "weight decay as in PyTorch; `muon`: the share that head and biases lose per step"
    )
    lr_schedule: Literal["constant", "cosine", "linear"] = _recipe_field(
        "constant", "the learning rate after the warm-up; `cosine` and `linear` go down to 0"
    )
    warmup_epochs: Epochs = _recipe_field(0.0, "epochs over which the learning rate rises linearly")
    whiten_bias_epochs: Annotated[int, Field(ge=0, le=100_000)] = _recipe_field(
        0, "epochs over which the bias of a whitening layer is trained; then it is frozen"
    )
    label_smoothing: BelowOne = _recipe_field(0.0, "as in PyTorch's `cross_entropy`")

    # augmentation
    flip: bool | Literal["alternating"] = _recipe_field(
        default=False,
        description="augmentation: flip half of the images; `alternating`: the other half in the next epoch",
    )
    translate: Annotated[int, Field(ge=0, le=512)] = _recipe_field(
        0, "augmentation: shift by up to so many pixels, reflected at the border"
    )
    cutout_size: Annotated[int, Field(ge=0, le=1024)] = _recipe_field(
        0, "augmentation: mask a square of so many pixels; 0: none"
    )
    auto_augment: Literal["none", "trivialaugment", "randaugment"] = _recipe_field(
        "none", "augmentation: torchvision's policy of random transformations"
    )
    randaugment_magnitude: Annotated[int, Field(ge=0, le=30)] = _recipe_field(
        9, "`randaugment`: strength of its transformations"
    )
    mixup_alpha: Alpha = _recipe_field(
        0.0, "augmentation: pairs of images blended by a share from Beta(alpha, alpha); 0: none"
    )
    cutmix_alpha: Alpha = _recipe_field(
        0.0, "augmentation: a box of one image pasted into another, its area by Beta(alpha, alpha); 0: none"
    )

    # averaging and precision
    ema_decay: BelowOne = _recipe_field(
        0.0, "decay per step of the weights' moving average, which is then validated and saved; 0: none"
    )
    precision: Literal["32-true", "bf16-mixed"] = _recipe_field(
        "32-true", "`bf16-mixed`: bfloat16 by autocast"
    )
    compile: bool = _recipe_field(
        default=False,
        description="on CUDA: `torch.compile`; its warm-up comes before the first step and is undone",
    )
    tta: Literal["none", "flip", "flip_translate"] = _recipe_field(
        "none",
        "test-time augmentation: the exported model averages its logits over versions of an image, flipped "
        "and shifted by a pixel",
    )
    candidates: Annotated[int, Field(ge=1, le=1_000_000)] = _selection_field(
        1,
        "number of models that were compared by validation accuracy to choose these parameters; a search "
        "writes it into its recipe (docs/promotion.md)",
    )
    candidates_val_sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = _selection_field(
        "", "hash of the validation images on which they were compared; empty: those of today"
    )

    # machine
    device: Literal["auto", "cpu", "cuda"] = Field(description="`auto`: CUDA where there is one")
    num_threads: Threads = Field(
        description="PyTorch's threads on a CPU, which several processes share. With another number PyTorch "
        "adds in another order, so it changes the result"
    )
    processes: Processes = Field(
        description="number of processes (DistributedDataParallel), each with its share of every batch and, "
        "on CUDA, a GPU of its own; it changes the result"
    )
    fused: bool | Literal["auto"] = Field(
        description="for `net` in float32 on a CPU: convolution, pooling and ReLU are one C++ operator, "
        "compiled at its first use; it takes half the time and changes the result. `auto`: if there is a "
        "compiler"
    )
    deterministic: bool = Field(
        description="on CUDA: PyTorch's deterministic algorithms; without them cuDNN's fastest. "
        "Their cost has not been measured, as nothing on CUDA has so far"
    )

    # copies of checkpoints
    checkpoint_url: Annotated[str, Field(max_length=2000)] = _unrecorded_field(
        "",
        "where copies of checkpoints are kept: any URL that fsspec knows, such as `s3://`; empty: nowhere",
    )
    checkpoint_interval_s: Annotated[float, Field(ge=0, le=86_400)] = _unrecorded_field(
        60.0, "smallest number of seconds between two uploads"
    )

    @property
    def has_fast_path(self) -> bool:
        """Whether there are operators in C++ that train the network, given a CPU."""
        return self.network in FUSED_NETWORKS and self.precision == "32-true"

    @field_validator("checkpoint_url")
    @classmethod
    def _reject_password(cls, url: str) -> str:
        if urlsplit(url).password is not None:
            raise ValueError("params.yaml is in Git, so a URL in it may have no password (docs/anywhere.md)")
        return url

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.warmup_epochs >= self.epochs and self.warmup_epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs:g} must be smaller than epochs ({self.epochs})"
            )
        if self.processes > self.batch_size:
            raise ValueError(
                f"processes {self.processes} must not be greater than batch_size ({self.batch_size})"
            )
        if self.fused is True and not self.has_fast_path:
            networks = " or ".join(FUSED_NETWORKS)
            raise ValueError(
                f"fused needs network {networks} and precision 32-true; otherwise set it to auto or false"
            )
        if self.momentum == 0 and self.optimizer == "sgd":
            raise ValueError("sgd uses Nesterov momentum, which must be greater than 0; 0.9 is usual")
        if self.network not in WHITENED_NETWORKS and self.whiten_bias_epochs:
            raise ValueError(
                f"whiten_bias_epochs must be 0 for network {self.network}, which has no whitening layer"
            )
        return self
