"""The review sheet as one HTML page that works from a file: no font, image or network, and its own script alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llmops_components.data.palette import PALETTE
from llmops_components.evaluation.human.key import Key


def render_sheet(key: Key, question: str, *, show_reference: bool) -> str:
    """The page; it has no word of whose answer is whose.

    Args:
        key: What stands on it.
        question: What is asked of each pair.
        show_reference: Whether the right answer can be looked at.
    """
    items = [
        {
            "item": name,
            "prompt": _messages(item.pair.prompt),
            "left": item.sides[0],
            "right": item.sides[1],
            **({"reference": item.pair.reference} if show_reference and item.pair.reference else {}),
        }
        for name, item in key.items.items()
    ]
    data = json.dumps({"sheet": key.sheet, "question": question, "items": items}, ensure_ascii=False)
    # Inside of a script element nothing but its end, or the beginning of a comment, means anything.
    page = _PAGE.replace("%PALETTE%", PALETTE)
    return page.replace("%DATA%", data.replace("<", "\\u003c").replace("\u2028", "\\u2028"))


def _messages(prompt: str | Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    if isinstance(prompt, str):
        return [{"role": "", "text": prompt}]
    return [
        {
            "role": str(message["role"]),
            "text": content
            if isinstance(content := message.get("content"), str)
            else json.dumps(
                {name: value for name, value in message.items() if name != "role" and value is not None},
                ensure_ascii=False,
            ),
        }
        for message in prompt
    ]


_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>Review sheet</title>
<style>
%PALETTE%* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.25rem 1.25rem 9rem; background: var(--ground); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.35rem; margin: 0; }
.soft, h2, h3, kbd { color: var(--soft); }
h2, h3 { font-size: .85rem; font-weight: 500; margin: 0 0 .3rem; }
header { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; align-items: center; justify-content: space-between; }
input[type=text], textarea { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line);
  border-radius: 6px; padding: .4rem .6rem; }
textarea { width: 100%; min-height: 2.6rem; resize: vertical; }
progress { width: 100%; height: .5rem; margin: .9rem 0 1.1rem; accent-color: var(--model); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .9rem 1.1rem; min-width: 0; }
#asked { margin-bottom: 1rem; max-height: 22rem; overflow: auto; }
#asked div + div { margin-top: .8rem; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
.empty::after { content: "(empty answer)"; color: var(--soft); }
.answers { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
@media (max-width: 44rem) { .answers { grid-template-columns: 1fr; } }
details { margin: 1rem 0; } summary { cursor: pointer; color: var(--soft); }
footer { position: fixed; inset: auto 0 0 0; background: var(--card); border-top: 1px solid var(--line); padding: .7rem 1.25rem; }
footer > div { max-width: 73.5rem; margin: 0 auto; display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; }
button, .file { font: inherit; color: inherit; background: var(--ground); border: 1px solid var(--line); border-radius: 6px;
  padding: .45rem .9rem; cursor: pointer; }
button:hover:not(:disabled), .file:hover { border-color: var(--model); }
button:disabled { opacity: .45; cursor: default; }
button[aria-pressed=true], #save { background: var(--model); border-color: var(--model); color: var(--on); }
:focus-visible { outline: 3px solid var(--model); outline-offset: 2px; }
kbd { font: .75rem ui-monospace, monospace; margin-left: .4rem; }
[aria-pressed=true] kbd { color: inherit; opacity: .8; }
.gap { flex: 1; }
.file input { position: absolute; opacity: 0; width: 1px; height: 1px; }
#told { min-height: 1.5rem; color: var(--warn); }
@media print { footer, header label { display: none; } }
</style>
</head>
<body>
<noscript><section><h1>Save this page as a file and open it from there</h1>
<p>It is filled in by a script of its own, which is not run here. With Ctrl-S (Cmd-S) the browser saves it.</p></section></noscript>
<main hidden>
<header><h1 id="question"></h1>
<label>Your name <input type="text" id="rater" maxlength="100" autocomplete="name" required></label></header>
<progress id="done" value="0" aria-label="Judged so far"></progress>
<section id="asked" tabindex="0" aria-label="What was asked"></section>
<div class="answers">
<section><h2>Answer A</h2><div class="text" id="left"></div></section>
<section><h2>Answer B</h2><div class="text" id="right"></div></section>
</div>
<details id="known"><summary>The reference answer</summary><section><div class="text" id="reference"></div></section></details>
<p><label class="soft" for="comment">Why, if you want to say so</label><textarea id="comment" maxlength="2000"></textarea></p>
<p id="told" role="status"></p>
</main>
<footer hidden><div>
<button type="button" data-choice="left">A is better<kbd>1</kbd></button>
<button type="button" data-choice="tie">Equally good<kbd>2</kbd></button>
<button type="button" data-choice="right">B is better<kbd>3</kbd></button>
<button type="button" data-choice="skip">I cannot tell<kbd>0</kbd></button>
<span class="gap"></span>
<button type="button" id="before" aria-label="The pair before">&larr;</button>
<span id="place" class="soft"></span>
<button type="button" id="after" aria-label="The next pair">&rarr;</button>
<label class="file">Go on from a file<input type="file" id="load" accept=".jsonl,.json,.txt"></label>
<button type="button" id="save">Save judgements</button>
</div></footer>
<script type="application/json" id="data">%DATA%</script>
<script>
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const at = id => document.getElementById(id);
const names = new Set(data.items.map(each => each.item));
const place = "llmops-review-" + data.sheet;
let judged = {}, shown = 0, since = Date.now(), unsaved = false;

function keep() {
  try { localStorage.setItem(place, JSON.stringify({rater: at("rater").value, judged})); return true; } catch (error) { return false; }
}
function remember() {
  try {
    const kept = JSON.parse(localStorage.getItem(place) || "{}");
    at("rater").value = kept.rater || "";
    for (const [item, each] of Object.entries(kept.judged || {})) if (names.has(item)) judged[item] = each;
  } catch (error) { /* Some browsers keep nothing for files: then the file that is saved is all. */ }
}
function put(parent, tag, text, kind) {
  const made = document.createElement(tag);
  made.textContent = text;
  if (kind) made.className = kind;
  parent.append(made);
}
function show(index) {
  shown = Math.max(0, Math.min(index, data.items.length - 1));
  const each = data.items[shown];
  at("asked").replaceChildren();
  for (const message of each.prompt) {
    const block = document.createElement("div");
    if (message.role) put(block, "h3", message.role);
    put(block, "div", message.text, "text");
    at("asked").append(block);
  }
  for (const side of ["left", "right"]) {
    at(side).textContent = each[side];
    at(side).classList.toggle("empty", !each[side].trim());
  }
  at("known").hidden = !("reference" in each);
  at("known").open = false;
  at("reference").textContent = each.reference || "";
  at("comment").value = (judged[each.item] || {}).comment || "";
  since = Date.now();
  state();
  window.scrollTo(0, 0);
}
function state() {
  const mine = (judged[data.items[shown].item] || {}).choice;
  for (const button of document.querySelectorAll("[data-choice]"))
    button.setAttribute("aria-pressed", String(button.dataset.choice === mine));
  const count = Object.keys(judged).length;
  at("done").max = data.items.length;
  at("done").value = count;
  at("place").textContent = `${shown + 1} of ${data.items.length}, ${count} judged`;
  at("before").disabled = shown === 0;
  at("after").disabled = shown === data.items.length - 1;
  at("save").disabled = count === 0;
}
function note(item, change) {
  judged[item] = Object.assign({choice: "skip", comment: "", seconds: 0}, judged[item], change, {at: new Date().toISOString()});
  unsaved = true;
  at("told").textContent = keep() ? "" : "This browser keeps nothing for this page: save before you close it.";
}
function choose(choice) {
  const item = data.items[shown].item;
  const seconds = Math.round((Date.now() - since) / 100) / 10 + ((judged[item] || {}).seconds || 0);
  note(item, {choice, seconds: Math.round(seconds * 10) / 10, comment: at("comment").value});
  const open = data.items.findIndex((each, index) => index > shown && !judged[each.item]);
  if (open >= 0) show(open);
  else {
    state();
    const left = data.items.filter(each => !judged[each.item]).length;
    at("told").textContent = left ? `${left} pairs before this one are not judged yet.` : "All pairs are judged. Save the judgements, and send the file back.";
  }
}
function lines() {
  return data.items.filter(each => judged[each.item]).map(each => JSON.stringify({
    sheet: data.sheet, item: each.item, rater: at("rater").value.trim(), ...judged[each.item]})).join("\\n") + "\\n";
}
function save() {
  const rater = at("rater").value.trim();
  if (!rater) { at("told").textContent = "Give your name first: several people may judge the same pairs."; at("rater").focus(); return; }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines()], {type: "application/x-ndjson"}));
  link.download = `labels-${data.sheet}-${rater.replace(/[^\\p{L}\\p{N}]+/gu, " ").trim().replaceAll(" ", "-")}.jsonl`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  unsaved = false;
  at("told").textContent = `Saved as ${link.download}.`;
}
async function load(file) {
  let taken = 0, other = 0;
  for (const line of (await file.text()).split("\\n").filter(text => text.trim())) {
    try {
      const each = JSON.parse(line);
      if (each.sheet !== data.sheet || !names.has(each.item)) { other += 1; continue; }
      judged[each.item] = {choice: each.choice, comment: each.comment || "", seconds: each.seconds || 0, at: each.at};
      if (!at("rater").value) at("rater").value = each.rater || "";
      taken += 1;
    } catch (error) { other += 1; }
  }
  keep();
  show(Math.max(0, data.items.findIndex(each => !judged[each.item])));
  at("told").textContent = `${taken} judgements read` + (other ? `, ${other} lines are not of this sheet.` : ".");
}
at("question").textContent = data.question;
document.title = data.question;
for (const button of document.querySelectorAll("[data-choice]")) button.onclick = () => choose(button.dataset.choice);
at("before").onclick = () => show(shown - 1);
at("after").onclick = () => show(shown + 1);
at("save").onclick = save;
at("rater").onchange = keep;
at("comment").onchange = () => { const item = data.items[shown].item; if (judged[item]) note(item, {comment: at("comment").value}); };
at("load").onchange = event => { if (event.target.files.length) load(event.target.files[0]); };
document.onkeydown = event => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA)$/.test(event.target.tagName)) return;
  const choice = {1: "left", 2: "tie", 3: "right", 0: "skip"}[event.key];
  if (choice) choose(choice);
  else if (event.key === "ArrowLeft") show(shown - 1);
  else if (event.key === "ArrowRight") show(shown + 1);
};
window.onbeforeunload = event => { if (unsaved) event.preventDefault(); };
remember();
document.querySelector("main").hidden = document.querySelector("footer").hidden = false;
show(Math.max(0, data.items.findIndex(each => !judged[each.item])));
</script>
</body>
</html>
"""
