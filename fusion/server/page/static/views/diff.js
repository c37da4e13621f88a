// Diff: two runs call by call, or two maps row by row.
import { html } from "../lib/html.js";
import { useState } from "../vendor/hooks.js";
import { brief, clean, cost, count, seconds } from "../lib/format.js";
import { useData } from "../lib/live.js";
import { Diff, Panel, Problem, Status, Time } from "../lib/parts.js";

const MOST = 500;

export function DiffPage({ a, b }) {
  if (!a || !b) return html`<${Choose} a=${a} b=${b} />`;
  return html`<${Compared} a=${a} b=${b} />`;
}

function Choose({ a, b }) {
  const { data } = useData("/runs", { limit: 100 });
  const choose = (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    location.hash = `#/diff?a=${encodeURIComponent(form.get("a"))}&b=${encodeURIComponent(form.get("b"))}`;
  };
  return html`<h1>Compare</h1>
    <form class="form" onSubmit=${choose}>
      <label>A run or map<input name="a" value=${a} list="ids" required autocomplete="off" /></label>
      <label>Another one<input name="b" value=${b} list="ids" required autocomplete="off" /></label>
      <datalist id="ids">${(data ? data.runs : []).map((run) => html`<option key=${run.run_id} value=${run.run_id}>${brief(run.pipeline, 60)}</option>`)}</datalist>
      <button class="main">Compare</button>
    </form>`;
}

function Compared({ a, b }) {
  const { data, error } = useData("/diff", { a, b });
  if (!data) return html`<h1>Compare</h1><${Problem} error=${error} />${!error && html`<p class="dim">comparing…</p>`}`;
  return data.maps ? html`<${Maps} diff=${data.maps} />` : html`<${Runs} diff=${data.runs} counts=${data.counts} />`;
}

function Runs({ diff, counts }) {
  return html`<h1>Two runs</h1>
    <div class="pair">${[["a", diff.a], ["b", diff.b]].map(
      ([name, run]) => html`<section class="panel" key=${name} aria-label="Run ${name}">
        <h2><${Status} of=${run.status} /> <bdi>${brief(run.pipeline, 60)}</bdi></h2>
        <p><a href="#/run/${encodeURIComponent(run.run_id)}">${clean(run.run_id)}</a></p>
        <p class="about"><span><${Time} at=${run.started} /></span><span>${seconds(run.seconds)}</span><span>${cost(run.cost.usd, run.cost.unknown_calls)}</span><span>${count(run.calls)} calls</span></p>
      </section>`,
    )}</div>
    <${Panel} title="Answer" wide=${true}><${Diff} lines=${diff.answer} same="The answers are the same." /><//>
    <${Panel} title="Calls" wide=${true} note=${Object.entries(counts).map(([name, number]) => `${count(number)} ${name}`).join(", ")}><${Calls} diff=${diff} /><//>
    <${Panel} title="Models" wide=${true}>${
      diff.models === null
        ? html`<p class="dim">not kept</p>`
        : diff.models.length
          ? html`<ul class="plain">${diff.models.map((one) => html`<li key=${one.role}><code>${clean(one.role)}</code> ${clean(one.a.join(", ") || "none")} → ${clean(one.b.join(", ") || "none")}</li>`)}</ul>`
          : html`<p class="dim">The models are the same.</p>`
    }<//>
    <${Panel} title="Inputs" wide=${true}>${
      diff.inputs === null
        ? html`<p class="dim">not kept</p>`
        : diff.inputs.length
          ? diff.inputs.map((one) => html`<div key=${one.name}><h3><code>${clean(one.name)}</code></h3><${Diff} lines=${one.diff} same="the same" /></div>`)
          : html`<p class="dim">The inputs are the same.</p>`
    }<//>
    <${Panel} title="Pipeline and templates" wide=${true}><${Diff} lines=${diff.pipeline} same="The pipelines are the same." /><//>`;
}

function Calls({ diff }) {
  const [all, setAll] = useState(false);
  const found = diff.calls.filter((pair) => all || pair.state !== "same").slice(0, MOST);
  const link = (run, number) => (number === null ? "" : html`<a href="#/run/${encodeURIComponent(run.run_id)}/call/${number}">#${number}</a>`);
  return html`
    <label class="check"><input type="checkbox" checked=${all} onChange=${() => setAll(!all)} /> also those that are the same</label>
    ${found.length
      ? html`<div class="scroll" tabindex="0" role="region" aria-label="Calls of both"><table><thead><tr><th>Place</th><th>State</th><th>a</th><th>b</th></tr></thead><tbody>${found.map(
          (pair, at) => html`<tr key=${at}><td><bdi>${brief(`${pair.stage}${pair.item === null ? "" : ` ${pair.item + 1}`} ${pair.step}`, 80)}</bdi></td><td>${pair.state}</td><td>${link(diff.a, pair.a)}</td><td>${link(diff.b, pair.b)}</td></tr>`,
        )}</tbody></table></div>`
      : html`<p class="dim">No call differs.</p>`}
    ${found.length >= MOST && html`<p class="dim">The first ${count(MOST)} are shown.</p>`}`;
}

function Maps({ diff }) {
  return html`<h1>Two maps</h1>
    <p class="about"><a href="#/map/${encodeURIComponent(diff.a.map_id)}">${clean(diff.a.map_id)}</a> and <a href="#/map/${encodeURIComponent(diff.b.map_id)}">${clean(diff.b.map_id)}</a></p>
    <${Panel} title="Rows" wide=${true} note=${Object.entries(diff.counts).map(([name, number]) => `${count(number)} ${name}`).join(", ")}>
      ${diff.rows.length
        ? html`<div class="scroll" tabindex="0" role="region" aria-label="Rows of both"><table><thead><tr><th>Row</th><th>State</th><th>Runs</th></tr></thead><tbody>${diff.rows.map(
            (pair) => html`<tr key=${pair.key}><td><bdi>${brief(pair.key, 80)}</bdi></td><td>${pair.state}</td><td>${pair.a && pair.b ? html`<a href="#/diff?a=${encodeURIComponent(pair.a)}&b=${encodeURIComponent(pair.b)}">compare</a>` : ""}</td></tr>`,
          )}</tbody></table></div>`
        : html`<p class="dim">No row differs.</p>`}
      ${diff.more > 0 && html`<p class="dim">and ${count(diff.more)} more</p>`}
    <//>`;
}
