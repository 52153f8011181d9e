"""The page's template. Everything that comes from the data is escaped, and what is not seen is written out."""

TEMPLATE = """\
{% macro share(value) -%}
<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" role="img" aria-label="{{ value|percent }}">\
<rect class="all" width="100" height="8"/><rect width="{{ '%.2f'|format(100 * value) }}" height="8"/></svg>
{%- endmacro %}
{% macro picture(drawn, about) -%}
<svg viewBox="0 0 {{ width }} {{ height }}" preserveAspectRatio="none" role="img" aria-label="{{ about|visible }}">
{% for bar in drawn.bars %}
<rect x="{{ bar.x }}" y="{{ bar.y }}" width="{{ bar.width }}" height="{{ bar.height }}"><title>{{ bar.told }}</title></rect>
{% endfor %}
</svg>
<div class="ends"><span>0</span><span>{{ drawn.end }}</span></div>
{%- endmacro %}
{% macro counted(pairs, what) -%}
<div class="scroll" tabindex="0"><table><thead><tr><th>{{ what }}</th><th class="n">count</th></tr></thead><tbody>
{% for name, number in pairs %}
<tr><td><bdi>{{ name|visible }}</bdi></td><td class="n">{{ number|whole }}</td></tr>
{% endfor %}
</tbody></table></div>
{%- endmacro %}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<title>Profile of a data set</title>
<style>
{{ style|safe }}
</style>
</head>
<body>
<h1>Profile of a data set</h1>
<p class="soft">Rows, columns, formats, roles, characters and exact copies are of all rows. The rest is of {{ told.sample.rows|whole }} rows \
that seed {{ told.sample.seed }} has chosen.</p>
<div class="facts">
<div><b>{{ told.rows|whole }}</b>rows</div>
<div><b>{{ told.bad_lines|whole }}</b>lines that are no rows</div>
<div><b>{{ told.columns|length|whole }}</b>columns</div>
<div><b>{{ told.exact_duplicates.rows|whole }}</b>copies</div>
<div><b>{{ told.near_duplicates.rows|whole }}</b>near duplicates of {{ told.near_duplicates.rows_compared|whole }}</div>
</div>
{% if told.findings %}
<section class="findings"><h2>What deserves a look</h2><ul>
{% for each in told.findings %}
<li dir="auto">{{ each|visible }}</li>
{% endfor %}
</ul></section>
{% else %}
<section class="findings none"><h2>Nothing stands out</h2></section>
{% endif %}
{% if told.problems %}
<h2>Lines that are no rows</h2>
<p class="soft">The first of {{ told.bad_lines|whole }}.</p>
<ul>{% for each in told.problems %}<li dir="auto">{{ each|visible }}</li>{% endfor %}</ul>
{% endif %}
<h2>Formats</h2>
{{ counted(told.formats.items(), "format") }}
<h2>Columns</h2>
<div class="scroll" tabindex="0"><table>
<thead><tr><th>column</th><th class="n">rows with a value</th><th class="n">missing</th><th class="n">empty texts</th><th>kinds</th></tr></thead><tbody>
{% for each in columns %}
<tr><td><bdi>{{ each.name|visible }}</bdi></td><td class="n">{{ each.rows|whole }}</td><td class="n">{{ each.missing|whole }}</td>\
<td class="n">{{ each.empty_texts|whole }}</td><td>{% for kind, rows in each.kinds.items() %}{{ ", " if not loop.first }}{{ kind }} {{ rows|whole }}{% endfor %}</td></tr>
{% endfor %}
</tbody></table></div>
{% if hidden %}<p class="soft">{{ hidden|whole }} more columns are in the JSON file.</p>{% endif %}
{% if lengths %}
<h2>Lengths</h2>
<div class="grid">
{% for each, drawn in lengths %}
<figure><figcaption><bdi>{{ each.column|visible }}</bdi> <small>{{ each.unit }}, {{ each.of }}</small></figcaption>
{{ picture(drawn, each.unit ~ " of " ~ each.column) }}
</figure>
{% endfor %}
</div>
<div class="scroll" tabindex="0"><table><thead><tr><th>column</th><th>unit</th><th class="n">rows</th><th class="n">mean</th><th class="n">least</th><th class="n">5 %</th>\
<th class="n">25 %</th><th class="n">median</th><th class="n">75 %</th><th class="n">95 %</th><th class="n">99 %</th><th class="n">most</th></tr></thead><tbody>
{% for each, drawn in lengths %}
<tr><td><bdi>{{ each.column|visible }}</bdi></td><td>{{ each.unit }}</td><td class="n">{{ each.rows|whole }}</td><td class="n">{{ each.mean|short }}</td>\
{% for value in each.quantiles.values() %}<td class="n">{{ value|short }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% if hidden_lengths %}<p class="soft">{{ hidden_lengths|whole }} more distributions are in the JSON file.</p>{% endif %}
{% endif %}
{% if chats %}
<h2>Conversations</h2>
<div class="grid">
{% for each, drawn in chats %}
<figure><figcaption><bdi>{{ each.column|visible }}</bdi> <small>messages in a row, mean {{ each.messages.mean|short }}, \
{{ each.messages.quantiles["0"]|short }} to {{ each.messages.quantiles["1"]|short }}</small></figcaption>
{{ picture(drawn, "messages of " ~ each.column) }}
{{ counted(each.roles.items(), "role") }}
</figure>
{% endfor %}
</div>
{% endif %}
{% if told.languages %}
<h2>Languages</h2>
{% set total = told.languages.values()|sum %}
<div class="scroll" tabindex="0"><table><thead><tr><th>language</th><th class="n">rows</th><th class="n">share</th><th></th></tr></thead><tbody>
{% for name, rows in told.languages.items() %}
<tr><td>{{ name }}</td><td class="n">{{ rows|whole }}</td><td class="n">{{ (rows / total)|percent }}</td><td>{{ share(rows / total) }}</td></tr>
{% endfor %}
</tbody></table></div>
<p class="soft">Of {{ total|whole }} rows. As py3langid tells by the first 2,000 characters; texts below 20 characters cannot be told.</p>
{% endif %}
<h2>Duplicates</h2>
<p>{{ told.exact_duplicates.rows|whole }} of {{ told.rows|whole }} rows are copies of an earlier one.\
{% if told.exact_duplicates.rows %} Contents that are there more than once: {{ told.exact_duplicates.contents|whole }}; the most frequent one is there \
{{ told.exact_duplicates.most_copies|whole }} times.{% endif %}</p>
{% for each in told.exact_duplicates.examples %}
<article><small>lines {{ each.lines|join(", ") }}</small><p class="text" dir="auto">{{ each.text|visible }}</p></article>
{% endfor %}
<p>{{ told.near_duplicates.rows|whole }} of {{ told.near_duplicates.rows_compared|whole }} different rows of the sample share at least \
{{ told.near_duplicates.threshold|percent }} of their sequences of five words with an earlier one. \
{{ "Of a sample that is not all rows, this is too few: the other row has to be in it, too." if told.sample.rows < told.rows }}\
{% if told.near_duplicates.pairs_not_compared %} At most {{ told.near_duplicates.pairs_not_compared|whole }} pairs that may be alike were not compared.{% endif %}</p>
{% for each in told.near_duplicates.examples %}
<article><small>line {{ each.lines[0] }} is like line {{ each.lines[1] }}, similarity {{ each.similarity }}</small>
{% for text in each.texts %}<p class="text" dir="auto">{{ text|visible }}</p>{% endfor %}</article>
{% endfor %}
<h2>Words</h2>
<p>{{ told.vocabulary.words|whole }} words, {{ told.vocabulary.different_words|whole }} different ones ({{ told.vocabulary.different_per_word|percent }}), \
{{ told.vocabulary.words_there_once|whole }} of them there once, in {{ told.vocabulary.rows|whole }} rows.\
{{ " Of long texts, or of a large sample, not all words were counted." if told.vocabulary.is_cut }}</p>
<div class="grid tables">
{% for size, title in (("1", "words"), ("2", "two words"), ("3", "three words")) %}
{% if told.most_frequent[size] %}<div>{{ counted(told.most_frequent[size], title) }}</div>{% endif %}
{% endfor %}
</div>
{% if told.compared is defined %}
<h2>The compared data set</h2>
<p>{{ told.compared.rows|whole }} rows, and {{ told.compared.bad_lines|whole }} lines that are no rows. {{ told.compared.rows_in_both|whole }} of the {{ told.rows|whole }} rows here are there, too.</p>
<p>Both share {{ told.compared.shared_words|whole }} different words, {{ told.compared.jaccard|percent }} of those that either has. It knows {{ told.compared.share_of_words_known|percent }} \
of the words here.</p>
<div class="grid tables">
{% if told.compared.only_here %}<div>{{ counted(told.compared.only_here, "words only here") }}</div>{% endif %}
{% if told.compared.only_in_compared %}<div>{{ counted(told.compared.only_in_compared, "words only there") }}</div>{% endif %}
</div>
{% endif %}
<h2>Clusters</h2>
{% if told.clusters %}
<p class="soft">Rows that use the same words, at most 5,000 of the sample. How many clusters there are is given and not found: each is a place to look at.</p>
{% for each in told.clusters %}
<article><b dir="auto">{{ each.terms|join(", ")|visible }}</b> <small>{{ each.rows|whole }} rows, {{ each.share|percent }}</small>
{{ share(each.share) }}
{% for text in each.texts %}<p class="text" dir="auto"><small>line {{ text.line }}</small> {{ text.text|visible }}</p>{% endfor %}
</article>
{% endfor %}
{% else %}
<p class="soft">None: there are too few rows, or no words that some of them share.</p>
{% endif %}
<h2>Quality</h2>
{% if told.quality %}
<div class="scroll" tabindex="0"><table><thead><tr><th>of the sample</th><th class="n">share</th><th></th></tr></thead><tbody>
{% for name, value in told.quality.items() %}
<tr><td>{{ name.replace("_", " ") }}</td><td class="n">{{ value|percent }}</td><td>{{ share(value) }}</td></tr>
{% endfor %}
</tbody></table></div>
<h3>What published rules would drop</h3>
<p class="soft">Of {{ told.rules.rows|whole }} rows, at the thresholds of Gopher, C4 and FineWeb, which are made for pages of the web: short answers break many of them.</p>
<div class="scroll" tabindex="0"><table><thead><tr><th>rule</th><th class="n">rows</th><th></th></tr></thead><tbody>
{% for each in told.rules.broken %}
<tr><td>{{ each.rule }}</td><td class="n">{{ each.rows|whole }}</td><td>{{ share(each.rows / told.rules.rows) }}</td></tr>
{% endfor %}
</tbody></table></div>
{% else %}
<p class="soft">No row has text.</p>
{% endif %}
</body>
</html>
"""
