// The page itself: filters, curves, the table of entries, notes and runs. Text from files is only ever set as text.

const data = JSON.parse(document.getElementById("data").textContent);
const chosen = {}; // key: the set of values that are pressed; none pressed means all
const sorting = { column: null, falling: false };
const PLACE = ["dataset", "model", "method", "granularity", "scope", "budget", "quant_bits", "sparsity"];

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const word = (value) => (value === null || value === undefined ? "-" : String(value));

function shown(column, value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number" || data.keys.includes(column) || column === "seed") return String(value);
  const name = ["mean", "std", "min", "max", "difference", "difference_low", "difference_high"].includes(column) ? data.value : column;
  const sign = column.startsWith("difference") && value >= 0 ? "+" : "";
  if (name.includes("accuracy") || name.includes("latency")) return sign + value.toFixed(2);
  if (/^(params|macs|prunable|size)/.test(name)) return sign + Math.round(value).toLocaleString("en");
  if (name === "achieved_sparsity") return sign + value.toFixed(4);
  return sign + (Number.isInteger(value) ? String(value) : value.toFixed(name.endsWith("seconds") ? 1 : 4));
}

function compare(a, b) {
  const [none, other] = [a === null || a === undefined, b === null || b === undefined];
  if (none || other) return Number(none) - Number(other);
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

const distinct = (rows, key) => [...new Set(rows.map((row) => row[key]))].sort(compare);
const everything = [...data.entries, ...data.runs.map((run) => run.row)];
const varying = data.keys.filter((key) => distinct(everything, key).length > 1);
const placed = [...PLACE.filter((key) => varying.includes(key)), ...varying.filter((key) => !PLACE.includes(key))];
const passes = (row) => Object.entries(chosen).every(([key, values]) => !values.size || values.has(row[key]));

// A value of a setting; a number does not say by itself what it is of.
const said = (key, value) => (typeof value === "number" ? `${key.replaceAll("_", " ")} ${value}` : value);

function filters() {
  for (const key of placed) {
    chosen[key] = new Set();
    const group = make("fieldset", { "data-key": key }, make("legend", {}, key.replaceAll("_", " ")));
    for (const value of distinct(everything, key)) {
      const button = make("button", { type: "button", "aria-pressed": "false" }, word(value));
      button.addEventListener("click", () => {
        if (!chosen[key].delete(value)) chosen[key].add(value);
        button.setAttribute("aria-pressed", String(chosen[key].has(value)));
        draw();
      });
      group.append(button);
    }
    document.getElementById("filters").append(group);
  }
}

function spread(entry) {
  const std = entry.std === null ? "" : ` ± ${shown("std", entry.std)}`;
  return `${shown("mean", entry.mean)}${std} (n = ${entry.n})`;
}

function says(entry) {
  const lines = [`${entry.line} at sparsity ${entry.sparsity}`, `${data.value.replaceAll("_", " ")} ${spread(entry)}`];
  if (entry.difference !== null) {
    const range = entry.difference_low === null ? "" :
      ` [${shown("difference_low", entry.difference_low)}, ${shown("difference_high", entry.difference_high)}]`;
    lines.push(`minus ${data.baseline}: ${shown("difference", entry.difference)}${range} (${entry.pairs} pairs)`);
  }
  if (entry.published !== null) lines.push(`published ${entry.published}`);
  return lines.join("\n");
}

function curves(entries) {
  const place = document.getElementById("curves");
  const groups = grouped(entries, data.pictures).filter((group) => group.length > 1); // a single point is no curve
  place.replaceChildren(...groups.map((group) => {
    const series = distinct(group, "line").map((line) => ({
      name: line,
      look: data.looks[line],
      points: group.filter((entry) => entry.line === line).sort((a, b) => a.sparsity - b.sparsity)
        .map((entry) => ({ x: -Math.log10(1 - entry.sparsity), y: entry.mean, spread: entry.std, says: says(entry) })),
    }));
    const marks = distinct(group, "sparsity").map((s) => ({ at: -Math.log10(1 - s), text: String(s) }));
    const title = data.pictures.filter((key) => varying.includes(key) || ["dataset", "model"].includes(key))
      .filter((key) => group[0][key] !== null).map((key) => said(key, group[0][key])).join(", ");
    const unit = data.value.includes("accuracy") ? ", %" : "";
    const form = { marks, xTitle: "sparsity (by the logarithm of what is kept)", yTitle: data.value.replaceAll("_", " ") + unit, dodge: 3 };
    return make("figure", {}, make("figcaption", {}, title), chart(series, form));
  }));
  const empty = entries.length ? "nowhere two methods or two sparsities of one setting" : "no finished run";
  if (!groups.length) place.append(make("p", { class: "empty" }, empty));
}

// The rows that agree in `keys`, as lists.
function grouped(rows, keys) {
  const found = new Map();
  for (const row of rows) {
    const name = JSON.stringify(keys.map((key) => row[key]));
    if (!found.has(name)) found.set(name, []);
    found.get(name).push(row);
  }
  return [...found.values()];
}

function columns() {
  const numbers = Object.keys(data.entries[0] || {})
    .filter((name) => !data.keys.includes(name) && !["value", "baseline", "best", "line"].includes(name))
    .filter((name) => data.entries.some((entry) => entry[name] !== null));
  return [...placed, ...numbers];
}

function table(entries) {
  const heads = columns().map((name) => {
    const button = make("button", { type: "button" }, name.replaceAll("_", " "));
    button.addEventListener("click", () => {
      sorting.falling = sorting.column === name && !sorting.falling;
      sorting.column = name;
      draw();
      document.querySelector(`#entries th[data-key="${name}"] button`).focus();
    });
    const order = sorting.column !== name ? "none" : sorting.falling ? "descending" : "ascending";
    return make("th", { "data-key": name, "aria-sort": order, scope: "col", class: typeOf(name) }, button);
  });
  const lines = [...entries];
  if (sorting.column) {
    const { column, falling } = sorting;
    const empty = (entry) => entry[column] === null;
    lines.sort((a, b) => (falling && !empty(a) && !empty(b) ? compare(b[column], a[column]) : compare(a[column], b[column])));
  }
  const body = lines.map((entry) => make("tr", {}, ...columns().map((name) =>
    make("td", { class: `${typeOf(name)}${entry.best && name === "mean" ? " best" : ""}` }, shown(name, entry[name])))));
  document.getElementById("entries").replaceChildren(make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...body));
}

const typeOf = (name) => (data.entries.some((entry) => typeof entry[name] === "string") && name !== "published" ? "word" : "number");

function details(run) {
  const { row } = run;
  const names = placed.filter((key) => key !== "seed" && word(row[key]) !== "-").map((key) => said(key, row[key])).join(" ");
  const result = row.status === "done" ? `${data.value.replaceAll("_", " ")} ${shown(data.value, row[data.value]) || "-"}` : `failed: ${word(row.error)}`;
  const made = make("details", { class: row.status }, make("summary", {}, `${names || row.method}, seed ${word(row.seed)}: ${result}`));
  made.addEventListener("toggle", () => made.childElementCount === 1 && made.append(...inside(run)), { once: true });
  return made;
}

function inside({ row, command, epochs }) {
  const known = command ? make("pre", {}, command) : make("p", { class: "empty" }, "The command is not known: no config.yaml of this run and version lies beside its row.");
  const own = command && command.includes("--config-dir DIR") ? [make("p", {}, "DIR is the folder with this user's own choices.")] : [];
  const list = Object.entries(row).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, shown(name, value) || "-")));
  const drawn = [["train_accuracy", "training accuracy, %"], ["loss", "loss"], ["undecided", "undecided share of units"], ["gap", "soft-to-hard gap, points"]]
    .map(([name, title]) => mini(epochs, name, title)).filter((one) => one !== null);
  return [known, ...own, make("div", { class: "minis" }, ...drawn), make("dl", {}, ...list)];
}

function mini(epochs, name, yTitle) {
  const points = epochs.map((epoch, i) => ({ x: i + 1, y: epoch[name], says: `${epoch.phase} ${epoch.epoch}: ${epoch[name]}`, phase: epoch.phase }))
    .filter((point) => point.y !== null);
  if (points.length < 2) return null;
  const series = grouped(points, ["phase"]).map((own, i) =>
    ({ name: own[0].phase, points: own, look: { colour: "currentColor", marker: "os^"[i % 3], dashes: [[], [6, 2], [2, 2]][i % 3] } }));
  const marks = ticks(1, epochs.length, 6).filter((at) => Number.isInteger(at) && at >= 1).map((at) => ({ at, text: String(at) }));
  return make("figure", {}, chart(series, { marks, xTitle: "epoch of the run", yTitle, width: 360, height: 220 }));
}

function draw() {
  const entries = data.entries.filter(passes), runs = data.runs.filter((run) => passes(run.row));
  document.getElementById("tip").hidden = true;
  curves(entries.filter((entry) => entry.mean !== null));
  table(entries);
  document.getElementById("runs").replaceChildren(...runs.map(details));
  const failed = runs.filter((run) => run.row.status === "failed").length;
  document.getElementById("summary").textContent = `${runs.length} of ${data.runs.length} runs in ${entries.length} of ${data.entries.length} entries` + (failed ? `, ${failed} failed` : "");
}

function still() {
  const same = data.keys.filter((key) => !varying.includes(key) && everything.length && word(everything[0][key]) !== "-");
  document.getElementById("same").textContent = same.length ? "The same in all: " + same.map((key) => `${key.replaceAll("_", " ")} ${everything[0][key]}`).join(", ") + "." : "";
  document.getElementById("legend").append(...data.legend.map((line) => make("p", {}, line)));
  const notes = document.getElementById("notes");
  notes.hidden = !data.notes.length;
  for (const { caption, lines } of data.notes) {
    notes.append(make("h3", {}, caption), make("ul", {}, ...lines.map((line) => make("li", { class: line.startsWith("failed") ? "error" : "" }, line))));
  }
}

filters();
still();
draw();
