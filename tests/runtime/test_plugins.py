"""Users' own structures and methods: found by name, checked, and known again by their source."""

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch._dynamo.exc import TorchDynamoException

from mamdr_core.config.job_config import dump_config, load_config, parse_config
from mamdr_core.config.learning import LearningSettings
from mamdr_core.config.models import ModelSettings
from mamdr_core.engine.columns import Columns, Visit
from mamdr_core.engine.dense_gradients import dense_gradients
from mamdr_core.engine.drawing import initial_shared
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.fast import FastEngine
from mamdr_core.engine.parameters import EVERYTHING, Change, Theta
from mamdr_core.engine.prediction import predict_runs
from mamdr_core.learning.method import Method
from mamdr_core.learning.methods import find_method
from mamdr_core.models.checking import vmap_error
from mamdr_core.models.structures import build_model, declare_inputs
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.plugins import Plugin, PluginImportError
from mamdr_core.training.own_code import check_own_names, check_served, modules_of, sources_of

PACKAGE = Path(__file__).parents[1] / "plugin_package"
SIZES = {"user": 5, "item": 4, "domain": 3}
RESIDUAL, FIRST = "click_models.residual:Residual", "click_models.largest_first:method"

ODD = '''
import torch
from torch import nn
from mamdr_core.models.dropout import Dropout


class Base(nn.Module):
    def __init__(self, inputs, settings):
        super().__init__()
        self.names = inputs.names
        self.linear = nn.Linear(inputs.width, 1)

    def joined(self, fields):
        return torch.cat([fields[name] for name in self.names], 1)


class TwoDimensions(Base):
    def forward(self, fields):
        return self.linear(self.joined(fields))


class Pair(Base):
    def forward(self, fields):
        return self.linear(self.joined(fields)).squeeze(1), None


class Normalised(Base):
    def __init__(self, inputs, settings):
        super().__init__(inputs, settings)
        self.norm = nn.BatchNorm1d(inputs.width)

    def forward(self, fields):
        return self.linear(self.norm(self.joined(fields))).squeeze(1)


class Dropping(Base):
    def __init__(self, inputs, settings):
        super().__init__(inputs, settings)
        self.dropout = nn.Dropout(0.5)


class Empty(nn.Module):
    def __init__(self, inputs, settings):
        super().__init__()


class Failing(Base):
    def forward(self, fields):
        raise KeyError("no such field")


class Guarded(Base):
    """Looks at values, which vmap does not let it do."""

    def forward(self, fields):
        joined = self.joined(fields)
        if float(joined.detach().abs().max()) > 1e9:
            raise ValueError("huge values")
        return self.linear(joined).squeeze(1)


def function(inputs, settings):
    return None
'''


@pytest.fixture
def odd(tmp_path, monkeypatch):
    """A module of structures that cannot be trained as they are."""
    (tmp_path / "odd_structures.py").write_text(ODD)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "odd_structures"
    sys.modules.pop("odd_structures", None)


@pytest.fixture
def package(monkeypatch):
    monkeypatch.syspath_prepend(str(PACKAGE))


def built(name, **values):
    settings = ModelSettings(name=name, embedding_dim=4, hidden=(8,), **values)
    return build_model(settings, declare_inputs(settings, (), SIZES))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_models:Model", r"module no_such_models cannot be imported \(No module named 'no_such_models'\)"),
        ("odd_structures.sub:Model", r"cannot be imported \(No module named 'odd_structures.sub'"),
        ("odd_structures:Modle", "module odd_structures has no Modle; it defines Base, TwoDimensions"),
        ("odd_structures:function", "expected a class of torch.nn.modules.module.Module, found an object of function"),
        ("odd_structures:Dropout.p", "expected my_package.my_module:Name"),
        ("a b:Model", "expected my_package.my_module:Name"),
        ("odd_structures:TwoDimensions", r"forward of 2 rows returned \[2, 1\] torch.float32, expected \[2\] logits"),
        ("odd_structures:Pair", r"forward of 2 rows returned a tuple, expected \[2\] logits"),
        ("odd_structures:Normalised", "forward changes norm.running_mean, norm.running_var, .* batch normalisation"),
        ("odd_structures:Dropping", "layer dropout is torch's Dropout.*: use mamdr_core.models.dropout.Dropout"),
        ("odd_structures:Empty", "it has no parameter"),
    ],
)
def test_a_structure_that_cannot_be_trained_is_reported_in_one_line(odd, name, message):
    with pytest.raises(MamdrError, match=message) as raised:
        built(name)
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith("model.name")
    assert name in str(raised.value)


def test_what_a_forward_raises_keeps_its_traceback(odd):
    with pytest.raises(KeyError, match="no such field") as raised:
        built("odd_structures:Failing")
    assert raised.traceback[-1].path.name == "odd_structures.py"


def test_a_method_is_checked_on_the_driver_too(odd, package):
    for name, message in (
        ("no_such:method", "train.method is no_such:method: module no_such cannot be imported .*, on the driver"),
        ("odd_structures:Base", "expected a mamdr_core.learning.method.Method, found the class odd_structures.Base"),
    ):
        with pytest.raises(MamdrError, match=message):
            check_own_names(parse_config({"train": {"method": name}}))
    config = parse_config({"train": {"method": FIRST, "options": {"random_rounds": 0}}, "model": {"name": RESIDUAL}})
    check_own_names(config)
    method = find_method(FIRST)
    assert isinstance(method, Method)
    assert method.settle(config.train.learning).options.random_rounds == 0


def test_options_are_those_that_the_code_declares(package):
    assert built(RESIDUAL).scale == 1
    assert built(RESIDUAL, options={"scale": 3}).scale == 3
    for options, message in (
        ({"scael": 1}, "model.options.scael: there is no such option; ResidualOptions has scale"),
        ({"scale": "wide"}, "model.options.scale: Input should be a valid number.*, got 'wide'"),
        ({"scale": -1}, "model.options: scale must be >= 0, got -1"),
    ):
        with pytest.raises(MamdrError, match=message):
            built(RESIDUAL, options=options)
    with pytest.raises(MamdrError, match=r"model.options has scale, but no options are declared"):
        built("mlp", options={"scale": 1})
    with pytest.raises(MamdrError, match=r"train.options.k: there is no such option; LargestFirstOptions has random_r"):
        find_method(FIRST).settle(LearningSettings(options={"k": 1}))


def test_options_are_recorded_whatever_their_names_are(tmp_path):
    """A reader's option `key` would be hidden as a secret."""
    config = parse_config({"model": {"options": {"key_width": 8}}, "train": {"options": {"sign": True}}})
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(str(tmp_path / "config.yaml")) == config
    with pytest.raises(MamdrError, match=r"model.options.url: .* contains credentials"):
        parse_config({"model": {"options": {"url": "https://user:secret@host/"}}})


def test_a_source_is_known_by_its_hash_also_inside_a_zip_file(tmp_path, monkeypatch, package):
    source = (PACKAGE / "click_models/residual.py").read_bytes()
    config = parse_config({"model": {"name": RESIDUAL}})
    assert sources_of(config) == {RESIDUAL: hashlib.sha256(source).hexdigest()}
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as archive:
        archive.writestr("zipped_models.py", source)
    monkeypatch.syspath_prepend(str(tmp_path / "code.zip"))
    assert Plugin("model.name", "zipped_models:Residual").source_hash() == hashlib.sha256(source).hexdigest()
    # A name that is imported from elsewhere is known by the file that has its source.
    (tmp_path / "short_name.py").write_text("from click_models.residual import Residual\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert Plugin("model.name", "short_name:Residual").source_hash() == hashlib.sha256(source).hexdigest()
    (tmp_path / "short_method.py").write_text("from click_models.largest_first import method\n")
    method = (PACKAGE / "click_models/largest_first.py").read_bytes()
    short = Plugin("train.method", "short_method:method")
    assert short.source_hash() == hashlib.sha256(method).hexdigest()
    assert modules_of([short]) == ["short_method", "click_models.largest_first"]


def test_a_package_names_the_module_that_it_needs(package, caplog):
    with pytest.raises(MamdrError, match=r"package /p needs a plugin: model.name is gone.model:M: module gone.mod"):
        check_served(parse_config({"model": {"name": "gone.model:M"}}), {}, "/p")
    config = parse_config({"model": {"name": RESIDUAL}, "train": {"method": "gone.method:m"}})  # is not needed any more
    trained = Plugin("model.name", RESIDUAL).source_hash()
    check_served(config, {"plugins": {RESIDUAL: trained, "gone.method:m": "1"}}, "/p")
    assert not caplog.records
    check_served(config, {"plugins": {RESIDUAL: "0" * 64}}, "/p")
    assert "package /p was trained with other source code of click_models.residual:Residual" in caplog.text


def test_a_missing_module_is_distinguished_from_one_that_breaks(tmp_path, monkeypatch):
    (tmp_path / "breaking.py").write_text("import no_such_dependency\n")
    (tmp_path / "raising.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PluginImportError, match=r"module breaking cannot be imported .*no_such_dependency"):
        Plugin("model.name", "breaking:M").load()
    with pytest.raises(ZeroDivisionError):
        Plugin("model.name", "raising:M").load()


def test_a_structure_that_vmap_cannot_compute_runs_one_call_at_a_time(odd, package):
    module = built("odd_structures:Guarded")
    assert "its forward fails inside torch.func.vmap" in vmap_error(module)
    assert not vmap_error(built(RESIDUAL))
    assert not vmap_error(built("mlp"))
    settings = ModelSettings(name="odd_structures:Guarded", embedding_dim=4)
    engine = EagerEngine(module, declare_inputs(settings, (), SIZES).tables, {}, 8)
    columns, shared = rows(), start(engine)
    edges = columns.offsets.numpy()
    specific = {domain: Change(torch.full_like(shared.dense, domain + 1.0), {}) for domain in (0, 2)}
    logits = predict_runs(engine, shared, specific, columns, [0, 1, 2], edges).split([3, 4, 5])
    visits = [Visit(columns, torch.arange(edges[domain], edges[domain + 1])) for domain in range(3)]
    gradients = dense_gradients(engine, shared, columns, torch.arange(len(columns)), edges)
    for domain, visit in enumerate(visits):
        torch.testing.assert_close(gradients[domain], engine.gradient(Theta(shared), visit).dense)
        torch.testing.assert_close(logits[domain], engine.predict(Theta(shared, specific.get(domain)), visit))


def rows():
    random = torch.Generator().manual_seed(1)
    counts = [3, 4, 5]
    ids = {name: torch.randint(0, size + 1, (12,), generator=random) for name, size in SIZES.items()}
    ids["domain"] = torch.repeat_interleave(torch.arange(1, 4), torch.tensor(counts))
    labels = torch.randint(0, 2, (12,), generator=random).float()
    return Columns(ids, torch.zeros(12, 0), labels, torch.tensor([0, 3, 7, 12]))


def start(engine):
    return initial_shared(engine.flat.module, engine.tables, 0)


def test_the_example_learns_alike_with_both_engines(package):
    settings = ModelSettings(name=RESIDUAL, embedding_dim=4, hidden=(8,), dropout=0.2)
    inputs = declare_inputs(settings, (), SIZES)
    changes = []
    for kind, more in ((EagerEngine, {}), (FastEngine, {"compiles": False})):
        engine = kind(build_model(settings, inputs), inputs.tables, {}, 4, **more)
        shared, columns = start(engine), rows()
        visits = [[Visit(columns, torch.arange(0, 7))], [Visit(columns, torch.arange(7, 12))]]
        thetas = [Theta(shared)] * 2
        changes.append(engine.descend_many(thetas, visits, 0.1, "adam", [EVERYTHING] * 2, [1, 2]))
    for eager, fast in zip(*changes, strict=True):
        torch.testing.assert_close(eager.dense, fast.dense)


def test_a_compiler_that_gives_up_on_own_code_is_replaced_by_single_operations(package, monkeypatch, caplog):
    """The structures of this package are not: their failure is a bug."""

    def compile_nothing(function, **_):
        def fail(*arguments):
            raise TorchDynamoException("cannot trace this")

        return fail

    monkeypatch.setattr(torch, "compile", compile_nothing)
    changes = []
    for name, compiles in ((RESIDUAL, False), (RESIDUAL, True), ("mlp", True)):
        settings = ModelSettings(name=name, embedding_dim=4, hidden=(8,))
        inputs = declare_inputs(settings, (), SIZES)
        engine = FastEngine(build_model(settings, inputs), inputs.tables, {}, 4, compiles=compiles)
        columns = rows()
        if name == "mlp":
            with pytest.raises(TorchDynamoException):
                engine.descend(Theta(start(engine)), [Visit(columns, torch.arange(4))], 0.1, "sgd")
        else:
            changes.append(engine.descend(Theta(start(engine)), [Visit(columns, torch.arange(4))], 0.1, "sgd").dense)
    assert torch.equal(*changes)
    assert "torch cannot compile Residual, whose steps run one operation after another instead" in caplog.text
