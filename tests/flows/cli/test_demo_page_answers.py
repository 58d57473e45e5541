from pathlib import Path

from PIL import Image

from tasks.dataset.image import load_image
from tasks.inference.onnx_classifier import load_model
from tasks.params import Params


def test_demo_says_where_the_model_is_not_sure(small_run: Params, tmp_path: Path) -> None:
    from flows.cli.demo_page import _Classifier

    file = tmp_path / "noise.png"
    Image.effect_noise((32, 32), 50).convert("RGB").save(file)
    model = load_model(Path(small_run.paths.onnx_model))
    (row,) = model.predict_proba(load_image(file, 32)[None])
    for confident, text in (
        (None, ""),
        (0.0, f"**{model.classes[row.argmax()]}**, with a probability of at least 0%"),
        (1.0, "**not sure**: no class has a probability of at least 100%"),
    ):
        classified = _Classifier(model, None, None, [], confident=confident).classify(str(file))
        assert classified[2] == text
