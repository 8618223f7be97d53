// The live page of an agent. It listens to the agent's feed and asks its local API, on its own origin and nowhere else.

import { byId, durationText, element, numberText, sizeText } from "./dom.js";
import { Gossip } from "./gossip.js";
import { ClusterMap } from "./map.js";
import { Rates, showExplained, showFound, showHerd, showMember, showPulls, showSettings, showTransfers, showZones } from "./panels.js";

const VIEWS = ["cluster", "transfers", "pulls", "gossip", "settings"];
const THEMES = ["system", "light", "dark"];
const PULLS_KEPT = 500;
const SILENCE_MS = 5000;
const HERD_MS = 1500; // how often a herd that is watched is looked at

const gossip = new Gossip();
const rates = new Rates();
let herdRates = new Rates();
const flowing = { bytes: 0, at: 0, rate: 0 };
const state = { status: null, members: [], transfers: { answers: [], fetching: [] }, pulls: [], holders: null, watched: null, view: "cluster" };
const map = new ClusterMap(byId("map"), (member) => showMember(byId("node-detail"), member), showTip);

async function ask(question, query = {}) {
  const response = await fetch(`api/${question}?${new URLSearchParams(query)}`);
  return response.json();
}

// The feed.

let heardAt = performance.now();

function listen() {
  const feed = new EventSource("api/events");
  const on = (name, take) => feed.addEventListener(name, (event) => {
    heardAt = performance.now();
    link("live");
    take(JSON.parse(event.data));
  });
  on("status", takeStatus);
  on("members", (members) => {
    state.members = members;
    map.show(members);
    showZones(byId("zones"), members, state.holders);
    const selected = members.find((member) => member.name === map.selected);
    if (map.selected) showMember(byId("node-detail"), selected);
  });
  on("transfers", (transfers) => {
    state.transfers = transfers;
    const moving = transfers.answers.length + transfers.fetching.length;
    byId("transfers-count").textContent = moving || "";
    if (state.view === "transfers") show();
  });
  on("pulls", (pulls) => {
    state.pulls = [...pulls, ...state.pulls.filter((old) => old.number < pulls.at(-1).number)].slice(0, PULLS_KEPT);
    if (state.view === "pulls") show();
  });
  feed.addEventListener("error", () => {
    link("lost");
    if (feed.readyState === EventSource.CLOSED) setTimeout(listen, 3000);
  });
}

function link(how) {
  byId("link").dataset.link = how;
  const text = { live: "live", lost: "the agent does not answer; trying again" }[how];
  if (byId("link-text").textContent !== text) byId("link-text").textContent = text;
}

setInterval(() => {
  if (performance.now() - heardAt > SILENCE_MS) link("lost");
}, 1000);

// Numbers on top.

function takeStatus(status) {
  const before = state.status;
  state.status = status;
  gossip.note(status);
  const who = byId("who");
  who.replaceChildren(element("b", {}, status.name), ` · cluster ${status.cluster}${status.zone ? ` · zone ${status.zone}` : ""} · ${status.version} · up ${durationText(status.uptime_s)}`);
  document.title = `${status.name} – Skvaller`;
  const given = Object.values(status.client_bytes).reduce((sum, each) => sum + each, 0);
  const now = performance.now() / 1000;
  if (before) flowing.rate = Math.max(0, given - flowing.bytes) / Math.max(0.1, now - flowing.at);
  [flowing.bytes, flowing.at] = [given, now];
  const gone = (status.members.suspect ?? 0) + (status.members.down ?? 0);
  const share = given ? Math.max(0, 1 - status.upstream_bytes / given) : null;
  const tiles = [
    ["Nodes alive", numberText(status.members.alive ?? 0), gone ? `${numberText(gone)} suspect or down` : "all well"],
    ["Not from registries", share === null ? "–" : `${(share * 100).toFixed(share < 0.995 || share === 1 ? 0 : 1)} %`, `of ${sizeText(given)}`],
    ["To the runtime now", `${sizeText(flowing.rate)}/s`, ""],
    ["In flight", numberText(status.transfers), `${status.uploads} of ${status.upload_slots} uploads`],
    ["Objects known", numberText(status.index.keys), `${numberText(status.index.pairs)} with their nodes`],
    ["Index", status.index.owners_behind ? `${status.index.lag_seconds.toFixed(1)} s behind` : "up to date", status.store === "containerd" ? (status.runtime_answers ? "containerd answers" : "containerd is silent") : status.store],
  ];
  byId("tiles").replaceChildren(...tiles.map(([name, value, more]) => element("div", {}, element("dt", {}, name), element("dd", {}, value, " ", element("small", {}, more)))));
  if (state.view === "gossip") show();
}

// Finding.

async function find(what) {
  const found = what ? await ask("find", { what }) : null;
  byId("what").value = what;
  byId("clear").hidden = !what;
  state.holders = found?.digest ? new Set(found.holders.map((holder) => holder.name)) : null;
  map.light(state.holders);
  showZones(byId("zones"), state.members, state.holders);
  byId("explained").replaceChildren();
  showFound(byId("found"), found, find, async (image) => {
    const place = byId("explained");
    place.textContent = "asking…";
    showExplained(place, await ask("explain", { image }), watch);
    place.scrollIntoView({ block: "nearest" });
  });
}

function showTip(member, tile) {
  const tip = byId("tip");
  tip.hidden = !member;
  if (!member) return;
  tip.textContent = `${member.name} · ${member.state} · ${numberText(member.keys)} objects`;
  const left = Math.min(tile.x + 12, byId("map").clientWidth - tip.offsetWidth);
  tip.style.left = `${Math.max(0, left)}px`;
  tip.style.top = `${tile.y + tile.height + 16}px`;
}

// Watching a herd: the agent asks the nodes only while somebody looks.

function watch(registry, digest, name) {
  state.watched = { registry, digest, name };
  herdRates = new Rates();
  showHerd(byId("herd"), state.watched, null, herdRates, leaveHerd);
  choose("transfers");
  byId("herd").scrollIntoView({ block: "nearest" });
}

function leaveHerd() {
  state.watched = null;
  byId("herd").replaceChildren();
}

async function lookAtHerd() {
  const watched = state.watched;
  if (watched && state.view === "transfers" && !document.hidden) {
    const herd = await ask("herd", { registry: watched.registry, digest: watched.digest }).catch(() => null);
    if (herd && watched === state.watched) showHerd(byId("herd"), watched, herd, herdRates, leaveHerd);
  }
  setTimeout(lookAtHerd, HERD_MS);
}

// Views.

function show() {
  if (state.view === "transfers") showTransfers(byId("transfer-tree"), state.transfers, state.status?.name ?? "this node", rates, watch);
  if (state.view === "pulls") showPulls(byId("pull-list"), state.pulls, byId("pull-text").value.trim(), byId("pull-peers").checked);
  if (state.view === "gossip" && state.status) gossip.show(byId("charts"), byId("counters"));
  if (state.view === "cluster") map.lay();
}

async function choose(view, focus = false) {
  state.view = view;
  for (const name of VIEWS) {
    const tab = byId(`tab-${name}`);
    tab.setAttribute("aria-selected", String(name === view));
    tab.tabIndex = name === view ? 0 : -1;
    byId(name).hidden = name !== view;
    if (focus && name === view) tab.focus();
  }
  history.replaceState(null, "", `#${view}`);
  show();
  if (view === "settings") showSettings(byId("setting-list"), await ask("settings"));
}

function theme(name) {
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  byId("theme").textContent = `Theme: ${name}`;
  localStorage.setItem("theme", name);
  map.draw();
}

for (const view of VIEWS) byId(`tab-${view}`).addEventListener("click", () => choose(view));
byId("tabs").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step) choose(VIEWS[(VIEWS.indexOf(state.view) + step + VIEWS.length) % VIEWS.length], true);
});
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") {
    event.preventDefault();
    choose("cluster");
    byId("what").focus();
  } else if (VIEWS[event.key - 1]) choose(VIEWS[event.key - 1], true);
});
byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  find(byId("what").value.trim());
});
byId("clear").addEventListener("click", () => find(""));
byId("pull-filter").addEventListener("submit", (event) => event.preventDefault());
byId("pull-filter").addEventListener("input", show);
byId("theme").addEventListener("click", () => theme(THEMES[(THEMES.indexOf(localStorage.getItem("theme") ?? "system") + 1) % THEMES.length]));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => map.draw());
byId("legend").append(...["alive", "suspect", "down", "left"].map((name) => element("li", {}, element("span", { class: `mark ${name}` }), name)), element("li", {}, element("span", { class: "mark me" }), "this node"));

theme(THEMES.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "system");
choose(VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "cluster");
listen();
lookAtHerd();
