// Copyright 2026 espnet2_distilmos developers
//  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

// The page of `distilmos report`: draws the figures, fills the table of clips, moves the
// cursor over the spectrograms. Names reach the page as text nodes only.
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const data = read("data");
const element = (name, text, attributes = {}) => {
  const made = document.createElement(name);
  made.textContent = text;
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  return made;
};

// Figures
const figures = Object.entries(read("figures"));
// No bar of buttons: one of them sends the figure to a server.
const options = { responsive: true, displayModeBar: false };
figures.forEach(([id, figure]) => {
  if (figure.narrow && innerWidth < 640) figure.layout.yaxis.ticktext = figure.narrow;
  Plotly.newPlot(id, figure.data, figure.layout, options);
});
// Paper has another width than the window.
const fit = (width) =>
  figures.forEach(([id]) => Plotly.relayout(id, width ? { width } : { width: null, autosize: true }));
window.addEventListener("beforeprint", () => fit(660));
window.addEventListener("afterprint", () => fit(null));

// The table of clips. A row is its number; what it shows is looked up in the columns.
// DataTables takes what a cell searches by for HTML and decodes it: it gets it escaped.
const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/"/g, "&quot;");
const missing = (value) => value === null || value === undefined;
const compare = (sign) => (a, b) =>
  missing(a) ? (missing(b) ? 0 : 1) : missing(b) ? -1 : sign * (a - b);
// Clips without a number stay last in both directions.
DataTable.type("value", "order", { asc: compare(1), desc: compare(-1) });
DataTable.type("value", "className", "number");

const number = (title, value, digits = 3) => ({
  title: element("span", title).outerHTML,
  type: "value",
  searchable: false,
  orderSequence: ["asc", "desc", ""],
  data: ([row], kind) => {
    const found = value(row);
    if (kind !== "display") return found;
    return missing(found) ? "–" : found.toFixed(digits);
  },
});
const text = (title, value) => ({
  title,
  type: "string",
  className: "name",
  data: ([row], kind) => {
    const found = value(row);
    if (kind === "display") return element("span", found);
    return kind === "filter" ? escaped(found) : found;
  },
});

const labels = data.columns.label;
const hrefOf = (row) => {
  // A newline stands for the id, which most names of files have.
  const file = data.file[row].replace("\n", encodeURIComponent(data.id[row]));
  return file && data.folders[data.folder[row]] + file;
};
const heard = new Set(data.heard);
const audioOf = (row) => {
  const isHere = heard.has(data.cards[row]);
  const href = isHere ? `#clip-${data.cards[row]}` : hrefOf(row);
  const name = isHere ? "listen" : "file";
  return href ? element("a", name, { href, "aria-label": `${name}: ${data.id[row]}` }) : element("span", "–");
};

const residual = (row) =>
  missing(labels[row]) || missing(data.scores[0][row]) ? null : data.scores[0][row] - labels[row];
const { lower, upper, novelty } = data.columns;
// What matters most comes first: a phone shows the first columns.
const audio = { title: "audio", orderable: false, searchable: false };
audio.data = ([row], kind) => (kind === "display" ? audioOf(row) : "");
const columns = [
  text("clip", (row) => data.id[row]),
  ...data.models.map((name, k) => number(name, (row) => data.scores[k][row])),
  audio,
  labels && number("label", (row) => labels[row]),
  labels && data.residuals && number("score − label", residual),
  data.apart && number("disagreement", (row) => data.apart[row]),
  data.systems.length && text("system", (row) => data.systems[data.system[row]] ?? ""),
  lower && number("lower", (row) => lower[row]),
  upper && number("upper", (row) => upper[row]),
  novelty && number("novelty", (row) => novelty[row]),
  Object.keys(data.errors).length && text("fault", (row) => data.errors[row] ?? ""),
  number("row", (row) => data.number[row], 0),
].filter(Boolean);

const table = new DataTable("#table-clips", {
  data: data.number.map((_, row) => [row]),
  columns,
  order: [],
  autoWidth: false,
  pageLength: 25,
  searchDelay: data.number.length > 20000 ? 400 : 0,
  layout: { topStart: "pageLength", topEnd: "search", bottomStart: "info", bottomEnd: "paging" },
});
// With the keyboard one scrolls what has the focus.
const region = { tabindex: 0, role: "region", "aria-label": "Table of clips" };
Object.entries(region).forEach(([key, value]) =>
  document.querySelector("#table-clips").parentElement.setAttribute(key, value));
if (document.querySelectorAll("#table-systems tbody tr").length > 1) {
  new DataTable("#table-systems", { paging: false, searching: false, info: false, order: [], autoWidth: false });
}

// Filters
const get = (id) => document.getElementById(`filter-${id}`);
const fill = (id, names) => names.forEach((name, k) => get(id).append(element("option", name, { value: k })));
fill("system", data.systems);
fill("list", data.lists.map((list) => list.title));
fill("model", data.models);
get("system").parentElement.hidden = !data.systems.length;
get("model").parentElement.hidden = data.models.length < 2;
const limit = (id) => (get(id).value === "" ? null : Number(get(id).value));
table.search.fixed("filters", (_, [row]) => {
  const system = get("system").value;
  const list = get("list").value;
  const score = data.scores[Number(get("model").value) || 0][row];
  const [low, high] = [limit("low"), limit("high")];
  return (
    (system === "" || data.system[row] === Number(system)) &&
    (list === "" || data.lists[Number(list)].rows.includes(row)) &&
    (low === null || (!missing(score) && score >= low)) &&
    (high === null || (!missing(score) && score <= high))
  );
});
["system", "list", "model", "low", "high"].forEach((id) => get(id).addEventListener("change", () => table.draw()));
get("clear").addEventListener("click", () => {
  ["system", "list", "low", "high"].forEach((id) => (get(id).value = ""));
  table.search("").draw();
});

// Players: one at a time, a cursor over the spectrogram, a click on it goes there.
document.querySelectorAll(".clip audio").forEach((audio) => {
  const view = audio.closest(".clip").querySelector(".view");
  const cursor = view.querySelector(".cursor");
  const move = () => {
    cursor.style.display = "block";
    cursor.style.left = `${(100 * audio.currentTime) / audio.duration}%`;
    if (!audio.paused) requestAnimationFrame(move);
  };
  audio.addEventListener("play", () => {
    document.querySelectorAll(".clip audio").forEach((other) => other !== audio && other.pause());
    move();
  });
  audio.addEventListener("seeked", move);
  view.addEventListener("click", (event) => {
    const box = view.getBoundingClientRect();
    if (audio.duration) audio.currentTime = (audio.duration * (event.clientX - box.left)) / box.width;
  });
});
document.documentElement.dataset.ready = "true";
