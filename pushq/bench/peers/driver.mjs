// Drives a system that is written in JavaScript. driver.py says what the commands, options and answers are.
//
//     node driver.mjs ADAPTER COMMAND URL OPTIONS

import { appendFileSync, closeSync, openSync, writeSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';

const now = () => Number(process.hrtime.bigint()) / 1e9;
const answer = (facts = {}) => writeSync(1, `${JSON.stringify(facts)}\n`);

const input = createInterface({ input: process.stdin });
const ended = new Promise((resolve) => input.once('close', resolve));
const told = () => Promise.race([new Promise((resolve) => input.once('line', resolve)), ended]);

/** Counts what a worker executes, as Tally of driver.py does. */
class Tally {
  #file;
  #jobs;
  #executed = 0;

  constructor(path, jobs) {
    this.#file = openSync(path, 'a', 0o600);
    this.#jobs = jobs;
  }

  executed(count = 1) {
    this.#executed += count;
    if (this.#jobs > 0 && this.#executed >= this.#jobs) this.#writeExecuted();
  }

  pickedUp(number) {
    appendFileSync(this.#file, `picked ${number} ${now()}\n`);
  }

  close() {
    if (this.#executed) this.#writeExecuted();
    closeSync(this.#file);
  }

  #writeExecuted() {
    appendFileSync(this.#file, `executed ${this.#executed} ${now()}\n`);
  }
}

async function work(adapter, url, { configuration, tally: path, jobs }) {
  const tally = new Tally(path, jobs);
  const stop = await adapter.work(url, configuration, tally);
  answer();
  await told();
  await stop();
  tally.close();
}

async function burst(producer, { count }) {
  const commit = await producer.burst(count);
  answer();
  await told();
  await commit();
  answer({ committed: now() });
}

async function steady(producer, { rate, seconds }) {
  const begun = [];
  const start = now();
  for (let number = 0; number < Math.round(rate * seconds); number += 1) {
    await sleep(Math.max(0, 1000 * (start + number / rate - now())));
    begun.push(now());
    await producer.enqueue('stamp', number);
  }
  answer({ begun });
}

async function crowd(producer, { clients, seconds }) {
  const start = now();
  const enqueueInTurn = async () => {
    let enqueued = 0;
    for (; now() < start + seconds; enqueued += 1) await producer.enqueue('noop', enqueued);
    return enqueued;
  };
  const counts = await Promise.all(Array.from({ length: clients }, enqueueInTurn));
  answer({ enqueued: counts.reduce((sum, count) => sum + count), seconds: now() - start });
}

async function bulk(producer, { count }) {
  const start = now();
  await producer.enqueueMany(count);
  answer({ seconds: now() - start });
}

async function produce(adapter, command, url, options) {
  const producer = await adapter.produce(url, options.clients ?? 1);
  await { burst, steady, crowd, bulk }[command](producer, options);
  await producer.close();
}

const [file, command, url, json] = process.argv.slice(2);
const adapter = await import(pathToFileURL(file));
const options = JSON.parse(json);
if (command === 'set-up') {
  await adapter.setUp(url);
  answer();
} else if (command === 'worker') {
  await work(adapter, url, options);
} else {
  await produce(adapter, command, url, options);
}
process.exit(0);
