// Runs: the list of runs, filtered and searched.
import { html } from "../lib/html.js";
import { useEffect, useRef, useState } from "../vendor/hooks.js";
import { brief, clean, cost, count, seconds } from "../lib/format.js";
import { useData } from "../lib/live.js";
import { get } from "../lib/source.js";
import { Budgets } from "./budgets.js";
import { Problem, Status, Tags, Time, walking } from "../lib/parts.js";

const STATES = ["running", "waiting", "ok", "partial", "failed", "interrupted", "died"];
const SPANS = [
  ["", "any time"],
  ["3600", "last hour"],
  ["86400", "last day"],
  ["604800", "last week"],
  ["2592000", "last 30 days"],
];
const EVERY = 3000;
const MOST = 500;

export function RunList({ query, paused }) {
  const asked = { q: query.get("q"), status: query.getAll("status"), tag: query.getAll("tag"), pipeline: query.get("pipeline"), span: query.get("span") };
  const since = useSince(asked.span);
  const { q, status, tag, pipeline } = asked;
  const { data, error } = useData("/runs", { q, status, tag, pipeline, since, limit: 50 }, { every: EVERY, paused });
  const [more, setMore] = useState({ runs: [], next: undefined });
  const [picked, setPicked] = useState([]);
  const key = String(query);
  useEffect(() => setMore({ runs: [], next: undefined }), [key]);
  const runs = data ? unique([...data.runs, ...more.runs]) : [];
  const next = more.next === undefined ? data && data.next : more.next;
  const load = async () => {
    const page = await get("/runs", { q, status, tag, pipeline, since, limit: 50, after: next });
    setMore((was) => ({ runs: [...was.runs, ...page.runs], next: page.next }));
  };
  const pick = (id) => setPicked((was) => (was.includes(id) ? was.filter((one) => one !== id) : [...was.slice(-1), id]));
  return html`
    <h1 class="unseen">Runs</h1>
    <${Budgets} paused=${paused} />
    <${Filters} asked=${asked} />
    <${Problem} error=${error} />
    ${picked.length === 2 &&
    html`<p class="picked"><a class="button main" href="#/diff?a=${encodeURIComponent(picked[1])}&b=${encodeURIComponent(picked[0])}">Compare the two runs</a></p>`}
    <div class="list" role="table" aria-label="Runs" onKeyDown=${walking("a.row-link")}>
      <div class="row head" role="row">
        ${["", "Status", "Pipeline", "Started", "Time", "Cost", "Calls"].map(
          (title) => html`<span role="columnheader" key=${title} class=${title.toLowerCase() || "pick"}>${title || html`<span class="unseen">Compare</span>`}</span>`,
        )}
      </div>
      ${runs.map((run) => html`<${Row} key=${run.run_id} run=${run} picked=${picked.includes(run.run_id)} pick=${pick} />`)}
    </div>
    ${data && !runs.length && html`<p class="empty">${key ? "No run matches." : html`No runs yet. <a href="#/new">Start one here</a>, or with <code>fusion run</code>.`}</p>`}
    ${next && runs.length < MOST && html`<p><button onClick=${load}>Show older runs</button></p>`}
    ${next && runs.length >= MOST && html`<p class="dim">${count(runs.length)} runs are shown; search for older ones.</p>`}
  `;
}

function Row({ run, picked, pick }) {
  const name = brief(run.pipeline, 60);
  return html`<div class="row" role="row">
    <span role="cell" class="pick"><input type="checkbox" checked=${picked} onChange=${() => pick(run.run_id)} aria-label="Compare run ${run.run_id}" /></span>
    <span role="cell" class="status-cell"><${Status} of=${run.status} /></span>
    <span role="cell" class="pipeline">
      <a class="row-link" href="#/run/${encodeURIComponent(run.run_id)}"><bdi>${name || "unnamed"}</bdi> <span class="id">${clean(run.run_id)}</span></a>
      <${Tags} tags=${run.tags} link=${(tag, value) => linked({ tag: [`${tag}=${value}`] })} />
      ${run.failure && html`<span class="why"><bdi>${brief(run.failure.message, 140)}</bdi></span>`}
    </span>
    <span role="cell" class="started"><${Time} at=${run.started} /></span>
    <span role="cell" class="time">${seconds(run.status === "running" ? Date.now() / 1000 - Date.parse(run.started) / 1000 : run.seconds)}</span>
    <span role="cell" class="cost">${cost(run.cost.usd, run.cost.unknown_calls)}</span>
    <span role="cell" class="calls">${count(run.calls)}</span>
  </div>`;
}

function Filters({ asked }) {
  const timer = useRef(null);
  const search = (event) => {
    const q = event.target.value;
    clearTimeout(timer.current);
    timer.current = setTimeout(() => location.replace(linked({ ...asked, q })), 200);
  };
  const toggled = (state) => (asked.status.includes(state) ? asked.status.filter((one) => one !== state) : [...asked.status, state]);
  return html`<form class="filters" role="search" onSubmit=${(event) => event.preventDefault()}>
    <input type="search" placeholder="Search id, pipeline, tag, failure ( / )" aria-label="Search runs" value=${asked.q || ""} onInput=${search} />
    <span class="chips" role="group" aria-label="Status">
      ${STATES.map(
        (state) => html`<button type="button" key=${state} class="chip s-${state}" aria-pressed=${asked.status.includes(state)} onClick=${() => location.replace(linked({ ...asked, status: toggled(state) }))}>${state}</button>`,
      )}
    </span>
    <select aria-label="Time" value=${asked.span || ""} onChange=${(event) => location.replace(linked({ ...asked, span: event.target.value }))}>
      ${SPANS.map(([value, title]) => html`<option key=${value} value=${value}>${title}</option>`)}
    </select>
    ${[...asked.tag, ...(asked.pipeline ? [`pipeline ${asked.pipeline}`] : [])].map(
      (tag) => html`<a class="tag on" key=${tag} href=${linked({ ...asked, tag: asked.tag.filter((one) => one !== tag), pipeline: null })} title="Remove this filter"><bdi>${brief(tag, 60)}</bdi> ✕</a>`,
    )}
  </form>`;
}

// The start of the span that was chosen, fixed until another is.
function useSince(span) {
  const [since, setSince] = useState(null);
  useEffect(() => setSince(span ? new Date(Date.now() - Number(span) * 1000).toISOString() : null), [span]);
  return since;
}

function unique(runs) {
  return [...new Map(runs.map((run) => [run.run_id, run])).values()];
}

// The address of the list with these filters.
export function linked(filters) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(filters)) {
    for (const one of Array.isArray(value) ? value : [value]) if (one) query.append(name, one);
  }
  const text = String(query);
  return `#/runs${text ? `?${text}` : ""}`;
}
