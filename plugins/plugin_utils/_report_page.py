# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of the report, a Jinja2 template. It asks for nothing from outside, and reads without JavaScript."""

from __future__ import annotations

PAGE = r"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>Source ports of {{ report.hosts }} hosts</title>
<style>
:root { color-scheme: light dark; --text: #1b1f24; --back: #ffffff; --line: #c8ced6; --bar: #9db8e8; --fill: #1f5fbf; --bad: #b3261e; --soft: #f3f5f8; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e8eaed; --back: #15181c; --line: #444b55; --bar: #2f4a78; --fill: #8ab4f8; --bad: #f28b82; --soft: #1e2228; }
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
body { margin: 0 auto; padding: 1rem; max-width: 75rem; color: var(--text); background: var(--back); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.bad { color: var(--bad); font-weight: 600; }
.sums { display: flex; flex-wrap: wrap; gap: 0.5rem; padding: 0; list-style: none; }
.sums li { padding: 0.5rem 1rem; border: 1px solid var(--line); border-radius: 0.5rem; background: var(--soft); }
.sums strong { display: block; font-size: 1.4rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: 0.3rem 0.6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.row { display: grid; grid-template-columns: minmax(6rem, 14rem) 1fr; gap: 0.5rem; align-items: center; margin: 0.25rem 0; }
.row > :first-child { overflow-wrap: anywhere; }
.track { position: relative; height: 1.5rem; background: var(--soft); border: 1px solid var(--line); border-radius: 0.25rem; }
.bar { position: absolute; top: 0; bottom: 0; min-width: 3px; overflow: hidden; background: var(--bar); }
.bar:focus-visible { outline: 3px solid var(--fill); outline-offset: 2px; z-index: 1; }
.bar > span { position: absolute; inset: 0 auto 0 0; background: var(--fill); }
.scale { display: flex; justify-content: space-between; font-size: 0.85rem; }
input { font: inherit; color: inherit; background: var(--back); border: 1px solid var(--line); border-radius: 0.25rem; }
input { padding: 0.3rem 0.5rem; max-width: 100%; }
@media (max-width: 40rem) { .row { grid-template-columns: 1fr; gap: 0; } }
</style>
</head>
<body>
<main>
<h1>Source ports of {{ report.hosts }} hosts</h1>
<p>As seen at {{ report.when }}.</p>
<ul class="sums">
<li><strong>{{ report.lines | length }}</strong> services</li>
<li><strong{% if report.events %} class="bad"{% endif %}>{{ report.events | length }}</strong> with violations or intrusions</li>
<li><strong{% if report.narrow %} class="bad"{% endif %}>{{ report.narrow | length }}</strong> in want of ports</li>
<li><strong{% if report.drifted %} class="bad"{% endif %}>{{ report.drifted | length }}</strong> hosts changed by hand</li>
<li><strong{% if report.silent %} class="bad"{% endif %}>{{ report.silent | length }}</strong> hosts not read</li>
<li><strong{% if report.bare %} class="bad"{% endif %}>{{ report.bare | length }}</strong> hosts without a service</li>
</ul>

{% if report.silent %}
<h2>Hosts that were not read</h2>
<ul>
{% for host, reason in report.silent %}
<li><strong><bdi>{{ host }}</bdi></strong>: <bdi>{{ reason }}</bdi></li>
{% endfor %}
</ul>
{% endif %}

{% if report.bare %}
<h2>Hosts without a service</h2>
<p>They have no fence. Where the inventory has services for them, <code>portfence.egress.site</code> has not come to them yet.</p>
<ul>
{% for host in report.bare %}
<li><strong>{{ host }}</strong></li>
{% endfor %}
</ul>
{% endif %}

{% if report.drifted %}
<h2>Hosts whose fence is not what was applied</h2>
<ul>
{% for host, drift in report.drifted %}
<li><strong><bdi>{{ host }}</bdi></strong> would: <bdi>{{ drift }}</bdi></li>
{% endfor %}
</ul>
{% endif %}

{% if report.events %}
<h2>Violations and intrusions</h2>
<p>Packets since the fence was loaded first after boot, without those of probes.</p>
<div class="wide" role="region" aria-label="Violations and intrusions" tabindex="0">
<table>
<thead><tr>
<th scope="col">Host</th>
<th scope="col">Service</th>
<th scope="col" class="number">Violations</th>
<th scope="col" class="number">Intrusions</th>
<th scope="col">They are</th>
</tr></thead>
<tbody>
{% for line in report.events %}
<tr>
<th scope="row">{{ line.host }}</th>
<td>{{ line.service }}</td>
<td class="number">{{ line.violations if line.violations is not none else '–' }}</td>
<td class="number">{{ line.intrusions if line.intrusions is not none else '–' }}</td>
<td>{{ 'let pass' if line.on_violation == 'log' else 'stopped' }}</td>
</tr>
{% endfor %}
</tbody>
</table>
</div>
{% endif %}

{% if report.narrow %}
<h2>Services in want of ports</h2>
<p>More than {{ (narrow * 100) | round | int }} % of the ports are in use; with rewrite, towards the busiest destination.</p>
<ul>
{% for line in report.narrow %}
<li><strong><bdi>{{ line.service }}</bdi></strong> on <bdi>{{ line.host }}</bdi>: {{ (line.use * 100) | round(1) }} % of {{ line.capacity }} ports</li>
{% endfor %}
</ul>
{% endif %}

<h2 id="map">Port map</h2>
{% if report.lines %}
<p><label>Show hosts with <input id="filter" type="search" autocomplete="off" aria-controls="rows"></label></p>
<div class="row" aria-hidden="true"><span></span><span class="scale"><span>{{ report.bounds[0] }}</span><span>{{ report.bounds[1] }}</span></span></div>
<div id="rows">
{% for host, bars in report.map() %}
<div class="row" data-host="{{ host }}">
<strong>{{ host }}</strong>
<div class="track" role="list" aria-label="{{ host }}">
{% for bar in bars %}
{% set label = bar.service ~ ', ports ' ~ bar.ports ~ (', %s %% in use' | format(bar.fill) if bar.known else '') %}
<span class="bar" role="listitem" tabindex="0" title="{{ label }}" aria-label="{{ label }}" style="left:{{ bar.left }}%;width:{{ bar.width }}%">
<span style="width:{{ bar.fill }}%"></span>
</span>
{% endfor %}
</div>
</div>
{% endfor %}
</div>
{% else %}
<p>No host has a service.</p>
{% endif %}

{% if report.changed %}
<h2>Last changes</h2>
<div class="wide" role="region" aria-label="Last changes" tabindex="0">
<table>
<thead><tr><th scope="col">Host</th><th scope="col">When</th><th scope="col">By</th></tr></thead>
<tbody>
{% for host, at, by in report.changed %}
<tr data-host="{{ host }}"><th scope="row">{{ host }}</th><td>{{ at }}</td><td>{{ by }}</td></tr>
{% endfor %}
</tbody>
</table>
</div>
{% endif %}

<h2>All services</h2>
<div class="wide" role="region" aria-label="All services" tabindex="0">
<table>
<thead><tr>
<th scope="col">Host</th>
<th scope="col">Service</th>
<th scope="col">Source ports</th>
<th scope="col">Assignment</th>
<th scope="col" class="number">In use</th>
</tr></thead>
<tbody>
{% for line in report.lines %}
<tr data-host="{{ line.host }}">
<th scope="row">{{ line.host }}</th>
<td>{{ line.service }}</td>
<td>{{ line.source_ports }}</td>
<td>{{ line.assignment }}</td>
<td class="number">{{ '%s %%' | format((line.use * 100) | round(1)) if line.use is not none else '–' }}</td>
</tr>
{% endfor %}
</tbody>
</table>
</div>
</main>
<script>
"use strict";
const field = document.getElementById("filter");
if (field) {
  field.addEventListener("input", () => {
    const wanted = field.value.trim().toLowerCase();
    for (const row of document.querySelectorAll("[data-host]")) {
      row.hidden = !row.dataset.host.toLowerCase().includes(wanted);
    }
  });
}
</script>
</body>
</html>
"""
