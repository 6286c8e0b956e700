// The peer `bullmq`. Run as `node bullmq.cjs MODULES worker`, or `… client` with the order on standard input.
'use strict';

const { createRequire } = require('node:module');
const readline = require('node:readline');

const IN_FLIGHT = 16;
const CONCURRENCY = 25;
const PAYLOAD = { hello: 'world' };
const [modules, role] = process.argv.slice(2);
const { Queue, QueueEvents, Worker } = createRequire(`${modules}/`)('bullmq');
const url = new URL(process.env.BENCH_BROKER_URL);
const connection = {
  host: url.hostname, port: Number(url.port), password: url.password, maxRetriesPerRequest: null,
};

async function send(queue, count) {
  let left = count;
  const began = process.hrtime.bigint();
  const processor = process.cpuUsage();
  const sendInTurn = async () => { while (left > 0) { left -= 1; await queue.add('noop', PAYLOAD); } };
  await Promise.all(Array.from({ length: IN_FLIGHT }, sendInTurn));
  const used = process.cpuUsage(processor);
  return { seconds: Number(process.hrtime.bigint() - began) / 1e9, cpu_seconds: (used.user + used.system) / 1e6 };
}

async function measureLatency(queue, events, order) {
  const latencies = [];
  for (let turn = 0; turn < order.count; turn += 1) {
    const began = process.hrtime.bigint();
    const job = await queue.add('noop', PAYLOAD);
    await job.waitUntilFinished(events);
    latencies.push(Number(process.hrtime.bigint() - began) / 1e9);
    await new Promise((resolve) => { setTimeout(resolve, order.idle_seconds * 1000); });
  }
  return { latencies };
}

async function main() {
  if (role === 'worker') {
    new Worker('bench', async () => ({ echo: null }), { connection, concurrency: CONCURRENCY });
    return;
  }
  const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const order = JSON.parse((await lines.next()).value);
  const queue = new Queue('bench', { connection });
  const events = new QueueEvents('bench', { connection });
  await Promise.all([queue.waitUntilReady(), events.waitUntilReady()]);
  console.log('ready');
  await lines.next();
  const answer = order.mode === 'send' ? await send(queue, order.count) : await measureLatency(queue, events, order);
  console.log(JSON.stringify(answer));
  process.exit(0);
}

main();
