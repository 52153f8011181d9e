"""The page's own script: filter, sort, search, and save what is shown. It makes text of all content, never HTML."""

SCRIPT = r"""
"use strict";
const at = id => document.getElementById(id);
const PAGE = 20;
const [ROW, PROMPT, REFERENCE, ANSWER, BASELINE, MORE, FLAGS, LENGTHS, SECONDS, SCORES, CHANGES, LABELS, FURTHER] = Array(13).keys();
let data, found = [], shown = 0;

async function unpack() {
  const bytes = Uint8Array.from(atob(at("data").textContent.trim()), sign => sign.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}
function make(parent, tag, text, kind) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  parent.append(made);
  return made;
}
const whole = value => Array.isArray(value) ? value[0] : value || "";
function show(parent, value, kind = "text") {
  const block = make(parent, "div", whole(value), kind);
  block.dir = "auto";
  if (!whole(value)) block.classList.add("empty");
  if (Array.isArray(value)) make(block, "em", ` [... ${(value[1] - value[0].length).toLocaleString("en")} more characters]`);
}
function number(value, metric, signed) {
  if (value === null) return "not scored";
  return ((signed && value > 0 ? "+" : "") + value.toFixed(metric.digits)).replace("-", "\u2212");
}
// How much better than the baseline, whatever the metric's direction.
function gain(row, place) {
  const change = row[CHANGES][place];
  return change === null || change === undefined ? null : data.metrics[place].higher ? change : -change;
}
function score(parent, row, place) {
  const metric = data.metrics[place], block = make(parent, "span");
  make(block, "span", metric.name, "soft");
  block.append(" " + number(row[SCORES][place], metric));
  const better = gain(row, place);
  if (better !== null && Math.abs(better) >= 0.5 * 10 ** -metric.digits) {
    block.append(" ");
    make(block, "span", number(row[CHANGES][place], metric, true), better > 0 ? "up" : "down");
  }
}
function card(row) {
  const made = document.createElement("article"), place = +at("metric").value;
  const header = make(made, "header");
  make(header, "b", `Row ${row[ROW]}`);
  score(header, row, place);
  data.columns.forEach(([name, values], column) => make(header, "span", `${name}: ${values[row[LABELS][column]]}`, "soft"));
  if (row[SECONDS][0] !== null) make(header, "span", `${row[SECONDS][0]} s`, "soft");
  const asked = make(made, "details");
  make(asked, "summary", whole(row[PROMPT]).slice(0, 300)).dir = "auto";
  show(asked, row[PROMPT], "text prompt");
  const answers = make(made, "div", undefined, "answers");
  const titles = [["Reference", REFERENCE], ["Baseline", BASELINE], [row[FLAGS] & 2 ? "Model, cut off" : "Model", ANSWER]];
  for (const [title, field] of titles) {
    if (row[field] === null) continue;
    const block = make(answers, "div");
    make(block, "h3", title);
    show(block, row[field]);
  }
  for (const [name, answer, scores] of further(row)) {
    const block = make(answers, "div"), title = make(block, "h3", name);
    if (data.metrics[place].beside) title.append(" \u00b7 " + number(scores[place], data.metrics[place]));
    show(block, answer);
  }
  for (const [title, text] of row[MORE]) {
    const block = make(made, "details");
    make(block, "summary", title);
    show(block, text, "text prompt");
  }
  if (data.metrics.length > 1) {
    const footer = make(made, "footer");
    data.metrics.forEach((_, each) => { if (each !== place) score(footer, row, each); });
  }
  return made;
}
// Names, answers and scores of further models, where the page has room for them.
const further = row => (row[FURTHER] || []).map(([answer, scores], which) => [data.further[which], answer, scores]);
function text(row) {
  if (row.text === undefined)
    row.text = [PROMPT, REFERENCE, ANSWER, BASELINE].map(field => whole(row[field])).concat(row[MORE].map(([, each]) => whole(each)))
      .concat(further(row).map(([, answer]) => whole(answer))).join("\n").toLowerCase();
  return row.text;
}
const TIE = 1e-9;
const KINDS = {
  all: ["all samples", () => true],
  better: ["better than the baseline", (row, place) => gain(row, place) > TIE, true],
  worse: ["worse than the baseline", (row, place) => gain(row, place) !== null && gain(row, place) < -TIE, true],
  same: ["the same score", (row, place) => gain(row, place) !== null && Math.abs(gain(row, place)) <= TIE, true],
  unscored: ["without a score", (row, place) => row[SCORES][place] === null],
  unanswered: ["not answered", row => row[FLAGS] & 1],
  cut: ["cut off at the token limit", row => row[FLAGS] & 2],
};
const better = (row, place) => row[SCORES][place] === null ? null : data.metrics[place].higher ? row[SCORES][place] : -row[SCORES][place];
const least = key => (row, place) => { const value = key(row, place); return value === null ? null : -value; };
const ORDERS = {
  change: ["greatest change", (row, place) => gain(row, place) === null ? null : Math.abs(gain(row, place)), true],
  gain: ["greatest gain", gain, true],
  loss: ["greatest loss", least(gain), true],
  best: ["best score", better],
  worst: ["worst score", least(better)],
  row: ["row", row => -row[ROW]],
  long: ["longest answer", row => row[LENGTHS][0]],
  slow: ["slowest answer", row => row[SECONDS][0]],
};
function select() {
  const place = +at("metric").value, is = KINDS[at("kind").value][1], key = ORDERS[at("order").value][1];
  const words = at("search").value.toLowerCase().trim();
  const wanted = data.columns.map((_, column) => at(`column${column}`).value);
  found = data.rows.filter(row => is(row, place) && wanted.every((value, column) => value === "" || row[LABELS][column] === +value)
    && (!words || text(row).includes(words)));
  const keys = new Map(found.map(row => [row, key(row, place)]));
  // What has no such number comes last.
  found.sort((a, b) => {
    const [x, y] = [keys.get(a), keys.get(b)];
    return x === y ? a[ROW] - b[ROW] : x === null ? 1 : y === null ? -1 : y - x;
  });
  shown = 0;
  at("cards").replaceChildren();
  more();
}
function more() {
  at("cards").append(...found.slice(shown, shown + PAGE).map(card));
  shown = Math.min(found.length, shown + PAGE);
  at("count").textContent = `${found.length.toLocaleString("en")} of ${data.total.toLocaleString("en")} samples, ${shown.toLocaleString("en")} on the page`;
  at("more").hidden = shown === found.length;
  at("jsonl").disabled = at("csv").disabled = !found.length;
}
function record(row) {
  const made = {row: row[ROW], prompt: whole(row[PROMPT])};
  if (row[REFERENCE] !== null) made.reference = whole(row[REFERENCE]);
  made.answer = row[FLAGS] & 1 ? null : whole(row[ANSWER]);
  if (row[FLAGS] & 1) made.reason = whole(row[ANSWER]);
  if (row[BASELINE] !== null) made.baseline_answer = whole(row[BASELINE]);
  if (row[SECONDS][0] !== null) made.seconds = row[SECONDS][0];
  made.is_cut = [PROMPT, REFERENCE, ANSWER, BASELINE].map(field => row[field]).concat(further(row).map(([, answer]) => answer)).some(Array.isArray);
  data.columns.forEach(([name, values], column) => { made[`column.${name}`] = values[row[LABELS][column]]; });
  data.metrics.forEach((metric, place) => {
    made[`score.${metric.name}`] = row[SCORES][place];
    if (data.compared) made[`change.${metric.name}`] = row[CHANGES][place];
  });
  for (const [name, answer, scores] of further(row)) {
    made[`further.${name}.answer`] = whole(answer);
    data.metrics.forEach((metric, place) => { if (metric.beside) made[`further.${name}.${metric.name}`] = scores[place]; });
  }
  return made;
}
function cell(value) {
  if (value === null || value === undefined) return "";
  // A spreadsheet would calculate with text that begins with one of these.
  const content = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? "'" + value : String(value);
  return /[",\r\n]/.test(content) ? `"${content.replaceAll('"', '""')}"` : content;
}
function save(kind) {
  const records = found.map(record);
  let lines = records.map(each => JSON.stringify(each));
  if (kind === "csv") {
    const names = [...new Set(records.flatMap(Object.keys))];
    lines = [names, ...records.map(each => names.map(name => each[name]))].map(line => line.map(cell).join(","));
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], {type: kind === "csv" ? "text/csv" : "application/jsonl"}));
  link.download = `samples.${kind}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  const framed = window.self !== window.top ? " Nothing was saved? Inside of another page a browser may refuse it: save this page, and open it." : "";
  at("told").textContent = `${records.length.toLocaleString("en")} samples as ${link.download}.${framed}`;
}
function option(parent, value, name) {
  make(parent, "option", name).value = value;
}
async function begin() {
  data = await unpack();
  for (const [id, kinds] of [["kind", KINDS], ["order", ORDERS]])
    for (const [value, [name, , compared]] of Object.entries(kinds))
      if (data.compared || !compared) option(at(id), value, name);
  if (data.rows.every(row => row[SECONDS][0] === null)) at("order").querySelector("[value=slow]").remove();
  data.metrics.forEach((metric, place) => option(at("metric"), place, metric.name));
  at("metric").hidden = data.metrics.length < 2;
  data.columns.forEach(([name, values], column) => {
    const made = document.createElement("select");
    made.id = `column${column}`;
    made.setAttribute("aria-label", name);
    option(made, "", `${name}: all`);
    values.forEach((value, place) => option(made, place, `${name}: ${value}`));
    at("tools").insertBefore(made, at("jsonl"));
  });
  for (const each of at("tools").querySelectorAll("select")) each.onchange = select;
  let waiting;
  at("search").oninput = () => { clearTimeout(waiting); waiting = setTimeout(select, 150); };
  at("more").onclick = more;
  at("jsonl").onclick = () => save("jsonl");
  at("csv").onclick = () => save("csv");
  at("order").value = data.compared ? "change" : "worst";
  at("few").hidden = true;
  at("all").hidden = false;
  select();
}
begin().catch(error => {
  at("told").textContent = `The samples cannot be searched in this browser, which does not unpack them (${error.name}). Some of them follow.`;
});
"""
