// The map of the cluster: a box for each zone, in it a tile for each node. Drawn on one canvas, so that thousands of
// nodes stay quick; the selected node is told in words beside it.

const PADDING = 10;
const LABEL = 22;
const CARDS_MAX = 60; // up to so many nodes have a tile with their name
const SQUARES = [26, 20, 16, 13, 11, 9, 7];
const HEIGHT_MAX = 620;

export class ClusterMap {
  /** `onSelect` and `onHover` are called with a member or null, the latter also with its place. */
  constructor(canvas, onSelect, onHover) {
    this.canvas = canvas;
    this.members = [];
    this.holders = null; // the names that are lit, or null when all are
    this.selected = null;
    this.tiles = [];
    this.zones = [];
    this.onSelect = onSelect;
    this.onHover = onHover;
    canvas.addEventListener("mousemove", (event) => this.hover(event));
    canvas.addEventListener("mouseleave", () => onHover(null));
    canvas.addEventListener("click", (event) => this.select(this.at(event)));
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("focus", () => this.draw());
    canvas.addEventListener("blur", () => this.draw());
    new ResizeObserver(() => this.lay()).observe(canvas.parentElement);
  }

  show(members) {
    this.members = members;
    this.lay();
  }

  light(names) {
    this.holders = names && new Set(names);
    this.draw();
  }

  /** Find the largest tiles with which all zones fit, and place them. */
  lay() {
    const width = this.canvas.clientWidth;
    if (!width) return;
    const zones = new Map();
    for (const member of this.members) {
      if (!zones.has(member.zone)) zones.set(member.zone, []);
      zones.get(member.zone).push(member);
    }
    const sorted = [...zones.entries()].sort(([a], [b]) => (a < b ? -1 : 1));
    const sizes = SQUARES.map((size) => [size, size, Math.max(1, Math.round(size / 7))]);
    if (this.members.length <= CARDS_MAX) sizes.unshift([128, 44, 6]);
    for (const size of sizes) {
      this.place(sorted, width, size);
      if (this.height <= HEIGHT_MAX) break;
    }
    const scale = window.devicePixelRatio || 1;
    this.canvas.style.height = `${this.height}px`;
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(this.height * scale);
    this.scale = scale;
    this.draw();
  }

  place(zones, width, [tileWidth, tileHeight, gap]) {
    this.cards = tileWidth > 100;
    this.tiles = [];
    this.zones = [];
    let [left, top, rowHeight] = [0, 0, 0];
    for (const [zone, members] of zones) {
      const room = Math.max(1, Math.floor((width - 2 * PADDING) / (tileWidth + gap)));
      const wanted = Math.ceil(Math.sqrt(members.length * (this.cards ? 1 : 1.8)));
      const columns = Math.min(room, zones.length === 1 ? room : wanted, members.length);
      const rows = Math.ceil(members.length / columns);
      const boxWidth = Math.max(columns * (tileWidth + gap) - gap, 90) + 2 * PADDING;
      const boxHeight = rows * (tileHeight + gap) - gap + LABEL + PADDING;
      if (left && left + boxWidth > width) [left, top, rowHeight] = [0, top + rowHeight + PADDING, 0];
      this.zones.push({ zone, count: members.length, x: left, y: top, width: boxWidth, height: boxHeight });
      members.forEach((member, place) => {
        const x = left + PADDING + (place % columns) * (tileWidth + gap);
        const y = top + LABEL + Math.floor(place / columns) * (tileHeight + gap);
        this.tiles.push({ member, x, y, width: tileWidth, height: tileHeight });
      });
      left += boxWidth + PADDING;
      rowHeight = Math.max(rowHeight, boxHeight);
    }
    this.height = Math.max(60, top + rowHeight + 1);
  }

  draw() {
    const context = this.canvas.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const colours = Object.fromEntries(
      ["alive", "suspect", "down", "left", "text", "muted", "line", "card", "ground", "accent"].map((n) => [n, colour(n)]),
    );
    context.setTransform(this.scale || 1, 0, 0, this.scale || 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "middle";
    for (const zone of this.zones) {
      context.fillStyle = colours.ground;
      context.beginPath();
      context.roundRect(zone.x, zone.y, zone.width, zone.height, 6);
      context.fill();
      context.fillStyle = colours.muted;
      const label = `${zone.zone || "no zone"} · ${zone.count}`;
      context.fillText(fit(context, label, zone.width - 2 * PADDING), zone.x + PADDING, zone.y + LABEL / 2);
    }
    for (const tile of this.tiles) this.drawTile(context, tile, colours);
  }

  drawTile(context, tile, colours) {
    const { member, x, y, width, height } = tile;
    const lit = !this.holders || this.holders.has(member.name);
    const paint = colours[member.state] ?? colours.left;
    const radius = Math.min(5, width / 4);
    context.globalAlpha = lit ? 1 : 0.18;
    context.lineWidth = this.cards ? 1.5 : 1;
    context.strokeStyle = paint;
    context.beginPath();
    context.roundRect(x + 0.5, y + 0.5, width - 1, height - 1, radius);
    if (this.cards) {
      context.fillStyle = colours.card;
      context.fill();
      context.stroke();
      context.fillStyle = paint;
      context.fillRect(x + 1, y + 6, 4, height - 12);
      context.fillStyle = colours.text;
      context.font = `${member.me ? "700 " : ""}13px system-ui, sans-serif`;
      context.fillText(fit(context, member.name, width - 20), x + 12, y + 15);
      context.font = "11px system-ui, sans-serif";
      context.fillStyle = member.state === "alive" ? colours.muted : paint;
      const state = member.state === "alive" ? "" : ` · ${member.state}`;
      context.fillText(fit(context, `${member.keys} objects${state}`, width - 20), x + 12, y + 31);
    } else if (member.state === "alive") {
      context.fillStyle = paint;
      context.fill();
    } else {
      context.stroke();
      if (member.state === "down") {
        context.beginPath();
        context.moveTo(x + 2, y + height - 2);
        context.lineTo(x + width - 2, y + 2);
        context.stroke();
      }
    }
    context.globalAlpha = 1;
    const selected = this.selected === member.name;
    if (selected || (member.me && !this.cards)) {
      context.strokeStyle = selected ? colours.accent : colours.text;
      context.lineWidth = 2;
      context.beginPath();
      context.roundRect(x - 1.5, y - 1.5, width + 3, height + 3, radius + 1);
      context.stroke();
    }
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    return this.tiles.find((tile) => x >= tile.x && x <= tile.x + tile.width && y >= tile.y && y <= tile.y + tile.height);
  }

  hover(event) {
    const tile = this.at(event);
    this.canvas.style.cursor = tile ? "pointer" : "default";
    this.onHover(tile ? tile.member : null, tile);
  }

  select(tile) {
    this.selected = tile ? tile.member.name : null;
    this.draw();
    this.onSelect(tile ? tile.member : null);
  }

  /** Arrow keys: to the nearest tile in that direction. */
  key(event) {
    const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "Escape") this.select(null);
    if (!direction || !this.tiles.length) return;
    event.preventDefault();
    const now = this.tiles.find((tile) => tile.member.name === this.selected);
    if (!now) {
      this.select(this.tiles.find((tile) => tile.member.me) ?? this.tiles[0]);
      return;
    }
    let best = null;
    let least = Infinity;
    for (const tile of this.tiles) {
      const [dx, dy] = [tile.x - now.x, tile.y - now.y];
      const along = dx * direction[0] + dy * direction[1];
      const across = Math.abs(dx * direction[1]) + Math.abs(dy * direction[0]);
      if (along > 0.5 && along + 3 * across < least) [best, least] = [tile, along + 3 * across];
    }
    if (best) this.select(best);
  }
}

function fit(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  let shown = text;
  while (shown.length > 1 && context.measureText(`${shown}…`).width > width) shown = shown.slice(0, -1);
  return `${shown}…`;
}
