// Which processors run what: the server has one for itself, everything else shares the others.

import { spawnSync } from 'node:child_process';
import os from 'node:os';

const cores = os.cpus().length;

/** Whether processes can be told where to run. */
export const pinned = cores > 1 && spawnSync('taskset', ['--version'], { stdio: 'ignore' }).status === 0;

const SERVER = '0';
const OTHERS = cores > 2 ? `1-${cores - 1}` : '1';

/** A command with its arguments, on the processor of the server. */
export const forServer = (...command) => (pinned ? ['taskset', '-c', SERVER, ...command] : command);

/** Keeps a process with all its threads, and those that it will start, away from it. */
export function keepAway(pid) {
  if (pinned) spawnSync('taskset', ['-a', '-c', '-p', OTHERS, String(pid)], { stdio: 'ignore' });
}
