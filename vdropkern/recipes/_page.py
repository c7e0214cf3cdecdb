"""report.html as a Jinja template. It stands in a module so that wheels need no data files."""

CSS = """
:root { color-scheme: light dark; --text: #1f2328; --soft: #59636e; --ground: #ffffff; --page: #f5f7f9;
  --line: #d8dee4; --accent: #0b63ce; --warn: #fff4de; --warn-line: #e3a63a; }
@media (prefers-color-scheme: dark) { :root { --text: #e3e7ec; --soft: #9aa4af; --ground: #14181d;
  --page: #0d1013; --line: #363d47; --accent: #63a8ff; --warn: #2c2412; --warn-line: #a97a22; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 4px; }
h2 { font-size: 1.1rem; margin: 0 0 10px; }
p { margin: 6px 0; }
.soft { color: var(--soft); }
section, .card { background: var(--ground); border: 1px solid var(--line); border-radius: 10px; }
section { padding: 18px 20px; margin-top: 18px; }
.note { background: var(--warn); border: 1px solid var(--warn-line); border-radius: 10px; padding: 10px 16px;
  margin-top: 16px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px;
  margin-top: 18px; }
.card { padding: 12px 16px; }
.card b { display: block; font-size: 1.65rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: .87rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 12px 6px 0; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th { color: var(--soft); font-weight: 500; font-size: .87rem; }
th:first-child, td:first-child { text-align: left; }
tr:last-child td { border-bottom: 0; }
tr.total td { font-weight: 600; }
td.bar { width: 34%; min-width: 120px; }
.track { height: 10px; border-radius: 5px; background: var(--line); overflow: hidden; }
.track i { display: block; height: 100%; min-width: 2px; background: var(--accent); }
table.facts { margin-top: 12px; }
table.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; vertical-align: top; }
table.facts td:first-child { color: var(--soft); white-space: nowrap; width: 1%; padding-right: 24px; }
figure { margin: 0; overflow-x: auto; }
img { display: block; width: 100%; min-width: 700px; height: auto; }
figcaption { position: sticky; left: 0; }
figcaption { color: var(--soft); font-size: .87rem; margin-top: 8px; }
pre { margin: 8px 0 0; padding: 12px 14px; background: var(--page); border: 1px solid var(--line);
  border-radius: 8px; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere;
  font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
"""

TEMPLATE = """\
{%- macro us(t) %}{{ "%.1f" | format(t.median_us) }}
  <span class="soft">({{ "%.1f" | format(t.p20_us) }} to {{ "%.1f" | format(t.p80_us) }})</span>
{%- endmacro -%}
{%- macro picture(p, alt) %}
<picture><source media="(prefers-color-scheme: dark)" srcset="{{ p.dark }}">
<img alt="{{ alt }}" src="{{ p.light }}"></picture>{% endmacro -%}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ r.recipe }} with {{ r.config.method }}</title>
<style>{{ css }}</style>
</head>
<body>
<main>
<h1>{{ r.recipe }} with {{ r.config.method }}</h1>
<p class="soft">{{ r.data.name }}, {{ r.config.epochs }} epochs, seed {{ r.config.seed }},
vdropkern {{ r.versions.vdropkern }}</p>
{% if r.data.note %}<p class="note">{{ r.data.note[:1] | upper }}{{ r.data.note[1:] }}.</p>{% endif %}
<div class="cards">
<div class="card"><b>{{ "%.2f" | format(r.test.pruned_error) }} %</b>
<span>test error of the pruned net, {{ "{:,}".format(r.data.test_size) }} images</span></div>
<div class="card"><b>{{ compression(r.total.weights, r.total.nonzero) }}</b>
<span>compression: {{ "{:,}".format(r.total.nonzero) }} of {{ "{:,}".format(r.total.weights) }} weights
left</span></div>
{% for row in r.inference %}<div class="card"><b>{{ "%.1f" | format(row.speed_up) }}x</b>
<span>the dense net's speed at batch {{ row.batch }}: {{ "%.1f" | format(row.pruned.median_us) }} &micro;s
instead of {{ "%.1f" | format(row.dense.median_us) }}</span></div>
{% endfor %}<div class="card"><b>{{ clock(r.seconds.training) }}</b>
<span>training, {{ plural(r.machine.threads, "thread") }}</span></div>
</div>
<section><h2>Weights left, by layer</h2>
<div class="scroll"><table>
<tr><th>layer</th><th>weights</th><th>nonzero</th><th>sparsity</th><th>runs as</th><th>left</th></tr>
{% for row in rows %}<tr{% if loop.last %} class="total"{% endif %}><td>{{ row.name }}</td>
<td>{{ "{:,}".format(row.weights) }}</td><td>{{ "{:,}".format(row.nonzero) }}</td>
<td>{{ "%.2f" | format(100 * row.sparsity) }} %</td><td>{{ row.runs_as }}</td>
<td class="bar"><div class="track">
<i style="width:{{ "%.2f" | format(100 - 100 * row.sparsity) }}%"></i></div></td></tr>
{% endfor %}</table></div>
<p class="soft">Biases are not counted.</p></section>
<section><h2>Inference, dense and pruned</h2>
<div class="scroll"><table>
<tr><th>batch</th><th>dense, &micro;s</th><th>pruned, &micro;s</th><th>speed-up</th></tr>
{% for row in r.inference %}<tr><td>{{ row.batch }}</td>
<td>{{ us(row.dense) }}</td><td>{{ us(row.pruned) }}</td>
<td>{{ "%.2f" | format(row.speed_up) }}x</td></tr>
{% endfor %}</table></div>
<p class="soft">Medians (20th to 80th percentile) of {{ r.inference[0].rounds }} rounds taken in turns, whole
forward passes called from Python; {{ r.machine.processor }},
{{ plural(r.machine.threads, "thread") }},
{{ r.machine.device }}. Dense is the same net on torch.nn.Linear.</p></section>
{% for title, table in r.get("further", {}).items() %}<section><h2>{{ title }}</h2>
<div class="scroll"><table>
<tr>{% for column in table[0] %}<th>{{ column }}</th>{% endfor %}</tr>
{% for row in table %}<tr>{% for value in row.values() %}<td>{{ cell(value) }}</td>{% endfor %}</tr>
{% endfor %}</table></div></section>
{% endfor %}<section><h2>Training</h2><figure>{{ picture(pictures.curves, "training curves") }}
<figcaption>Test numbers are of the mean weights without noise, pruned ones at zero, after each epoch. The net
reported is that of the last epoch: none was chosen by its test error. N is the number of training images.
</figcaption></figure></section>
{% if "receptive_fields" in pictures %}<section><h2>What the first layer looks at</h2>
<figure>{{ picture(pictures.receptive_fields, "receptive fields of the first layer") }}
<figcaption>Each tile holds the weights of one unit, laid out as the image it sees, all on one colour scale.
On the right: how many units still read each pixel.</figcaption></figure></section>{% endif %}
<section><h2>Weights and their noise</h2><figure>{{ picture(pictures.histograms, "histograms") }}
<figcaption>Counts are on a logarithmic axis. log_alpha = log(variance / mean&sup2;) is the ratio of noise to
signal in a weight; where it is high the weight carries nothing, and is pruned.</figcaption></figure>
</section>
<section><h2>Use the pruned net</h2><pre>import vdropkern

net = vdropkern.load("{{ r.model }}").eval()
logits = net(images)  # float32 [B, {{ r.data.input | join(", ") }}], as the recipe has it</pre></section>
<section><h2>How it was made</h2><pre>{{ r.command }}</pre>
<table class="facts">
{% for name, value in facts.items() %}<tr><td>{{ name }}</td><td>{{ value }}</td></tr>
{% endfor %}</table></section>
</main>
</body>
</html>
"""
