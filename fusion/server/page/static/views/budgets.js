// Budgets: those with a period, with what is spent and held of them.
import { html } from "../lib/html.js";
import { amount, brief, clean, count, dollars, percent } from "../lib/format.js";
import { useData } from "../lib/live.js";
import { Panel, Time } from "../lib/parts.js";

const EVERY = 10000;
const HIGH = 90;
const PERIODS = { day: "today", week: "this week", month: "this month", store: "without end" };

export function Budgets({ paused }) {
  const { data } = useData("/budgets", {}, { every: EVERY, paused });
  if (!data || !data.budgets.length) return null;
  return html`<${Panel} title="Budgets"><dl class="facts budgets">${data.budgets.map(
    (one) => html`<div key=${one.name}>
      <dt><strong><bdi>${brief(one.name, 60)}</bdi></strong> <span title=${clean(one.period)}>${PERIODS[one.per]}</span>${one.opens && html`, anew <${Time} at=${one.opens} />`}</dt>
      ${Object.entries(one.limits).map(([unit, share]) => html`<${Meter} key=${unit} name=${one.name} unit=${unit} of=${share} />`)}
    </div>`,
  )}</dl><//>`;
}

function Meter({ name, unit, of }) {
  const limit = Number(of.limit);
  const spent = percent(Number(of.spent), limit);
  const held = Math.min(100 - spent, percent(Number(of.leased), limit));
  const text = `${unit === "usd" ? dollars(of.spent) : count(of.spent)} of ${amount(unit, of.limit)}`;
  return html`<dd><span class="stack" role="meter" aria-label=${`Spent of ${clean(name)}`} aria-valuemin="0" aria-valuemax=${limit} aria-valuenow=${Number(of.spent)} aria-valuetext=${text}>
      <span class=${spent > HIGH ? "part-failed" : "part-ok"} style=${{ width: `${spent}%` }}></span><span class="part-partial" style=${{ width: `${held}%` }}></span>
    </span> ${text}${Number(of.leased) > 0 && html` <span class="dim">${amount(unit, of.leased)} held</span>`}</dd>`;
}
