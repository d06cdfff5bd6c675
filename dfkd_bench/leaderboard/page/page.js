"use strict";
// Texts of strangers only ever pass through textContent and attributes without meaning; nothing is made from HTML text.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";

  function make(name, attributes = {}, ...children) {
    const svg = ["svg", "g", "path", "line", "text", "circle", "rect", "title"].includes(name);
    const node = svg ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) if (value != null) node.setAttribute(key, value);
    node.append(...children.filter((child) => child != null));
    return node;
  }
  const fixed = (value, digits = 2) => (value == null ? "-" : value.toFixed(digits));
  const signed = (value) => (value == null ? "-" : (value > 0 ? "+" : "") + value.toFixed(2));
  function amount(value) {
    if (value == null) return "-";
    const prefixes = ["", " k", " M", " G", " T", " P", " E", " Z"];
    let power = 0;
    while (value >= 999.5 && power < 7) { value /= 1000; power += 1; }
    return (power === 0 && Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(3)))) + prefixes[power];
  }

  // Table: rows are sorted within their cell, for rows of two cells cannot be compared.
  const bodies = [...document.querySelectorAll("#board tbody")];
  const rows = [...document.querySelectorAll("#board tr.row")];
  const text = data.rows.map((row) =>
    [row.label, row.kind, row.spec, ...row.runs.map((run) => run.hardware)].join(" ").toLowerCase());
  const at = (tr) => Number(tr.dataset.row);

  function compare(column, direction) {
    return (a, b) => {
      const x = data.rows[at(a)].sort[column], y = data.rows[at(b)].sort[column];
      if (x == null || y == null) return (x == null) - (y == null) || at(a) - at(b);
      return (x < y ? -direction : x > y ? direction : 0) || at(a) - at(b);
    };
  }
  // To lay out a thousand rows takes a second: of many, each cell shows its first, and the others on demand.
  const fits = new Array(rows.length).fill(true), expanded = new Set();
  function show() {
    const shown = new Set(data.rows.filter((row, index) => fits[index]).map((row) => row.cell)).size;
    const total = fits.filter(Boolean).length, few = total <= data.most_rows;
    const most = few ? Infinity : Math.max(data.fewest_rows, Math.floor(data.most_rows / shown));
    for (const body of bodies) {
      const open = expanded.has(body.dataset.cell), rest = body.querySelector("tr.rest");
      let count = 0;
      for (const tr of body.querySelectorAll("tr.row")) tr.hidden = !fits[at(tr)] || (++count > most && !open);
      rest.hidden = open || count <= most;
      rest.querySelector("button").textContent = `Show all ${count} rows`;
    }
  }
  function expand(body) { expanded.add(body.dataset.cell); }
  for (const body of bodies) body.querySelector("tr.rest button").addEventListener("click", () => {
    const first = [...body.querySelectorAll("tr.row")].find((tr) => tr.hidden && fits[at(tr)]);
    expand(body);
    show();
    first.querySelector(".open").focus();
  });
  addEventListener("beforeprint", () => { bodies.forEach(expand); show(); });

  function sort(column, direction) {
    const order = compare(column, direction);
    for (const body of bodies) {
      const own = [...body.querySelectorAll("tr.row")].sort(order);
      body.querySelector("tr.rest").before(...own);
    }
    show();
  }
  // The first press shows what a reader most wants on top: high accuracy, low cost.
  const highFirst = new Set(["n", "Accuracy", "Published", "Agree"]);
  for (const button of document.querySelectorAll("#board thead button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const first = highFirst.has(button.textContent) ? "descending" : "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const next = head.getAttribute("aria-sort") === first ? other : first;
      for (const th of document.querySelectorAll("#board thead th[aria-sort]")) th.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", next);
      sort(Number(button.dataset.column), next === "ascending" ? 1 : -1);
    });
  }

  const form = $("filters");
  function filter() {
    const wanted = Object.fromEntries(["dataset", "pair", "preset", "prior", "text"].map((key) => [key, form.elements[key].value]));
    const words = wanted.text.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = new Array(data.cells.length).fill(0);
    for (const tr of rows) {
      const row = data.rows[at(tr)], cell = data.cells[row.cell];
      fits[at(tr)] = ["dataset", "pair", "preset"].every((key) => !wanted[key] || cell[key] === wanted[key])
        && (!wanted.prior || row.prior === wanted.prior) && words.every((word) => text[at(tr)].includes(word));
      shown[row.cell] += fits[at(tr)];
    }
    show();
    for (const body of bodies) body.hidden = !shown[Number(body.dataset.cell)];
    const total = shown.reduce((sum, count) => sum + count, 0);
    $("count").textContent = total === rows.length ? `${total} rows` : `${total} of ${rows.length} rows`;
    const chosen = $("cost-cell");
    if (chosen.options.length && !shown[chosen.value]) chosen.value = Math.max(0, shown.findIndex(Boolean));
    drawCost();
    gallery(12);
  }
  form.addEventListener("input", filter);
  form.addEventListener("reset", () => setTimeout(filter));
  form.addEventListener("submit", (event) => event.preventDefault());

  // Charts.
  function ticks(low, high, count) {
    const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].find((factor) => factor * power >= raw) * power;
    const found = [];
    for (let tick = Math.ceil(low / step - 1e-9) * step; tick <= high + step * 1e-9; tick += step) found.push(Number(tick.toPrecision(12)));
    return found;
  }
  function frame(width, height, x, y, xLabel, label) {
    const left = 44, right = 16, top = 26, bottom = 40;
    const scale = (axis, from, to) => {
      const turn = axis.log ? Math.log10 : (value) => value;
      const low = turn(axis.low), high = turn(axis.high);
      return (value) => from + ((turn(value) - low) / (high - low || 1)) * (to - from);
    };
    const px = scale(x, left, width - right), py = scale(y, height - bottom, top);
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": label });
    for (const tick of ticks(y.low, y.high, 5)) {
      svg.append(make("line", { class: "grid", x1: left, x2: width - right, y1: py(tick), y2: py(tick) }),
        make("text", { class: "soft", x: left - 6, y: py(tick) + 4, "text-anchor": "end" }, String(tick)));
    }
    let shown = ticks(x.low, x.high, Math.floor(width / 110));
    if (x.log) {
      shown = [];
      for (let power = Math.floor(Math.log10(x.low)); power <= Math.log10(x.high); power += 1)
        for (const factor of x.high / x.low < 200 ? [1, 2, 5] : [1]) shown.push(factor * 10 ** power);
      shown = shown.filter((tick) => tick >= x.low && tick <= x.high);
    }
    for (const tick of shown) {
      svg.append(make("line", { class: "grid", x1: px(tick), x2: px(tick), y1: top, y2: height - bottom }),
        make("text", { class: "soft", x: px(tick), y: height - bottom + 16, "text-anchor": "middle" }, amount(tick)));
    }
    svg.append(make("text", { class: "soft", x: left, y: 14 }, "test accuracy, %"),
      make("text", { class: "soft", x: width - right, y: height - 6, "text-anchor": "end" }, xLabel));
    return { svg, px, py, width, right };
  }
  const chartWidth = (box) => Math.max(300, Math.min(1100, box.clientWidth - 14 || 840));
  function range(values, share) {
    const low = Math.min(...values), high = Math.max(...values), margin = (high - low) * share || Math.abs(high) * share || 1;
    return { low: low - margin, high: high + margin };
  }
  function press(node, action) {
    node.addEventListener("click", action);
    node.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); action(); }
    });
  }
  function marker(kind, x, y) {
    if (kind === "null") return make("rect", { x: x - 5, y: y - 5, width: 10, height: 10 });
    if (kind === "reference") return make("path", { d: `M${x} ${y - 6.5}L${x + 6.5} ${y + 5}L${x - 6.5} ${y + 5}Z` });
    return make("circle", { cx: x, cy: y, r: 5.5 });
  }
  function drawCost() {
    const box = $("cost-chart"), kind = $("cost-kind").value, cell = Number($("cost-cell").value);
    const points = data.rows.map((row, index) => ({ row, index, x: row.costs && row.costs[kind], y: row.mean }))
      .filter((point) => point.row.cell === cell && fits[point.index] && point.x > 0 && point.y != null);
    if (!points.length) { box.replaceChildren(make("p", { class: "hint" }, "No finished run to draw.")); return; }
    const xs = points.map((point) => point.x), width = chartWidth(box), height = width < 600 ? 340 : 420;
    const log = Math.max(...xs) / Math.min(...xs) > 8;
    const x = log ? { low: Math.min(...xs) / 1.35, high: Math.max(...xs) * 1.5, log } : range(xs, 0.12);
    const y = range(points.flatMap((point) => [point.y - (point.row.half || 0), point.y + (point.row.half || 0)]), 0.06);
    y.low = Math.max(0, y.low); y.high = Math.min(100.5, y.high);
    const names = { flops: "FLOP, counted", samples: "distillation samples", seconds: "seconds, on the row's hardware" };
    const { svg, px, py, right } = frame(width, height, x, y, names[kind] + (log ? " (log)" : ""), "Accuracy against cost");
    const front = [];
    for (const point of points.filter((p) => p.row.kind !== "reference").sort((a, b) => a.x - b.x || b.y - a.y))
      if (!front.length || point.y > front.at(-1).y) front.push(point);
    svg.append(make("path", { class: "front", d: front.map((p, i) =>
      (i ? `H${px(p.x)}V${py(p.y)}` : `M${px(p.x)} ${py(p.y)}`)).join("") + `H${width - right}` }));
    const taken = points.map((p) => [px(p.x) - 6, py(p.y) - 6, px(p.x) + 6, py(p.y) + 6]);
    for (const point of points) {
      const cx = px(point.x), cy = py(point.y), half = point.row.half;
      if (half) svg.append(make("line", { class: "whisker", x1: cx, x2: cx, y1: py(Math.max(y.low, point.y - half)), y2: py(Math.min(y.high, point.y + half)) }));
      const shape = marker(point.row.kind, cx, cy);
      for (const [key, value] of Object.entries({ class: `point ${point.row.kind}`, tabindex: 0, role: "button",
        "aria-label": `${point.row.label}: ${fixed(point.y)} %, ${amount(point.x)}` })) shape.setAttribute(key, value);
      shape.append(make("title", {}, `${point.row.label}: ${fixed(point.y)} %, ${amount(point.x)}`));
      press(shape, () => open(point.index));
      svg.append(shape);
    }
    for (const point of [...points].sort((a, b) => front.includes(b) - front.includes(a) || b.y - a.y)) {
      const name = point.row.label.length > 24 ? point.row.label.slice(0, 23) + "…" : point.row.label;
      const cx = px(point.x), cy = py(point.y), wide = name.length * 6.6;
      for (const [dx, dy] of [[9, 4], [9, -7], [9, 15], [-9 - wide, 4], [-9 - wide, -7], [-9 - wide, 15], [-wide / 2, -11], [-wide / 2, 20]]) {
        const spot = [cx + dx, cy + dy - 10, cx + dx + wide, cy + dy + 2];
        if (spot[0] < 44 || spot[2] > width || spot[1] < 16 || spot[3] > height - 40) continue;
        if (taken.some((t) => t[0] < spot[2] && spot[0] < t[2] && t[1] < spot[3] && spot[1] < t[3])) continue;
        taken.push(spot);
        svg.append(make("text", { x: spot[0], y: cy + dy, "aria-hidden": true }, name));
        break;
      }
    }
    box.replaceChildren(svg);
  }
  $("cost-kind").addEventListener("change", drawCost);
  $("cost-cell").addEventListener("change", drawCost);

  function curves(row) {
    const all = row.runs.filter((run) => run.curve.length);
    if (!all.length) return make("p", { class: "hint" }, "No epoch ended.");
    const points = all.flatMap((run) => run.curve), width = innerWidth < 600 ? 360 : 820;
    const x = { low: 0, high: Math.max(...points.map((p) => p[0])) }, y = range(points.map((p) => p[1]), 0.06);
    y.low = Math.max(0, y.low); y.high = Math.min(100.5, y.high);
    const { svg, px, py } = frame(width, 270, x, y, "epoch", "Learning curves");
    all.forEach((run, index) => {
      const line = make("path", { class: `curve c${index % 5}`, d: run.curve.map((p, i) => `${i ? "L" : "M"}${px(p[0])} ${py(p[1])}`).join("") });
      line.append(make("title", {}, `seed ${run.seed}`));
      svg.append(line);
    });
    return make("div", {}, make("div", { class: "chart" }, svg), make("p", { class: "legend" }, ...all.map((run, index) =>
      make("span", {}, make("svg", { class: "dot", viewBox: "0 0 10 10" }, make("line", { class: `c${index % 5}`, x1: 0, x2: 10, y1: 5, y2: 5, "stroke-width": 3 })), `seed ${run.seed}`))));
  }
  function phases(row) {
    const grid = make("div", { class: "phases" });
    for (const [name, spent] of [["seconds", row.seconds], ["FLOP", row.flops]]) {
      const total = Object.values(spent).reduce((sum, value) => sum + value, 0);
      if (!total) continue;
      const bar = make("svg", { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img", "aria-label": name });
      let start = 0;
      for (const phase of data.phases) {
        const length = (100 * (spent[phase] || 0)) / total;
        bar.append(make("rect", { class: `p-${phase}`, x: start, width: length, height: 10 }, make("title", {}, `${phase}: ${amount(spent[phase] || 0)}`)));
        start += length;
      }
      grid.append(make("span", {}, name), bar, make("span", {}, amount(total)));
    }
    const legend = make("p", { class: "legend" });
    for (const phase of data.phases.filter((name) => row.seconds[name] || row.flops[name]))
      legend.append(make("span", {}, make("svg", { class: "dot", viewBox: "0 0 10 10" }, make("rect", { class: `p-${phase}`, width: 10, height: 10 })),
        `${phase} ${amount(row.seconds[phase] || 0)} s, ${amount(row.flops[phase] || 0)} FLOP`));
    return make("div", {}, grid, legend);
  }
  function list(values) {
    const found = make("dl");
    for (const [name, value] of Object.entries(values)) found.append(make("dt", {}, name), make("dd", {}, String(value ?? "unknown")));
    return found;
  }
  function grid(headings, lines) {
    const head = make("tr", {}, ...headings.map((heading) => make("th", { scope: "col" }, heading)));
    const body = lines.map((line) => make("tr", {}, ...line.map((cell) => make("td", {}, String(cell)))));
    return make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": headings[0] }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
  }
  function shot(row, run) {
    const caption = `${row.label}, seed ${run.seed}` + (run.accuracy == null ? `, ${run.status}` : `, ${fixed(run.accuracy)} %`);
    const button = make("button", { type: "button", "aria-label": `Enlarge: ${caption}` }, make("img", { src: run.picture, alt: `Synthesized images of ${caption}`, loading: "lazy" }));
    button.addEventListener("click", () => {
      $("large-image").src = run.picture;
      $("large-image").alt = $("large-title").textContent = `${caption}; ${data.cells[row.cell].title}`;
      $("large").showModal();
    });
    return make("figure", {}, button, make("figcaption", {}, caption));
  }
  function gallery(count) {
    const box = $("gallery");
    if (!box) return;
    const shown = data.rows.filter((row, index) => fits[index]);
    const all = shown.flatMap((row) => row.runs.filter((run) => run.picture).map((run) => [row, run]));
    box.replaceChildren(...all.slice(0, count).map(([row, run]) => shot(row, run)));
    $("gallery-more").hidden = all.length <= count;
    $("gallery-more").onclick = () => gallery(count + 24);
  }
  function open(index) {
    const row = data.rows[index], cell = data.cells[row.cell], body = $("details-body");
    $("details-title").textContent = row.label;
    const parts = [make("p", { class: "hint" }, cell.title), make("h3", {}, "Learning curves"), curves(row)];
    const part = (heading, ...nodes) => parts.push(make("h3", {}, heading), ...nodes);
    if (row.costs) part("Cost of a run by phase", phases(row));
    const pictures = row.runs.filter((run) => run.picture);
    if (pictures.length) part("Synthesized images", make("div", { class: "shots" }, ...pictures.map((run) => shot(row, run))));
    if (row.claims.length) part("Published", grid(["Method", "%", "Gap", "Verdict", "Its teacher, %", "Source"],
      row.claims.map((c) => [c.method, fixed(c.top1), signed(c.gap), c.verdict, fixed(c.teacher), `${c.source} (${c.grade})${c.notes ? ". " + c.notes : ""}`])));
    part("Runs", grid(["Seed", "Run", "Status", "Accuracy, %", "Best epoch, %", "Agreement, %", "Seconds", "Hardware", "Finished", "Folder"],
      row.runs.map((r) => [r.seed, r.run, r.reason ? `${r.status}: ${r.reason}` : r.status, fixed(r.accuracy), fixed(r.oracle), fixed(r.agreement), fixed(r.seconds, 1), r.hardware, r.finished, r.folder])));
    part("Teacher and test split", list({ ...cell.teacher, accuracy: cell.teacher.accuracy == null ? null : `${fixed(cell.teacher.accuracy)} %` }));
    part("Code", list(row.code));
    for (const found of row.environments) part("Environment", list(data.environments[found]));
    const changed = row.changed == null ? "not compared with the preset's" : row.changed ? "changed" : "the preset's own";
    part("Specification", list({ "settings (hash)": row.settings, options: changed }), make("details", { id: "spec" }, make("summary", {}, "Everything that was set"), make("pre", { tabindex: 0 }, row.spec)));
    body.replaceChildren(...parts);
    $("details").showModal();
    $("details").scrollTop = 0;
  }
  $("board").addEventListener("click", (event) => {
    const button = event.target.closest(".open");
    if (button) open(at(button.closest("tr")));
  });
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.querySelector(".close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  }
  $("theme").addEventListener("click", () => {
    const root = document.documentElement, now = root.style.colorScheme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    root.style.colorScheme = now === "dark" ? "light" : "dark";
  });
  addEventListener("resize", drawCost);
  filter();
})();
