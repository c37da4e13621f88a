// Call: one request to one model, with its messages, reply, tokens, price and attempts.
import { html } from "../lib/html.js";
import { useLayoutEffect } from "../vendor/hooks.js";
import { brief, clean, cost, count, dollars, exact, plural, seconds } from "../lib/format.js";
import { useData } from "../lib/live.js";
import { Copy, Facts, Failure, Panel, Problem, Status, Text, Time } from "../lib/parts.js";

const WAITS = { library: "loading", budget: "budget", slot: "slot", pause: "pause", failed: "failed attempts", batch: "batch" };
const EVENTS = { attempt_failed: "attempt failed", fallback_taken: "fallback", hedge_sent: "sent to a second model", paused: "paused" };

export function CallPage({ id, number }) {
  const { data, error } = useData(`/runs/${encodeURIComponent(id)}/calls/${number}`, {});
  useLayoutEffect(() => { // at once, so that no key is lost that follows the sight of the call
    const key = (event) => {
      if (event.target.matches("input, select, textarea, pre") || event.ctrlKey || event.metaKey || event.altKey) return;
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step && data && number + step >= 1 && number + step <= data.last) location.replace(address(data.run_id, number + step));
    };
    window.addEventListener("keydown", key);
    return () => window.removeEventListener("keydown", key);
  }, [data, number]);
  if (!data) return html`<${Problem} error=${error} />${!error && html`<p class="dim">reading the call…</p>`}`;
  const { call } = data;
  return html`
    <div class="head">
      <h1><${Status} of=${call.state} /> <bdi>${brief(call.stage, 60)}</bdi>${call.item !== null && ` ${call.item + 1}`} <span class="dim">${brief(call.step, 40)}</span></h1>
      <p class="about">
        <a href="#/run/${encodeURIComponent(data.run_id)}">${clean(data.run_id)}</a>
        <span>call ${count(call.number)} of ${count(data.last)}</span>
        <span class="pager">
          <a class="button ${number <= 1 ? "off" : ""}" href=${number <= 1 ? null : address(data.run_id, number - 1)} aria-label="Earlier call">‹</a>
          <a class="button ${number >= data.last ? "off" : ""}" href=${number >= data.last ? null : address(data.run_id, number + 1)} aria-label="Later call">›</a>
        </span>
      </p>
    </div>
    <${Failure} of=${call.failure} />
    <${Panel} title="About" wide=${true}><${About} data=${data} /><//>
    ${(data.attempts.length > 1 || data.events.length > 0) && html`<${Panel} title="Attempts" wide=${true}><${Attempts} data=${data} /><//>`}
    <${Panel} title="Messages" wide=${true} note=${data.messages ? plural(data.messages.length, "message") : null}>
      ${data.messages === null && html`<p class="dim">The messages of this run were not kept.</p>`}
      ${(data.messages || []).map((message, at) => html`<${Message} key=${at} message=${message} />`)}
    <//>
    <${Panel} title="Reply" wide=${true}>
      ${call.text && html`<${Copy} text=${call.text} what="the reply" />`}
      <${Text} text=${call.text} label="Reply" empty=${call.state === "failed" ? "There was no reply." : "The reply is empty, or was not kept."} />
    <//>
  `;
}

function About({ data }) {
  const { call } = data;
  const { usage } = call;
  const waits = Object.entries(call.waited || {}).filter(([, value]) => value > 0.0005);
  return html`<${Facts}
    of=${[
      ["asked", html`<code>${clean(call.asked)}</code>`],
      ["served", call.served && html`<code>${clean(call.served)}</code>`],
      ["answered instead", call.by && html`<code>${clean(call.by)}</code>`],
      ["role", clean(call.role)],
      ["finish", call.finish_reason],
      ["started", html`<${Time} at=${call.started} />`],
      ["time", seconds(call.seconds)],
      ["of the model", call.latency !== null && seconds(call.latency)],
      ...waits.map(([name, value]) => [`waited: ${WAITS[name]}`, seconds(value)]),
      ["tokens in", usage && `${count(usage.input)}${usage.cached_read ? ` (${count(usage.cached_read)} cached)` : ""}`],
      ["tokens out", usage && `${count(usage.output)}${usage.reasoning ? ` (${count(usage.reasoning)} thinking)` : ""}`],
      ["tokens are", usage && usage.source],
      ["cost", call.usage && cost(call.cost, call.cost === null ? 1 : 0)],
      ["price per million", data.price && `${dollars(data.price.input * 1e6)} in, ${dollars(data.price.output * 1e6)} out`],
      ["price from", clean(data.price_source)],
      ["reused from", call.reused && (call.reused === "cache" ? "cache" : html`<a href="#/run/${encodeURIComponent(call.reused)}">${clean(call.reused)}</a>`)],
      ...parameters(call, false).map(([name, value]) => [name, html`<code>${value}</code>`]),
    ]}
  />
  ${parameters(call, true).map(([name, value]) => html`<details key=${name}><summary><code>${name}</code></summary><${Text} text=${value} label=${name} /></details>`)}`;
}

// The other parameters of a call: short ones, or long ones.
function parameters(call, long) {
  const found = Object.entries(call.parameters).map(([name, value]) => [clean(name), typeof value === "string" ? value : JSON.stringify(value, null, 1)]);
  return found.filter(([, value]) => value.length > 60 === long);
}

function Attempts({ data }) {
  return html`
    <div class="scroll" tabindex="0" role="region" aria-label="Attempts"><table>
      <thead><tr><th>Model</th><th>State</th><th class="n">After</th><th class="n">Took</th><th class="n">Cost</th><th class="n">At most</th></tr></thead>
      <tbody>${data.attempts.map(
        (one, at) => html`<tr key=${at}><td><code>${clean(one.model)}</code></td><td>${one.state}</td><td class="n">${seconds(one.opened - Date.parse(data.call.started) / 1000)}</td><td class="n">${one.closed ? seconds(one.closed - one.opened) : "…"}</td><td class="n">${one.usd === null ? "unknown" : dollars(one.usd)}</td><td class="n dim">${one.worst_usd === null ? "" : dollars(one.worst_usd)}</td></tr>`,
      )}</tbody>
    </table></div>
    <ul class="plain">${data.events.map(
      (event, at) => html`<li key=${at}><time title=${exact(event.at)}>${seconds((Date.parse(event.at) - Date.parse(data.call.started)) / 1000)}</time> ${EVENTS[event.type]} <code>${clean(event.model)}</code> ${event.wait ? html`<span class="dim">next after ${seconds(event.wait)}</span>` : ""}<${Failure} of=${event.failure} /></li>`,
    )}</ul>
  `;
}

function Message({ message }) {
  return html`<section class="message m-${message.role}" aria-label="Message of ${message.role}">
    <h3>${message.role} <span class="dim">${plural(message.content.length, "character")}</span></h3>
    <${Text} text=${message.content} label="Message of ${message.role}" empty=${message.tool_calls.length ? "calls tools" : "empty"} />
    ${message.files.map((file, at) => html`<p class="dim" key=${at}><bdi>${brief(file, 160)}</bdi></p>`)}
    ${message.tool_calls.map((one) => html`<p key=${one.id}><code>${brief(one.name, 80)}(${brief(one.arguments, 400)})</code></p>`)}
  </section>`;
}

function address(id, number) {
  return `#/run/${encodeURIComponent(id)}/call/${number}`;
}
