// How gossip is: charts of the last minutes and a table of all counts, from the status that comes each second.

import { element, numberText, sizeText, words } from "./dom.js";

const SAMPLES_MAX = 180;
const perSecond = (name) => (now, before, s) => (now.gossip[name] - before.gossip[name]) / s;
const CHARTS = [
  ["Bytes in", perSecond("bytes_in"), (rate) => `${sizeText(rate)}/s`],
  ["Bytes out", perSecond("bytes_out"), (rate) => `${sizeText(rate)}/s`],
  ["Messages in", perSecond("messages_in"), (rate) => `${rate.toFixed(1)}/s`],
  ["Messages out", perSecond("messages_out"), (rate) => `${rate.toFixed(1)}/s`],
  ["Objects and tags known", (now) => now.index.keys, numberText],
  ["Index lag", (now) => now.index.lag_seconds, (lag) => `${lag.toFixed(1)} s`],
];
const MEANING = {
  duplicates: "what redundancy costs: deltas that were known already",
  gaps: "something before a message was lost",
  syncs: "comparisons with another node that found a difference",
  audit_mismatches: "repaired contradictions; more than 0 is a defect",
  suspicions: "nodes that this one suspected by itself",
  refutations: "times that this node was suspected, and denied it",
  downs: "nodes that went down",
  rebases: "nodes that restarted with content that was known",
  refused_connections: "without the cluster's secret",
  conflicts: "nodes of this node's name",
};

export class Gossip {
  #samples = [];

  note(status) {
    this.#samples.push({ at: performance.now() / 1000, status });
    if (this.#samples.length > SAMPLES_MAX) this.#samples.shift();
  }

  show(charts, counters) {
    charts.replaceChildren(...CHARTS.map(([title, value, text]) => this.#chart(title, value, text)));
    const last = this.#samples.at(-1);
    const first = this.#samples.at(-11) ?? this.#samples[0];
    const rows = Object.entries(last.status.gossip).map(([name, count]) => {
      const total = typeof count === "object" ? Object.values(count).reduce((sum, each) => sum + each, 0) : count;
      const before = first.status.gossip[name];
      const was = typeof before === "object" ? Object.values(before).reduce((sum, each) => sum + each, 0) : before;
      const rate = last === first ? 0 : (total - was) / (last.at - first.at);
      const reasons = typeof count === "object" ? Object.entries(count).map(([reason, each]) => `${words(reason)} ${numberText(each)}`).join(", ") : "";
      return element("tr", {},
        element("td", {}, words(name)),
        element("td", { class: "number" }, numberText(total)),
        element("td", { class: "number" }, `${rate.toFixed(1)}/s`),
        element("td", { class: "why" }, reasons || (MEANING[name] ?? "")));
    });
    const head = element("tr", {}, element("th", {}, "Count"), element("th", { class: "number" }, "Total"), element("th", { class: "number" }, "Rate"), element("th", {}, ""));
    counters.replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
  }

  #chart(title, value, text) {
    const values = [];
    for (let index = 1; index < this.#samples.length; index += 1) {
      const [before, now] = [this.#samples[index - 1], this.#samples[index]];
      values.push(value(now.status, before.status, Math.max(0.1, now.at - before.at)));
    }
    const most = Math.max(...values, 1e-9);
    const points = values.map((each, index) => `${(index / Math.max(30, values.length - 1)) * 100},${50 - (each / most) * 46}`);
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 100 52");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    line.setAttribute("points", points.join(" "));
    svg.append(line);
    const now = values.length ? text(values.at(-1)) : "–";
    return element("div", { class: "chart" }, element("h3", {}, title, element("b", {}, now)), svg);
  }
}
