// What is in Redis: written by the benchmark before the first cell, known to the cells, which check what they get.

import { KEYS, LARGE, SMALL } from './cases.mjs';

const FILLER = 'the quick brown fox jumps over the lazy dog, ';

/** Text of exactly so many bytes; from a buffer, because V8 keeps what `repeat` and `padEnd` give as a tree of parts. */
const valueOf = (number, bytes) => Buffer.from(`${number}: `.padEnd(bytes, FILLER)).toString('latin1');

const FIELDS = [
  'id',
  'userId',
  'token',
  'email',
  'firstName',
  'lastName',
  'username',
  'ipAddress',
  'userAgent',
  'createdAt',
  'expiresAt',
  'lastActivityAt',
];
const hashOf = (number) => Object.fromEntries(FIELDS.map((field) => [field, valueOf(`${field} ${number}`, 32)]));

const kind = (name, valueFor) => ({
  keys: Array.from({ length: KEYS }, (_, number) => `bench:${name}:${number}`),
  valueFor,
});

export const SMALL_VALUES = kind('small', (number) => valueOf(number, SMALL));
export const LARGE_VALUES = kind('large', (number) => valueOf(number, LARGE));
export const HASHES = kind('hash', hashOf);
