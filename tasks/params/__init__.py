"""Typed models say what each key of `params.yaml` means and allows; it is validated before anything runs."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from tasks.dataset.catalog import DatasetName
from tasks.params.networks import list_opsets
from tasks.params.train import TrainConfig
from tasks.params.types import (
    BackendName,
    BatchSize,
    BelowOne,
    Fraction,
    Opset,
    Provider,
    Seconds,
    Seed,
    StrictModel,
    Threads,
    Tolerance,
)
from tasks.validation import load_yaml, validate

PARAMS = Path("params.yaml")
"""path in the workspace, which is the current directory of a run"""


class ProjectConfig(StrictModel):
    """Exported models and pages name these facts about the project; an empty value leaves its line out."""

    name: str = Field(
        default="", description="what pages and models call the project; empty: by its data set"
    )
    description: str = Field(default="", description="what the project is, in a sentence")
    license: str = Field(
        description="license of the exported models, such as an SPDX identifier; empty: they name none"
    )
    owner: str = Field(default="", description="who answers for the models")

    @field_validator("*")
    @classmethod
    def _require_one_line(cls, text: str, info: ValidationInfo) -> str:
        if not text.isprintable() or text != text.strip() or len(text) > 200:
            article = "an" if info.field_name == "owner" else "a"
            raise ValueError(
                f"{article} {info.field_name} is one line of at most 200 characters, without spaces around it"
            )
        return text


class Paths(StrictModel):
    """The stages read and write these files and folders; paths are relative to the workspace."""

    data: str
    pretrained: str
    splits: str
    weights: str
    onnx_model: str
    int8_model: str
    history: str
    metrics: str
    predictions: str
    benchmarks: str
    sweep: str
    search: str
    page: str
    network_page: str
    figures: str
    decisions: str


class DownloadConfig(StrictModel):
    sources: list[str] = Field(description="URLs or paths of a tar that holds cifar-10-batches-py/, in order")
    cifar100_sources: list[str] = Field(description="URLs or paths of a tar that holds cifar-100-python/")
    timeout_s: Seconds = Field(description="longest wait for a source to answer or to send anything")
    min_speed_kb_per_s: Annotated[float, Field(ge=0, le=10_000_000)] = Field(
        description="slower sources are skipped"
    )
    max_attempts: Annotated[int, Field(ge=1, le=100)] = Field(
        description="attempts per source, with back-off between them"
    )


class SplitConfig(StrictModel):
    seed: Seed
    val_fraction: Fraction = Field(description="share of the training images that is kept for validation")
    test_fraction: Fraction = Field(
        description="share of a folder's images that is kept for testing, if the folder has no test/"
    )
    image_size: Annotated[int, Field(ge=8, le=1024)] = Field(
        description="side in pixels to which the images of a folder are resized; images of CIFAR are not"
    )


class EvaluateConfig(StrictModel):
    batch_size: BatchSize
    calibration_bins: Annotated[int, Field(ge=1, le=1000)]


class ExportConfig(StrictModel):
    opset: Opset = Field(description="ONNX operator set; auto: the lowest that the operators allow")
    parity_batch_sizes: Annotated[list[BatchSize], Field(min_length=1, max_length=32)]
    parity_threads: Annotated[list[Threads], Field(min_length=1, max_length=32)]
    parity_providers: Annotated[list[Provider], Field(min_length=1)] = Field(
        description="ONNX Runtime's execution providers; unavailable ones are skipped"
    )
    parity_atol: Tolerance = Field(description="largest allowed difference of a probability")


class QuantizeConfig(StrictModel):
    seed: Seed
    method: Literal["minmax", "percentile", "entropy"] = Field(
        description="how the range of an activation follows from its values on training images"
    )
    percentile: float = Field(
        gt=50,
        le=100,
        description="`percentile`: the percentile of an activation's values that ends its range",
    )
    calibration_images: Annotated[int, Field(ge=1, le=50_000)] = Field(
        description="number of training images, sampled at random"
    )
    weight_bits: Literal[7, 8]
    max_accuracy_drop: float = Field(
        ge=0, le=1, description="drop of accuracy on test images above which the stage warns"
    )


class BenchmarkConfig(StrictModel):
    backends: Annotated[list[BackendName], Field(min_length=1)] = Field(
        description="backends to measure; those that are not installed are reported as skipped"
    )
    providers: Annotated[list[Provider], Field(min_length=1)] = Field(
        description="ONNX Runtime's execution providers; it runs on each that is available"
    )
    batch_sizes: Annotated[list[BatchSize], Field(min_length=1, max_length=32)]
    threads: Annotated[list[Threads], Field(min_length=1, max_length=32)]
    warmup_s: Seconds
    round_duration_s: Seconds = Field(
        description="length of a round of measurements, per backend, batch size and number of threads"
    )
    min_rounds: Annotated[int, Field(ge=5, le=1000)] = Field(
        description="smallest number of rounds; in each, the backends take turns"
    )
    max_rounds: Annotated[int, Field(ge=5, le=1000)] = Field(
        description="largest number of rounds, if throughput is not known within `max_relative_error` before"
    )
    max_relative_error: Annotated[float, Field(ge=0, le=10)] = Field(
        description="half the width of the 95% interval of a throughput, over the throughput"
    )
    server_target_latency_ms: Annotated[float, Field(gt=0, le=86_400_000)] = Field(
        description="latency within which a server has to answer 99 of 100 requests"
    )
    server_duration_s: Seconds = Field(description="how long requests are sent at one rate")


class ReportConfig(StrictModel):
    gallery_size: Annotated[int, Field(ge=1, le=1000)] = Field(
        description="number of images: most confident errors, and as many least confident correct predictions"
    )


class IngestConfig(StrictModel):
    folder: str = Field(description="new images are in FOLDER/CLASS/")
    max_hamming_distance: Annotated[int, Field(ge=0, le=64)] = Field(
        description="bits of 64 by which the perceptual hashes of two versions of an image may differ"
    )


class DriftConfig(StrictModel):
    confidence: Fraction = Field(
        description="chance of a year of daily batches without a false alarm, at least"
    )
    min_effect: Annotated[float, Field(ge=0, le=0.5)] = Field(
        description="smallest KS statistic of an output that is worth an alarm, however many images show it"
    )


class CompareConfig(StrictModel):
    rule: Literal["better", "not_worse"] = Field(
        description="`better`: a challenger has to be better, on all validation images or on the added ones; "
        "`not_worse`: it may also be not worse by `max_loss`"
    )
    confidence: Fraction = Field(
        description="chance of a year without a promotion that is due to chance, at least"
    )
    min_accuracy: BelowOne = Field(
        description="smallest validation accuracy of the first model; 0: it has to be better than guessing"
    )
    min_gain: BelowOne = Field(description="smallest gain of validation accuracy worth a promotion")
    max_loss: Fraction = Field(
        description="loss of validation accuracy, against the last champion that was promoted as better, "
        "that has to be excluded for a challenger to be not worse"
    )
    max_class_loss: Annotated[float, Field(gt=0, le=1)] = Field(
        description="loss of accuracy in a class beyond which a challenger is rejected; 1: any is allowed"
    )
    max_latency_ratio: Annotated[float, Field(gt=0, le=1000)] = Field(
        description="largest allowed ratio of the challenger's latency to the champion's"
    )
    parity_atol: Tolerance = Field(description="largest allowed difference from PyTorch's probabilities")


class TrackingConfig(StrictModel):
    mode: Literal["auto", "disabled", "offline", "online"]
    project: Annotated[str, Field(min_length=1)]
    registry: str = Field(
        description="collection of W&B's registry to which a champion is linked, online; empty: none"
    )


class Params(StrictModel):
    """The model of `params.yaml` as a whole, with a field per section."""

    dataset: DatasetName
    project: ProjectConfig
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
    drift: DriftConfig
    compare: CompareConfig
    tracking: TrackingConfig

    @field_validator("export")
    @classmethod
    def _check_opset(cls, export: ExportConfig, info: ValidationInfo) -> ExportConfig:
        """Reject an operator set that the network does not support, before it is trained."""
        fields = info.data
        if export.opset == "auto" or not {"dataset", "split", "train"} <= fields.keys():
            return export  # A section that is wrong itself has a message of its own.
        train, size = fields["train"], fields["split"].image_size if fields["dataset"] == "folder" else 32
        opsets = list_opsets(train.network, train.tta, size)
        if export.opset not in opsets:
            raise ValueError(
                f"opset {export.opset} is not supported for network {train.network} with tta {train.tta} and "
                f"images of {size} pixels; auto and {opsets[0]} to {opsets[-1]} are"
            )
        return export


def read_params(file: Path) -> Params:
    """Read and validate a `params.yaml`. `InputError` has one line for each key that is wrong."""
    return validate(Params, load_yaml(file), file.name)
