'use strict';

const { readdirSync, readFileSync } = require('node:fs');
const { spawnSync } = require('node:child_process');

/** Pairs [pid, parent's pid] of everything that runs, from /proc or, where there is none, from `ps`. */
function parents() {
  if (process.platform !== 'linux') {
    const listing = spawnSync('ps', ['-A', '-o', 'pid=,ppid='], { encoding: 'utf8' }).stdout ?? '';
    return listing
      .trim()
      .split('\n')
      .map((line) => line.trim().split(/\s+/).map(Number));
  }
  const pairs = [];
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const stat = readFileSync(`/proc/${name}/stat`, 'utf8');
      // The command's name may hold spaces and brackets; the state and the parent follow its last bracket.
      pairs.push([Number(name), Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1])]);
    } catch {
      // It ended between the listing and the reading.
    }
  }
  return pairs;
}

/** The process and all its descendants, oldest first. */
function tree(pid) {
  const all = parents();
  const found = [pid];
  for (const known of found) {
    for (const [child, parent] of all) if (parent === known) found.push(child);
  }
  return found;
}

/** Sends a signal to each of the processes; one that is gone is what we want anyway. */
function signalAll(pids, signal) {
  for (const pid of pids) {
    try {
      process.kill(pid, signal);
    } catch (error) {
      if (error.code !== 'ESRCH') throw error;
    }
  }
}

module.exports = { tree, signalAll };
