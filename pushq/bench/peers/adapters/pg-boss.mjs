// pg-boss. A handler of pg-boss gets a batch of jobs, where those of the others get a job.

import { PgBoss } from 'pg-boss';
import pg from 'pg';

const TASKS = ['noop', 'stamp'];
const DEFAULTS = { instance: {}, queue: {}, worker: {} };

export async function setUp(url) {
  const boss = await started(url, {});
  await boss.stop({ graceful: false });
}

export async function work(url, configuration, tally) {
  const { instance, queue, worker } = { ...DEFAULTS, ...configuration };
  const boss = await started(url, instance);
  for (const name of TASKS) await boss.updateQueue(name, queue);
  await boss.work('noop', worker, async (jobs) => tally.executed(jobs.length));
  await boss.work('stamp', worker, async (jobs) => jobs.forEach(({ data }) => tally.pickedUp(data.number)));
  return () => boss.stop({ timeout: 5000 });
}

export async function produce(url, clients) {
  const boss = await started(url, { max: clients, supervise: false, schedule: false });
  const jobs = (count) => Array.from({ length: count }, (_, number) => ({ data: { number } }));

  return {
    enqueue: (task, number) => boss.send(task, { number }),
    enqueueMany: (count) => boss.insert('noop', jobs(count)),
    async burst(count) {
      const client = new pg.Client({ connectionString: url });
      await client.connect();
      await client.query('begin');
      // https://timgit.github.io/pg-boss: any call takes a db, so as to take part in the caller's transaction
      const db = { executeSql: (text, values) => client.query(text, values) };
      await boss.insert('noop', jobs(count), { db });
      await client.query('analyze');
      return async () => {
        await client.query('commit');
        await client.end();
      };
    },
    close: () => boss.stop({ graceful: false }),
  };
}

async function started(url, options) {
  const boss = new PgBoss({ connectionString: url, ...options });
  boss.on('error', (error) => console.error(String(error)));
  await boss.start();
  for (const name of TASKS) await boss.createQueue(name);
  return boss;
}
