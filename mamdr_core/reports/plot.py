"""Charts as inline SVG; colours are CSS variables of the page, so that charts follow its colour scheme.

Not drawn by matplotlib, which draws the files that experiments write for papers (`experiments.plots`): its SVG has
fixed colours and font sizes, neither tooltips nor a text alternative, and no dots that the script of the page can name.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import ArrayLike, NDArray

WIDTH, HEIGHT = 460, 290
LEFT, RIGHT, TOP, BOTTOM = 82, 14, 14, 46
"""Margins for ticks and labels."""
NAMED = 300
"""Maximum number of dots that are drawn individually with a name."""


@dataclass(frozen=True)
class Scale:
    """Mapping from values to positions along an axis.

    Attributes:
        low, high: ends of the axis.
        log: whether it is logarithmic.
        form: format of its ticks, as in `format`.
        named: ticks with labels, instead of round values.
    """

    low: float
    high: float
    log: bool = False
    form: str = ",g"
    named: tuple[tuple[float, str], ...] = ()

    def share(self, values: ArrayLike) -> NDArray[np.float64]:
        """Positions of values between the ends, 0 to 1; values beyond an end are clipped to it."""
        found = np.clip(np.asarray(values, dtype=np.float64), self.low, self.high)
        if self.log:
            return np.asarray(np.log(found / self.low) / math.log(self.high / self.low))
        return np.asarray((found - self.low) / (self.high - self.low))

    def ticks(self) -> list[tuple[float, str]]:
        """Tick values and their labels."""
        return list(self.named) or [(value, self._tick_label(value)) for value in self._round_values()]

    def _round_values(self) -> list[float]:
        """About five round values; on long logarithmic scales powers of ten, or 1, 2 and 5 times powers of ten."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for factors, step in (((1, 2, 5), 1), ((1,), 1), ((1,), 2)):
                found = [10.0**power * factor for power in powers[::step] for factor in factors]
                found = [value for value in found if self.low <= value <= self.high]
                if 3 <= len(found) <= 6:
                    return found
        rough = (self.high - self.low) / 5
        size = 10 ** math.floor(math.log10(rough))
        step_size = next(size * each for each in (1, 2, 2.5, 5, 10) if size * each >= rough * 0.999)
        first, last = math.ceil(self.low / step_size - 1e-9), math.floor(self.high / step_size + 1e-9)
        return [number * step_size for number in range(first, last + 1)]

    def _tick_label(self, value: float) -> str:
        """Label of a tick; large numbers are abbreviated."""
        if self.form == ",g" and abs(value) >= 1000:
            for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
                if abs(value) >= size:
                    return f"{value / size:g}{unit}"
        return format(value + 0.0, self.form).replace("-", "−")


def spanning(values: ArrayLike, log: bool = False, form: str = ",g", include: Sequence[float] = ()) -> Scale:
    """A scale that covers all finite values and those in `include`, with a margin."""
    found = np.concatenate([np.ravel(np.asarray(values, dtype=np.float64)), np.asarray(include, dtype=np.float64)])
    found = found[np.isfinite(found) & (~np.asarray(log) | (found > 0))]
    if not len(found):
        return Scale(1, 10, log, form) if log else Scale(0, 1, log, form)
    low, high = float(found.min()), float(found.max())
    if log:
        return Scale(low / 1.15, high * 1.15, log, form) if high > low else Scale(low / 2, high * 2, log, form)
    room = (high - low) * 0.05 or abs(high) * 0.1 or 0.5
    return Scale(low - room, high + room, log, form)


class Plot:
    """One chart with two axes; `label` is its text alternative for screen readers."""

    def __init__(self, x: Scale, y: Scale, x_label: str, y_label: str, label: str) -> None:
        self._x, self._y, self._label = x, y, label
        self._parts = [*self._grid(), *self._labels(x_label, y_label)]
        self._dots = ""

    def points(
        self, xs: ArrayLike, ys: ArrayLike, names: Sequence[str], columns: tuple[str, str] | None = None
    ) -> "Plot":
        """Add a dot for each pair of finite values: up to `NAMED` dots with tooltips, more of them as one path.

        Args:
            xs, ys: [m].
            columns: columns of the table of domains with the same values, by which the script of the page names dots
                of a path.
        """
        places, kept = self._places(xs, ys), self._shown(xs, ys)
        if len(places) > NAMED:
            places = np.unique(places.round().astype(int), axis=0)  # one dot per pixel
            steps = "".join(f"M{x} {y}h0" for x, y in places.tolist())
            if columns:
                ends = ((LEFT, WIDTH - RIGHT), (HEIGHT - BOTTOM, TOP))
                axes = [
                    {"column": column, "low": scale.low, "high": scale.high, "log": scale.log, "from": start, "to": end}
                    for column, scale, (start, end) in zip(columns, (self._x, self._y), ends, strict=True)
                ]
                self._dots = json.dumps(axes)
            return self._add(f'<path class="dots" d="{steps}"/>')
        for (x, y), place in zip(places.tolist(), np.flatnonzero(kept).tolist(), strict=True):
            text = f"<title>{escape(names[place])}</title>"
            self._add(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4">{text}</circle>')
        return self

    def line(self, xs: ArrayLike, ys: ArrayLike, css: str = "line-a", marks: Sequence[str] = ()) -> "Plot":
        """Add a line through the pairs of finite values; `marks` are tooltips of markers on it.

        With marks all values must be finite.
        """
        places = self._places(xs, ys)
        steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in places.tolist())
        if len(places) > 1:
            self._add(f'<path class="{css}" d="M{steps}"/>')
        for (x, y), text in zip(places.tolist(), marks, strict=False):
            self._add(f'<circle class="{css}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"><title>{escape(text)}</title></circle>')
        return self

    def ring(self, x: float, y: float, text: str) -> "Plot":
        """Add a ring with a tooltip."""
        ((left, top),) = self._places([x], [y]).tolist()
        return self._add(
            f'<circle class="ring" cx="{left:.1f}" cy="{top:.1f}" r="6"><title>{escape(text)}</title></circle>'
        )

    def rule(self, y: float) -> "Plot":
        """Add a horizontal line over the full width."""
        return self.line([self._x.low, self._x.high], [y, y], "rule")

    def svg(self) -> Markup:
        """The chart as SVG."""
        return drawing(WIDTH, HEIGHT, self._label, self._parts, self._dots)

    def _add(self, part: str) -> "Plot":
        self._parts.append(part)
        return self

    def _places(self, xs: ArrayLike, ys: ArrayLike) -> NDArray[np.float64]:
        """Pixels [m, 2] of the pairs that can be shown."""
        shown = self._shown(xs, ys)
        x, y = (scale.share(np.asarray(values)[shown]) for scale, values in ((self._x, xs), (self._y, ys)))
        return np.stack([LEFT + x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM)], -1)

    def _shown(self, xs: ArrayLike, ys: ArrayLike) -> NDArray[np.bool_]:
        """Mask of the pairs that are finite and, on logarithmic axes, positive, [m]."""
        x, y = np.asarray(xs, dtype=np.float64), np.asarray(ys, dtype=np.float64)
        shown = np.isfinite(x) & np.isfinite(y)
        for scale, values in ((self._x, x), (self._y, y)):
            shown &= (values > 0) | (not scale.log)
        return np.asarray(shown)

    def _grid(self) -> list[str]:
        parts = []
        for value, text in self._y.ticks():
            y = self._places([self._x.low], [value])[0, 1]
            parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
            parts.append(f'<text class="tick end" x="{LEFT - 7}" y="{y + 4:.1f}">{escape(text)}</text>')
        for value, text in self._x.ticks():
            x = self._places([value], [self._y.low])[0, 0]
            parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
            parts.append(f'<text class="tick mid" x="{x:.1f}" y="{HEIGHT - BOTTOM + 17}">{escape(text)}</text>')
        return parts

    def _labels(self, x_label: str, y_label: str) -> list[str]:
        middle = (TOP + HEIGHT - BOTTOM) / 2
        return [
            f'<text class="label mid" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}">{escape(x_label)}</text>',
            f'<text class="label mid" transform="translate(13 {middle}) rotate(-90)">{escape(y_label)}</text>',
        ]


def bars(names: Sequence[str], values: Sequence[float], texts: Sequence[str], css: Sequence[str], label: str) -> Markup:
    """Horizontal bars from 0, with names before and texts after them; `css` holds the class of each bar."""
    left, step = min(200.0, 20 + 8.5 * max(map(len, names), default=0)), 26  # at the font size of phones
    parts = []
    scale = (WIDTH - left - 86) / (max(values, default=0) or 1)
    for number, (name, value, text, each) in enumerate(zip(names, values, texts, css, strict=True)):
        y, width = number * step + 4, max(value * scale, 1)
        parts.append(f'<text class="tick end" x="{left - 8}" y="{y + 14}">{escape(name)}</text>')
        parts.append(f'<rect class="{each}" x="{left}" y="{y}" width="{width:.1f}" height="18" rx="2"/>')
        parts.append(f'<text class="tick" x="{left + width + 6:.1f}" y="{y + 14}">{escape(text)}</text>')
    return drawing(WIDTH, len(names) * step + 8, label, parts)


def heat_map(matrix: NDArray[np.float64], names: Sequence[str], label: str) -> Markup:
    """Values from -1 to 1 as squares [m, m], more opaque further from 0; names if there is room for them."""
    few = len(names) <= 16
    left, top = (116, 6) if few else (6, 6)
    size = (WIDTH - left - 6) / max(len(names), 1)
    parts = []
    for row, name in enumerate(names):
        y = top + row * size
        if few:
            short = name if len(name) <= 13 else name[:12] + "…"
            parts.append(f'<text class="tick end" x="{left - 6}" y="{y + size / 2 + 4:.1f}">{escape(short)}</text>')
        for column, value in enumerate(matrix[row].tolist()):
            if row == column or value != value:
                continue
            kind, opacity = ("agree" if value > 0 else "against"), min(abs(value), 1.0)
            place = f'x="{left + column * size:.1f}" y="{y:.1f}" width="{size - 0.5:.1f}" height="{size - 0.5:.1f}"'
            text = f"<title>{escape(name)} and {escape(names[column])}: {value:+.3f}</title>" if few else ""
            parts.append(f'<rect class="{kind}" {place} fill-opacity="{opacity:.2f}">{text}</rect>')
    return drawing(WIDTH, math.ceil(top + len(names) * size + 6), label, parts)


def drawing(width: int, height: int, label: str, parts: Sequence[str], dots: str = "") -> Markup:
    """An SVG image with a text alternative; `parts` is markup with escaped texts.

    `dots` describes the positions of dots, from which the script of the page finds their names.
    """
    body = "".join(parts)
    data = f'data-dots="{escape(dots)}" ' if dots else ""
    return Markup(
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}" {data}'
        f'xmlns="http://www.w3.org/2000/svg">{body}</svg>'
    )
