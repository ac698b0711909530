// What moves on the page: sorting of tables, values at the pointer, and the memory view. No library, no network.
"use strict";
(() => {
  const read = (id) => {
    const element = document.getElementById(id);
    return element ? JSON.parse(element.textContent) : null;
  };
  const number = (value) => {
    if (!Number.isFinite(value)) return "none";
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toPrecision(3);
    return String(Number(value.toPrecision(4)).toLocaleString("en", { maximumFractionDigits: 6 }));
  };

  // Tables: a click on a heading sorts the lines below each sub-heading; another one turns the order around.
  const sortable = () => {
    const value = (row, column) => {
      const text = (row.cells[column] ? row.cells[column].textContent : "").trim();
      const found = /^-?[\d.]+(?:e[-+]?\d+)?/i.exec(text);
      return found ? Number(found[0]) : text;
    };
    const compare = (one, other) => {
      const numeric = [typeof one === "number", typeof other === "number"];
      if (numeric[0] && numeric[1]) return one - other;
      if (numeric[0] !== numeric[1]) return numeric[0] ? -1 : 1;
      return one.localeCompare(other);
    };
    document.querySelectorAll("table.sortable").forEach((table) => {
      const heads = [...table.tHead.rows[0].cells];
      heads.forEach((head, column) => {
        const button = document.createElement("button");
        button.type = "button";
        button.append(...head.childNodes);
        head.append(button);
        button.addEventListener("click", () => {
          const falls = head.getAttribute("aria-sort") === "descending";
          const isText = column === 0 || head.classList.contains("text");
          const rises = head.getAttribute("aria-sort") ? falls : isText;
          heads.forEach((other) => other.removeAttribute("aria-sort"));
          head.setAttribute("aria-sort", rises ? "ascending" : "descending");
          for (const body of table.tBodies) {
            const rows = [...body.rows].filter((row) => !row.cells[0].classList.contains("point"));
            const sign = rises ? 1 : -1;
            rows.map((row, place) => ({ row, place, key: value(row, column) }))
              .sort((one, other) => {
                const isNone = [one.key, other.key].map((key) => typeof key !== "number" && !isText);
                if (isNone[0] !== isNone[1]) return isNone[0] ? 1 : -1; // what has no figure stands last
                return sign * compare(one.key, other.key) || one.place - other.place;
              })
              .forEach((entry) => body.append(entry.row));
          }
        });
      });
    });
  };

  // Figures: the nearest point, the bar, or the heights of the areas at the pointer.
  const hovering = () => {
    const figures = read("hover-data");
    if (!figures) return;
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.hidden = true;
    document.body.append(tip);
    const say = (event, lines) => {
      tip.replaceChildren(...lines.map((line) => Object.assign(document.createElement("div"), { textContent: line })));
      tip.hidden = false;
      const right = event.clientX + 14 + tip.offsetWidth > window.innerWidth;
      tip.style.left = `${window.scrollX + event.clientX + (right ? -14 - tip.offsetWidth : 14)}px`;
      tip.style.top = `${window.scrollY + event.clientY + 14}px`;
    };
    for (const [kind, panels] of Object.entries(figures)) {
      const svg = document.querySelector(`#figure-${CSS.escape(kind)} svg`);
      if (!svg) continue;
      const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
      dot.setAttribute("r", "3.5");
      dot.setAttribute("class", "dot");
      svg.append(dot);
      const hide = () => { tip.hidden = true; dot.style.display = "none"; };
      hide();
      svg.addEventListener("pointerleave", hide);
      svg.addEventListener("pointermove", (event) => {
        const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
        const inside = (box, slack) =>
          at.x >= box[0] - slack && at.x <= box[2] + slack && at.y >= box[1] - slack && at.y <= box[3] + slack;
        const panel = panels.find((candidate) => inside(candidate.box, 4));
        if (!panel) return hide();
        const bar = panel.bars.find((candidate) => inside(candidate.box, 0));
        if (bar) {
          dot.style.display = "none";
          return say(event, [bar.name, `${panel.x}: ${number(bar.value)}`]);
        }
        if (panel.areas.length) {
          const nearest = (points) => points.reduce((best, point) =>
            Math.abs(point[0] - at.x) < Math.abs(best[0] - at.x) ? point : best);
          const found = panel.areas.map((area) => ({ name: area.name, point: nearest(area.points) }));
          const head = [panel.title, `${panel.x} ${number(found[0].point[1])}`].filter(Boolean).join(", ");
          dot.style.display = "none";
          return say(event, [head, ...found.map((area) => `${area.name}: ${number(area.point[2])} %`)]);
        }
        let best = null;
        for (const line of panel.lines) {
          for (const point of line.points) {
            const distance = (point[0] - at.x) ** 2 + (point[1] - at.y) ** 2;
            if (!best || distance < best.distance) best = { line, point, distance };
          }
        }
        if (!best || best.distance > 900) return hide();
        dot.setAttribute("cx", best.point[0]);
        dot.setAttribute("cy", best.point[1]);
        dot.style.display = "";
        return say(event, [best.line.name, `${panel.x}: ${number(best.point[2])}`, `${panel.y}: ${number(best.point[3])}`]);
      });
    }
  };

  // The memory view.
  const KINDS = ["free", "external", "internal", "reserved", "written", "live", "cached"];
  const MEANS = {
    free: "free", external: "beyond what was asked for", internal: "held, and never to be written",
    reserved: "reserved, to be written later", live: "stored", cached: "kept for reuse",
  };
  const SHARED = 0x80, NOBODY = 0xffffff;

  const unpack = async (row) => {
    const bytes = Uint8Array.from(atob(row.data), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const flat = new Uint8Array(await new Response(stream).arrayBuffer());
    const frames = row.times.length, cells = row.cells, plane = frames * cells;
    for (let index = 0; index < 4; index++) {
      const part = flat.subarray(index * plane, (index + 1) * plane);
      for (let place = cells; place < plane; place++) part[place] ^= part[place - cells];
    }
    const owner = new Uint32Array(plane);
    for (let place = 0; place < plane; place++) {
      owner[place] = flat[plane + place] | flat[2 * plane + place] << 8 | flat[3 * plane + place] << 16;
    }
    return { kind: flat.subarray(0, plane), owner };
  };

  const memory = async () => {
    const view = read("memory-data"), section = document.getElementById("memory-view");
    if (!view || !section) return;
    if (typeof DecompressionStream === "undefined") {
      section.querySelector(".status").textContent = "This browser is too old to show the memory view.";
      return;
    }
    const slider = section.querySelector("input"), play = section.querySelector("button"), now = section.querySelector("output");
    const dark = window.matchMedia("(prefers-color-scheme: dark)");
    let isPrinting = false;
    const pools = await Promise.all([...section.querySelectorAll(".pool")].map(async (element, index) => {
      const row = view.rows[index];
      return { element, row, ...(await unpack(row)), canvas: element.querySelector("canvas"), frame: 0, cursor: null };
    }));
    const most = Math.max(1, ...view.rows.flatMap((row) => [...row.running, ...row.waiting, ...row.swapped]));
    let marked = NOBODY;

    const blockOf = (row) => Math.max(1, Math.round(row.blockSize / row.perCell)); // in cells
    const unit = Math.max(8, ...view.rows.map(blockOf).filter((size) => size <= 32)); // lines of all pools are alike
    const layout = (pool) => {
      const columns = Math.max(unit, Math.ceil(Math.sqrt(pool.row.cells * 2.4) / unit) * unit);
      const group = blockOf(pool.row);
      return { columns, lines: Math.ceil(pool.row.cells / columns), group, hasBlocks: group > 1 && columns % group === 0 };
    };
    const colour = (kind, owner, isFaint) => {
      const hue = (owner * 137.508) % 360, light = dark.matches && !isPrinting ? 48 : 62;
      const alpha = (kind === "reserved" || kind === "internal" ? 0.38 : 1) * (isFaint ? 0.16 : 1);
      return `hsla(${hue.toFixed(0)}, 62%, ${light}%, ${alpha})`;
    };
    const draw = (pool) => {
      const { canvas, row } = pool, { columns, lines, group, hasBlocks } = layout(pool);
      const style = getComputedStyle(section);
      const width = pool.element.clientWidth || 480, ratio = window.devicePixelRatio || 1;
      const size = width / columns;
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(size * lines * ratio);
      const context = canvas.getContext("2d");
      context.scale(ratio, ratio);
      context.clearRect(0, 0, width, size * lines);
      const [faint, grid, ink] = isPrinting ? ["#444", "#ccc", "#000"] // a canvas does not know that it is printed
        : ["--faint", "--grid", "--ink"].map((name) => style.getPropertyValue(name));
      const base = pool.frame * row.cells, gap = size > 5 ? 0.6 : 0.2;
      for (let cell = 0; cell < row.cells; cell++) {
        const code = pool.isOver ? 0 : pool.kind[base + cell], kind = KINDS[code & 0x7f], owner = pool.owner[base + cell];
        const x = (cell % columns) * size, y = Math.floor(cell / columns) * size, side = size - gap;
        if (kind === "free") {
          context.fillStyle = grid;
          context.globalAlpha = 0.45;
          context.fillRect(x, y, side, side);
          context.globalAlpha = 1;
          continue;
        }
        const isFaint = marked !== NOBODY && owner !== marked;
        context.fillStyle = kind === "cached" || kind === "external" ? grid : colour(kind, owner, isFaint);
        context.fillRect(x, y, side, side);
        if (kind === "internal" || kind === "external") {
          context.strokeStyle = kind === "internal" ? ink : faint;
          context.globalAlpha = isFaint ? 0.15 : 0.55;
          context.lineWidth = Math.max(0.5, size / 10);
          context.beginPath();
          context.moveTo(x, y + side);
          context.lineTo(x + side, y);
          context.stroke();
          context.globalAlpha = 1;
        }
        if (code & SHARED) {
          context.fillStyle = ink;
          const inner = Math.max(1, size / 3);
          context.fillRect(x + (side - inner) / 2, y + (side - inner) / 2, inner, inner);
        }
      }
      if (pool.cursor !== null) {
        context.strokeStyle = ink;
        context.lineWidth = 2;
        context.strokeRect((pool.cursor % columns) * size - 1, Math.floor(pool.cursor / columns) * size - 1, size + 2, size + 2);
      }
      if (hasBlocks && size > 7) {
        context.strokeStyle = faint;
        context.lineWidth = 0.5;
        for (let cell = 0; cell < row.cells; cell += group) {
          const x = (cell % columns) * size, y = Math.floor(cell / columns) * size;
          context.strokeRect(x, y, Math.min(group, row.cells - cell) * size - gap, size - gap);
        }
      }
    };
    const share = (count, row) => `${((100 * count) / row.slots).toFixed(0)}\u00a0%`;
    const tell = (pool) => {
      const { row, frame } = pool;
      const at = (list) => (pool.isOver ? 0 : list[frame]);
      for (const queue of ["running", "waiting", "swapped"]) {
        const meter = pool.element.querySelector(`.${queue}`);
        meter.querySelector("b").textContent = String(at(row[queue]));
        meter.querySelector("i").style.width = `${(100 * at(row[queue])) / most}%`;
      }
      const counts = Object.fromEntries(Object.entries(row.counts).map(([kind, list]) => [kind, at(list)]));
      if (row.refused[frame]) { // as in the table: what is free while somebody is refused cannot be handed out
        counts.external += counts.free;
        counts.free = 0;
      }
      const parts = Object.entries(counts).filter(([, count]) => count > 0);
      let text = parts.map(([kind, count]) => `${kind} ${share(count, row)}`).join(", ");
      if (pool.isOver) text = "all requests have ended";
      else if (row.refused[frame]) text += "; the next request does not fit";
      pool.element.querySelector(".account").textContent = text;
      pool.canvas.setAttribute("aria-label", `Pool of ${row.name}: ${text}`);
    };
    const mark = (owner) => {
      if (owner === marked) return;
      marked = owner;
      pools.forEach(draw);
    };
    const say = (pool, cell) => { // what a cell is, and where else its request is
      const said = pool.element.querySelector(".cell");
      if (cell === null) {
        said.textContent = "";
        return mark(NOBODY);
      }
      const index = pool.frame * pool.row.cells + cell, code = pool.kind[index], kind = KINDS[code & 0x7f], owner = pool.owner[index];
      const first = cell * pool.row.perCell, last = Math.min(first + pool.row.perCell, pool.row.slots) - 1;
      const where = first === last ? `slot ${first}` : `one of slots ${first} to ${last}`;
      const block = pool.row.blockSize > 1 ? `, block ${Math.floor(first / pool.row.blockSize)}` : "";
      const whose = owner !== NOBODY && kind !== "free" && kind !== "cached" ? `, request ${owner}` : "";
      said.textContent = `${where}${block}: ${MEANS[kind]}${code & SHARED ? " once, for several sequences" : ""}${whose}`;
      return mark(whose ? owner : NOBODY);
    };
    const show = (place) => {
      const time = view.times[place];
      slider.value = String(place);
      now.textContent = `${number(time)} s`;
      slider.setAttribute("aria-valuetext", now.textContent);
      for (const pool of pools) {
        let frame = 0;
        while (frame + 1 < pool.row.times.length && pool.row.times[frame + 1] <= time) frame++;
        pool.frame = frame;
        pool.isOver = time > pool.row.end;
        draw(pool);
        tell(pool);
        if (pool.cursor !== null) say(pool, pool.isOver ? null : pool.cursor);
      }
    };
    let timer = null;
    const stop = () => {
      clearInterval(timer);
      timer = null;
      play.textContent = "Play";
    };
    play.addEventListener("click", () => {
      if (timer !== null) return stop();
      play.textContent = "Pause";
      if (Number(slider.value) + 1 >= view.times.length) show(0);
      timer = setInterval(() => {
        const next = Number(slider.value) + 1;
        if (next >= view.times.length) return stop();
        return show(next);
      }, 90);
    });
    slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
    section.addEventListener("keydown", (event) => {
      if (event.target !== slider || event.key !== " ") return;
      event.preventDefault();
      play.click();
    });
    const redraw = () => show(Number(slider.value));
    dark.addEventListener("change", redraw);
    window.addEventListener("resize", redraw);
    const print = (starts) => () => {
      isPrinting = starts;
      redraw();
    };
    window.addEventListener("beforeprint", print(true));
    window.addEventListener("afterprint", print(false));
    for (const pool of pools) {
      const cellAt = (event) => {
        const { columns } = layout(pool), box = pool.canvas.getBoundingClientRect(), size = box.width / columns;
        const cell = Math.floor((event.clientY - box.top) / size) * columns + Math.floor((event.clientX - box.left) / size);
        return cell >= 0 && cell < pool.row.cells && !pool.isOver ? cell : null;
      };
      pool.canvas.addEventListener("pointermove", (event) => say(pool, cellAt(event)));
      pool.canvas.addEventListener("pointerleave", () => say(pool, pool.cursor));
      pool.canvas.addEventListener("keydown", (event) => {
        const { columns } = layout(pool);
        const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
        const to = event.key === "Home" ? 0 : event.key === "End" ? pool.row.cells - 1 : (pool.cursor ?? 0) + by;
        if (pool.isOver || !(to >= 0 && to < pool.row.cells)) return;
        event.preventDefault();
        pool.cursor = pool.cursor === null && by ? 0 : to;
        say(pool, pool.cursor);
        draw(pool);
      });
      pool.canvas.addEventListener("blur", () => {
        pool.cursor = null;
        say(pool, null);
        draw(pool);
      });
    }
    section.querySelector(".controls").hidden = false;
    section.querySelector(".status").hidden = true;
    const shortest = Math.min(...view.rows.map((row) => row.end)); // begin where all of them run
    show(Math.max(0, view.times.findIndex((time) => time >= 0.6 * shortest)));
    section.dataset.ready = "true";
  };

  // On paper the configuration is open.
  const printing = () => {
    const details = [...document.querySelectorAll("details.printed")];
    let open = [];
    window.addEventListener("beforeprint", () => {
      open = details.map((element) => element.open);
      details.forEach((element) => { element.open = true; });
    });
    window.addEventListener("afterprint", () => details.forEach((element, place) => { element.open = open[place]; }));
  };

  sortable();
  printing();
  hovering();
  memory().catch((error) => {
    document.querySelector("#memory-view .status").textContent = `The memory view cannot be shown: ${error.message}`;
  });
})();
