"""The sections of `params.yaml` share these types: numbers with bounds, and the strict model itself."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Threads = Annotated[int, Field(ge=1, le=1024)]
Processes = Annotated[int, Field(ge=1, le=1024)]
BatchSize = Annotated[int, Field(ge=1, le=50_000)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Epochs = Annotated[float, Field(ge=0, le=100_000)]
LearningRate = Annotated[float, Field(gt=0, le=1000)]
Tolerance = Annotated[float, Field(gt=0, le=1)]
Alpha = Annotated[float, Field(ge=0, le=100)]
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
Opset = Literal["auto"] | Annotated[int, Field(ge=13, le=28)]


class StrictModel(BaseModel):
    """A strict model accepts neither unknown keys nor values of another type, and cannot be changed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
