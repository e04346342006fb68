'use strict';
(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const run = data.run;
  const $ = (id) => document.getElementById(id);
  const PAGE = 200; // rows added to a table at a time
  const MAX_BARS = 1500; // of the timeline
  const MAX_BOXES = 150; // of the graph

  // Text from builds is shown without control and bidirectional characters, which could hide or reorder other text.
  const clean = (text) => String(text ?? '').replace(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, ' ');
  const cut = (text, n) => (text.length > n ? text.slice(0, n - 1) + '…' : text);
  const make = (tag, attributes = {}, ...children) => {
    const e = document.createElement(tag);
    fillIn(e, attributes, children);
    return e;
  };
  const draw = (tag, attributes = {}, ...children) => {
    const e = document.createElementNS('http://www.w3.org/2000/svg', tag);
    fillIn(e, attributes, children);
    return e;
  };
  function fillIn(e, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (name === 'onclick') e.addEventListener('click', value);
      else if (value !== undefined && value !== false) e.setAttribute(name, value === true ? '' : value);
    }
    for (const c of children.flat()) if (c !== null && c !== undefined) e.append(c instanceof Node ? c : clean(c));
  }
  const time = (s) => {
    if (s === undefined || s === null) return '';
    if (s < 0.0995) return Math.round(s * 1000) + ' ms';
    if (s < 59.95) return s.toFixed(1) + ' s';
    const whole = Math.round(s);
    return whole < 3600 ? `${Math.floor(whole / 60)} min ${whole % 60} s` : `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  };
  const size = (n) => {
    const units = ['B', 'kB', 'MB', 'GB', 'TB'];
    let i = 0;
    while (n >= 999.5 && i < units.length - 1) { n /= 1000; i++; }
    return (i === 0 || n >= 99.5 ? n.toFixed(0) : n.toFixed(1)) + ' ' + units[i];
  };
  const count = (n, one) => `${n} ${n === 1 ? one : one + 's'}`;
  const short = (digest) => (digest ? clean(digest).replace(/^sha256:/, '').slice(0, 12) : '');
  const place = (at) => (at && at.length ? `${clean(at[0].file)}${at[0].line ? ':' + at[0].line : ''}` : '');
  const names = (list, n = 3) => (list.length <= n ? list.join(', ') : `${list.slice(0, n - 1).join(', ')} and ${list.length - n + 1} more`);

  // The steps by index, with their users and bars.
  const steps = run.steps.map((s, i) => ({ ...s, index: i, users: [], bar: null, targets: s.targets || [], inputs: [...(s.inputs || []), ...(s.tests || [])] }));
  for (const s of steps) for (const i of s.inputs) steps[i].users.push(s.index);
  for (const b of data.bars) if (b.step >= 0) steps[b.step].bar = b;
  const byDigest = new Map(steps.flatMap((s) => [s, ...(s.also || [])].map((o) => [o.digest, s])));
  const kind = (s) => (s.status === 'ran' || s.status === 'failed' || s.status === 'cached' ? s.status : '');

  function causeText(c) {
    const change = c.old && c.new ? `changed: ${c.old} → ${c.new}` : c.new ? `is new: ${c.new}` : c.old ? `was removed, it was ${c.old}` : 'changed';
    switch (c.kind) {
      case 'forced': return 'no-cache is set';
      case 'new': return 'no earlier run is known';
      case 'base': return `the base ${change}`;
      case 'instruction': return `the instruction ${c.name || ''} ${change}`;
      case 'variable': return `the variable ${c.name} ${change}`;
      case 'option': return `${c.name} ${change}`;
      case 'files': return `files of ${c.name} changed`;
      case 'pruned': return 'its result was removed from the cache';
      case 'asked': return 'the source is checked on every build';
      case 'input': return 'it follows from ' + (byDigest.get(c.step)?.name || 'another step');
    }
    return '';
  }

  function heading() {
    $('title').textContent = `${cut(clean(run.targets.join(', ')), 120)} — ${run.status}`;
    const started = new Date(run.started);
    $('facts').textContent = clean(`${started.toISOString().replace('T', ' ').slice(0, 19)} UTC · ${run.dir} · engine ${run.engine} · bake ${run.tool} · build ${run.id}`);
    const of = (status) => steps.filter((s) => s.status === status).length;
    const stored = data.layers.reduce((n, l) => n + l.size, 0);
    const all = data.layers.reduce((n, l) => n + l.size * l.images.length, 0);
    const critical = data.bars.filter((b) => b.critical).reduce((n, b) => n + b.end - b.start, 0);
    const numbers = [
      ['total time', time((new Date(run.completed) - started) / 1000)], [`steps (${run.declared} declared)`, steps.length], ['ran', of('ran')], ['found in the cache', of('cached')],
      ['failed', of('failed')], ['on the critical path', time(critical)], ['waited, all steps', time(data.waiting)],
      ['images', run.images.filter((i) => i.finished).length], ['of layers, without duplicates', size(stored)], ['saved by sharing layers', size(all - stored)],
    ];
    $('numbers').append(...numbers.map(([name, value]) => make('div', {}, make('dt', {}, name), make('dd', {}, String(value)))));
  }

  function failures() {
    if (!run.failures.length) return;
    $('failures').hidden = $('to-failures').hidden = false;
    $('failure-list').append(...run.failures.slice(0, 100).map((f) => {
      const step = steps.find((s) => f.log && s.log === f.log);
      return make('article', {}, make('p', { class: 'mark failed' }, f.message), f.last?.length ? make('pre', {}, f.last.map((l) => clean(l) + '\n').join('')) : null,
        step ? make('p', {}, stepLink(step, 'Show the step, its output and why it ran')) : null);
    }));
  }

  const stepLink = (s, text) => make('a', { href: '#step-' + s.index }, text || cut(clean(s.name), 160));

  function timeline() {
    const bars = data.bars.length > MAX_BARS ? [...data.bars].sort((a, b) => (b.end - b.start) - (a.end - a.start)).slice(0, MAX_BARS).sort((a, b) => a.start - b.start) : data.bars;
    if (bars.length < data.bars.length) {
      $('chart-more').hidden = false;
      $('chart-more').textContent = `Showing the ${bars.length} longest of ${data.bars.length}.`;
    }
    if (!bars.length) {
      $('chart').replaceWith(make('p', {}, 'No step ran.'));
      return;
    }
    const row = 24, top = 26, left = 8, width = Math.max(600, $('chart').clientWidth - 2 * left);
    const scale = (width - 8) / Math.max(data.length, 0.001);
    const height = top + data.lanes * row + 8;
    const svg = draw('svg', { width: width + 2 * left, height, role: 'presentation' },
      draw('defs', {}, draw('pattern', { id: 'hatch', width: 4, height: 4, patternUnits: 'userSpaceOnUse', patternTransform: 'rotate(45)' }, draw('line', { class: 'hatch', x1: 0, y1: 0, x2: 0, y2: 4 }))));
    for (let i = 0; i <= 5; i++) {
      const x = left + (width - 8) * i / 5;
      svg.append(draw('line', { x1: x, x2: x, y1: top - 6, y2: height }), draw('text', { x: i === 5 ? x - 50 : x + 2, y: 14 }, time(data.length * i / 5)));
    }
    const ticks = new Set(data.cached.map((t) => Math.round(left + t * scale)));
    for (const x of ticks) svg.append(draw('line', { class: 'cached', x1: x, x2: x, y1: top - 8, y2: top - 2 }));
    const free = []; // end of the last bar, by lane
    const rects = bars.map((b, i) => {
      const x = left + b.start * scale, w = Math.max(2, (b.end - b.start) * scale), y = top + b.lane * row;
      const waited = (b.start - Math.max(b.ready, free[b.lane] || 0)) * scale;
      free[b.lane] = b.end;
      if (waited > 1.5) svg.append(draw('rect', { class: 'waited', x: x - waited, y: y + 8, width: waited, height: row - 16 }));
      const name = (b.step >= 0 ? steps[b.step].name : b.name);
      const r = draw('rect', { class: 'bar' + (b.step < 0 ? ' other' : '') + (b.critical ? ' critical' : '') + (b.failed ? ' failed' : ''), x, y: y + 2, width: w, height: row - 4, rx: 3, id: 'bar-' + i, role: 'option',
        'aria-selected': 'false', 'aria-label': `${clean(name)}, ${time(b.end - b.start)}`, onclick: () => { choose(i); open(i); } });
      svg.append(r);
      if (w > 60) svg.append(draw('text', { class: 'in', x: x + 5, y: y + 16 }, cut(clean(name), Math.floor((w - 10) / 7))));
      return r;
    });
    $('chart').append(svg);
    let at = -1;
    function choose(i) {
      if (at >= 0) { rects[at].classList.remove('at'); rects[at].setAttribute('aria-selected', 'false'); }
      at = i;
      const b = bars[i], s = b.step >= 0 ? steps[b.step] : null;
      rects[i].classList.add('at');
      rects[i].setAttribute('aria-selected', 'true');
      $('chart').setAttribute('aria-activedescendant', 'bar-' + i);
      $('bar-text').textContent = clean(`${cut(s ? s.name : b.name, 160)} — ${time(b.end - b.start)} from ${time(b.start)}` + (b.start - b.ready > 0.0005 ? `, waited ${time(b.start - b.ready)}` : '') + (b.critical ? ', on the critical path' : ''));
      const y = top + b.lane * row;
      if (y < $('chart').scrollTop || y + row > $('chart').scrollTop + $('chart').clientHeight) $('chart').scrollTop = y - row;
    }
    function open(i) { if (bars[i].step >= 0) location.hash = '#step-' + bars[i].step; }
    $('chart').addEventListener('keydown', (e) => {
      const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: bars.length - 1 }[e.key];
      if (to !== undefined) { e.preventDefault(); choose(Math.max(0, Math.min(bars.length - 1, to))); }
      if (e.key === 'Enter' && at >= 0) open(at);
    });
  }

  // The graph shows one target, the shared steps, or all steps if they are few enough.
  const SHARED = 'shared steps', WHOLE = 'all steps';
  function ancestors(of) {
    const seen = new Set(), todo = [...of];
    while (todo.length) {
      const i = todo.pop();
      if (i < 0 || seen.has(i)) continue;
      seen.add(i);
      todo.push(...steps[i].inputs);
    }
    return seen;
  }
  function graph() {
    const targets = [...new Set(run.images.map((i) => i.target))];
    $('scopes').append(...[...(steps.length <= MAX_BOXES ? [WHOLE] : []), SHARED, ...targets].map((t) => make('option', { value: t })));
    $('scope').addEventListener('change', () => show($('scope').value));
    $('scope').value = steps.length <= MAX_BOXES ? WHOLE : SHARED;
    show($('scope').value);
    function show(scope) {
      let selected, text = '';
      if (scope === WHOLE) selected = new Set(steps.map((s) => s.index));
      else if (targets.includes(scope)) selected = ancestors(run.images.filter((i) => i.target === scope).map((i) => i.root));
      else {
        selected = new Set(steps.filter((s) => s.targets.length > 1).map((s) => s.index));
        if (scope !== SHARED) text = 'no such target; ';
      }
      let list = [...selected].sort((a, b) => a - b);
      if (list.length > MAX_BOXES) {
        text += `the ${MAX_BOXES} of ${list.length} steps that most targets need; `;
        list = list.sort((a, b) => steps[b].targets.length - steps[a].targets.length || a - b).slice(0, MAX_BOXES).sort((a, b) => a - b);
      }
      const shared = list.filter((i) => steps[i].targets.length > 1).length;
      $('scope-text').textContent = text + `${count(list.length, 'step')}, ${shared} of them shared by several targets`;
      $('drawing').replaceChildren(list.length ? drawing(list) : make('p', {}, 'No steps.'));
    }
  }
  // The layout of the picture is layered, as in Graphviz's dot. A step is one column to the right of its last input, so all
  // edges lead from left to right. Steps are indices in topological order, so one pass finds the columns. Within a column,
  // steps are sorted by the mean height of their inputs, which were placed before. This avoids most crossings of edges.
  // The cost is linear in steps and edges, apart from the sorting, so the layout is done again for each selection.
  function drawing(list) {
    const boxW = 210, boxH = 38, gapX = 50, gapY = 12, inside = new Map(list.map((i) => [i, { rank: 0 }]));
    for (const i of list) for (const j of steps[i].inputs) if (inside.has(j)) inside.get(i).rank = Math.max(inside.get(i).rank, inside.get(j).rank + 1);
    const ranks = [];
    for (const i of list) (ranks[inside.get(i).rank] ||= []).push(i);
    ranks.forEach((ids, rank) => {
      const middle = (i) => { const ys = steps[i].inputs.filter((j) => inside.has(j)).map((j) => inside.get(j).y); return ys.length ? ys.reduce((a, b) => a + b, 0) / ys.length : 0; };
      ids.sort((a, b) => middle(a) - middle(b) || a - b).forEach((i, k) => Object.assign(inside.get(i), { x: 12 + rank * (boxW + gapX), y: 12 + k * (boxH + gapY) }));
    });
    const rows = Math.max(...ranks.map((r) => r.length));
    const svg = draw('svg', { width: 24 + ranks.length * (boxW + gapX), height: 24 + rows * (boxH + gapY), role: 'presentation' });
    for (const i of list) for (const j of steps[i].inputs) {
      const from = inside.get(j), to = inside.get(i);
      if (!from) continue;
      const x1 = from.x + boxW, y1 = from.y + boxH / 2, x2 = to.x, y2 = to.y + boxH / 2;
      svg.append(draw('path', { d: `M${x1},${y1} C${x1 + gapX / 2},${y1} ${x2 - gapX / 2},${y2} ${x2},${y2}` }));
    }
    for (const i of list) {
      const s = steps[i], at = inside.get(i);
      const text = [s.status || 'not run', s.bar ? time(s.bar.end - s.bar.start) : '', s.targets.length > 1 ? `shared by ${s.targets.length}` : s.targets[0]].filter(Boolean).join(' · ');
      const box = draw('g', { class: `${s.targets.length > 1 ? 'shared ' : ''}${kind(s)}`, transform: `translate(${at.x},${at.y})`, role: 'link', tabindex: -1, 'aria-label': `${clean(s.name)}, ${clean(text)}`, 'data-step': i, onclick: () => { location.hash = '#step-' + i; } },
        draw('rect', { width: boxW, height: boxH }), draw('text', { x: 8, y: 16 }, cut(clean(s.name), 29)), draw('text', { class: 'small', x: 8, y: 31 }, cut(clean(text), 34)));
      svg.append(box);
    }
    return svg;
  }
  $('drawing').addEventListener('keydown', (e) => {
    const boxes = [...$('drawing').querySelectorAll('g[data-step]')], i = boxes.indexOf(document.activeElement);
    const to = { ArrowRight: i + 1, ArrowDown: i + 1, ArrowLeft: i - 1, ArrowUp: i - 1, Home: 0, End: boxes.length - 1 }[e.key];
    if (to !== undefined && boxes.length) { e.preventDefault(); boxes[Math.max(0, Math.min(boxes.length - 1, to))].focus(); }
    if (e.key === 'Enter' && i >= 0) location.hash = '#step-' + boxes[i].dataset.step;
  });

  // Tables show their first rows, and more on request.
  function table(id, button, row) {
    const body = $(id).tBodies[0];
    let list = [], shown = 0;
    const more = () => {
      body.append(...list.slice(shown, shown + PAGE).map(row));
      shown = Math.min(list.length, shown + PAGE);
      if (button) { $(button).hidden = shown >= list.length; $(button).textContent = `Show more (${list.length - shown} left)`; }
    };
    if (button) $(button).addEventListener('click', more);
    return (rows) => { list = rows; shown = 0; body.replaceChildren(); more(); };
  }

  function stepTable() {
    const fill = table('step-table', 'more-steps', (s) => make('tr', {},
      make('td', { class: 'name' }, stepLink(s), ' ', make('span', { class: 'quiet' }, place(s.source))),
      make('td', {}, make('span', { class: 'mark ' + kind(s) }, s.status || 'not run')),
      make('td', { class: 'number' }, s.bar ? time(s.bar.end - s.bar.start) : ''), make('td', { class: 'number' }, s.bar && s.bar.start - s.bar.ready > 0.0005 ? time(s.bar.start - s.bar.ready) : ''),
      make('td', { class: 'number' }, String(s.targets.length)), make('td', { class: 'why' }, cut(clean(s.status === 'cached' ? '' : s.reason), 200))));
    const every = [...new Set(steps.map((s) => s.status || 'not run'))];
    $('status').append(make('option', { value: '' }, 'all'), ...every.map((s) => make('option', {}, s)));
    const texts = steps.map((s) => [s.name, s.targets.join(' '), place(s.source), s.digest, s.reason, ...(s.also || []).map((o) => o.name + ' ' + place(o.source))].join('\n').toLowerCase());
    const order = [...steps].sort((a, b) => (b.bar ? b.bar.end - b.bar.start : -1) - (a.bar ? a.bar.end - a.bar.start : -1) || a.index - b.index);
    const search = () => {
      const terms = $('search').value.toLowerCase().split(/\s+/).filter(Boolean), status = $('status').value;
      const found = order.filter((s) => (!status || (s.status || 'not run') === status) && terms.every((t) => texts[s.index].includes(t)));
      $('found').textContent = `${found.length} of ${count(steps.length, 'step')}, longest first`;
      fill(found);
    };
    $('search').addEventListener('input', search);
    $('status').addEventListener('change', search);
    search();
  }

  function images() {
    const total = (i) => i.layers?.reduce((n, l) => n + l.size, 0) || 0;
    const users = new Map(data.layers.map((l) => [l.digest, l.images.length]));
    const own = (i) => i.layers?.reduce((n, l) => n + (users.get(l.digest) === 1 ? l.size : 0), 0) || 0;
    const layered = run.images.filter((i) => i.layers?.length), largest = Math.max(1, ...layered.map(total));
    $('image-text').textContent = layered.length ? 'Layers: grey: from the base; violet: built here and shared by several images; blue: only in this image. Sizes are compressed.' : 'No image layers were created: no output requires them, or the build failed.';
    table('image-table', 'more-images', (i) => {
      const parts = (i.layers || []).map((l) => {
        const bar = make('i', { class: l.base ? 'base' : users.get(l.digest) > 1 ? 'both' : '', title: `${size(l.size)} ${cut(clean(l.createdBy), 100)}` });
        bar.style.width = (100 * l.size / largest) + '%';
        return bar;
      });
      return make('tr', {}, make('td', {}, make('strong', {}, i.target), i.tags?.length ? make('div', { class: 'quiet' }, names(i.tags, 4)) : null), make('td', {}, i.platform),
        make('td', { class: 'number' }, i.layers?.length ? size(total(i)) : ''), make('td', { class: 'number' }, i.layers?.length ? size(own(i)) : ''),
        make('td', {}, parts.length ? make('div', { class: 'stack', role: 'img', 'aria-label': `${count(parts.length, 'layer')}` }, parts) : i.finished ? '' : 'not built'),
        make('td', {}, make('code', { title: clean(i.digest) }, short(i.digest))));
    })([...run.images].sort((a, b) => total(b) - total(a)));
    table('layer-table', 'more-layers', (l) => make('tr', {}, make('td', { class: 'number' }, size(l.size)), make('td', { class: 'number' }, String(l.images.length)),
      make('td', {}, (l.base ? 'base: ' : '') + cut(clean(l.createdBy), 160), make('div', { class: 'quiet' }, names([...new Set(l.images.map((i) => run.images[i].target))].map(clean)))),
      make('td', {}, make('code', { title: clean(l.digest) }, short(l.digest)))))(data.layers);
  }

  function bases() {
    table('base-table', null, (b) => make('tr', {}, make('td', {}, b.ref), make('td', {}, make('code', { title: clean(b.digest) }, short(b.digest))), make('td', {}, b.locked ? 'by bake.lock' : b.ref.includes('@sha256:') ? 'by its reference' : 'no'),
      make('td', {}, names((b.targets || []).map(clean), 6))))(run.bases.slice(0, 2000));
    if (!data.drift.length) return;
    $('drift').hidden = false;
    $('drift-list').append(...data.drift.map((list) => make('li', {}, list.map((i) => `${run.bases[i].ref} (${names((run.bases[i].targets || []).map(clean))})`).join(' — '))));
  }

  function warnings() {
    if (!run.warnings.length) return;
    $('warnings').hidden = $('to-warnings').hidden = false;
    $('warning-list').append(...run.warnings.slice(0, 500).map((w) => make('li', {}, `${w.location?.file ? place([w.location]) + ': ' : ''}${w.message}${w.rule ? ` (${w.rule})` : ''}${w.target ? `, target ${w.target}` : ''}`)));
  }

  let shown = -1;
  function detail(i) {
    const s = steps[i];
    shown = i;
    $('detail-title').textContent = clean(s.name);
    const facts = [['Status', s.status || 'not run'], ['Kind', s.kind], ['Location', place(s.source)], ['Also', names((s.also || []).map((o) => clean(o.name + ' ' + place(o.source))), 12)], ['Platform', s.platform], ['Targets', names(s.targets.map(clean), 12)],
      ['Time', s.bar ? time(s.bar.end - s.bar.start) : ''], ['Expected', s.expected ? time(s.expected) : ''], ['Waited', s.bar && s.bar.start - s.bar.ready > 0.0005 ? time(s.bar.start - s.bar.ready) : ''],
      ['Digest', clean(s.digest)], ['Cache key', clean(s.key)]].filter(([, v]) => v);
    const body = [make('dl', {}, facts.flatMap(([n, v]) => [make('dt', {}, n), make('dd', {}, v)]))];
    if (s.error) body.push(make('p', { class: 'mark failed' }, s.error));
    if (s.causes?.length && s.status !== 'cached') body.push(make('h3', {}, 'Why it ran'), make('ul', {}, s.causes.map((c) => make('li', {}, causeText(c), c.files?.length ? make('ul', {}, c.files.map((f) => make('li', {}, `${f.path} (${f.how})`)), c.more ? make('li', {}, `and ${c.more} more`) : null) : null))));
    else if (s.reason && s.status !== 'cached') body.push(make('h3', {}, 'Why it ran'), make('p', {}, s.reason));
    for (const [title, list] of [['Inputs', s.inputs], ['Used by', s.users]]) if (list.length) body.push(make('h3', {}, title), make('ul', {}, list.slice(0, 50).map((j) => make('li', {}, stepLink(steps[j]))), list.length > 50 ? make('li', {}, `and ${list.length - 50} more`) : null));
    const log = data.logs[s.log];
    if (log) body.push(make('h3', {}, 'Output'), log.cut ? make('p', { class: 'quiet' }, `The first ${size(log.cut)} are not included. To show them, run: bake builds logs ${run.id}`) : null, make('pre', { tabindex: 0 }, log.text || ' '));
    else if (s.log && s.status !== 'cached') body.push(make('p', { class: 'quiet' }, 'The output is not included in this page.'));
    $('detail-body').replaceChildren(...body.filter(Boolean));
    if (!$('detail').open) $('detail').showModal();
    $('detail').scrollTop = 0;
  }
  // The event may arrive after another step was opened.
  $('detail').addEventListener('close', () => { if (location.hash === '#step-' + shown) history.replaceState(null, '', location.pathname + location.search); });
  function follow() {
    const found = /^#step-(\d+)$/.exec(location.hash);
    if (found && steps[found[1]]) detail(Number(found[1]));
    else if ($('detail').open) $('detail').close();
  }

  $('theme').addEventListener('click', () => {
    const now = document.documentElement.dataset.theme || (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light');
    document.documentElement.dataset.theme = now === 'dark' ? 'light' : 'dark';
  });
  addEventListener('keydown', (e) => {
    if (e.key === '/' && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName) && !$('detail').open) { e.preventDefault(); $('search').focus(); }
  });
  addEventListener('hashchange', follow);
  heading();
  failures();
  timeline();
  graph();
  stepTable();
  images();
  bases();
  warnings();
  follow();
})();
