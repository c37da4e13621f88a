// Run: one run as it happens, or as it was.
import { html } from "../lib/html.js";
import { useCallback, useState } from "../vendor/hooks.js";
import { amount, brief, clean, cost, count, dollars, model, percent, plural, seconds } from "../lib/format.js";
import { useNow, useRun } from "../lib/live.js";
import { embedded } from "../lib/source.js";
import { Copy, Facts, Failure, Panel, Problem, Status, Tags, Text, Time } from "../lib/parts.js";
import { Gates } from "./gates.js";
import { Graph } from "./graph.js";
import { Waterfall } from "./waterfall.js";

const LINKS = { live: "live", lost: "connecting again", paused: "paused", reading: "reading" };
const OPENED = new Map();

export function RunPage({ id, paused }) {
  const { run, error, link, reload } = useRun(id, paused);
  const [opened, setOpened] = useState(() => OPENED.get(id) || new Set());
  const state = run && run.state;
  const now = useNow(run && run.skew, Boolean(state) && state.status === "running" && !paused);
  const open = useCallback(
    (path) =>
      setOpened((was) => {
        const next = new Set(was);
        if (!next.delete(path)) next.add(path);
        OPENED.set(id, next);
        return next;
      }),
    [id],
  );
  const choose = useCallback(
    (name) => {
      if (!(OPENED.get(id) || new Set()).has(name)) open(name);
      const row = document.querySelector(`#stage-${CSS.escape(name.replace(/[^\w-]/g, "-"))} > button`);
      if (row) {
        row.scrollIntoView({ block: "center" });
        row.focus();
      }
    },
    [id],
  );
  if (!run) return html`<${Problem} error=${error} />${!error && html`<p class="dim">reading the run…</p>`}`;
  return html`
    <${Head} run=${run} link=${link} now=${now} />
    <${Problem} error=${error} />
    <${Failure} of=${state.failure} />
    <${Gates} run=${run} reload=${reload} />
    <${Money} state=${state} limits=${run.limits} now=${now} />
    ${run.graph && html`<${Panel} title="Graph" wide=${true}><${Graph} graph=${run.graph} stages=${state.stages} choose=${choose} /><//>`}
    <${Panel} title="Stages over time" wide=${true} note="arrow keys walk, → opens">
      <${Waterfall} id=${run.run.run_id} state=${state} now=${now} opened=${opened} open=${open} />
    <//>
    <div class="columns">
      <${Answer} run=${run} />
      ${run.plan.length > 0 && html`<${Plan} titles=${run.plan} running=${state.status === "running"} />`}
      <${Problems} run=${run} />
      <${Tools} tools=${run.tools} />
      <${Commands} commands=${run.commands} />
      <${Receipt} run=${run} />
      <${Inputs} inputs=${run.inputs} />
    </div>
  `;
}

function Head({ run, link, now }) {
  const { state } = run;
  const about = run.run;
  const running = state.status === "running";
  return html`<div class="head">
    <h1><span role="status"><${Status} of=${state.status} /></span> <bdi>${brief(about.pipeline, 80)}</bdi></h1>
    ${running && html`<span class="link l-${link}">${LINKS[link] || link}</span>`}
    <p class="about">
      <code>${clean(about.run_id)}</code> <${Copy} text=${about.run_id} what="the id" />
      <span>started <${Time} at=${about.started} /></span>
      <span>${seconds(running ? now - state.began : about.seconds)}</span>
      <span>profile <bdi>${brief(about.profile, 40)}</bdi></span>
      ${about.sessions > 1 && html`<span>${about.sessions} sessions</span>`}
      ${about.parent && html`<span>continues <a href="#/run/${encodeURIComponent(about.parent)}">${clean(about.parent)}</a></span>`}
      <${Tags} tags=${about.tags} />
      ${!embedded && html`<a href="#/diff?a=${encodeURIComponent(about.run_id)}">compare</a>`}
    </p>
  </div>`;
}

function Money({ state, limits, now }) {
  const running = state.status === "running";
  const spent = Number(state.usd);
  const cap = limits.usd ? Number(limits.usd) : null;
  const used = cap ? percent(spent, cap) : 0;
  const other = [
    limits.calls && `${count(state.calls)} of ${plural(limits.calls, "call")}`,
    limits.tokens && `${count(state.tokens)} of ${plural(limits.tokens, "token")}`,
    limits.seconds && `${seconds(running ? now - state.began : state.seconds)} of ${seconds(limits.seconds)}`,
  ].filter(Boolean);
  return html`<div class="money" aria-label="Money">
    <strong class="sum">${cost(state.usd, state.unknown_calls)}</strong>
    <span class="dim">${running && state.flying ? "at most: calls in flight count in full" : "spent"}</span>
    ${cap
      ? html`<span class="meter" role="meter" aria-label="Spent of the budget" aria-valuemin="0" aria-valuemax=${cap} aria-valuenow=${spent} aria-valuetext="${dollars(spent)} of ${dollars(cap)}"><span class="fill ${used > 90 ? "high" : ""}" style=${{ width: `${used}%` }}></span></span><span>of ${dollars(cap)}</span>`
      : html`<span class="dim">no cap in dollars</span>`}
    <span>${plural(state.calls, "call")}</span>
    ${running && html`<span>${count(state.flying)} in flight</span>`}
    <span>${plural(state.tokens, "token")}</span>
    ${other.map((one) => html`<span key=${one} class="dim">${one}</span>`)}
  </div>`;
}

function Answer({ run }) {
  const { answer } = run;
  const running = run.state.status === "running";
  const waiting = run.state.status === "waiting";
  const empty = running ? "The answer comes here as it is written." : waiting ? "The run waits for a person." : "There is no answer, or it was not kept.";
  const whole = answer && answer.whole;
  return html`<${Panel} title="Answer" note=${running && answer && answer.text ? "as it comes" : null} wide=${true}>
    ${whole && answer.text && html`<${Copy} text=${answer.text} what="the answer" />`}
    <${Text} text=${answer ? answer.text || (answer.data === null ? "" : JSON.stringify(answer.data, null, 2)) : ""} label="Answer" prose=${!answer || answer.data === null} live=${running} empty=${empty} />
  <//>`;
}

function Plan({ titles, running }) {
  return html`<${Panel} title="Plan" note=${plural(titles.length, "subtask")}>
    <ol class="plan" aria-live=${running ? "polite" : "off"}>${titles.map((title, at) => html`<li key=${at}><bdi>${brief(title, 160)}</bdi></li>`)}</ol>
  <//>`;
}

function Problems({ run }) {
  const others = run.failed.filter((part) => !run.state.failure || part.failure.message !== run.state.failure.message);
  const failed = others.slice(0, 100);
  if (!failed.length && !run.notes.length) return null;
  return html`<${Panel} title="Failures and notes">
    <ul class="plain">
      ${failed.map((part, at) => html`<li key=${`f${at}`}><${Status} of="failed" bare=${true} /> <code>${clean(part.stage)}${part.item === null ? "" : ` ${part.item + 1}`}</code> <${Failure} of=${part.failure} /></li>`)}
      ${others.length > failed.length && html`<li class="dim">and ${count(others.length - failed.length)} more failures</li>`}
      ${run.notes.slice(0, 100).map((note, at) => html`<li key=${`n${at}`}><bdi>${brief(note, 400)}</bdi></li>`)}
    </ul>
  <//>`;
}

function Commands({ commands }) {
  if (!commands.length) return null;
  const end = (one) => (one.stopped_by ? `stopped by its limit of ${one.stopped_by}` : one.code < 0 ? `killed by signal ${-one.code}` : `exit code ${one.code}`);
  return html`<${Panel} title="Sandbox" note=${plural(commands.length, "command")} wide=${true}>
    <div class="scroll" tabindex="0" role="region" aria-label="Commands in the sandbox"><table>
      <thead><tr><th>Stage</th><th>Program</th><th>Sandbox</th><th class="n">Time</th><th>End</th></tr></thead>
      <tbody>${commands.map(
        (one, at) => html`<tr key=${at}>
          <td>${clean(one.stage)}${typeof one.item === "number" ? ` ${one.item + 1}` : ""}</td><td><bdi>${brief(one.program, 40)}</bdi></td>
          <td>${clean(one.by)}</td><td class="n">${seconds(one.seconds)}</td><td><${Status} of=${one.code === 0 && !one.stopped_by ? "ok" : "failed"} bare=${true} /> ${end(one)}</td>
        </tr>`,
      )}</tbody>
    </table></div>
  <//>`;
}

function Tools({ tools }) {
  if (!tools.length) return null;
  return html`<${Panel} title="Tools" note=${plural(tools.length, "call")} wide=${true}>
    <div class="scroll" tabindex="0" role="region" aria-label="Calls of tools"><table>
      <thead><tr><th>Stage</th><th>Tool</th><th>Arguments</th><th class="n">Time</th><th>End</th></tr></thead>
      <tbody>${tools.map(
        (one, at) => html`<tr key=${at}>
          <td>${clean(one.stage)}${typeof one.item === "number" ? ` ${one.item + 1}` : ""}</td><td><bdi>${brief(one.tool, 40)}</bdi>${one.effect === "write" && html` <span class="dim">writes</span>`}</td>
          <td><bdi>${brief(one.arguments || "", 120)}</bdi></td><td class="n">${seconds(one.seconds)}</td><td><${Status} of=${one.status} />${one.failure && html` <bdi>${brief(one.failure.message, 120)}</bdi>`}</td>
        </tr>`,
      )}</tbody>
    </table></div>
  <//>`;
}

function Receipt({ run }) {
  const { lines, times, saved, cached, budgets } = run.receipt;
  if (run.state.status === "running" || !(lines.length || budgets.length)) return null;
  const waits = Object.entries(times).filter(([, value]) => value >= 0.05);
  return html`<${Panel} title="Receipt" wide=${true}>
    <div class="scroll" tabindex="0" role="region" aria-label="Lines of the receipt"><table>
      <thead><tr><th>Stage</th><th>Model</th><th class="n">Calls</th><th class="n">In</th><th class="n">Out</th><th class="n">Cost</th><th>Price from</th></tr></thead>
      <tbody>${lines.map(
        (line, at) => html`<tr key=${at}>
          <td>${clean(line.stage)}</td><td title=${clean(line.model)}>${model(line.model)}${line.asked && html` <span class="dim">for ${model(line.asked)}</span>`}</td>
          <td class="n">${count(line.calls)}${line.failed ? html` <span class="s-failed">${count(line.failed)} failed</span>` : ""}${line.retries ? html` <span class="dim">${count(line.retries)} retries</span>` : ""}${line.reused ? html` <span class="dim">${count(line.reused)} reused</span>` : ""}</td>
          <td class="n">${count(line.input)}</td><td class="n">${count(line.output)}</td><td class="n">${line.estimated ? "≈ " : ""}${cost(line.usd, line.unknown_calls)}</td><td class="dim">${clean(line.price_source)}</td>
        </tr>`,
      )}</tbody>
    </table></div>
    <${Facts} of=${[...waits.map(([name, value]) => [name === "own" ? "Fusion itself" : name, seconds(value)]), ["saved by reuse", Number(saved) ? dollars(saved) : ""], ["saved by prompt caches", Number(cached) ? dollars(cached) : ""]]} />
    ${budgets.length > 0 && html`<ul class="plain" aria-label="Budgets">${budgets.map((one) => html`<li key=${`${one.name} ${one.period}`}>budget <strong><bdi>${brief(one.name, 60)}</bdi></strong> <span class="dim">${clean(one.period)}</span> ${used(one.limits)}</li>`)}</ul>`}
  <//>`;
}

// What a run spent of a budget, and what is left of it.
function used(limits) {
  const all = Object.entries(limits);
  const left = all.filter(([, one]) => one.left !== null).map(([unit, one]) => amount(unit, one.left));
  return `${all.map(([unit, one]) => amount(unit, one.spent)).join(", ")} spent${left.length ? `; ${left.join(", ")} left` : ""}`;
}

function Inputs({ inputs }) {
  if (inputs === null) return html`<${Panel} title="Inputs"><p class="dim">The inputs of this run were not kept.</p><//>`;
  return html`<${Panel} title="Inputs" wide=${true}>
    ${inputs.map(
      (one, at) => html`<details key=${one.name} open=${at === 0 && one.length < 2000}><summary><code>${clean(one.name)}</code> <span class="dim">${plural(one.length, "character")}</span></summary><${Text} text=${one.text} label="Input ${one.name}" />${one.length > one.text.length && html`<p class="dim">The beginning of ${plural(one.length, "character")}.</p>`}</details>`,
    )}
  <//>`;
}
