'use strict';

// REDIS_URL and DATABASE_URL for the test files of this worker of Jest, see global-setup.js.

Object.assign(process.env, JSON.parse(process.env.SHARED_SERVERS)[process.env.JEST_WORKER_ID - 1]);
