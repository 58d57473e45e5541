"""`params.yaml` as typed models: what each key means and what is allowed, validated before anything runs."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.validation import load_yaml, validate

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Threads = Annotated[int, Field(ge=1, le=1024)]
BatchSize = Annotated[int, Field(ge=1, le=50_000)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Epochs = Annotated[float, Field(ge=0, le=100_000)]
LearningRate = Annotated[float, Field(gt=0, le=1000)]
Tolerance = Annotated[float, Field(gt=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Provider = Literal["CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"]
BackendName = Literal[
    "onnxruntime-fp32",
    "onnxruntime-int8",
    "pytorch-fp32",
    "torchscript-fp32",
    "openvino-fp32",
    "openvino-int8",
]
Opset = Literal["auto"] | Annotated[int, Field(ge=1, le=100)]


class StrictModel(BaseModel):
    """No unknown keys, no type coercion."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _recipe_field(default: str | float, description: str) -> Any:
    """A parameter of recipes; `default` is its value in a recipe that does not name it.

    In `params.yaml` it must be named all the same, so pydantic is told of no default.
    """
    return Field(description=description, json_schema_extra={"default": default})


class Paths(StrictModel):
    """Files and folders, relative to the workspace."""

    data: str
    splits: str
    weights: str
    onnx_model: str
    int8_model: str
    history: str
    metrics: str
    predictions: str
    benchmarks: str
    sweep: str
    page: str
    figures: str


class DownloadConfig(StrictModel):
    sources: list[str] = Field(description="URLs or paths of a tar that holds cifar-10-batches-py/, in order")
    timeout_s: Seconds = Field(description="longest wait for a source to answer or to send anything")
    min_speed_kb_per_s: Annotated[float, Field(ge=0, le=10_000_000)] = Field(
        description="slower sources are skipped"
    )
    max_attempts: Annotated[int, Field(ge=1, le=100)] = Field(
        description="per source, with back-off between them"
    )


class SplitConfig(StrictModel):
    seed: Seed
    val_fraction: Fraction = Field(description="share of CIFAR-10's training images kept for validation")


class TrainConfig(StrictModel):
    """The defaults are the talk's recipe: its network, CrossEntropyLoss, Adam, learning rate 0.001."""

    network: Literal["net", "airbench94", "airbench96"] = _recipe_field(
        "net",
        "`net`: the talk's; `airbench94` and `airbench96`: those of the recipes `fast94` and `strong96`",
    )
    seed: Seed = Field(description="of all randomness of the training")
    epochs: Annotated[int, Field(ge=1, le=100_000)] = _recipe_field(
        24, "the one with the best validation accuracy is kept"
    )
    batch_size: BatchSize = _recipe_field(128, "images per step")
    lr: LearningRate = _recipe_field(0.001, "the schedule's highest learning rate")
    optimizer: Literal["adam", "adamw", "sgd", "muon"] = _recipe_field(
        "adam", "`sgd` with Nesterov momentum; `muon` for filters, with SGD for all else"
    )
    momentum: BelowOne = _recipe_field(0.9, "of `sgd`, and of `muon`'s filters; Nesterov's")
    head_lr: LearningRate = _recipe_field(0.7, "`muon`: learning rate of linear layers, times the batch size")
    bias_lr: LearningRate = _recipe_field(0.05, "`muon`: learning rate of biases, times the batch size")
    weight_decay: Annotated[float, Field(ge=0, le=1000)] = _recipe_field(
        0.0, "as PyTorch's; `muon`: share of head and biases per step"
    )
    lr_schedule: Literal["constant", "cosine", "linear"] = _recipe_field(
        "constant", "after the warm-up; `cosine` and `linear` go down to 0"
    )
    warmup_epochs: Epochs = _recipe_field(0.0, "over which the learning rate rises linearly")
    whiten_bias_epochs: Annotated[int, Field(ge=0, le=100_000)] = _recipe_field(
        0, "over which the bias of a whitening layer is trained; then it is frozen"
    )
    label_smoothing: BelowOne = _recipe_field(0.0, "as in PyTorch's `cross_entropy`")
    flip: bool | Literal["alternating"] = _recipe_field(
        default=False,
        description="augmentation: flip half of the images; `alternating`: the other half in the next epoch",
    )
    translate: Annotated[int, Field(ge=0, le=8)] = _recipe_field(
        0, "augmentation: shift by up to so many pixels, reflected at the border"
    )
    cutout_size: Annotated[int, Field(ge=0, le=32)] = _recipe_field(
        0, "augmentation: mask a square of so many pixels; 0: none"
    )
    ema_decay: BelowOne = _recipe_field(
        0.0, "decay per step of the weights' moving average, which then is validated and kept; 0: none"
    )
    precision: Literal["32-true", "bf16-mixed"] = _recipe_field(
        "32-true", "`bf16-mixed`: bfloat16 by autocast"
    )
    compile: bool = _recipe_field(
        default=False,
        description="on CUDA: `torch.compile`; its warm-up comes before the first step and is undone",
    )
    tta: Literal["none", "flip", "flip_translate"] = _recipe_field(
        "none", "views over which the shipped model averages its logits: flipped, and shifted by a pixel"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(description="`auto`: CUDA where there is one")
    num_threads: Threads = Field(
        description="on a CPU; PyTorch adds in another order with another number, so it changes the result"
    )
    deterministic: bool = Field(
        description="on CUDA: PyTorch's deterministic algorithms; without them cuDNN's fastest. "
        "What they cost is unmeasured, as is all of CUDA so far"
    )

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.warmup_epochs >= self.epochs and self.warmup_epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs:g} must be smaller than epochs ({self.epochs})"
            )
        if self.momentum == 0 and self.optimizer == "sgd":
            raise ValueError("sgd uses Nesterov momentum, which must be greater than 0; 0.9 is usual")
        if self.network == "net" and self.whiten_bias_epochs:
            raise ValueError("whiten_bias_epochs must be 0 for network net, which has no whitening layer")
        return self


class EvaluateConfig(StrictModel):
    batch_size: BatchSize
    calibration_bins: Annotated[int, Field(ge=1, le=1000)]


class ExportConfig(StrictModel):
    opset: Opset = Field(description="ONNX operator set; auto: the lowest that the operators allow")
    parity_batch_sizes: Annotated[list[BatchSize], Field(min_length=1, max_length=32)]
    parity_threads: Annotated[list[Threads], Field(min_length=1, max_length=32)]
    parity_providers: Annotated[list[Provider], Field(min_length=1)] = Field(
        description="of ONNX Runtime; unavailable ones are skipped"
    )
    parity_atol: Tolerance = Field(description="largest allowed difference of a probability")


class QuantizeConfig(StrictModel):
    seed: Seed
    method: Literal["minmax", "percentile", "entropy"] = Field(
        description="how the range of an activation follows from its values on training images"
    )
    percentile: float = Field(gt=50, le=100, description="of an activation's values, for that method")
    calibration_images: Annotated[int, Field(ge=1, le=50_000)] = Field(
        description="number of training images, sampled at random"
    )
    weight_bits: Literal[7, 8]
    max_accuracy_drop: float = Field(ge=0, le=1, description="on test images; above it the stage warns")


class BenchmarkConfig(StrictModel):
    backends: Annotated[list[BackendName], Field(min_length=1)] = Field(
        description="those that are not installed are reported as skipped"
    )
    providers: Annotated[list[Provider], Field(min_length=1)] = Field(
        description="of ONNX Runtime, which runs on each that is available"
    )
    batch_sizes: Annotated[list[BatchSize], Field(min_length=1, max_length=32)]
    threads: Annotated[list[Threads], Field(min_length=1, max_length=32)]
    warmup_s: Seconds
    min_duration_s: Seconds = Field(
        description="per backend, batch size and number of threads, over all rounds"
    )
    rounds: Annotated[int, Field(ge=5, le=1000)] = Field(description="the backends are interleaved in them")
    server_target_latency_ms: Annotated[float, Field(gt=0, le=86_400_000)] = Field(
        description="within which a server has to answer 99 of 100 requests"
    )
    server_min_duration_s: Seconds = Field(description="of requests at one rate")


class ReportConfig(StrictModel):
    gallery_size: Annotated[int, Field(ge=1, le=1000)] = Field(
        description="most confident errors, and least confident correct predictions"
    )


class IngestConfig(StrictModel):
    folder: str = Field(description="new images are in FOLDER/CLASS/")
    max_hamming_distance: Annotated[int, Field(ge=0, le=64)] = Field(
        description="bits of 64 by which the perceptual hashes of two versions of an image may differ"
    )


class CompareConfig(StrictModel):
    confidence: Fraction = Field(description="of the test that a challenger's gain is not due to chance")
    min_gain: BelowOne = Field(description="smallest gain of validation accuracy worth a promotion")
    max_latency_ratio: Annotated[float, Field(gt=0, le=1000)] = Field(
        description="challenger's over champion's"
    )
    parity_atol: Tolerance = Field(description="largest allowed difference from PyTorch's probabilities")


class TrackingConfig(StrictModel):
    mode: Literal["auto", "disabled", "offline", "online"]
    project: Annotated[str, Field(min_length=1)]


class Params(StrictModel):
    """All of `params.yaml`."""

    dataset: Literal["CIFAR-10", "sample"]
    paths: Paths
    download: DownloadConfig
    split: SplitConfig
    train: TrainConfig
    evaluate: EvaluateConfig
    export: ExportConfig
    quantize: QuantizeConfig
    benchmark: BenchmarkConfig
    report: ReportConfig
    ingest: IngestConfig
    compare: CompareConfig
    tracking: TrackingConfig


def read_params(file: Path) -> Params:
    return validate(Params, load_yaml(file), file.name)
