"""The colours of pages, light and dark."""

PALETTE = """\
:root {
  color-scheme: light dark;
  --ground: #fbfbfa; --card: #fff; --text: #1c2024; --soft: #60666c; --line: #e2e4e6;
  --up: #18794e; --down: #c62a2f; --even: #80878e; --model: #2f6fd0; --on: #fff; --warn: #8a5200;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #141618; --card: #1c1f22; --text: #e8eaed; --soft: #9aa2aa; --line: #32373c;
    --up: #4cc38a; --down: #ff7b72; --even: #8b949e; --model: #6ea8fe; --on: #0d1520; --warn: #f0b35a;
  }
}
"""
