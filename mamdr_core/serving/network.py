"""A run as one exportable module, with theta_i of every domain.

Shape suffixes: B rows of a request, L ids of a bag or sequence, D width of a field, P dense parameters, n theta_i,
K calibrated domains, J knots of the calibration curve.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mamdr_core.engine.parameters import Change, Shared
from mamdr_core.engine.platt import Calibration
from mamdr_core.mixed.mixed_model import MixedModel
from mamdr_core.models.structures import build_model, declare_inputs
from mamdr_core.models.tables import Table, owners
from mamdr_core.serving.mixed_network import MixedNetwork
from mamdr_core.serving.served import Served
from schemas import weights_of


class ServedNetwork(nn.Module):
    """Probabilities of a click for rows of one domain, by theta_S + theta_i of that domain (Eq. 5).

    The dense parts of all theta_i are rows of one matrix, whose first row is zeros, for domains without theta_i. The
    rows that theta_i has in tables looked up by domain are added to those of theta_S in the constructor, since no other
    domain reads them.

    Args:
        served: the run.
        shared: theta_S, with whole tables.
        specific: theta_i by domain index.
        vectors: fixed vectors by feature.
        mixed: the mixed model, whose logits are added; None: there is none.
        calibration: the calibration of logits; None: there is none.

    Raises:
        ValueError: a theta_i holds rows of other tables.
    """

    dense_P: Tensor
    stack_nP: Tensor
    place_of_domain: Tensor
    slope_K: Tensor
    shift_K: Tensor
    curve_knots_J: Tensor
    piece_knots: Tensor
    piece_values: Tensor
    piece_slopes: Tensor

    def __init__(
        self,
        served: Served,
        shared: Shared,
        specific: Mapping[int, Change],
        vectors: Mapping[str, Tensor],
        mixed: MixedModel | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        super().__init__()
        inputs = declare_inputs(served.config.model, served.features, served.sizes)
        # In a tuple, so that it is no submodule: its parameters are replaced by `theta_P` and must not be in the file.
        self._structure = (build_model(served.config.model, inputs, served.config.train.seed).eval(),)
        self._tables, self._numeric = inputs.tables, dict(served.numeric)
        self._sizes = served.sizes
        self._weighted = {feature.name for feature in served.features if feature.weights}
        self.register_buffer("dense_P", shared.dense)
        self.register_buffer("stack_nP", torch.zeros(len(specific) + 1, len(shared.dense)))
        self.register_buffer("place_of_domain", torch.zeros(served.sizes["domain"] + 1, dtype=torch.int64))
        with_rows = owners(inputs.tables)
        values = {table.name: _values_of(table, shared, vectors) for table in with_rows}
        values |= {table.name: values[table.name].clone() for table in with_rows if table.column == "domain"}
        for place, (domain, change) in enumerate(specific.items(), 1):
            self.stack_nP[place] = change.dense
            self.place_of_domain[domain + 1] = place
            for name, rows in change.rows.items():
                if rows.ids.tolist() != [domain + 1] or name not in domain_tables(inputs.tables):
                    raise ValueError(f"theta_i of domain {domain} holds rows of {name}")
                values[name][domain + 1] += rows.values[0]
        self._mixed = MixedNetwork(mixed, served.sizes["domain"]) if mixed else None
        self._is_calibrated = calibration is not None
        if calibration:
            self.register_buffer("slope_K", calibration.slope_K.float())
            self.register_buffer("shift_K", calibration.shift_K.float())
        self._is_curved = calibration is not None and calibration.curve is not None
        if calibration and calibration.curve:
            self.register_buffer("curve_knots_J", calibration.curve.knots_J.float())
            for name, piece in zip(("knots", "values", "slopes"), calibration.curve.pieces(), strict=True):
                self.register_buffer(f"piece_{name}", piece.float())
        self._number_of = {table.name: number for number, table in enumerate(with_rows)}
        for name, number in self._number_of.items():
            self.register_buffer(f"table_{number}", values[name])

    def forward(self, features: dict[str, Tensor], domain: Tensor) -> Tensor:
        """Probabilities, float32 [B].

        Args:
            features: for each id column, indices in its vocabulary, int64 [B], where unknown ids are -1 or not below
                the vocabulary's size; for each bag or sequence, indices [B, L], -1 as padding; for each bag with
                weights, `<name>_weights`, float32 [B, L]; for each numeric feature, values as in the log, float32 [B],
                NaN where missing.
            domain: index of the rows' domain, int64 [1], or -1.
        """
        ids = {name: self._row_of(name, features[name]) for name in self._sizes if name != "domain"}
        ids["domain"] = self._row_of("domain", domain)
        rows = features["user"].shape[0]
        fields: dict[str, Tensor] = {}
        for table in self._tables:
            read_BD = getattr(self, f"table_{self._number_of[table.source]}")[ids[table.column]]
            one_row = table.column == "domain" and not table.per_domain
            fields[table.name] = read_BD.expand(rows, table.width) if one_row else read_BD
            if table.length:
                known_BL = (ids[table.column] > 0).to(read_BD.dtype)
                weighted = table.column in self._weighted
                fields[table.weight] = known_BL * features[weights_of(table.column)] if weighted else known_BL
        if self._numeric:
            values = [_standardise(features[name], *moments) for name, moments in self._numeric.items()]
            fields["numeric"] = torch.stack(values, 1)
        theta_P = self.dense_P + self.stack_nP[self.place_of_domain[ids["domain"]]].squeeze(0)
        (structure,) = self._structure
        named: dict[str, Tensor] = {}
        start = 0
        for name, parameter in structure.named_parameters():
            named[name] = theta_P[start : start + parameter.numel()].view(parameter.shape)
            start += parameter.numel()
        logits_B: Tensor = functional_call(structure, named, (fields,))
        if self._mixed:
            numeric_BK = fields.get("numeric", logits_B.new_zeros(rows, 0))
            logits_B = logits_B + self._mixed(ids, fields, numeric_BK, ids["domain"])
        if self._is_curved:
            # Pieces are found by comparison, because exporters do not support torch.searchsorted.
            piece_B = (logits_B[:, None] >= self.curve_knots_J).long().sum(1)
            beyond_B = logits_B - self.piece_knots[piece_B]
            logits_B = self.piece_values[piece_B] + self.piece_slopes[piece_B] * beyond_B
        if self._is_calibrated:
            logits_B = logits_B * self.slope_K[ids["domain"]] + self.shift_K[ids["domain"]]
        return logits_B.sigmoid()

    def _row_of(self, column: str, index_B: Tensor) -> Tensor:
        """Rows of a table; row 0 is for unknown ids."""
        known_B = (index_B >= 0) & (index_B < self._sizes[column])
        return torch.where(known_B, index_B + 1, torch.zeros_like(index_B))


def domain_tables(tables: Iterable[Table]) -> set[str]:
    """Names of the trained tables that are looked up by domain, so that each row is read by one domain."""
    return {table.name for table in tables if table.column == "domain" and table.trainable and not table.measured}


def _values_of(table: Table, shared: Shared, vectors: Mapping[str, Tensor]) -> Tensor:
    found = shared.tables[table.name] if table.trainable else vectors[table.name]
    assert isinstance(found, Tensor)
    return found


def _standardise(values_B: Tensor, mean: float, deviation: float) -> Tensor:
    """As `mamdr_core.shards.filling.standardise`, in torch."""
    scaled_B = (values_B.double() - mean) / deviation
    finite_B = scaled_B.abs() < torch.inf  # false for NaN too
    return torch.where(finite_B, scaled_B, torch.zeros_like(scaled_B)).float()
