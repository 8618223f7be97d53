// The parts of the page that are lists and trees: each takes what the local API tells and an element to put it into.

import { bar, durationText, element, numberText, redraw, shortDigest, sizeText, timeText, words } from "./dom.js";

const PULLS_SHOWN = 200;
const RATE_S = 4; // over about so long rates are smoothed
const GROUP_S = 60; // objects of one image that were given within this time are one pull

export function facts(pairs) {
  return element("dl", { class: "facts" }, ...pairs.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

export function badge(source) {
  return element("span", { class: `badge ${source}` }, words(source));
}

export function showMember(place, member) {
  place.replaceChildren();
  if (!member) return;
  place.append(
    element("h2", {}, member.name + (member.me ? " (this node)" : "")),
    facts([
      ["State", element("span", {}, element("span", { class: `mark ${member.state}` }), member.state)],
      ["Zone", member.zone || "none"],
      ["Address", member.address],
      ["Objects", numberText(member.keys)],
    ]),
  );
}

export function showZones(place, members, holders) {
  const zones = new Map();
  for (const member of members) {
    const counts = zones.get(member.zone) ?? { nodes: 0, alive: 0, held: 0 };
    counts.nodes += 1;
    counts.alive += member.state === "alive";
    counts.held += holders ? holders.has(member.name) : 0;
    zones.set(member.zone, counts);
  }
  const rows = [...zones.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([zone, counts]) => {
    const [part, what] = holders ? [counts.held, "have it"] : [counts.alive, "alive"];
    const text = `${numberText(part)} of ${numberText(counts.nodes)}`;
    return element("div", { class: "zone" }, element("span", { title: zone }, zone || "no zone"), bar(part / counts.nodes, `${text} ${what}`), text);
  });
  place.replaceChildren(element("h2", {}, holders ? "Nodes that have it, by zone" : "Nodes alive, by zone"), ...rows);
}

/** What was found; `choose` is called with the name of an image, `explain` with one to look into. */
export function showFound(place, found, choose, explain) {
  if (!found) return place.replaceChildren();
  if (found.error) return place.replaceChildren(element("p", { class: "error" }, found.error));
  const image = found.images.length === 1 ? found.images[0] : null;
  place.replaceChildren(element("h2", {}, image ? image.name : found.digest ? shortDigest(found.digest) : `Images with “${found.what}”`));
  if (found.digest) {
    place.append(facts([
      [image ? "Manifest" : "Digest", element("code", {}, found.digest)],
      ["On", `${numberText(found.holders.length)} ${found.holders.length === 1 ? "node" : "nodes"}`],
    ]));
    if (image) place.append(element("p", {}, element("button", { type: "button", onclick: () => explain(`${image.name.replace(/:[^:/]*$/, "")}@${found.digest}`) }, "Its objects")));
  } else if (found.images.length) {
    place.append(element("ul", { class: "choices" }, ...found.images.map((each) => element("li", {}, element("button", { type: "button", onclick: () => choose(each.name) }, each.name, element("span", {}, `${numberText(each.holders)} nodes`))))));
  } else {
    place.append(element("p", { class: "empty" }, "No node is known to have it."));
  }
}

/** The objects of an image; `watch` is called as by `showTransfers`. */
export function showExplained(place, explained, watch) {
  if (explained.error) return place.replaceChildren(element("p", { class: "error" }, explained.error));
  const name = explained.image.split("@")[0];
  const rows = explained.parts.map((part) => element("tr", {},
    element("td", {}, part.role, part.platform ? ` ${part.platform}` : ""),
    element("td", {}, element("code", { title: part.digest }, shortDigest(part.digest)), " ", part.role === "layer" ? watchButton(part.digest, () => watch(name.split("/")[0], part.digest, name)) : null),
    element("td", { class: "number" }, part.size === null ? "" : sizeText(part.size)),
    element("td", { class: "number" }, numberText(part.holders)),
    element("td", {}, badge(part.source), part.source === "peer" ? ` ${part.candidates[0].name}` : ""),
    element("td", { class: "why" }, part.error || part.why),
  ));
  const heads = [["Object"], ["Digest"], ["Size", "number"], ["Other nodes", "number"], ["Would come from"], ["Because"]];
  const head = element("tr", {}, ...heads.map(([text, kind]) => element("th", { class: kind }, text)));
  place.replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
}

function flow(name, done, size, rate) {
  const amount = size && done < size ? `${sizeText(done)} of ${sizeText(size)}` : sizeText(done);
  const speed = done === size ? "done" : `${sizeText(rate)}/s`;
  return element("div", { class: "flow" }, element("span", {}, ...name), bar(size ? done / size : 0), element("span", {}, amount), element("span", {}, speed));
}

/** What moves, as a tree for each object: where it comes from, this node, to whom it goes. `rates` remembers.
 *  `watch` is called with a registry, a digest and a name for it, to see the whole herd. */
export function showTransfers(place, transfers, me, rates, watch) {
  const objects = new Map();
  const object = (digest, size, name) => {
    if (!objects.has(digest)) objects.set(digest, { size, name, givers: new Set(), answers: [], fetching: null });
    return objects.get(digest);
  };
  for (const each of transfers.fetching) {
    const found = object(each.digest, each.size, each.registry);
    found.fetching = each;
    for (const giver of each.givers) found.givers.add(giver);
  }
  for (const each of transfers.answers) {
    const found = object(each.digest, each.size, each.repository);
    found.name = each.repository;
    found.answers.push(each);
    if (each.holder) found.givers.add(each.holder);
    else if (each.source === "upstream") found.givers.add("upstream");
  }
  const trees = [...objects.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([digest, each]) => {
    const nodes = [...each.givers].filter((giver) => giver !== "upstream").join(", ");
    const registry = each.givers.has("upstream") ? (nodes ? " with the registry's bytes" : "the registry") : "";
    const from = each.givers.size ? nodes + registry : "this node's store";
    const children = each.answers.map((answer) => {
      const to = answer.face === "client" ? "runtime of this node" : answer.reader || "another node";
      return element("li", {}, flow([to, " ", badge(answer.source)], answer.bytes, answer.size, rates.of(answer.id + answer.face, answer.bytes)));
    });
    const here = each.fetching
      ? flow([element("b", {}, me), " fetches"], each.fetching.fetched, each.size, rates.of(digest, each.fetching.fetched))
      : element("b", {}, me);
    return element("div", { class: "tree" },
      element("h2", {}, each.name, " ", element("code", { title: digest }, shortDigest(digest)), " ", watchButton(digest, () => watch(each.name.split("/")[0], digest, each.name))),
      element("div", {}, "from ", element("b", {}, from)),
      element("ul", {}, element("li", {}, here, element("ul", {}, ...children))));
  });
  rates.forget();
  redraw(place, ...(trees.length ? trees : [element("p", { class: "empty" }, "Nothing moves through this node now.")]));
}

const HERD_ROWS = 200; // drawn; of more nodes it is said how many there are

function watchButton(key, onclick) {
  return element("button", { type: "button", class: "watch", "data-key": key, onclick }, "Watch the herd");
}

/** All nodes that take an object now, each below the one that gives it the bytes. `leave` ends the watching. */
export function showHerd(place, watched, herd, rates, leave) {
  const close = element("button", { type: "button", class: "watch", "data-key": "close", onclick: leave }, "Close");
  const head = element("h2", {}, "The herd of ", watched.name, " ", element("code", { title: watched.digest }, shortDigest(watched.digest)), " ", close);
  redraw(place, element("div", { class: "tree herd" }, head, ...herdParts(herd, rates)));
}

function herdParts(herd, rates) {
  if (!herd) return [element("p", { class: "empty" }, "asking the nodes…")];
  if (herd.error) return [element("p", { class: "error" }, herd.error)];
  const taking = herd.nodes.filter((node) => node.taking);
  if (!taking.length) return [element("p", { class: "empty" }, "No node is fetching it now.")];
  const done = taking.reduce((sum, node) => sum + node.done, 0);
  const many = taking.length === 1 ? "node fetches" : "nodes fetch";
  const about = `${numberText(taking.length)} ${many} it, ${Math.round((100 * done) / (taking.length * herd.size || 1))} % on average. Each is below the one that gives it the bytes.`;
  const parts = [element("p", { class: "about" }, about), herdTree(herd, rates)];
  const notes = [[herd.nodes.length - HERD_ROWS, "more are not drawn"], [herd.unasked, "could not be asked in time"]];
  for (const [count, what] of notes) if (count > 0) parts.push(element("p", { class: "empty" }, `${numberText(count)} nodes ${what}.`));
  return parts;
}

function herdTree(herd, rates) {
  const rows = new Map(herd.nodes.map((node) => [node.name, herdRow(node, herd.size, rates)]));
  rates.forget();
  const children = new Map();
  for (const node of herd.nodes) {
    const giver = rows.has(node.giver) ? node.giver : "";
    children.set(giver, [...(children.get(giver) ?? []), node.name]);
  }
  const drawn = new Set(); // what nodes say of each other is of different moments, and need not be a tree
  const below = (names) => {
    const list = element("ul");
    for (const name of names) {
      if (drawn.has(name) || drawn.size >= HERD_ROWS) continue;
      drawn.add(name);
      list.append(element("li", {}, rows.get(name), ...(children.has(name) ? [below(children.get(name))] : [])));
    }
    return list;
  };
  return below([...(children.get("") ?? []), ...rows.keys()]);
}

function herdRow(node, size, rates) {
  const name = [element("b", {}, node.name), node.zone ? ` ${node.zone}` : ""];
  if (node.taking) return flow(node.giver ? name : [...name, " ", badge("upstream")], node.done, size, rates.of(node.name, node.done));
  const why = node.held ? "has it" : node.answers ? "no more is known" : "was not asked, or does not answer";
  return element("div", { class: "flow" }, element("span", {}, ...name), element("span", { class: "why" }, why));
}

/** Bytes a second by name, of the last few looks: what is read in bursts still shows a steady rate. */
export class Rates {
  #before = new Map();
  #now = new Map();

  of(name, bytes) {
    const now = performance.now() / 1000;
    const before = this.#before.get(name);
    let rate = 0;
    if (before) {
      const passed = Math.max(0.1, now - before.at);
      const weight = Math.min(1, passed / RATE_S);
      rate = before.rate * (1 - weight) + weight * (Math.max(0, bytes - before.bytes) / passed);
    }
    this.#now.set(name, { at: now, bytes, rate });
    return rate;
  }

  /** What was not looked at since the last time is over. */
  forget() {
    this.#before = this.#now;
    this.#now = new Map();
  }
}

export function showPulls(place, pulls, text, withPeers) {
  const wanted = pulls.filter((pull) => (withPeers || pull.face === "client") && matches(pull, text)).slice(0, PULLS_SHOWN);
  if (!wanted.length) return place.replaceChildren(element("p", { class: "empty" }, "Nothing was pulled yet, or nothing like that."));
  const rows = [];
  let group = null;
  for (const pull of wanted) {
    const to = pull.face === "client" ? "" : ` to ${pull.reader || "another node"}`;
    if (!group || group.key !== pull.repository + to || group.at - pull.at > GROUP_S) {
      group = { key: pull.repository + to };
      rows.push(element("tr", { class: "group" }, element("th", { colspan: 7, scope: "rowgroup" }, pull.repository, to)));
    }
    group.at = pull.at;
    rows.push(pullRow(pull));
  }
  const heads = ["Time", "Object", "From", "Why there", ["Bytes"], ["First byte"], ["In all"]];
  const head = element("tr", {}, ...heads.map((each) => (Array.isArray(each) ? element("th", { class: "number" }, each[0]) : element("th", {}, each))));
  place.replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
}

function pullRow(pull) {
  const why = pull.steps.length ? pull.steps.join(", ") : pull.source === "store" ? "this node had it" : "";
  return element("tr", { title: `request ${pull.id}` },
    element("td", {}, timeText(pull.at)),
    element("td", {}, pull.kind.replace(/s$/, ""), " ", element("code", { title: pull.digest }, shortDigest(pull.digest))),
    element("td", {}, badge(pull.source), " ", pull.holder),
    element("td", { class: "why" }, why, pull.complete ? "" : " (broke off)"),
    element("td", { class: "number" }, sizeText(pull.bytes)),
    element("td", { class: "number" }, durationText(pull.seconds)),
    element("td", { class: "number" }, durationText(pull.duration_s)));
}

function matches(pull, text) {
  return !text || [pull.repository, pull.digest, pull.holder, pull.reader, pull.id, pull.source].some((field) => field.includes(text));
}

export function showSettings(place, settings) {
  const rows = settings.map((each) => element("tr", {},
    element("td", {}, element("code", {}, each.name)),
    element("td", {}, element("code", {}, settingText(each.value))),
    element("td", { class: "why" }, each.help)));
  const head = element("tr", {}, ...["Setting", "Value", "What it means"].map((each) => element("th", {}, each)));
  place.replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
}

function settingText(value) {
  if (value === null || value === "" || (Array.isArray(value) && !value.length)) return "–";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
