// Start: a form for a new run, quoted before it is started.
import { html } from "../lib/html.js";
import { useState } from "../vendor/hooks.js";
import { brief, clean, count, dollars, seconds } from "../lib/format.js";
import { useData } from "../lib/live.js";
import { post } from "../lib/source.js";
import { Problem } from "../lib/parts.js";

export function StartPage() {
  const { data, error } = useData("/pipelines", {});
  const [name, setName] = useState(null);
  if (!data) return html`<h1>New run</h1><${Problem} error=${error} />`;
  const pipelines = data.pipelines;
  const chosen = pipelines.find((one) => one.name === name) || pipelines[0];
  if (!chosen) return html`<h1>New run</h1><p class="empty">No pipelines are served here.</p>`;
  return html`<h1>New run</h1>
    <div class="form">
      <label>Pipeline<select value=${chosen.name} onChange=${(event) => setName(event.target.value)}>${pipelines.map((one) => html`<option key=${one.name} value=${one.name}>${brief(one.name, 80)}</option>`)}</select></label>
      <p class="dim"><bdi>${clean(chosen.description)}</bdi></p>
    </div>
    <${Form} key=${chosen.name} pipeline=${chosen} />`;
}

function Form({ pipeline }) {
  const [values, setValues] = useState({});
  const [usd, setUsd] = useState("");
  const [quote, setQuote] = useState({ of: null, data: null });
  const [busy, setBusy] = useState("");
  const [error, setError] = useState(null);
  const form = { pipeline: pipeline.name, inputs: values, usd };
  const key = JSON.stringify(form);
  const send = async (what, then) => {
    setBusy(what);
    setError(null);
    try {
      then(await post(what === "quote" ? "/api/quote" : "/api/runs", form));
    } catch (refusal) {
      setError(refusal);
    }
    setBusy("");
  };
  const submit = (event) => {
    event.preventDefault();
    if (quote.of === key) send("start", ({ run_id }) => (location.hash = `#/run/${encodeURIComponent(run_id)}`));
    else send("quote", (data) => setQuote({ of: key, data }));
  };
  const fits = quote.of === key;
  return html`<form class="form" onSubmit=${submit}>
    ${pipeline.inputs.map(
      (one) => html`<label key=${one.name}><span><code>${clean(one.name)}</code>${one.required ? "" : html` <span class="dim">optional</span>`} <span class="dim"><bdi>${clean(one.description)}</bdi></span></span>
        <textarea rows=${one.prompt ? 6 : 3} required=${one.required} value=${values[one.name] || ""} onInput=${(event) => setValues({ ...values, [one.name]: event.target.value })} placeholder=${one.format === "text" ? "" : one.format}></textarea></label>`,
    )}
    <label class="short"><span>Budget in dollars <span class="dim">${pipeline.limits.usd ? `at most ${dollars(pipeline.limits.usd)}` : "optional"}</span></span><input inputmode="decimal" value=${usd} onInput=${(event) => setUsd(event.target.value)} placeholder=${pipeline.limits.usd || "0.50"} /></label>
    <p class="actions">
      <button class=${fits ? "" : "main"} type="submit" disabled=${Boolean(busy) || fits}>${busy === "quote" ? "Quoting…" : "Quote"}</button>
      <button class=${fits ? "main" : ""} type="submit" disabled=${Boolean(busy) || !fits}>${busy === "start" ? "Starting…" : "Start"}</button>
      ${!fits && html`<span class="dim">A quote comes first; it makes no call.</span>`}
    </p>
    <${Problem} error=${error} />
    ${fits && html`<${Quote} quote=${quote.data} />`}
  </form>`;
}

function Quote({ quote }) {
  const range = (of, show) => (show(of.low) === show(of.high) ? show(of.likely) : `${show(of.likely)} (${show(of.low)} to ${show(of.high)})`);
  return html`<section class="panel wide quote" aria-label="Quote">
    <h2>Quote</h2>
    <dl class="facts">
      <div><dt>cost</dt><dd>${range(quote.usd, dollars)}</dd></div>
      <div><dt>never more than</dt><dd>${quote.usd.cap === null ? "no bound" : dollars(quote.usd.cap)}</dd></div>
      <div><dt>time</dt><dd>${range(quote.seconds, seconds)}</dd></div>
      <div><dt>calls</dt><dd>${range(quote.calls, count)}</dd></div>
      <div><dt>profile</dt><dd>${clean(quote.profile)}</dd></div>
    </dl>
    <div class="scroll"><table><thead><tr><th>Stage</th><th>Kind</th><th class="n">Calls</th><th class="n">Cost</th><th class="n">Time</th></tr></thead><tbody>${quote.stages.map(
      (one) => html`<tr key=${one.name}><td>${clean(one.name)}</td><td class="dim">${clean(one.kind)}</td><td class="n">${count(one.calls.likely)}</td><td class="n">${dollars(one.usd.likely)}</td><td class="n">${seconds(one.seconds.likely)}</td></tr>`,
    )}</tbody></table></div>
    ${quote.unpriced.length > 0 && html`<p class="dim">Without a known price: ${clean(quote.unpriced.join(", "))}</p>`}
    ${quote.notes.map((note, at) => html`<p class="dim" key=${at}><bdi>${brief(note, 300)}</bdi></p>`)}
  </section>`;
}
