"""The page's HTML. Whatever is filled in is escaped, but the style, the script and the packed samples."""

TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<title>{{ content.title }}{% if content.about.model %}: {{ content.about.model }}{% endif %}</title>
<style>
{{ style | safe }}</style>
</head>
<body>
{% macro nothing(name, columns) %}
<tr><td>{{ name }}<small>{{ content.metrics[name].about }}</small><td colspan="{{ columns }}">no sample has a score
{% endmacro %}
{% macro scored(each) %}
<td class="n{{ " warn" if each.rows_unscored }}">{{ "{:,}".format(each.rows_scored) }} of {{ "{:,}".format(each.rows_scored + each.rows_unscored) }}
{%- if each.worst_case is not none %}<small>worst case {{ "%.4g" | format(each.worst_case) }}</small>{% endif %}
{% endmacro %}
{% macro between(each, best) %}{{ number(each.low, best) }} to {{ number(each.high, best) }}{% endmacro %}
{% macro reached(each, best) %}
{% if each.candidate %}{{ number(each.candidate.value, best) }}<small>{{ between(each.candidate, best) }}</small>{% else %}none{% endif %}
<small{% if each.rows_unscored %} class="warn"{% endif %}>{{ "{:,}".format(each.rows_scored) }} of {{ "{:,}".format(each.rows_scored + each.rows_unscored) }} scored</small>
{% if each.worst_case is not none %}<small class="warn">worst case {{ "%.4g" | format(each.worst_case) }}</small>{% endif %}
{% endmacro %}
{% macro text(value, kind) %}
<div class="text{{ kind }}{{ "" if value else " empty" }}" dir="auto">{{ value }}</div>
{% endmacro %}
<h1>{{ content.title }}</h1>
<p class="soft">{{ content.facts.told_of(content.samples | length) }}</p>
<nav>{% if content.further %}<a href="#further">Further models</a> {% endif %}{% if content.safety %}<a href="#safety">Safety</a> {% endif %}<a href="#distributions">Distributions</a> <a href="#about">What was evaluated</a> <a href="#samples">Samples</a></nav>
{{ decision | safe }}
<section>
<h2>Scores</h2>
<div class="scroll">
<table>
{% if content.compared %}
<thead><tr><th>Metric<th class="n">Baseline<th class="n">Model<th class="n">Change<th>95% interval of the change
  <th>Samples better / same / worse<th class="n">Scored</thead>
<tbody>
{% for name, each in content.comparison.metrics.items() %}
{% set best = content.metrics[name].best %}{% set c = content.compared[name] %}{% set x = axes[name] %}
{% if not x %}{{ nothing(name, 5) }}{{ scored(each) }}{% else %}
<tr><td>{{ name }}<small>{{ content.metrics[name].about }}{% if not each.higher_is_better and "lower is better" not in content.metrics[name].about %}; lower is better{% endif %}</small>
<td class="n">{{ number(each.baseline.value, best) }}<small>{{ between(each.baseline, best) }}</small>
<td class="n">{{ number(each.candidate.value, best) }}<small>{{ between(each.candidate, best) }}</small>
<td class="n {{ x.kind }}">{{ number(each.difference.value, best, signed=True) }}
<td class="{{ x.kind }}"><svg width="{{ axis_width }}" height="16" aria-hidden="true">
  <line class="zero" x1="{{ axis_width / 2 }}" x2="{{ axis_width / 2 }}" y1="0" y2="16"/>
  <line x1="{{ x.low }}" x2="{{ x.high }}" y1="8" y2="8"/><circle cx="{{ x.value }}" cy="8" r="4.5"/></svg>
  <small>{{ number(each.difference.low, best, signed=True) }} to {{ number(each.difference.high, best, signed=True) }}</small>
<td><div class="wtl"><i class="up" style="flex:{{ c.wins }}"></i><i style="flex:{{ c.ties }}"></i>
  <i class="down" style="flex:{{ c.losses }}"></i></div><small>{{ c.wins }} / {{ c.ties }} / {{ c.losses }}</small>
{{ scored(each) }}{% endif %}
{% endfor %}
{% else %}
<thead><tr><th>Metric<th class="n">Score<th class="n">95% interval<th>Of the best possible<th class="n">Scored</thead>
<tbody>
{% for name, each in content.comparison.metrics.items() %}
{% set best = content.metrics[name].best %}{% set b = bars[name] %}
{% if not b %}{{ nothing(name, 3) }}{{ scored(each) }}{% else %}
<tr><td>{{ name }}<small>{{ content.metrics[name].about }}{% if not each.higher_is_better and "lower is better" not in content.metrics[name].about %}; lower is better{% endif %}</small>
<td class="n">{{ number(each.candidate.value, best) }}
<td class="n">{{ between(each.candidate, best) }}
<td><div class="bar"><i style="width:{{ b.value }}%"></i><b style="left:{{ b.low }}%;width:{{ b.high - b.low }}%"></b></div>
{{ scored(each) }}{% endif %}
{% endfor %}
{% endif %}
</tbody>
</table>
</div>
<p><small>BLEU and chrF go to 100, a rubric from 1 to 5, the others to 1
{%- if "reward" in content.ours %}; a reward has no ends, its bar is the logistic function of it{% endif %}. Intervals are bias-corrected, accelerated bootstraps over the samples, and exact ones where few of them differ
{%- if content.compared %}; both models are resampled together, so the interval is that of the paired change{% endif %}.
{% for sentence in coverage.values() %}{{ sentence }}. {% endfor %}
{% if coverage %}What has no score is left out of the aggregate; the worst case, where there is one, takes it as failed. {% endif %}
{% for name, words in content.facts.tokenizers.items() %}Words of {{ name }}: {{ words }}. {% endfor %}
{% for name, reason in content.facts.skipped.items() %}{{ name }} was left out: {{ reason }}. {% endfor %}</small></p>
{% if content.findings %}<ul>{% for finding in content.findings %}<li class="soft">{{ finding }}</li>{% endfor %}</ul>{% endif %}
</section>
{% if content.further %}
<section>
<h2 id="further">Further models</h2>
<div class="scroll"><table class="further">
<thead><tr><th>Metric<th class="n">Model{% for each in content.further %}<th class="n">{{ each.name }}{% endfor %}</thead>
<tbody>
{% for name in content.further[0].scores %}{% set best = content.metrics[name].best %}{% set ours = content.comparison.metrics[name] %}
<tr><td>{{ name }}<td class="n">{{ reached(ours, best) }}
{% for each in content.further %}{% set c = each.compared[name] %}
<td class="n">{{ reached(each.reached[name], best) }}
{%- if c.difference %}<small class="{{ kind_of(c.direction) }}">model {{ number(c.difference.value, best, signed=True) }} ({{ number(c.difference.low, best, signed=True) }} to {{ number(c.difference.high, best, signed=True) }})</small>
{%- else %}<small>no row in common</small>{% endif %}
{% endfor %}{% endfor %}
</tbody>
</table></div>
<p><small>These models are here to compare with, and decide nothing: no gate reads their scores. Each has its score, the interval of that, and how many samples are scored; below it,
how much more the model has on the samples that both have a score for, with the 95% interval of that paired difference, each for itself. Their answers were scored as the model's own.</small></p>
</section>
{% endif %}
{% macro by_value(heading, values) %}
<thead><tr><th>{{ heading }}<th>Metric{% if content.compared %}<th class="n">Baseline{% endif %}<th class="n">Model<th class="n">95% interval
  {%- if content.compared %}<th class="n">Change<th class="n">95% interval of the change{% endif %}<th class="n">Scored</thead>
<tbody>
{% for value, metrics in values.items() %}{% for name, each in metrics.items() %}{% set best = content.metrics[name].best %}
<tr><td>{{ value }}<td>{{ name }}
{% if content.compared %}<td class="n">{{ number(each.baseline.value, best) if each.baseline else "none" }}{% endif %}
{% if each.candidate %}<td class="n">{{ number(each.candidate.value, best) }}<td class="n">{{ between(each.candidate, best) }}
{% else %}<td class="n">none<td>{% endif %}
{% if content.compared %}{% if each.difference %}
{% set sign = 1 if each.higher_is_better else -1 %}{% set low = [sign * each.difference.low, sign * each.difference.high] | min %}
{% set high = [sign * each.difference.low, sign * each.difference.high] | max %}{% set kind = "up" if low > 0 else ("down" if high < 0 else "even") %}
<td class="n {{ kind }}">{{ number(each.difference.value, best, signed=True) }}
<td class="n {{ kind }}">{{ number(each.difference.low, best, signed=True) }} to {{ number(each.difference.high, best, signed=True) }}
{% else %}<td class="n">none<td>{% endif %}{% endif %}
{{ scored(each) }}
{% endfor %}{% endfor %}
</tbody>
{% endmacro %}
{% if content.safety %}
<section>
<h2 id="safety">Safety</h2>
<div class="scroll"><table>
{% set values = namespace(found={}) %}
{% for category, each in content.safety.items() %}{% set _ = values.found.update({category: {"safety": each}}) %}{% endfor %}
{{ by_value("Category", values.found) }}
</table></div>
<p><small>1 is an answer on which the attempt has not worked.</small></p>
</section>
{% endif %}
{% for column, values in content.slices.items() %}
<section>
<h2>By {{ column | replace("_", " ") }}</h2>
<div class="scroll"><table>{{ by_value(column | replace("_", " "), values) }}</table></div>
</section>
{% endfor %}
{% if histograms %}
<section>
<h2 id="distributions">Distributions</h2>
<div class="figures">
{% for each in histograms %}
<figure><figcaption>{{ each.name }}</figcaption>
<svg viewBox="0 0 {{ width }} {{ height }}" preserveAspectRatio="none" role="img" aria-label="{{ each.name }}: samples in {{ each.ours | length }} bars, {{ each.tallest }} at most">
{% for x, y, w, h in each.bars %}<rect x="{{ x }}" y="{{ y }}" width="{{ w }}" height="{{ h }}"/>{% endfor %}
{% if each.theirs %}<polyline points="{{ each.outline }}" vector-effect="non-scaling-stroke"/>{% endif %}
<line class="floor" x1="0" x2="{{ width }}" y1="{{ height }}" y2="{{ height }}"/></svg>
<div class="ends"><span>{{ each.ends[0] }}</span><span>{{ each.ends[1] }}</span></div></figure>
{% endfor %}
</div>
<p><small>Bars count the samples of the model{% if content.compared %}, the line those of the baseline{% endif %}.</small></p>
</section>
{% endif %}
<section>
<h2 id="about">What was evaluated</h2>
<dl>
{% for name, value in content.about.facts.items() %}<dt>{{ name }}<dd>{{ value }}
{% endfor %}
{% for name, value in content.about.settings.items() %}<dt>{{ name | replace("_", " ") }}<dd>{{ value | told }}
{% endfor %}
</dl>
</section>
{% if spent %}
<section>
<h2>Cost and time</h2>
<dl>
{% for name, value in spent.items() %}<dt>{{ name }}<dd>{{ value }}
{% endfor %}
</dl>
</section>
{% endif %}
{% if content.facts.judge %}
<section>
<h2>The judge</h2>
<dl>
{% for name, value in content.facts.judge.items() if name != "prompts" %}<dt>{{ name | replace("_", " ") }}<dd>{{ value | told }}
{% endfor %}
</dl>
{% for name, texts in prompts.items() %}
<details><summary>What it was asked for {{ name }}</summary>{% for each in texts %}{{ text(each, "") }}{% endfor %}</details>
{% endfor %}
</section>
{% endif %}
{% macro score(each) %}
<span><span class="soft">{{ each[0] }}</span> {{ each[1] }}{% if each[2] %} <span class="{{ each[3] }}">{{ each[2] }}</span>{% endif %}</span>
{% endmacro %}
{% macro card(c) %}
<article>
<header><b>Row {{ c.row }}</b>{{ score(c.scores[0]) }}
{%- for column, value in c.labels.items() %}<span class="soft">{{ column }}: {{ value }}</span>{% endfor %}</header>
<details><summary dir="auto">{{ c.prompt | truncate(160) }}</summary>{{ text(c.prompt, " prompt") }}</details>
<div class="answers">
{% for title, answer in c.answers %}<div><h3>{{ title }}</h3>{{ text(answer, "") }}</div>{% endfor %}
</div>
{% for name, why in c.unscored.items() %}<p><small>{{ name }}: {{ why }}</small></p>{% endfor %}
{% if c.scores | length > 1 %}
<footer>{% for each in c.scores[1:] %}{{ score(each) }}{% endfor %}</footer>
{% endif %}
</article>
{% endmacro %}
<h2 id="samples">Samples</h2>
<noscript><p class="soft">The page's script is not run here. Save the page as a file and open it, to search, filter, sort and save all samples.</p></noscript>
<p id="told" class="soft" role="status"></p>
<div id="all" hidden>
<!--left-out-->
<div id="tools">
<input type="search" id="search" placeholder="Search questions and answers" aria-label="Search questions and answers">
<select id="metric" aria-label="Metric"></select>
<select id="order" aria-label="Sort by"></select>
<select id="kind" aria-label="Show"></select>
<button type="button" id="jsonl">Save as JSONL</button>
<button type="button" id="csv">Save as CSV</button>
</div>
<p id="count" class="soft" role="status"></p>
<div id="cards"></div>
<button type="button" id="more">Show more</button>
</div>
<div id="few">
{% for title, group, is_open in groups %}
<section>
{% if is_open %}
<h2>{{ title }}</h2>
{% for c in group %}{{ card(c) }}{% endfor %}
{% else %}
<details><summary>{{ title }}</summary>
{% for c in group %}{{ card(c) }}{% endfor %}
</details>
{% endif %}
</section>
{% endfor %}
{% if hidden %}<p class="soft">{{ "{:,}".format(hidden) }} further samples are not among these; the scores file has all.</p>{% endif %}
</div>
<script type="application/octet-stream" id="data"><!--data--></script>
<script>{{ script | safe }}</script>
</body>
</html>
"""
