// Reports: benchmark reports in the folder of the server.
import { html } from "../lib/html.js";
import { brief, clean, count, dollars, seconds } from "../lib/format.js";
import { useData } from "../lib/live.js";
import { Facts, Panel, Problem, Time, walking } from "../lib/parts.js";

export function ReportList() {
  const { data, error } = useData("/bench", {});
  const reports = data ? data.reports : [];
  return html`<h1>Benchmarks</h1><${Problem} error=${error} />
    ${reports.length > 0 && html`<div class="scroll" onKeyDown=${walking("a.row-link")}><table><thead><tr><th>Benchmark</th><th>Started</th><th class="n">Time</th><th class="n">Items</th><th class="n">Arms</th><th>Report</th></tr></thead><tbody>${reports.map(
      (one) => html`<tr key=${one.id}><td><a class="row-link" href="#/bench/${encodeURIComponent(one.id)}"><bdi>${brief(one.name, 80)}</bdi></a></td><td><${Time} at=${one.started} /></td><td class="n">${seconds(one.seconds)}</td><td class="n">${count(one.items)}</td><td class="n">${count(one.arms_count)}</td><td>${one.page && html`<a href="/bench/${encodeURIComponent(one.id)}/report.html">open</a>`}${!one.readable && html`<span class="s-failed">cannot be read</span>`}</td></tr>`,
    )}</tbody></table></div>`}
    ${data && !reports.length && html`<p class="empty">No reports here. <code>reports</code> in <code>[server]</code> of fusion.toml names the folder that <code>fusion bench</code> writes to.</p>`}`;
}

export function ReportPage({ id }) {
  const { data, error } = useData(`/bench/${encodeURIComponent(id)}`, {});
  if (!data) return html`<${Problem} error=${error} />`;
  const best = Math.max(...data.arms.map((arm) => arm.score || 0), 0.0001);
  return html`<div class="head"><h1><bdi>${brief(data.name, 80)}</bdi></h1>
      <p class="about"><span>started <${Time} at=${data.started} /></span><span>${seconds(data.seconds)}</span>${data.page && html`<a href="/bench/${encodeURIComponent(id)}/report.html">the whole report</a>`}</p></div>
    <${Panel} title="Arms" wide=${true}><div class="scroll"><table><thead><tr><th>Arm</th><th>Kind</th><th class="n">Items</th><th class="n">Score</th><th></th><th class="n">Cost</th></tr></thead><tbody>${data.arms.map(
      (arm) => html`<tr key=${arm.name}><td><bdi>${brief(arm.name, 60)}</bdi></td><td class="dim">${clean(arm.kind)}</td><td class="n">${count(arm.items)}</td><td class="n">${arm.score === null ? "" : arm.score.toFixed(3)}</td><td class="barred"><span class="stack"><span class="part-ok" style=${{ width: `${(100 * (arm.score || 0)) / best}%` }}></span></span></td><td class="n">${arm.usd === null ? "" : dollars(arm.usd)}</td></tr>`,
    )}</tbody></table></div><//>
    <${Panel} title="About" wide=${true}><${Facts} of=${[["command", data.command && html`<code>${brief(data.command, 200)}</code>`], ["gate", clean(data.gate)], ["stopped", clean(data.stopped)]]} />${data.notes.map((note, at) => html`<p class="dim" key=${at}><bdi>${brief(note, 300)}</bdi></p>`)}<//>`;
}
