"""`params.yaml` as typed models: what each key means and what is allowed, checked before anything runs."""

import difflib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    create_model,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tasks.workspace.errors import InputError
from tasks.workspace.files import atomic_write

ModelT = TypeVar("ModelT", bound=BaseModel)

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Threads = Annotated[int, Field(ge=1, le=1024)]
PositiveInt = Annotated[int, Field(ge=1)]
Provider = Literal["CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"]
BackendName = Literal[
    "onnxruntime-fp32",
    "onnxruntime-int8",
    "pytorch-fp32",
    "torchscript-fp32",
    "openvino-fp32",
    "openvino-int8",
]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _opset(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"should be auto or an integer from 1 on, not {value!r}")


# Checked by one function, since each branch of a union would be a mistake of its own.
Opset = Annotated[int | Literal["auto"], PlainValidator(_opset, json_schema_input_type=int | Literal["auto"])]


class StrictModel(BaseModel):
    """A mapping that takes no key it does not know and turns no string into a number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Paths(StrictModel):
    """Where each artifact lies, relative to the workspace."""

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
    min_speed_kb_per_s: float = Field(ge=0, allow_inf_nan=False, description="slower sources are given up")
    max_attempts: PositiveInt = Field(description="tries a source, with back-off between them")


class SplitConfig(StrictModel):
    seed: Seed
    val_fraction: Fraction = Field(description="share of CIFAR-10's training images kept for validation")


class TrainConfig(StrictModel):
    network: Literal["net", "airbench94", "airbench96"]
    seed: Seed
    epochs: PositiveInt
    batch_size: Annotated[int, Field(ge=1, le=50_000)]
    lr: float = Field(gt=0, allow_inf_nan=False, description="learning rate, the highest of the schedule")
    optimizer: Literal["adam", "adamw", "sgd", "muon"]
    momentum: float = Field(ge=0, lt=1, description="of sgd, and of muon's filters; Nesterov's")
    head_lr: float = Field(
        gt=0, allow_inf_nan=False, description="muon: of linear layers, times the batch size"
    )
    bias_lr: float = Field(gt=0, allow_inf_nan=False, description="muon: of biases, times the batch size")
    weight_decay: float = Field(
        ge=0, allow_inf_nan=False, description="as PyTorch's; muon: the share of head and biases a step"
    )
    lr_schedule: Literal["constant", "cosine", "linear"]
    warmup_epochs: float = Field(ge=0, allow_inf_nan=False, description="over which the rate rises, linearly")
    whiten_bias_epochs: Annotated[int, Field(ge=0)] = Field(
        description="over which the bias of a network's whitening is trained; after them it stays"
    )
    label_smoothing: float = Field(ge=0, lt=1)
    flip: bool | Literal["alternating"] = Field(
        description="augmentation: mirror half of the pictures; alternating: the other half in the next epoch"
    )
    translate: Annotated[int, Field(ge=0, le=8)] = Field(
        description="augmentation: move by up to so many pixels"
    )
    cutout_size: Annotated[int, Field(ge=0, le=32)] = Field(
        description="augmentation: cover a square of so many pixels; 0: none"
    )
    ema_decay: float = Field(
        ge=0,
        lt=1,
        description="decay a step of the weights' moving average, which then is the model; 0: none",
    )
    precision: Literal["32-true", "bf16-mixed"]
    compile: bool = Field(description="on CUDA: torch.compile, before the first step")
    tta: Literal["none", "flip", "flip_translate"] = Field(
        description="what the shipped model averages its logits over: itself, mirrored, and moved by a pixel"
    )
    device: Literal["auto", "cpu", "cuda"]
    num_threads: Threads = Field(description="on a CPU; another number gives other bits")
    deterministic: bool = Field(description="on CUDA: the same bits twice, at some cost of time")

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.warmup_epochs >= self.epochs and self.warmup_epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} leaves nothing of {self.epochs} epochs")
        if self.momentum == 0 and self.optimizer == "sgd":
            raise ValueError("momentum 0 is not for sgd here, whose momentum is Nesterov's; 0.9 is usual")
        if self.network == "net" and self.whiten_bias_epochs:
            raise ValueError("whiten_bias_epochs is for a network that whitens its pictures; net does not: 0")
        return self


class EvaluateConfig(StrictModel):
    batch_size: PositiveInt
    calibration_bins: PositiveInt


class ExportConfig(StrictModel):
    opset: Opset = Field(description="ONNX operator set; auto: the lowest that the operators allow")
    parity_batch_sizes: Annotated[list[PositiveInt], Field(min_length=1)]
    parity_threads: Annotated[list[Threads], Field(min_length=1)]
    parity_providers: Annotated[list[Provider], Field(min_length=1)] = Field(
        description="of ONNX Runtime; those that are not at hand are passed over"
    )
    parity_atol: float = Field(gt=0, description="largest allowed difference of a probability")


class QuantizeConfig(StrictModel):
    seed: Seed
    method: Literal["minmax", "percentile", "entropy"] = Field(
        description="how the range of an activation follows from its values on training images"
    )
    percentile: float = Field(gt=50, le=100, description="of an activation's values, for that method")
    calibration_images: Annotated[int, Field(ge=1, le=50_000)] = Field(description="training images, drawn")
    weight_bits: Literal[7, 8]
    max_accuracy_drop: float = Field(ge=0, le=1, description="on test images; above it the stage says so")


class BenchmarkConfig(StrictModel):
    backends: Annotated[list[BackendName], Field(min_length=1)] = Field(
        description="those that are not installed are named as not measured"
    )
    providers: Annotated[list[Provider], Field(min_length=1)] = Field(
        description="of ONNX Runtime, which runs on each that is at hand"
    )
    batch_sizes: Annotated[list[PositiveInt], Field(min_length=1)]
    threads: Annotated[list[Threads], Field(min_length=1)]
    warmup_s: Seconds
    min_duration_s: Seconds = Field(
        description="a batch size, number of threads and engine, in rounds in which the engines take turns"
    )
    rounds: Annotated[int, Field(ge=5, le=1000)]
    server_target_latency_ms: float = Field(
        gt=0, allow_inf_nan=False, description="within which a server has to answer 99 of 100 requests"
    )
    server_min_duration_s: Seconds = Field(description="for which requests come at one rate")


class ReportConfig(StrictModel):
    gallery_size: PositiveInt = Field(
        description="pictures of the surest mistakes, and of the least sure hits"
    )


class IngestConfig(StrictModel):
    folder: str = Field(description="new pictures lie in FOLDER/CLASS/")
    max_hamming_distance: Annotated[int, Field(ge=0, le=64)] = Field(
        description="bits of 64 by which the perceptual hashes of two versions of a picture may differ"
    )


class CompareConfig(StrictModel):
    confidence: Fraction = Field(description="that a challenger's gain is none of chance")
    min_gain: float = Field(ge=0, lt=1, description="smallest gain of validation accuracy worth a promotion")
    max_latency_ratio: float = Field(gt=0, allow_inf_nan=False, description="challenger's over champion's")
    parity_atol: float = Field(gt=0, description="largest allowed difference from PyTorch's probabilities")


class TrackingConfig(StrictModel):
    mode: Literal["auto", "disabled", "offline", "online"]
    project: Annotated[str, Field(min_length=1)]


class Params(StrictModel):
    """The whole of `params.yaml`."""

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


def _make_optional(section: Any) -> type[StrictModel]:
    fields: dict[str, Any] = {
        name: (field.rebuild_annotation() | None, Field(None, description=field.description))
        for name, field in section.model_fields.items()
    }
    return create_model(section.__name__, __base__=StrictModel, **fields)


if TYPE_CHECKING:

    class Overrides(BaseModel):
        """Other values for some parameters."""

else:
    # Every section but the paths, each key optional: what Prefect's form offers.
    Overrides = create_model(
        "Overrides",
        __base__=StrictModel,
        **{
            name: (_make_optional(field.annotation) | None, None)
            for name, field in Params.model_fields.items()
            if name not in {"dataset", "paths"}
        },
    )


def read_params(file: Path) -> Params:
    """The checked parameters; `InputError` with one line a mistake."""
    return validate(Params, _load_yaml(YAML(typ="safe"), file), file.name)


def parse_overrides(assignments: Iterable[str]) -> Overrides:
    """From texts such as `train.epochs=5`, with values in YAML."""
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        section, dot, name = key.partition(".")
        if not (equals and dot and name):
            raise InputError(f"--set {assignment}: give it as section.key=value, such as train.epochs=5")
        values.setdefault(section, {})[name] = parse_value(assignment, text)
    return validate(Overrides, values, "--set")


def read_recipe(name: str, folder: Path = Path("recipes")) -> Overrides:
    """The overrides of a recipe that is shipped, or of a file in the same form."""
    given = Path(name)
    file = given if given.suffix in {".yaml", ".yml"} else folder / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(recipe.stem for recipe in folder.glob("*.yaml")))
        raise InputError(f"there is no recipe {name}; there are {known}, or name a YAML file")
    return validate(Overrides, _load_yaml(YAML(typ="safe"), file), str(file))


def merge_overrides(first: Overrides, second: Overrides) -> Overrides:
    """Both, where both speak of a parameter the second."""
    values = first.model_dump(exclude_none=True)
    for section, changes in second.model_dump(exclude_none=True).items():
        values.setdefault(section, {}).update(changes)
    return validate(Overrides, values, "--set")


def with_overrides(params: Params, overrides: Overrides) -> Params:
    """The parameters with these values, and no file changed."""
    values = params.model_dump()
    for section, changes in overrides.model_dump(exclude_none=True).items():
        values[section].update(changes)
    return validate(Params, values, "--set")


def parse_value(assignment: str, text: str) -> Any:
    """The YAML value `text` of what `--set` was given."""
    try:
        return YAML(typ="safe").load(text)
    except YAMLError as error:
        raise InputError(f"--set {assignment}: the value is not YAML") from error


def write_overrides(file: Path, overrides: Overrides) -> None:
    """Write the values into `file`, which keeps its comments and its form."""
    yaml = YAML()  # round-trip
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 1000
    read_params(file)
    document = _load_yaml(yaml, file)
    for section, values in overrides.model_dump(exclude_none=True).items():
        document[section].update(values)
    text = io.StringIO()
    yaml.dump(document, text)
    validate(Params, YAML(typ="safe").load(text.getvalue()), "--set")  # each value may be right, and not all
    with atomic_write(file) as partial:
        partial.write_text(text.getvalue(), encoding="utf-8")


def _load_yaml(yaml: YAML, file: Path) -> Any:
    try:
        return yaml.load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file}: {error}") from error
    except YAMLError as error:
        raise InputError(f"{file} is not YAML: {' '.join(str(error).split())}") from error


def validate(model: type[ModelT], values: Any, origin: str) -> ModelT:
    """The values as `model`; `InputError` with one line a mistake, each after `origin`."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InputError(
            "\n".join(f"{origin}: {_format_error(model, error)}" for error in error.errors())
        ) from None


def _format_error(model: type[BaseModel], mistake: Any) -> str:
    key = ".".join(str(part) for part in mistake["loc"]) or "the file"
    match mistake["type"]:
        case "extra_forbidden":
            known = _known_keys(model, mistake["loc"][:-1])
            near = difflib.get_close_matches(str(mistake["loc"][-1]), known, n=1)
            return f"{key} is not a parameter; " + (
                f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
            )
        case "missing":
            return f"{key} is missing"
        case "value_error":
            return f"{key}: {mistake['ctx']['error']}"
    message = (
        mistake["msg"].removeprefix("Input ").replace("a valid integer", "an integer").replace("valid ", "")
    )
    return f"{key} {message}, not {mistake['input']!r}"


def _known_keys(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    for part in location:
        annotation = model.model_fields[part].annotation  # a section, or a section or None
        (model,) = (kind for kind in (annotation, *get_args(annotation)) if hasattr(kind, "model_fields"))
    return list(model.model_fields)
