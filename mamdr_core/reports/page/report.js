"use strict";
// The table of all domains, sorted and searched in arrays: of its rows only those in view are in the document. In charts
// of many dots the pointer names the nearest one.
(() => {
  const { ids, columns } = JSON.parse(document.getElementById("domains").textContent);
  const box = document.getElementById("box");
  const table = box.querySelector("table");
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const found = document.getElementById("found");
  const search = document.getElementById("search");
  const lower = ids.map((id) => id.toLowerCase());
  const collator = new Intl.Collator("en", { numeric: true });
  const ROW = parseFloat(getComputedStyle(document.documentElement).getPropertyValue("--row"));
  const BEYOND = 8; // rows kept above and below those in view
  const plain = new Intl.NumberFormat("en");
  const forms = columns.map(({ kind, digits }) => new Intl.NumberFormat("en", {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
    signDisplay: kind === "signed" ? "always" : "auto",
  }));
  const ID = -1;
  let column = columns.length ? 0 : ID;
  let descending = columns.length > 0;
  let order = [];
  let shown = [];
  let drawnFrom = -1;

  function format(number, place) {
    const value = columns[number].values[place];
    if (value === null) return "–";
    const { kind, digits } = columns[number];
    const text = forms[number].format(value / 10 ** digits).replace("-", "−");
    return kind === "percent" ? `${text}%` : text;
  }

  function sort() {
    order = Array.from(ids.keys());
    const sign = descending ? -1 : 1;
    if (column === ID) {
      order.sort((one, other) => sign * collator.compare(ids[one], ids[other]));
    } else {
      const { values } = columns[column];
      // Unknown values come last in both directions.
      order.sort((one, other) => {
        if (values[one] === null || values[other] === null) return (values[one] === null) - (values[other] === null);
        return sign * (values[one] - values[other]) || one - other;
      });
    }
    heads.forEach((head, number) => {
      const side = descending ? "descending" : "ascending";
      head.setAttribute("aria-sort", number - 1 === column ? side : "none");
    });
    filter();
  }

  function filter() {
    const wanted = search.value.trim().toLowerCase();
    shown = wanted ? order.filter((place) => lower[place].includes(wanted)) : order;
    found.textContent = wanted
      ? `${plain.format(shown.length)} of ${plain.format(ids.length)} domains`
      : `${plain.format(ids.length)} domains`;
    table.setAttribute("aria-rowcount", shown.length + 1);
    box.scrollTop = 0;
    drawnFrom = -1;
    draw();
  }

  function draw() {
    const from = Math.max(0, Math.floor(box.scrollTop / ROW) - BEYOND);
    if (from === drawnFrom) return;
    drawnFrom = from;
    const upTo = Math.min(shown.length, from + Math.ceil(box.clientHeight / ROW) + 2 * BEYOND + 1);
    const rows = document.createDocumentFragment();
    rows.append(space(from));
    for (let number = from; number < upTo; number += 1) rows.append(line(number));
    rows.append(space(shown.length - upTo));
    body.replaceChildren(rows);
  }

  function line(number) {
    const place = shown[number];
    const row = document.createElement("tr");
    row.setAttribute("aria-rowindex", number + 2);
    const name = document.createElement("th");
    name.scope = "row";
    name.className = "id";
    name.textContent = ids[place];
    name.title = ids[place];
    row.append(name);
    columns.forEach(({ kind, values }, each) => {
      const cell = row.insertCell();
      cell.textContent = format(each, place);
      if (kind === "signed" && values[place]) cell.className = values[place] > 0 ? "good" : "bad";
    });
    return row;
  }

  function space(rows) {
    const row = document.createElement("tr");
    row.className = "space";
    row.setAttribute("aria-hidden", "true");
    const cell = row.insertCell();
    cell.colSpan = columns.length + 1;
    cell.style.height = `${rows * ROW}px`;
    return row;
  }

  // Places of all domains along an axis, in the drawing's units; NaN where one has none.
  function placesOn({ column: label, low, high, log, from, to }) {
    const { values, digits } = columns.find((each) => each.label === label);
    const scale = log ? Math.log : (value) => value;
    return values.map((whole) => {
      if (whole === null || (log && whole <= 0)) return NaN;
      const value = Math.min(Math.max(whole / 10 ** digits, low), high);
      return from + ((scale(value) - scale(low)) / (scale(high) - scale(low))) * (to - from);
    });
  }

  function nameDots(drawing) {
    const axes = JSON.parse(drawing.dataset.dots);
    const make = (kind) => document.createElementNS("http://www.w3.org/2000/svg", kind);
    const [ring, text] = [make("circle"), make("text")];
    ring.setAttribute("class", "pointed-dot");
    ring.setAttribute("r", 5);
    text.setAttribute("class", "pointed");
    let places = null;
    drawing.addEventListener("pointermove", (event) => {
      places ??= axes.map(placesOn);
      const [xs, ys] = places;
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(drawing.getScreenCTM().inverse());
      let nearest = -1;
      let least = 12 ** 2; // further away than that none is meant
      for (let place = 0; place < xs.length; place += 1) {
        const distance = (xs[place] - at.x) ** 2 + (ys[place] - at.y) ** 2;
        if (distance < least) [nearest, least] = [place, distance];
      }
      if (nearest < 0) { ring.remove(); text.remove(); return; }
      const [x, y] = [xs[nearest], ys[nearest]];
      const right = x < (axes[0].from + axes[0].to) / 2;
      const number = columns.findIndex((each) => each.label === axes[1].column);
      const name = ids[nearest].length > 24 ? `${ids[nearest].slice(0, 23)}…` : ids[nearest];
      text.textContent = `${name}: ${format(number, nearest)}`;
      text.setAttribute("x", right ? x + 10 : x - 10);
      text.setAttribute("y", Math.max(y - 8, 24));
      text.setAttribute("text-anchor", right ? "start" : "end");
      ring.setAttribute("cx", x);
      ring.setAttribute("cy", y);
      drawing.append(ring, text);
    });
    drawing.addEventListener("pointerleave", () => { ring.remove(); text.remove(); });
  }

  document.querySelectorAll("svg[data-dots]").forEach(nameDots);
  heads.forEach((head, number) => head.firstElementChild.addEventListener("click", () => {
    const clicked = number - 1;
    // Names begin with the first, figures with the greatest.
    descending = clicked === column ? !descending : clicked !== ID;
    column = clicked;
    sort();
  }));
  search.addEventListener("input", filter);
  box.addEventListener("scroll", draw, { passive: true });
  new ResizeObserver(() => { drawnFrom = -1; draw(); }).observe(box);
  sort();
})();
