// A training loop in JavaScript as a worker of a study: nothing but Node (18 or newer) and the service.
//
//   autowarmup serve studies
//   node examples/service_loop.js http://127.0.0.1:8700 rings [TOKEN_FILE]
//
// It trains a multilayer perceptron to tell two noisy rings apart, with SGD and momentum, and prints the schedule that
// the study finds. Start it several times to train several trials at once.

"use strict";
const fs = require("node:fs");
const os = require("node:os");

const [url, study, tokenFile] = process.argv.slice(2);
const headers = { "Content-Type": "application/json" };
if (tokenFile) headers.Authorization = `Bearer ${fs.readFileSync(tokenFile, "utf8").trim().split(/\s+/).at(-1)}`;

const STUDY = { total_steps: 200, current_peak: 0.05, space: "from-scratch-sgd", task: { example: "rings, MLP, JavaScript" } };
const HIDDEN = 16, BATCH = 32, MOMENTUM = 0.9, REPORT_EVERY = 20;

// The service may be restarted at any moment: a request is sent again, with longer and longer pauses. A report has a
// number, so the same report twice does no harm.
async function ask(method, path, body) {
  for (let pause = 250; ; pause = Math.min(2 * pause, 15000)) {
    try {
      const answer = await fetch(`${url}/v1/studies/${study}${path}`, { method, headers, body: body && JSON.stringify(body) });
      if (answer.status < 500 && answer.status !== 429) {
        const found = answer.status === 204 ? null : await answer.json();
        if (answer.ok) return found;
        throw Object.assign(new Error(found.detail), { type: found.type });
      }
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // fetch raises a TypeError where it can't connect
    }
    await new Promise((done) => setTimeout(done, pause * (0.5 + Math.random() / 2)));
  }
}

// Random numbers from a seed (mulberry32): trials with the same seed see the same weights and batches.
function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

function normal(uniform) {
  return Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
}

// Points [x, y, label]: label 1 on the outer ring.
function rings(count, seed) {
  const uniform = random(seed);
  return Array.from({ length: count }, (_, index) => {
    const label = index % 2, angle = 2 * Math.PI * uniform(), radius = 1 + label + 0.25 * normal(uniform);
    return [radius * Math.cos(angle), radius * Math.sin(angle), label];
  });
}

const TRAIN = rings(2000, 1), VALIDATION = rings(500, 2);

// A trial: weights, momentum, random numbers and the step it has come to.
class Trial {
  constructor(seed) {
    this.uniform = random(seed);
    this.step = 0;
    // For each hidden unit: two input weights, a bias, the output weight; then the output's bias.
    this.weights = Float64Array.from({ length: 4 * HIDDEN + 1 }, () => normal(this.uniform) / 2);
    this.velocity = new Float64Array(this.weights.length);
  }

  // The mean cross-entropy of some points; adds its gradient to `gradient`, where that is given.
  loss(points, gradient) {
    let total = 0;
    for (const [x, y, label] of points) {
      const w = this.weights, hidden = [];
      let output = w[4 * HIDDEN];
      for (let unit = 0; unit < 4 * HIDDEN; unit += 4) {
        hidden.push(Math.tanh(w[unit] * x + w[unit + 1] * y + w[unit + 2]));
        output += w[unit + 3] * hidden.at(-1);
      }
      total += Math.max(output, 0) - output * label + Math.log1p(Math.exp(-Math.abs(output)));
      if (!gradient) continue;
      const slope = (1 / (1 + Math.exp(-output)) - label) / points.length;
      hidden.forEach((value, index) => {
        const unit = 4 * index, inner = slope * w[unit + 3] * (1 - value * value);
        gradient[unit] += inner * x;
        gradient[unit + 1] += inner * y;
        gradient[unit + 2] += inner;
        gradient[unit + 3] += slope * value;
      });
      gradient[4 * HIDDEN] += slope;
    }
    return total / points.length;
  }

  // One optimizer step. Returns its training loss and the norm of its gradient.
  train(rate) {
    const batch = Array.from({ length: BATCH }, () => TRAIN[Math.floor(this.uniform() * TRAIN.length)]);
    const gradient = new Float64Array(this.weights.length);
    const loss = this.loss(batch, gradient);
    gradient.forEach((slope, index) => {
      this.velocity[index] = MOMENTUM * this.velocity[index] + slope;
      this.weights[index] -= rate * this.velocity[index];
    });
    this.step += 1;
    return [loss, Math.hypot(...gradient)];
  }
}

// JSON has no NaN and no infinity; the service reads them as words.
const word = (value) => (Number.isFinite(value) ? value : String(value));

const DROPPED = ["lease-lapsed", "steps-missing", "not-running"].map((kind) => `urn:autowarmup:${kind}`);

const paused = new Map(); // by trial number: trials that wait here for the search to go on with them

async function work(leased) {
  const number = leased.spec.number, { rates } = await ask("GET", `/trials/${number}/learning-rates`);
  let trial = paused.get(number), until = leased.until, seq = leased.seq;
  paused.delete(number);
  // A trial that isn't here, or is further than the service knows, is trained from its start, with the same seed.
  if (!trial || trial.step > leased.steps) trial = new Trial(leased.spec.seed);
  for (;;) {
    const report = { lease: leased.lease, losses: [], grad_norms: [], validation: [] };
    while (trial.step < until && report.losses.length < REPORT_EVERY) {
      const [loss, norm] = trial.train(rates[trial.step]);
      report.losses.push(word(loss));
      report.grad_norms.push(word(norm));
      if (trial.step % leased.eval_every === 0 || trial.step === rates.length)
        report.validation.push({ step: trial.step, val_loss: word(trial.loss(VALIDATION)) });
    }
    report.seq = seq += 1;
    report.steps = trial.step;
    const answer = await ask("POST", `/trials/${number}/reports`, report);
    until = answer.until;
    if (answer.action === "pause") paused.set(number, trial);
    if (answer.action !== "go_on") return;
  }
}

async function main() {
  await ask("PUT", "", STUDY);
  for (;;) {
    const client_id = `js-${os.hostname().replace(/[^A-Za-z0-9]/g, "-").slice(0, 40)}-${process.pid}`;
    const { trials, state } = await ask("POST", "/trials:suggest", { client_id, wait_s: 10 });
    for (const leased of trials) {
      try {
        await work(leased);
      } catch (error) {
        // Another worker has the trial now, or the service lacks some steps: it is asked for again.
        if (!DROPPED.includes(error.type)) throw error;
      }
    }
    if (state !== "running") break;
  }
  const { verdict } = await ask("GET", "/verdict");
  console.log(`verdict: ${verdict.kind}. ${verdict.message}`);
  console.log(JSON.stringify(await ask("GET", "/schedule")));
}

main().catch((error) => {
  console.error(`service_loop: ${error.message}`);
  process.exitCode = 1;
});
