"""A package whose hashes are right but whose shapes are not is one clear error, before it is used."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from mamdr_core.engine.isotonic import Curve
from mamdr_core.engine.platt import Calibration
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.training.package_shapes import check_shapes, read_shapes
from tests.serving.saved_run import make_served

CURVE = Curve(torch.tensor([0.0, 1.0]).double(), torch.tensor([0.0, 2.0]).double())
CALIBRATION = Calibration(torch.ones(7).double(), torch.zeros(7).double(), CURVE)


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize(
    ("file", "tensor"),
    [
        ("shared", "dense"),
        ("shared", "table.user"),
        ("specific-00000-00000", "dense"),
        ("specific-00000-00000", "user.values"),
        ("specific-00000-00000", "user.ids"),
        ("calibration", "slope"),
        ("calibration", "values"),
    ],
)
def test_a_tensor_of_another_shape_is_an_error_that_names_its_file(tmp_path, ranks, file, tensor):
    served = make_served(tmp_path, ranks, touched=True, calibration=CALIBRATION)
    names = [child.name for child in tmp_path.iterdir()]
    check_shapes(str(tmp_path), served.config, served.sizes, read_shapes(tmp_path, names))
    name = f"{'shared-00001' if tensor == 'table.user' and ranks > 1 else file}.safetensors"
    tensors = load_file(tmp_path / name)
    for changed in (tensors[tensor][:-1], tensors[tensor][None], None):
        others = {key: values for key, values in tensors.items() if key != tensor}
        save_file(others if changed is None else others | {tensor: changed.contiguous()}, tmp_path / name)
        with pytest.raises(MamdrError, match=rf"is damaged: {name} does not have the shapes of the model in its"):
            check_shapes(str(tmp_path), served.config, served.sizes, read_shapes(tmp_path, names))
