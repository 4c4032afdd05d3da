// Graphile Worker, by its library mode.

import { makeWorkerUtils, run, runMigrations, Logger } from 'graphile-worker';
import pg from 'pg';

const quiet = new Logger(() => () => {});

export const setUp = (url) => runMigrations({ preset: { worker: { connectionString: url, logger: quiet } } });

export async function work(url, configuration, tally) {
  const taskList = {
    noop: async () => tally.executed(),
    stamp: async ({ number }) => tally.pickedUp(number),
  };
  const runner = await run({ taskList, preset: { worker: { connectionString: url, logger: quiet, ...configuration } } });
  return () => runner.stop();
}

export async function produce(url, clients) {
  const pool = new pg.Pool({ connectionString: url, max: clients });
  pool.on('error', (error) => console.error(String(error)));
  pool.on('connect', (client) => client.on('error', (error) => console.error(String(error))));
  const utils = await makeWorkerUtils({ pgPool: pool, preset: { worker: { logger: quiet } } });
  const jobs = (count) => Array.from({ length: count }, (_, number) => ({ identifier: 'noop', payload: { number } }));

  return {
    enqueue: (task, number) => utils.addJob(task, { number }),
    enqueueMany: (count) => utils.addJobs(jobs(count)),
    async burst(count) {
      const client = await pool.connect();
      await client.query('begin');
      // https://worker.graphile.org/docs/sql-add-job: graphile_worker.add_jobs
      await client.query(
        `select count(*) from graphile_worker.add_jobs(array(
           select json_populate_record(null::graphile_worker.job_spec, spec) from json_array_elements($1) as spec))`,
        [JSON.stringify(jobs(count))],
      );
      await client.query('analyze');
      return async () => {
        await client.query('commit');
        client.release();
      };
    },
    async close() {
      await utils.release();
      await pool.end();
    },
  };
}
