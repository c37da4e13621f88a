// Templates: HTML in tagged literals, whose values are always text.
import htm from "../vendor/htm.js";
import { h } from "../vendor/preact.js";

export const html = htm.bind(h);

// A component that is drawn again only when one of its properties has changed. It keeps no earlier drawing: a memoised
// element would hold the whole tree in which it was drawn.
export function unchanging(component) {
  return function Unchanging(props) {
    this.shouldComponentUpdate = (next) => differ(this.props, next);
    return h(component, props);
  };
}

function differ(some, others) {
  for (const name in some) if (name !== "children" && some[name] !== others[name]) return true;
  for (const name in others) if (!(name in some)) return true;
  return false;
}
