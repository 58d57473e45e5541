"""The file with the parameters that tests start from: `tests/params.yaml`, with which cifarflow comes.

A project has values of its own in its `params.yaml`, and its tests pass all the same. Only a parameter that
`tests/params.yaml` does not have, such as a new one, is taken from there.
"""

import atexit
import shutil
import tempfile
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]


def _write_params_file() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="cifarflow-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    yaml = YAML()  # the default type keeps comments
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 1000
    params = yaml.load(ROOT / "tests" / "params.yaml")
    for section, own in YAML(typ="safe").load(ROOT / "params.yaml").items():
        if isinstance(own, dict):
            known = params.setdefault(section, {})
            known.update({name: value for name, value in own.items() if name not in known})
    yaml.dump(params, folder / "params.yaml")
    return folder / "params.yaml"


PARAMS_FILE = _write_params_file()
