"""How the page looks, and the only script in it, each allowed by its digest alone."""

from __future__ import annotations

import base64
import hashlib

STYLE = """
:root { color-scheme: light dark; --ink: light-dark(#1a202c, #e2e8f0); --quiet: light-dark(#5a6474, #9aa5b5);
  --line: light-dark(#dfe3e8, #333c4a); --page: light-dark(#fff, #12161d); --head: light-dark(#f5f7f9, #1b212b);
  --link: light-dark(#0b5cad, #7db8f5); --good: light-dark(#0a6b3c, #6fd6a2); --bad: light-dark(#b3261e, #ff9d94);
  --open: light-dark(#8a5a00, #f0c05a); }
* { box-sizing: border-box; }
body { margin: 0; padding: 1rem; background: var(--page); color: var(--ink); font: 14px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.35rem; margin: 0 0 .5rem; } p { margin: .35rem 0; max-width: 75ch; }
a { color: var(--link); } .quiet { color: var(--quiet); font-weight: normal; } .note { border-left: 3px solid var(--open); padding-left: .6rem; }
form { display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; margin: .75rem 0; }
input, button { font: inherit; color: inherit; background: var(--head); border: 1px solid var(--line); border-radius: 4px; padding: .25rem .6rem; }
table { width: 100%; border-collapse: collapse; }
th, td { text-align: left; vertical-align: top; padding: .55rem .6rem; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
thead th { background: var(--head); font-weight: 600; white-space: nowrap; } tbody th { width: 16%; }
td { width: 28%; } ul { list-style: none; margin: 0; padding: 0; } summary { cursor: pointer; color: var(--quiet); }
.pass { color: var(--good); } .fail { color: var(--bad); } .undecided { color: var(--open); }
.links a { margin-right: .7rem; white-space: nowrap; }
a:focus-visible, input:focus-visible, button:focus-visible, summary:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
@media (max-width: 760px) { thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  table, tbody, tr, tbody th, td { display: block; width: 100%; } tr { border: 1px solid var(--line); border-radius: 6px; margin-bottom: .75rem; }
  td:last-child { border-bottom: 0; } td::before { content: attr(data-label); display: block; font-weight: 600; color: var(--quiet); } }
"""
# Airflow frames the page in a sandbox that may not navigate the window, nor open one. Airflow's own document may.
SCRIPT = """
const html = document.documentElement;
if (top !== self) html.style.colorScheme = top.document.documentElement.classList.contains("dark") ? "dark" : "light";
addEventListener("click", (event) => {
  const link = event.target.closest("a[target=_top]");
  if (!link || top === self || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  const there = top.document.createElement("a");
  there.href = link.href;
  top.document.body.append(there);
  there.click();
  there.remove();
});
"""


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src {_digest(STYLE)}; script-src {_digest(SCRIPT)}; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-store",
}
