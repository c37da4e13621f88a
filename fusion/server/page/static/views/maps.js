// Maps: one pipeline over many rows, with its progress.
import { html } from "../lib/html.js";
import { brief, clean, cost, count, percent, plural, seconds } from "../lib/format.js";
import { useData } from "../lib/live.js";
import { Facts, Failure, Panel, Problem, Status, Tags, Time, walking } from "../lib/parts.js";

const EVERY = 2000;
const STATES = ["ok", "partial", "failed", "running", "died"];

export function MapList({ paused }) {
  const { data, error } = useData("/maps", { limit: 200 }, { every: EVERY * 2, paused });
  const maps = data ? data.maps : [];
  return html`<h1>Maps</h1><${Problem} error=${error} />
    <div class="list maps" role="table" aria-label="Maps" onKeyDown=${walking("a.row-link")}>
      <div class="row head" role="row">${["Status", "Pipeline", "Progress", "Started", "Cost"].map((title) => html`<span role="columnheader" key=${title}>${title}</span>`)}</div>
      ${maps.map(
        (one) => html`<div class="row" role="row" key=${one.map_id}>
          <span role="cell"><${Status} of=${one.status} /></span>
          <span role="cell" class="pipeline"><a class="row-link" href="#/map/${encodeURIComponent(one.map_id)}"><bdi>${brief(one.pipeline, 60)}</bdi> <span class="id">${brief(one.map_id, 60)}</span></a> <${Tags} tags=${one.tags} /></span>
          <span role="cell"><${Progress} of=${one} /></span>
          <span role="cell"><${Time} at=${one.started} /></span>
          <span role="cell">${cost(one.cost.usd, one.cost.unknown_calls)}</span>
        </div>`,
      )}
    </div>
    ${data && !maps.length && html`<p class="empty">No maps yet; <code>fusion map</code> runs a pipeline over many rows.</p>`}`;
}

function Progress({ of }) {
  const all = Math.max(of.expected || 0, of.rows, 1);
  const label = `${count(of.ok + of.partial)} of ${count(all)} done${of.failed ? `, ${count(of.failed)} failed` : ""}`;
  return html`<span class="stack" role="img" aria-label=${label}>
    ${["ok", "partial", "failed"].map((name) => html`<span key=${name} class="part-${name}" style=${{ width: `${percent(of[name], all)}%` }}></span>`)}
  </span> <span class="figure">${label}</span>`;
}

export function MapPage({ id, query, paused }) {
  const status = query.get("status") || "";
  const { data, error } = useData(`/maps/${encodeURIComponent(id)}`, {}, { every: EVERY, paused });
  const rows = useData(`/maps/${encodeURIComponent(id)}/rows`, { status, limit: 200 }, { every: EVERY * 2, paused });
  if (!data) return html`<${Problem} error=${error} />${!error && html`<p class="dim">reading the map…</p>`}`;
  const one = data.map;
  const address = (state) => `#/map/${encodeURIComponent(one.map_id)}${state ? `?status=${state}` : ""}`;
  return html`
    <div class="head"><h1><span role="status"><${Status} of=${one.status} /></span> <bdi>${brief(one.pipeline, 80)}</bdi></h1>
      <p class="about"><code>${clean(one.map_id)}</code><span>started <${Time} at=${one.started} /></span><span>${seconds(one.seconds)}</span><span>profile ${clean(one.profile)}</span><${Tags} tags=${one.tags} /></p></div>
    <${Failure} of=${one.failure} />
    <div class="money"><strong class="sum">${cost(one.cost.usd, one.cost.unknown_calls)}</strong><${Progress} of=${one} /><span>${plural(one.calls, "call")}</span><span>${count(one.waiting)} waiting</span></div>
    <${Panel} title="About" wide=${true}><${Facts} of=${[["from", brief(one.source, 160)], ["to", brief(one.output, 160)], ["pipeline", data.pipeline_file && brief(data.pipeline_file, 160)], ["passes", count(one.passes)]]} /><//>
    <div class="columns">
      <${Panel} title="Spending"><table><thead><tr><th>Stage</th><th class="n">Calls</th><th class="n">Tokens</th><th class="n">Cost</th></tr></thead><tbody>${data.stages.map((stage) => html`<tr key=${stage.stage}><td>${clean(stage.stage)}</td><td class="n">${count(stage.calls)}</td><td class="n">${count(stage.tokens)}</td><td class="n">${cost(stage.cost.usd, stage.cost.unknown_calls)}</td></tr>`)}</tbody></table><//>
      ${data.failures.length > 0 && html`<${Panel} title="Failures"><ul class="plain">${data.failures.map((fold, at) => html`<li key=${at}><strong>${count(fold.count)}</strong> <${Failure} of=${fold.failure} /><span class="dim">rows <bdi>${brief(fold.keys.join(", "), 120)}</bdi></span></li>`)}</ul><//>`}
    </div>
    <${Panel} title="Rows" wide=${true}>
      <span class="chips" role="group" aria-label="Status">${STATES.map((state) => html`<a key=${state} class="chip s-${state}" aria-current=${status === state ? "true" : null} href=${address(status === state ? "" : state)}>${state}</a>`)}</span>
      <${Problem} error=${rows.error} />
      <div class="scroll" tabindex="0" role="region" aria-label="Rows" onKeyDown=${walking("a.row-link")}><table><thead><tr><th class="n">Row</th><th>Key</th><th>Status</th><th class="n">Time</th><th class="n">Cost</th></tr></thead><tbody>${(rows.data ? rows.data.rows : []).map(
        (row) => html`<tr key=${row.run_id}><td class="n">${count(row.number)}</td><td><a class="row-link" href="#/run/${encodeURIComponent(row.run_id)}"><bdi>${brief(row.key, 60)}</bdi></a></td><td><${Status} of=${row.status} /></td><td class="n">${seconds(row.seconds)}</td><td class="n">${cost(row.cost.usd, row.cost.unknown_calls)}</td></tr>`,
      )}</tbody></table></div>
      ${rows.data && rows.data.rows.length >= 200 && html`<p class="dim">The last 200 rows are shown.</p>`}
    <//>`;
}
