// Templates: HTML in tagged literals, whose values are always text.
import htm from "../vendor/htm.js";
import { h } from "../vendor/preact.js";

export const html = htm.bind(h);
