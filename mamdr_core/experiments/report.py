"""Comparisons and sweeps as text: the paper's tables in Markdown and in LaTeX (booktabs).

A full product of models and methods is laid out as in Table 3 of the paper, a list of pairs as in Tables 2 and 4, the
largest domains as in Table 5, and a grid of two config keys as in Table 11.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mamdr_core.experiments.comparison import Comparison
from mamdr_core.experiments.points import plain

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Sheet:
    """A printable table: text in the first column, figures in the others; `best` holds the bold (row, column) cells."""

    title: str
    head: list[str]
    body: list[list[str]]
    best: frozenset[tuple[int, int]] = frozenset()


def sheets_of(
    comparison: Comparison, domain_ids: Sequence[str], train_rows_n: NDArray[np.int64], largest: int
) -> list[Sheet]:
    """The tables of a comparison.

    Args:
        domain_ids: raw id by domain index.
        train_rows_n: training rows by domain index.
        largest: number of largest domains that are listed individually.
    """
    models = list(dict.fromkeys(row["model"] for row in comparison.rows))
    methods = list(dict.fromkeys(row["method"] for row in comparison.rows))
    sheets = []
    if len(models) > 1 and len(methods) > 1 and len(comparison.rows) == len(models) * len(methods):
        sheets.append(_grid(comparison.rows, models, methods))
    sheets.append(_figures(comparison.rows))
    if largest and len(comparison.domains):
        sheets.append(_domains(comparison, domain_ids, train_rows_n, largest))
    return sheets


def _grid(rows: Sequence[Figures], models: Sequence[str], methods: Sequence[str]) -> Sheet:
    auc = {(row["model"], row["method"]): row.get("test_auc") for row in rows}
    body = [[model, *(shown(auc[model, method]) for method in methods)] for model in models]
    best = {
        (place, column)
        for place, model in enumerate(models)
        for column in _highest([auc[model, method] for method in methods], first=1)
    }
    return Sheet("Test AUC, mean over domains and seeds", ["Model", *methods], body, frozenset(best))


def _figures(rows: Sequence[Figures]) -> Sheet:
    head = ["Method", "AUC", "weighted AUC", "val AUC", "RANK", "W/T/L", "difference", "p", "smallest third"]
    with_oracle = any(row.get("oracle_test_auc") is not None for row in rows)
    cutoff = max({k for row in rows for k in row.get("test_ndcg") or {}}, key=int, default="")
    head += [*(["oracle"] if with_oracle else []), "GAUC", *([f"NDCG@{cutoff}"] if cutoff else []), "PCOC", "ECE"]
    head += ["seeds", "s/run"]
    body = []
    for row in rows:
        decided = "-" if row.get("wins") is None else f"{row['wins']}/{row['ties']}/{row['losses']}"
        difference, p_value, seconds = row.get("difference"), row.get("p_value"), row.get("seconds")
        body.append(
            [
                name_of(row),
                with_spread(row.get("test_auc"), row.get("test_auc_std")),
                with_spread(row.get("weighted_test_auc"), row.get("weighted_test_auc_std")),
                shown(row.get("val_auc")),
                "-" if row.get("rank") is None else f"{row['rank']:.2f}",
                decided,
                "-" if difference is None else f"{difference:+.4f}",
                "-" if p_value is None else f"{p_value:.2g}",
                shown(row.get("smallest_third_test_auc")),
                *([shown(row.get("oracle_test_auc"))] if with_oracle else []),
                with_spread(row.get("test_gauc"), row.get("test_gauc_std")),
                *([shown((row.get("test_ndcg") or {}).get(cutoff))] if cutoff else []),
                shown(row.get("test_pcoc")),
                shown(row.get("test_calibration_error")),
                f"{row['seeds']}" + (f" ({row['failed']} failed)" if row["failed"] else ""),
                "-" if seconds is None else f"{seconds:.0f}",
            ]
        )
    best = {(place, 1) for place in _highest([row.get("test_auc") for row in rows], first=0)}
    left_out, domains = rows[0]["domains_left_out"], rows[0]["domains"]
    title = f"{domains} domains" + (f", {left_out} left out without an AUC in every run" if left_out else "")
    baselines = ", ".join(dict.fromkeys(row["baseline"] for row in rows))
    return Sheet(f"{title}; against {baselines}", head, body, frozenset(best))


def _domains(comparison: Comparison, domain_ids: Sequence[str], train_rows_n: NDArray[np.int64], largest: int) -> Sheet:
    order = np.argsort(-train_rows_n[comparison.domains], kind="stable")[:largest]
    auc_Mm = comparison.auc_Mm[:, order]
    body = [
        [name_of(row), *(shown(None if np.isnan(auc) else float(auc)) for auc in auc_Mm[place])]
        for place, row in enumerate(comparison.rows)
    ]
    best = set()
    for column in range(len(order)):
        found = [None if np.isnan(auc) else float(auc) for auc in auc_Mm[:, column]]
        best |= {(place, column + 1) for place in _highest(found, first=0)}
    names = [domain_ids[domain] for domain in comparison.domains[order]]
    return Sheet(f"Test AUC in the {len(order)} largest domains", ["Method", *names], body, frozenset(best))


def sweep_sheets(rows: Sequence[Figures], grid: Mapping[str, Sequence[Any]]) -> list[Sheet]:
    """Tables of the points of a sweep; the chosen points are bold.

    Args:
        rows: rows of the table sweeps.
        grid: config keys and their values; empty for a search.
    """
    sheets = []
    for name in dict.fromkeys(name_of(row) for row in rows):
        own = [row for row in rows if name_of(row) == name]
        if len(grid) == 2:
            sheets.append(_square(name, own, grid))
        sheets.append(_points(name, own))
    return sheets


def _points(name: str, rows: Sequence[Figures]) -> Sheet:
    keys = list(dict.fromkeys(key for row in rows for key in row["settings"]))
    body = [
        [
            str(row["point"]),
            *(row["settings"].get(key, "-") for key in keys),
            with_spread(row.get("val_auc"), row.get("val_auc_std")),
            with_spread(row.get("test_auc"), row.get("test_auc_std")),
            str(row["seeds"]),
            row["status"],
        ]
        for row in rows
    ]
    column = len(keys) + 1
    best = frozenset((place, column) for place, row in enumerate(rows) if row["chosen"])
    return Sheet(f"{name}, chosen by validation AUC", ["Point", *keys, "val AUC", "test AUC", "seeds", ""], body, best)


def _square(name: str, rows: Sequence[Figures], grid: Mapping[str, Sequence[Any]]) -> Sheet:
    across, down = grid
    columns, lines = ([plain(value) for value in grid[key]] for key in (across, down))
    found = {(row["settings"][down], row["settings"][across]): row for row in rows}
    body = [[line, *(shown(found[line, column].get("test_auc")) for column in columns)] for line in lines]
    best = frozenset(
        (place, number)
        for place, line in enumerate(lines)
        for number, column in enumerate(columns, 1)
        if found[line, column]["chosen"]
    )
    return Sheet(f"{name}: test AUC by {across} (across) and {down} (down)", [down, *columns], body, best)


def name_of(row: Figures) -> str:
    """Name of a row: model and method."""
    return f"{row['model']} + {row['method']}"


def shown(auc: float | None) -> str:
    """An AUC with four digits, or - if it is undefined."""
    return "-" if auc is None else f"{auc:.4f}"


def with_spread(auc: float | None, deviation: float | None) -> str:
    """An AUC with its standard deviation, where they are defined."""
    return shown(auc) + ("" if auc is None or deviation is None else f" ± {deviation:.4f}")


def _highest(figures: Sequence[float | None], first: int) -> list[int]:
    """Positions, counted from `first`, of the figures that equal the highest in the four digits shown."""
    known = [shown(figure) for figure in figures if figure is not None]
    return [place for place, figure in enumerate(figures, first) if figure is not None and shown(figure) == max(known)]


def markdown(title: str, sheets: Sequence[Sheet]) -> str:
    """The tables in Markdown; the best figures are bold."""
    text = f"# {title}\n"
    for sheet in sheets:
        head = [_escape_markdown(cell) for cell in sheet.head]
        lines = [head, ["---", *["---:"] * (len(sheet.head) - 1)], *_bold(sheet, "**{}**", _escape_markdown)]
        text += f"\n{sheet.title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return text


def latex(title: str, sheets: Sequence[Sheet]) -> str:
    """The tables in LaTeX with the package booktabs; the best figures are bold."""
    text = ""
    for sheet in sheets:
        head = " & ".join(escape_latex(cell) for cell in sheet.head)
        body = "".join(f"{' & '.join(line)} \\\\\n" for line in _bold(sheet, r"\textbf{{{}}}", escape_latex))
        text += (
            f"\\begin{{table}}\n\\centering\n\\caption{{{escape_latex(f'{title}: {sheet.title}')}}}\n"
            f"\\begin{{tabular}}{{l{'r' * (len(sheet.head) - 1)}}}\n\\toprule\n{head} \\\\\n\\midrule\n{body}"
            "\\bottomrule\n\\end{tabular}\n\\end{table}\n"
        )
    return text


def _bold(sheet: Sheet, form: str, escape: Any) -> list[list[str]]:
    return [
        [
            form.format(escape(cell)) if (place, column) in sheet.best else escape(cell)
            for column, cell in enumerate(line)
        ]
        for place, line in enumerate(sheet.body)
    ]


def _escape_markdown(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*").replace("\n", " ")


_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
}


def escape_latex(text: str) -> str:
    """Escape text for LaTeX."""
    return "".join(_LATEX.get(character, character) for character in text)
